"""Run folders: what a training leaves on disk, whatever ends it."""

import hashlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from experimentator import BaseExperiment, CheckpointEvery, SaveWeights, build_experiment, diagram, runs
from experimentator.callbacks.callback import run_folder
from experimentator.checkpoint import CheckpointError
from experimentator.config import ConfigError, load, load_text
from experimentator.graph import Graph, describe_graph
from experimentator.records import history, throttle
from experimentator.records.environment import environment
from experimentator.records.history import append, read_history
from experimentator.records.hold import Hold
from experimentator.runs import RunFolder
from tests.pictures import needs_pictures
from tests.stubs import mix


class Trained:
    """As much of an experiment as a run folder sees."""

    def __init__(self, folder, **cfg):
        self.source = load_text("rate = 0.1\nbest = float('nan')\n")
        self.cfg = {**self.source, **cfg}
        self.seed, self.epoch, self.history, self.callbacks = 0, 0, [], [folder]
        self.saved, self.state, self.compilers = 0, {}, {}
        self.backend = SimpleNamespace(name="numpy", device="CPU")
        self.walk = SimpleNamespace(is_cut_short=False, position=None, is_whole=lambda: False, goal=math.inf)
        folder.init(self)

    def describe(self, mode):
        return describe_graph(Graph([mix("x -> loss")], provided={"x"}, mode=mode).select("loss"))

    def troubles(self, error):
        return {}

    def save_weights(self, path):
        self.saved += 1
        Path(path).write_text(str(self.epoch))

    def train(self, epochs, *, fail=None, at=0, within=True):
        folder, self.walk.goal = self.callbacks[0], epochs
        try:
            folder.on_train_begin()
            for number in range(self.epoch + 1, epochs + 1):
                self.walk.is_cut_short |= number != at or within  # batches of it were trained
                if number == at:
                    raise fail
                self.epoch, self.walk.is_cut_short = number, False
                self.history.append({"epoch": number, "training_loss": 1 / number})
                folder.on_epoch_end()
        finally:
            folder.on_train_end()


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs", "digits", experiment_id="first")


@pytest.fixture
def slow_disk(monkeypatch):
    """Every look at the clock finds it two seconds later, so that a save takes long."""
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: next(clock)))


def status(folder):
    return json.loads((folder.path / "status.json").read_text())


@needs_pictures
def test_a_run_leaves_all_its_files(folder):
    Trained(folder).train(2)

    names = "config.json config.py environment.json history.jsonl log.txt pipeline.json pipeline.svg status.json"
    assert sorted(os.listdir(folder.path)) == [*names.split(), "weights.safetensors"]
    assert status(folder) == {"status": "finished", "error": None, "epoch": 2, "epoch_of_weights": 2}


def test_the_configuration_is_kept_as_given_and_as_resolved(folder):
    Trained(folder).train(1)

    assert (folder.path / "config.py").read_text() == "rate = 0.1\nbest = float('nan')\n"
    assert json.loads((folder.path / "config.json").read_text()) == {"rate": 0.1, "best": "nan"}


def test_the_environment_says_what_else_a_run_depends_on(folder):
    folder.overrides["rate"] = 0.2

    Trained(folder).train(1)

    found = json.loads((folder.path / "environment.json").read_text())
    assert found["overrides"] == {"rate": 0.2}
    assert {"started", "argv", "seed", "device", "versions"} <= set(found)
    assert found["versions"]["numpy"] == np.__version__


def git(folder, *words):
    names = ("-c", "user.name=me", "-c", "user.email=me@here", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *names, "-C", folder, *words], check=True, capture_output=True)


def test_the_environment_knows_the_commit_and_whether_files_changed_since(tmp_path, folder):
    task = tmp_path / "task"
    task.mkdir()
    (task / "config.py").write_text("rate = 0.1\n")
    git(task, "init")
    git(task, "add", "config.py")
    git(task, "commit", "-m", "first")
    exp = Trained(folder)
    exp.source = load(task / "config.py")
    clean = environment(exp)
    (task / "config.py").write_text("rate = 0.2\n")
    dirty = environment(exp)

    assert len(clean["git"]["commit"]) == 40
    assert [clean["git"]["dirty"], dirty["git"]["dirty"]] == [False, True]
    assert clean["config_folder"] == str(task)
    assert clean["config_sha256"] == hashlib.sha256(b"rate = 0.1\n").hexdigest()


def test_a_folder_outside_of_git_has_no_commit(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    assert "git" not in environment(Trained(folder))


def test_overrides_that_json_does_not_bring_back_are_named(folder):
    overrides = {"rate": 0.1, "sizes": (1, 2), "of": {"a": [True]}, "best": math.inf, "net": object(), "_own": 1}

    assert environment(Trained(folder), overrides)["not_stored"] == ["best", "net", "_own"]


def test_the_log_of_a_run_tells_how_it_ended(folder):
    Trained(folder).train(2)

    assert (folder.path / "log.txt").read_text().endswith("INFO experimentator.runs: Finished after epoch 2.\n")


def test_nothing_is_written_before_training(folder, tmp_path):
    Trained(folder)

    assert list(tmp_path.iterdir()) == []


def test_every_line_of_the_history_is_flat_json(folder):
    Trained(folder).train(3)

    lines = [json.loads(line) for line in folder.history.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert read_history(folder.path) == lines


def test_nan_and_numpy_numbers_can_be_written(tmp_path):
    append(tmp_path / "history.jsonl", {"loss": np.float32("nan"), "best": math.inf, "count": np.int64(3)})

    (row,) = read_history(tmp_path)
    assert math.isnan(row["loss"])
    assert row["count"] == 3


@pytest.mark.parametrize("torn", ['{"epoch": 2', '{"epoch": 2, "loss"', "\x00\x00", "7"])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    (tmp_path / "history.jsonl").write_text(f'{{"epoch": 1}}\n{torn}')

    assert read_history(tmp_path) == [{"epoch": 1}]


def test_a_damaged_line_before_the_last_is_an_error_that_names_it(tmp_path):
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')

    with pytest.raises(CheckpointError, match="damaged in line 2"):
        read_history(tmp_path)


def test_a_folder_without_a_history_is_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="Name the folder of a run"):
        read_history(tmp_path)


def test_a_run_that_exists_is_never_overwritten(folder):
    Trained(folder).train(1)
    again = RunFolder(folder.path.parent.parent, "digits", experiment_id="first")

    with pytest.raises(CheckpointError, match="already a run 'first'"):
        Trained(again).train(5)
    assert len(read_history(folder.path)) == 1


def test_runs_of_one_second_get_different_folders(tmp_path):
    folders = [RunFolder(tmp_path) for _ in range(3)]
    for folder in folders:
        Trained(folder).train(1)

    assert len({folder.path for folder in folders}) == 3


def test_the_name_of_the_link_is_told_to_be_taken(tmp_path):
    with pytest.raises(ConfigError, match=r"Seen: 'latest'.\nWrite another one: this is the link to the newest run"):
        RunFolder(tmp_path, experiment_id="latest")


def test_latest_leads_to_the_newest_run(tmp_path):
    for name in ("first", "second"):
        Trained(RunFolder(tmp_path, experiment_id=name)).train(1)

    assert os.readlink(tmp_path / "experiment" / "latest") == "second"


@pytest.mark.parametrize("name", ["x" * 240, "日" * 80])
def test_a_name_may_be_as_long_as_file_systems_take(tmp_path, name):
    Trained(RunFolder(tmp_path, name, experiment_id=name)).train(1)

    assert os.readlink(tmp_path / name / "latest") == name


def test_a_copy_in_which_latest_is_a_folder_does_not_hide_the_newest_run(tmp_path):
    Trained(RunFolder(tmp_path / "runs", experiment_id="a")).train(1)
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")  # as `scp -r` does, too
    Trained(RunFolder(tmp_path / "copy", experiment_id="b")).train(1)

    assert RunFolder(tmp_path / "copy").earlier == tmp_path / "copy" / "experiment" / "b"


def test_a_folder_is_free_after_its_training_even_if_processes_were_forked_meanwhile(tmp_path):
    held = Hold(tmp_path)
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    forked.start()
    with pytest.raises(CheckpointError, match="A training is under way"):
        Hold(tmp_path)

    held.release()
    Hold(tmp_path).release()
    forked.kill()
    forked.join()


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "", "latest", "a\nb", "x" * 241, "日" * 81, " "])
def test_a_name_that_is_no_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"no name for a folder.\n(.|\n)*(at most 240 bytes|the link to the newest)"):
        RunFolder(tmp_path, name)


def test_an_impossible_folder_is_one_error_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    exp = Trained(RunFolder(tmp_path / "file" / "runs"))

    with pytest.raises(CheckpointError, match="Set output_folder"):
        exp.train(1)
    assert exp.epoch == 0


def test_an_interrupted_run_says_so_and_keeps_what_it_has(folder):
    with pytest.raises(KeyboardInterrupt):
        Trained(folder).train(5, fail=KeyboardInterrupt(), at=3)

    told = {"epoch_of_weights": None, "weights": "from the middle of epoch 3"}
    assert status(folder) == {"status": "interrupted", "error": "KeyboardInterrupt", "epoch": 2} | told
    assert len(read_history(folder.path)) == 2


def test_a_failed_run_says_why_and_keeps_the_last_good_weights(folder):
    with pytest.raises(ArithmeticError):
        Trained(folder).train(5, fail=ArithmeticError("not finite"), at=2)

    assert status(folder)["status"] == "failed"
    assert status(folder)["error"] == "ArithmeticError: not finite"
    assert folder.weights.read_text() == "1"
    assert (folder.path / "log.txt").read_text().endswith("Failed after epoch 1: ArithmeticError: not finite\n")


@pytest.mark.parametrize("at, told", [(3, {"epoch_of_weights": 2}), (5, {"epoch_of_weights": None})])
def test_weights_of_an_interrupted_epoch_are_told_from_those_of_a_whole_one(slow_disk, folder, at, told):
    exp = Trained(folder)
    exp.train(2)  # saves epoch 1 and, at the end, epoch 2; a save takes so long that the following ones are spaced out

    with pytest.raises(KeyboardInterrupt):
        exp.train(9, fail=KeyboardInterrupt(), at=at)

    half = {"weights": "from the middle of epoch 5"} if at == 5 else {}
    assert status(folder) == {"status": "interrupted", "error": "KeyboardInterrupt", "epoch": at - 1} | told | half


def test_weights_that_were_never_saved_are_of_no_epoch(folder):
    with pytest.raises(KeyboardInterrupt):
        Trained(folder).train(2, fail=KeyboardInterrupt(), at=1, within=False)

    assert status(folder)["epoch_of_weights"] is None
    assert not folder.weights.exists()


def test_training_inside_an_except_block_is_no_failure(folder):
    try:
        raise KeyError("earlier")
    except KeyError:
        Trained(folder).train(1)

    assert status(folder)["status"] == "finished"


def test_training_on_stays_in_the_folder(folder):
    exp = Trained(folder)
    exp.train(1)

    exp.train(3)

    assert len(read_history(folder.path)) == 3


def test_an_epoch_that_another_callback_failed_after_is_in_the_history(folder):
    exp = Trained(folder)
    folder.on_train_begin()
    exp.history.append({"epoch": 1})

    folder.on_train_end()

    assert read_history(folder.path) == [{"epoch": 1}]


def test_slow_saves_are_spaced_out_but_for_the_last(slow_disk, folder):
    exp = Trained(folder)

    exp.train(10)

    assert exp.saved == 2
    assert folder.weights.read_text() == "10"


def test_a_thousand_short_epochs_are_written_now_and_then_and_all_in_the_end(folder, monkeypatch):
    forced = []
    monkeypatch.setattr(os, "fsync", lambda handle, fsync=os.fsync: (forced.append(handle), fsync(handle)))
    exp = Trained(folder)

    exp.train(1000)

    assert len(forced) < 100
    assert exp.saved < 10
    assert [row["epoch"] for row in read_history(folder.path)] == list(range(1, 1001))
    assert folder.weights.read_text() == "1000"


def test_no_weights_are_of_an_epoch_that_the_history_lacks(folder, monkeypatch):
    exp = Trained(folder)
    folder.on_train_begin()
    monkeypatch.setattr(folder, "on_pause", lambda: None)  # lines wait
    for number in range(1, 20):
        exp.epoch = number
        exp.history.append({"epoch": number})
        folder.on_epoch_end()
        assert int(folder.weights.read_text()) <= len(read_history(folder.path))
        time.sleep(0.02)

    assert exp.saved
    folder.on_train_end()


def test_a_line_of_the_history_waits_for_a_second_at_most(folder):
    exp = Trained(folder)
    folder.on_train_begin()
    for number in range(1, 50):
        exp.history.append({"epoch": number})
        folder.on_epoch_end()
    begin = time.monotonic()
    while len(read_history(folder.path)) < 49 and time.monotonic() - begin < 5:
        folder.on_pause()  # as at the end of each call of the step, which takes less than half a second
        time.sleep(0.01)

    assert time.monotonic() - begin < 1
    folder.on_train_end()


def test_a_diagram_that_cannot_be_drawn_costs_one_warning(folder, monkeypatch, caplog):
    monkeypatch.setattr(diagram, "_CHILD", "import sys; sys.exit('no fonts')")

    with caplog.at_level(logging.WARNING):
        Trained(folder).train(1)

    assert [record.getMessage().splitlines()[0] for record in caplog.records] == [
        "This run has no pipeline.svg. Graphviz cannot draw this graph."
    ]


def test_a_picture_that_cannot_be_written_costs_one_warning(folder, monkeypatch, caplog):
    def full(*_, **__):
        raise CheckpointError("pipeline.svg cannot be written.")

    monkeypatch.setattr(runs, "save", full)

    with caplog.at_level(logging.WARNING):
        Trained(folder).train(1)

    assert caplog.messages == ["This run has no pipeline.svg. pipeline.svg cannot be written."]
    assert status(folder)["status"] == "finished"


def test_a_history_that_cannot_be_written_is_a_failure_in_the_status_too(folder, monkeypatch):
    def full(*_):
        raise CheckpointError("history.jsonl cannot be written.")

    exp = Trained(folder)
    monkeypatch.setattr(history, "add_lines", full)

    with pytest.raises(CheckpointError, match="history"):
        exp.train(1)
    assert (status(folder)["status"], status(folder)["error"]) == (
        "failed",
        "CheckpointError: history.jsonl cannot be written.",
    )


def test_weights_that_find_no_room_at_the_end_of_a_failed_training_are_told(folder, monkeypatch, caplog):
    def full(*_):
        raise CheckpointError("weights.safetensors cannot be written.")

    exp = Trained(folder)
    exp.walk.is_whole = lambda: True
    monkeypatch.setattr(exp, "save_weights", full)
    monkeypatch.setattr(type(folder._saving), "is_due", False)

    with pytest.raises(ArithmeticError):
        exp.train(2, fail=ArithmeticError("not finite"), at=2)

    assert "The weights of epoch 1 are not saved. weights.safetensors cannot be written." in caplog.messages
    assert (status(folder)["error"], status(folder)["epoch_of_weights"]) == ("ArithmeticError: not finite", None)


def test_a_line_that_does_not_fit_leaves_no_part_of_it(tmp_path, monkeypatch):
    append(tmp_path / "history.jsonl", {"epoch": 1})
    monkeypatch.setattr(os, "fsync", lambda handle: os.close(os.open(tmp_path / "absent", os.O_RDONLY)))

    with pytest.raises(CheckpointError, match=r"history.jsonl cannot be written"):
        append(tmp_path / "history.jsonl", {"epoch": 2})
    assert read_history(tmp_path) == [{"epoch": 1}]


def test_the_setting_alone_asks_for_a_run_folder(tmp_path):
    exp = BaseExperiment({"output_folder": tmp_path, "project_name": "digits"})

    assert RunFolder.of(exp) is RunFolder.of(exp)
    assert RunFolder.of(exp).project == tmp_path / "digits"


def test_a_setting_may_be_called_run_folder(tmp_path):
    exp = BaseExperiment({"output_folder": tmp_path, "project_name": "digits", "run_folder": "mine"})

    assert RunFolder.of(exp).project == tmp_path / "digits"
    assert exp.run_folder == exp.cfg["run_folder"] == "mine"


def test_a_kind_of_run_folder_of_ones_own_is_where_others_leave_their_files(tmp_path):
    class Mine(RunFolder): ...

    exp = SimpleNamespace(callbacks=[mine := Mine(tmp_path, "digits")], walk=SimpleNamespace(trains=False))
    mine.path = tmp_path / "digits" / "1"

    assert run_folder(exp) == mine.path


def test_without_setting_or_callback_there_is_no_run_folder():
    assert RunFolder.of(SimpleNamespace(callbacks=[], cfg={})) is None


def test_weights_of_a_first_epoch_that_was_interrupted_are_kept(tmp_path):
    class Stop:
        inputs = ("slope",)  # which that training needs

        def on_batch_end(self, batch, **_):
            if batch == 1:
                raise KeyboardInterrupt

    light = Path(__file__).parent / "configs" / "light.py"
    exp = build_experiment(light, callbacks=[Stop()], hide_progress=True, output_folder=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        exp.train(3)

    folder = RunFolder.of(exp)
    assert folder.weights.exists()
    assert status(folder)["weights"] == "from the middle of epoch 1"


def test_weights_of_a_run_stopped_before_the_first_batch_of_an_epoch_are_those_of_the_one_before(slow_disk, tmp_path):
    class Stop:
        inputs = ("slope",)  # which that training needs

        def on_cycle_begin(self, epoch, **_):
            if epoch == 5:
                raise KeyboardInterrupt

    light = Path(__file__).parent / "configs" / "light.py"
    exp = build_experiment(light, callbacks=[Stop()], hide_progress=True, output_folder=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        exp.train(9)

    assert status(RunFolder.of(exp))["epoch_of_weights"] == 4


def test_a_run_whose_project_is_renamed_meanwhile_keeps_its_files_together_and_the_next_has_the_new_name(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    class Rename:
        inputs = ("slope",)  # which that training needs

        def init(self, exp):
            self.exp = exp

        def on_epoch_begin(self, epoch, **_):
            if epoch == 2:
                self.exp.project_name = "other"

    light = Path(__file__).parent / "configs" / "light.py"
    callbacks = [Rename(), SaveWeights("all"), CheckpointEvery(epochs=1)]
    exp = build_experiment(light, callbacks=callbacks, hide_progress=True, output_folder="runs")
    exp.train(3)

    assert os.listdir() == ["runs"]
    assert not Path("runs/other").exists()
    exp.train(4)
    assert Path("runs/other/latest/history.jsonl").exists()


@pytest.mark.parametrize("stops", [False, True])
def test_weights_that_a_callback_sets_at_the_end_of_a_training_are_the_final_ones(tmp_path, monkeypatch, stops):
    class Restores:
        inputs = ("slope",)  # which that training needs

        def init(self, exp):
            self.exp = exp

        def on_epoch_end(self, state, **_):
            state["stop"] = "it is enough." if stops else None

        def on_train_end(self, **_):
            self.exp.backend.weights()["scale"] = np.array(-1.0)

    monkeypatch.setattr(throttle.Throttle, "is_due", True)  # as in long epochs
    light = Path(__file__).parent / "configs" / "light.py"
    exp = build_experiment(light, callbacks=[Restores()], hide_progress=True, output_folder=str(tmp_path))
    exp.train(9 if stops else 2)

    assert load_file(RunFolder.of(exp).weights)["scale"] == -1.0


def test_a_resume_that_fails_at_once_leaves_the_weights_of_the_run(tmp_path):
    class Copies:
        """Keeps the folder as a kill in the middle of the third epoch would leave it; a resume of it fails."""

        inputs, resumes = ("slope",), False

        def on_batch_begin(self, **_):
            if self.resumes:
                raise ArithmeticError("at once")

        def on_batch_end(self, batch, epoch, cycle_name, **_):
            if (batch, epoch, cycle_name) == (1, 3, "training"):
                shutil.copytree(RunFolder.of(exp).path, tmp_path / "killed")

    light = Path(__file__).parent / "configs" / "light.py"
    options = {"hide_progress": True, "output_folder": str(tmp_path / "runs")}
    exp, again = (build_experiment(light, callbacks=[CheckpointEvery(steps=1), Copies()], **options) for _ in range(2))
    exp.train(3)
    before = (tmp_path / "killed" / "weights.safetensors").read_bytes()
    Copies.resumes = True
    again.resume(tmp_path / "killed")
    assert again.walk.position.batch
    with pytest.raises(ArithmeticError):
        again.train(3)

    assert (tmp_path / "killed" / "weights.safetensors").read_bytes() == before
    told = json.loads((tmp_path / "killed" / "status.json").read_text())
    assert (told["status"], told["epoch"]) == ("failed", 2)
