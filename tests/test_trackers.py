"""Trackers: what the real tools read of a training, and that none of them stops or slows it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from experimentator import (
    CallbackError,
    JsonLinesTracker,
    MlflowTracker,
    Mode,
    TensorBoardTracker,
    Track,
    TrackioTracker,
    WandbTracker,
    build_experiment,
)
from experimentator.callbacks.order import in_order
from experimentator.trackers import MissingTrackerError, TrackedRun, tracker
from experimentator.trackers.delivery import Delivery
from tests.pictures import needs_pictures

ROOT = Path(__file__).resolve().parent.parent
LIGHT = str(ROOT / "tests" / "configs" / "light.py")


class Told:
    """Keeps what it is told, and by which thread; may fail in one of its methods."""

    def __init__(self, fails=""):
        self.fails, self.calls, self.threads = fails, [], set()

    def _tell(self, name, *arguments):
        self.threads.add(threading.current_thread())
        self.calls.append((name, *arguments))
        if name == self.fails:
            raise ConnectionError("no route.")

    def start(self, run):
        self._tell("start", run)

    def scalars(self, values, step):
        self._tell("scalars", step, values)

    def artifact(self, path):
        self._tell("artifact", path.name)

    def finish(self, status):
        self._tell("finish", status)


class Hanging(Told):
    """Hangs in one of its methods until it is released."""

    def __init__(self, where):
        super().__init__()
        self.where, self.reached, self.released = where, threading.Event(), threading.Event()

    def _tell(self, name, *arguments):
        super()._tell(name, *arguments)
        if name == self.where:
            self.reached.set()
            self.released.wait()


class Slope:
    """Asks for what the training of that configuration needs."""

    inputs = ("slope",)

    def on_epoch_end(self, **_):
        pass


def build(*callbacks, **settings):
    return build_experiment(LIGHT, callbacks=[*callbacks, Slope()], hide_progress=True, **settings)


# What a tracker is told


@needs_pictures
def test_a_tracker_is_told_everything_in_order_in_a_thread_of_its_own(tmp_path):
    told = Told()
    exp = build(Track(told), output_folder=str(tmp_path), project_name="light", experiment_id="first")
    history = exp.train(2)

    folder = tmp_path / "light" / "first"
    assert [call[0] for call in told.calls] == ["start", "scalars", "scalars", "artifact", "artifact", "finish"]
    run = told.calls[0][1]
    assert (run.project, run.name, run.folder, run.config["batch_size"]) == ("light", "first", folder, 4)
    assert told.calls[1] == (
        "scalars",
        1,
        {
            "training/loss": history[0]["training_loss"],
            "training/slope": history[0]["training_slope"],
            "validation/loss": history[0]["validation_loss"],
            "validation/slope": history[0]["validation_slope"],
            "epoch_time": history[0]["epoch_time"],
        },
    )
    assert [call[1] for call in told.calls[3:]] == ["config.py", "pipeline.svg", "finished"]
    assert threading.main_thread() not in told.threads
    assert len(told.threads) == 1


def test_every_so_many_batches_are_told_between_the_epochs():
    told, seen = Told(), []

    class Losses:
        def on_batch_end(self, loss, mode, **_):
            seen.extend([float(loss)] if mode & Mode.TRAIN else [])

    build(Track(told, batches=3), Losses()).train(4)

    steps = [(step, "batch/loss" in values) for name, step, *(values,) in told.calls[1:-1]]
    assert steps == [(2, False), (3, True), (4, False), (6, True), (6, False), (8, False)]
    assert told.calls[2][2]["batch/loss"] == seen[2]
    assert told.calls[4][2]["batch/loss"] == seen[5]


@pytest.mark.parametrize("batches", [0, -1, 2.5, True, "all"])
def test_a_period_that_is_none_is_refused(batches):
    with pytest.raises(CallbackError, match="is no period"):
        Track(Told(), batches=batches)


def test_without_a_run_folder_there_is_a_name_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = Told()
    build(Track(told)).train(1)

    assert (told.calls[0][1].project, told.calls[0][1].folder, len(told.calls[0][1].name)) == ("light", None, 15)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_of_a_subset_is_its_folder():
    track = Track(Told())
    track.init(build())
    track.exp.subsets[0].name, track.exp.subsets[1].name = "validation", "validation_hard"

    row = {"epoch": 1, "validation_loss": 1, "validation_hard_loss": 2, "learning_rate": 3, "validation": 4}
    assert track.shown(row) == {
        "validation/loss": 1,
        "validation_hard/loss": 2,
        "learning_rate": 3,
        "validation": 4,
    }


@pytest.mark.parametrize("value", ["good", None, np.zeros(2)], ids=str)
def test_what_is_no_number_in_the_history_is_not_told_and_stops_nothing(value, tmp_path):
    class Notes:
        def on_cycle_end(self, metrics, **_):
            metrics["validation_note"] = value

    told = Told()
    exp = build(Track(told), Notes(), output_folder=str(tmp_path))
    exp.train(1)

    assert {"training/loss", "validation/loss"} <= told.calls[1][2].keys()
    assert "validation/note" not in told.calls[1][2]
    assert (exp.folder / "history.jsonl").read_text().count("validation_note") == 1


@needs_pictures
def test_one_pattern_of_files_may_be_a_text_and_one_that_is_none_is_refused(tmp_path):
    told = Told()
    build(Track(told, artifacts="*.svg"), output_folder=str(tmp_path)).train(1)

    assert [call[1] for call in told.calls if call[0] == "artifact"] == ["pipeline.svg"]
    for wrong in ("/elsewhere/*.svg", "", [3]):
        with pytest.raises(CallbackError, match="are patterns of files"):
            Track(Told(), artifacts=wrong)


def test_a_training_that_fails_before_a_tracker_hears_of_it_is_not_told_to_have_lost_anything(caplog):
    class Fails:
        trainings = 0

        def on_train_begin(self, **_):
            self.trainings += 1
            if self.trainings == 2:
                raise OSError("no route")

    exp = build(Fails(), Track(Told()))
    exp.train(1)
    with pytest.raises(OSError, match="no route"):
        exp.train(2)

    assert "lost" not in caplog.text


@pytest.mark.parametrize(
    "trouble, error, status", [("processor", Exception, "failed"), ("", KeyboardInterrupt, "interrupted")]
)
def test_a_tracker_hears_how_a_training_ended(trouble, error, status):
    class Stop:
        def on_epoch_end(self, **_):
            raise KeyboardInterrupt

    told = Told()
    with pytest.raises(error):
        build(Track(told), Stop(), trouble=trouble).train(1)

    assert told.calls[-1] == ("finish", status)


def test_a_tracker_that_is_listed_as_a_callback_is_told_what_is_missing():
    with pytest.raises(CallbackError, match=r"is no callback(.|\n)*Write Track\(JsonLinesTracker\(...\)\)"):
        in_order([JsonLinesTracker("lines.jsonl")])


def test_what_is_no_tracker_is_refused():
    for wrong, seen in ((object(), r"no start\(\)"), (Told, "a class")):
        with pytest.raises(CallbackError, match=rf"is no tracker.\nSeen: {seen}.\nWrite Track\(JsonLinesTracker\(\)\)"):
            Track(wrong)


# What a tracker cannot do


@needs_pictures
@pytest.mark.parametrize("method, lost", [("start", 6), ("scalars", 2), ("artifact", 2), ("finish", 1)])
def test_a_tracker_that_fails_costs_one_warning_and_no_training(method, lost, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        exp = build(Track(Told(fails=method)), output_folder=str(tmp_path))
        exp.train(2)

    messages = [r.getMessage() for r in caplog.records if r.name.endswith("delivery")]
    assert len(exp.history) == 2
    assert messages == [
        f"Told: ConnectionError in {method}: no route. Training goes on without it; this is said once.",
        f"Told lost {lost} calls of this run.",
    ]


@pytest.mark.parametrize("where", ["start", "scalars", "finish"])
def test_a_tracker_that_hangs_is_left_behind_after_its_time(where, caplog):
    hanging = Hanging(where)
    try:
        with caplog.at_level(logging.WARNING):
            exp = build(Track(hanging, seconds=0.05))
            exp.train(3)
            exp.train(4)  # it is not started twice
    finally:
        hanging.released.set()

    assert len(exp.history) == 4
    assert [call[0] for call in hanging.calls].count("start") == 1
    assert "Hanging did not finish within" in caplog.text


def test_what_a_hanging_tracker_does_not_take_is_bounded_and_counted(caplog):
    hanging = Hanging("start")
    delivery = Delivery(hanging, room=5)
    try:
        delivery.send("start", None)
        hanging.reached.wait()
        for step in range(100):
            delivery.send("scalars", {}, step)
        assert len(delivery.waiting) == 5
        delivery.close("finished", seconds=0.0)
    finally:
        hanging.released.set()
    delivery.thread.join()

    warned, left = (record.getMessage() for record in caplog.records)
    assert warned == "Hanging: it no longer accepts calls. Training goes on without it; this is said once."
    assert "Hanging did not finish within" in left
    assert "101 calls are lost" in caplog.text
    assert [call[1] for call in hanging.calls[1:]] == [0, 1, 2, 3, 4, "finished"]


def test_a_process_ends_though_a_tracker_hangs():
    code = f"""
import threading
from experimentator import Track, build_experiment
class Hangs:
    start = scalars = artifact = finish = lambda self, *_: threading.Event().wait()
class Slope:
    inputs = ("slope",)
    on_epoch_end = lambda self, **_: None
build_experiment({LIGHT!r}, callbacks=[Track(Hangs(), seconds=0.1), Slope()], hide_progress=True).train(2)
print("done")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)

    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("make", [TensorBoardTracker, WandbTracker, MlflowTracker, TrackioTracker])
def test_a_missing_package_is_told_with_the_command_to_type(make, monkeypatch):
    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    name = make.__name__.removesuffix("Tracker").lower()

    with pytest.raises(MissingTrackerError) as caught:
        make()
    assert str(caught.value) == (
        f'{make.__name__} needs {name}, which is not installed.\nType: pip install "experimentator-dl[{name}]"'
    )


# What the real tools read

WITHOUT_TENSORFLOW = """
import sys, types
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")  # seconds of import less: its package does without
"""

WRITE = """
import sys
from experimentator import *
place = sys.argv[1]
trackers = [JsonLinesTracker(), TensorBoardTracker(), WandbTracker(mode="offline"), TrackioTracker(),
            MlflowTracker(f"sqlite:///{place}/mlflow.db")]
class Slope:
    inputs = ("slope",)
    on_epoch_end = lambda self, **_: None
callbacks = [Slope(), *(Track(one, seconds=60.0) for one in trackers)]
exp = build_experiment(sys.argv[2], callbacks=callbacks, hide_progress=True,
                       output_folder=f"{place}/runs", project_name="light", experiment_id="first")
exp.train(2)
exp.train(3)
"""

READ = r"""
import json, sys, warnings
from glob import glob
warnings.simplefilter("ignore")
place, found = sys.argv[1], {}

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
board = EventAccumulator(glob(f"{place}/runs/light/first/tensorboard")[0])
board.Reload()
found["tensorboard"] = {tag: [[e.step, e.value] for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
found["text"] = board.Tensors("config")[0].tensor_proto.string_val[0].decode()

from mlflow.tracking import MlflowClient
client = MlflowClient(f"sqlite:///{place}/mlflow.db")
(run,) = client.search_runs([client.get_experiment_by_name("light").experiment_id])
history = lambda name: client.get_metric_history(run.info.run_id, name)
found["mlflow"] = {name: [[m.step, m.value] for m in history(name)] for name in run.data.metrics}
found["mlflow status"] = run.info.status
found["mlflow files"] = sorted(file.path for file in client.list_artifacts(run.info.run_id))
found["mlflow rate"] = run.data.params["rate"]

import trackio
(run,) = trackio.Api().runs("light")
rows = trackio.SQLiteStorage.get_logs("light", run.name)
names = rows[0].keys() - {"timestamp", "step"}
found["trackio"] = {name: [[row["step"], row[name]] for row in rows] for name in names}
found["trackio rate"] = run.config["rate"]

# Offline runs are a log of records (LevelDB's format: blocks of 32 KiB, pieces with 7 bytes before them).
from wandb.proto import wandb_internal_pb2 as wandb
def records(data):
    place, record = 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4:place + 6], "little"), data[place + 6]
        record += data[place + 7:place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield wandb.Record.FromString(record)
            record = b""
found["wandb"], found["wandb files"], found["wandb exits"] = {}, [], []
for folder in sorted(glob(f"{place}/runs/light/first/wandb/offline-run-*")):  # two of one second: "first", "first-1"
    (file,) = glob(f"{folder}/*.wandb")
    for record in records(open(file, "rb").read()):
        if record.WhichOneof("record_type") == "run":
            found["wandb run"] = [record.run.project, record.run.run_id, record.run.display_name]
            found["wandb config"] = {item.key: item.value_json for item in record.run.config.update}
        if record.WhichOneof("record_type") == "history":
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name in row:
                found["wandb"].setdefault(name, []).append([row["_step"], row[name]])
        if record.WhichOneof("record_type") == "exit":
            found["wandb exits"].append(record.exit.exit_code)
    found["wandb files"] += sorted(path.rsplit("/", 1)[1] for path in glob(f"{folder}/files/*"))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A training of three epochs, in two calls, that every tracker followed."""
    place = tmp_path_factory.mktemp("tracked")
    ran = in_a_process(place, WRITE, place, LIGHT)
    assert ran.stdout == ""
    assert "Tracker" not in ran.stderr
    return place


@pytest.fixture(scope="module")
def found(place):
    return json.loads(in_a_process(place, READ, place).stdout)


def in_a_process(place, code, *words):
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "WANDB_ERROR_REPORTING": "false"}
    own = {"HOME": str(place), "TRACKIO_DIR": str(place / "trackio"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_TENSORFLOW + code, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=place, env={**os.environ, **quiet, **own}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def measured(place):
    """What the run folder's history says, as trackers show it."""
    rows = [json.loads(line) for line in (place / "runs/light/first/history.jsonl").read_text().splitlines()]
    shown = {"training_loss": "training/loss", "validation_loss": "validation/loss", "epoch_time": "epoch_time"}
    return {new: [[row["epoch"], row[old]] for row in rows] for old, new in shown.items()}


def test_lines_of_json_hold_the_run(place, measured):
    rows = [json.loads(line) for line in (place / "runs/light/first/scalars.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "step" in row]

    assert {name: [[row["step"], row[name]] for row in steps] for name in measured} == measured
    assert rows[0]["config"]["rate"] == 0.1
    assert next(row for row in rows if "artifact" in row)["artifact"].endswith("first/config.py")
    assert rows[-1] == {"status": "finished"}


def test_tensorboard_reads_the_scalars_and_the_configuration(found, measured):
    for name, points in measured.items():
        assert found["tensorboard"][name] == [[step, pytest.approx(value)] for step, value in points]
    assert '"rate": 0.1' in found["text"]


KILLED = """
import sys
from pathlib import Path
from experimentator import TensorBoardTracker, TrackedRun
for done, last in ((0, 5), (3, 6)):
    tracker = TensorBoardTracker()
    tracker.start(TrackedRun("light", "first", Path(sys.argv[1]), epochs=done, batches=done))
    for step in range(done + 1, last + 1):
        tracker.scalars({"training/loss": float(step)}, step)
    tracker.finish("finished")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
board = EventAccumulator(f"{sys.argv[1]}/tensorboard")
board.Reload()
print([event.step for event in board.Scalars("training/loss")])
"""


def test_tensorboard_shows_epochs_that_come_again_after_a_kill_once(tmp_path):
    assert in_a_process(tmp_path, KILLED, tmp_path / "first").stdout == "[1, 2, 3, 4, 5, 6]\n"


@needs_pictures
def test_mlflow_reads_one_run_with_metrics_parameters_and_files(found, measured):
    assert {name: found["mlflow"][name] for name in measured} == measured
    assert (found["mlflow status"], found["mlflow rate"]) == ("FINISHED", "0.1")
    assert found["mlflow files"] == ["config.py", "pipeline.svg"]


def test_trackio_reads_one_run_with_its_configuration(found, measured):
    assert {name: found["trackio"][name] for name in measured} == measured
    assert found["trackio rate"] == 0.1


@needs_pictures
def test_offline_runs_of_wandb_hold_rows_configuration_and_files(found, measured):
    assert {name: found["wandb"][name] for name in measured} == measured
    assert found["wandb run"] == ["light", "first", "first"]
    assert found["wandb config"]["rate"] == "0.1"
    assert {"config.py", "pipeline.svg"} <= set(found["wandb files"])
    assert found["wandb exits"] == [0, 0]


def test_nan_becomes_null_in_lines_of_json(tmp_path):
    tracker = JsonLinesTracker(tmp_path / "scalars.jsonl")
    tracker.start(TrackedRun("light", "first"))
    tracker.scalars({"validation/loss": float("nan")}, step=1)

    assert (tmp_path / "scalars.jsonl").read_text().splitlines()[1] == '{"step": 1, "validation/loss": null}'


def test_lines_of_other_runs_in_the_same_file_stay(tmp_path):
    tracker, file = JsonLinesTracker(tmp_path / "scalars.jsonl"), tmp_path / "scalars.jsonl"
    for name in ("first", "second", "first"):
        tracker.start(TrackedRun("light", name, epochs=1))
        for step in (1, 2):
            tracker.scalars({"loss": 0.5}, step=step)

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row.get("run") or row["step"] for row in rows] == ["first", 1, "second", 1, 2, "first", 1, 2]
