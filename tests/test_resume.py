"""A training that is resumed goes on as if nothing had happened: at any step, in every bit that is saved."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experimentator import (
    AverageMetrics,
    BaseExperiment,
    Callback,
    CheckpointEvery,
    ChunkProcessor,
    CombinedSubset,
    ConfigError,
    EarlyStopping,
    Freeze,
    JsonLinesTracker,
    Mode,
    ResumeError,
    StateLogger,
    Subset,
    Track,
    build_experiment,
    chunk_processor,
)
from experimentator.checkpoint import CheckpointError
from experimentator.cli import main
from experimentator.commands.outside import lines
from experimentator.records.archive import find_runs
from experimentator.runs import RunFolder
from experimentator.saving import resume
from experimentator.saving.identity import identity, undone
from experimentator.saving.manifest import newest, numbered

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "tests" / "configs" / "momentum.py")
EPOCHS = 3
EVERY_PAUSE = 1e-9  # seconds


def built(place, name, *, every=EVERY_PAUSE, **overrides):
    """The experiment, with a run folder, saved at every pause."""
    exp = build_experiment(
        CONFIG, output_folder=str(place), project_name="p", experiment_id=name, hide_progress=True, **overrides
    )
    exp.callbacks.append(CheckpointEvery(seconds=every, keep=1000))
    return exp


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that nothing interrupted, with a checkpoint for every step."""
    place = tmp_path_factory.mktemp("runs")
    built(place, "reference", steps_per_call=1).train(EPOCHS)
    return place / "p" / "reference"


def append_text(path, text):
    path.write_text(path.read_text() + text)


def cut(reference, count, place):
    """The run as it would lie there had it been killed once its checkpoint number `count` was whole."""
    shutil.copytree(reference, place / "p" / "cut")
    for path in numbered(place / "p" / "cut" / "checkpoints"):
        if int(path.name) > count:
            shutil.rmtree(path)
    return place / "p" / "cut"


def resumed(run, **overrides):
    exp = built(run.parent.parent, run.name, **overrides)
    exp.resume(run)
    exp.train(EPOCHS)
    return lines(run)


def test_a_training_of_larger_calls_leaves_the_same_bits(reference, tmp_path):
    built(tmp_path, "same").train(EPOCHS)

    assert lines(tmp_path / "p" / "same") == lines(reference)


def test_another_seed_leaves_others(reference, tmp_path):
    built(tmp_path, "other", seed=6).train(EPOCHS)

    assert lines(tmp_path / "p" / "other") != lines(reference)


def test_resumed_at_every_step_it_is_the_same_in_every_bit(reference, tmp_path):
    """R10: within passes of training and of evaluation, between them, and between epochs."""
    expected, count = lines(reference), len(numbered(reference / "checkpoints"))
    same = [resumed(cut(reference, number, tmp_path / str(number))) == expected for number in range(1, count + 1)]

    assert count == EPOCHS * (5 + 2 + 1)
    assert same == [True] * count


DROPS = {
    "weights": lambda it: it.weights.update({"Line/0/slope": np.array(0.0)}),
    "seeds": lambda it: it.weights.update({"Line/1/seed": np.array([7, 0])}),
    "slots of the optimizer": lambda it: it.arrays.update({"optimizer/0000": np.array(0.0)}),
    "state of callbacks": lambda it: it.callbacks.update({"DeclaredLuck#1": {"best": -1.0, "drawn": 0}}),
    "a batch": lambda it: setattr(it, "position", replace(it.position, batch=it.position.batch - 1)),
    "sums of the pass": lambda it: it.position.totals.clear(),
    "the row of the epoch": lambda it: it.position.row.clear(),
    "the history": lambda it: it.history.clear(),
    "the state": lambda it: it.state.clear(),
    "Python's generator": lambda it: it.generators.update(python=[3, np.arange(625) % 600, None]),
    "numpy's generator": lambda it: it.generators["numpy"].__setitem__(1, np.arange(624, dtype=np.uint32)),
}  # fmt: skip


@pytest.mark.parametrize("what", DROPS)
def test_whatever_is_dropped_from_a_checkpoint_shows(reference, tmp_path, monkeypatch, what):
    """Each part of a checkpoint is needed: without it, the run differs. In the middle of the evaluation of epoch 2."""
    make = resume.Restored.__init__

    def drop(self, read):
        make(self, read)
        assert self.position.subset == "validation"
        DROPS[what](self)

    monkeypatch.setattr(resume.Restored, "__init__", drop)

    assert resumed(cut(reference, 14, tmp_path)) != lines(reference)


def test_a_history_that_ran_ahead_of_the_checkpoint_is_cut_back_once_training_goes_on(reference, tmp_path):
    run = cut(reference, 8, tmp_path)
    exp = built(run.parent.parent, run.name)
    left = [(run / name).read_bytes() for name in ("history.jsonl", "status.json")]

    exp.resume(run)
    exp.evaluate()
    assert [(run / name).read_bytes() for name in ("history.jsonl", "status.json")] == left

    exp.train(1)
    assert [json.loads(line)["epoch"] for line in (run / "history.jsonl").read_text().splitlines()] == [1]
    assert json.loads((run / "status.json").read_text())["epoch"] == 1


def test_a_run_resumed_by_the_link_to_the_newest_stays_in_its_folder_when_another_begins(reference, tmp_path):
    run = cut(reference, 8, tmp_path)
    (tmp_path / "p" / "latest").symlink_to("cut")
    exp = built(tmp_path, None)
    exp.resume(tmp_path / "p" / "latest")
    built(tmp_path, "another").train(1)
    others = lines(tmp_path / "p" / "another")

    exp.train(EPOCHS)

    assert os.readlink(tmp_path / "p" / "latest") == "another"
    assert lines(tmp_path / "p" / "another") == others
    assert lines(run) == lines(reference)


def test_trainings_that_save_in_one_folder_are_told_and_one_after_the_other_are_not(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)

    class Other(Callback):
        before = ("CheckpointEvery",)

        def on_epoch_end(self, epoch, **_):
            if epoch == 2:
                aside = next(Path("checkpoints").iterdir()).parent / ".tmp-of-a-writer"
                aside.mkdir()
                exp = build_experiment(CONFIG, hide_progress=True)
                exp.callbacks.append(CheckpointEvery(epochs=1))
                exp.train(1)
                assert aside.is_dir()

        def state_dict(self):
            return {}

    for others in ([Other()], []):
        exp = build_experiment(CONFIG, hide_progress=True)
        exp.callbacks += [*others, CheckpointEvery(steps=1), CheckpointEvery(epochs=1)]
        exp.train(2)
        told = [record.getMessage() for record in caplog.records if "Another training saves" in record.getMessage()]
        assert len(told) == len(others)
        caplog.clear()


def test_checkpoints_may_lie_in_the_run_folder_itself(tmp_path, caplog):
    exp = built(tmp_path, "mine")
    exp.callbacks.append(CheckpointEvery(folder=tmp_path / "p" / "mine"))
    exp.train(1)

    assert "Another training saves" not in caplog.text
    assert numbered(tmp_path / "p" / "mine")


def test_auto_goes_on_from_checkpoints_that_lie_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = Path(CONFIG).read_text("utf-8") + "\nfrom experimentator import CheckpointEvery\n"
    Path("task.py").write_text(text + "callbacks.append(CheckpointEvery(steps=1, folder='kept'))\n", "utf-8")
    command = ["run", "task.py", "--quiet", "--resume", "auto", "--experiment-id", "one", "--epochs", str(EPOCHS)]
    environment = {**os.environ, "DIES_AFTER": "8", "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-m", "experimentator", *command], env=environment, check=False)

    assert killed.returncode == -signal.SIGKILL
    assert main(command) == 0
    assert "Resuming kept: 1 epoch is done, 7 batches in all." in capsys.readouterr().err
    assert len(Path("runs", "task", "one", "history.jsonl").read_text().splitlines()) == EPOCHS

    command[command.index("one")] = "another"  # of which there is no run yet
    assert main(command) == 0
    assert "Resuming" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides", [{"hide_progress": False}, {"steps_per_call": 2}, {"residency": "host"}, {"workers": 2}], ids=str
)
def test_what_changes_no_result_may_differ_on_resume(reference, tmp_path, overrides):
    """R11: verbosity, length of calls, how data travel; and the run lies in another folder."""
    run = cut(reference, 11, tmp_path)
    exp = build_experiment(
        CONFIG, **{"output_folder": str(tmp_path), "project_name": "p", "hide_progress": True} | overrides
    )
    exp.resume(run)
    exp.train(EPOCHS)

    assert lines(run) == lines(reference)


def test_the_newest_whole_checkpoint_is_taken_and_the_others_told(reference, tmp_path, caplog):
    run = cut(reference, 12, tmp_path)
    (run / "checkpoints" / "00000012" / "state.json").write_bytes(b"{}")

    assert resumed(run) == lines(reference)
    assert "Checkpoint 00000012 is left out" in caplog.text


def test_a_resume_cuts_no_log_of_states_but_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exp = built(tmp_path, "a")
    exp.callbacks.append(StateLogger())
    exp.train(1)
    Path("state.jsonl").write_text("{}\n" * 5)
    again = built(tmp_path, "a")
    again.callbacks.append(StateLogger())
    again.resume(tmp_path / "p" / "a")

    again.train(2)

    assert [Path(name).read_text().count("\n") for name in ("state.jsonl", "p/a/state.jsonl")] == [5, 2]


def test_a_log_of_states_has_each_epoch_once(tmp_path):
    def logged(place, name):
        exp = built(place, name)
        exp.callbacks.append(StateLogger())
        return exp

    logged(tmp_path, "whole").train(EPOCHS)
    whole, texts = tmp_path / "p" / "whole", []
    for number in (1, len(numbered(whole / "checkpoints")) // 2):
        run = cut(whole, number, tmp_path / str(number))
        exp = logged(run.parent.parent, run.name)
        exp.resume(run)
        exp.train(EPOCHS)
        texts.append((run / "state.jsonl").read_text().splitlines())

    assert [[json.loads(line)["epoch"] for line in text] for text in texts] == [[1, 2, 3]] * 2


class Gaps:
    """A dataset that says nothing of the items that it leaves out."""

    keys = range(30)

    def query_item(self, key):
        return {"input": key / 30, "target": key / 15} if key % 3 else None


@pytest.mark.parametrize(
    "kind", [Subset, lambda *given: CombinedSubset(*given[:2], [Subset("half", Mode.TRAIN, given[2])])]
)
def test_whatever_leaves_items_out_a_pass_goes_on_behind_what_was_trained_on(tmp_path, kind):
    subsets = [kind("training", Mode.TRAIN, Gaps())]
    built(tmp_path, "whole", subsets=subsets, steps_per_call=1).train(EPOCHS)
    whole = tmp_path / "p" / "whole"

    for number in (1, 3, 8):
        assert resumed(cut(whole, number, tmp_path / str(number)), subsets=subsets) == lines(whole)


class Frame:
    """A key without anything by which another process would know it."""


@pytest.mark.parametrize("key", [Frame, lambda: frozenset(map(str, np.random.permutation(64)))])
def test_keys_of_any_kind_are_known_again(tmp_path, key):
    built(tmp_path, "one", subsets=[Subset("training", Mode.TRAIN, {key(): {"input": 1.0, "target": 2.0}})]).train(1)
    again = {key(): {"input": 1.0, "target": 2.0}}

    exp = built(tmp_path, "one", subsets=[Subset("training", Mode.TRAIN, again)])
    exp.resume(tmp_path / "p" / "one")

    assert exp.epoch == 1


def test_keys_of_checkpoints_that_are_there_are_known_as_they_were(tmp_path):
    """Their digest is in the checkpoint, so that it may not change."""
    items = {("a", number): {"input": 1.0, "target": 2.0} for number in range(6)}
    exp = built(tmp_path, "one", subsets=[Subset("all", Mode.EVAL, items)])

    assert identity(exp)["subsets"]["all"].endswith("6 items, keys f9bdc19c5de4588c")


def test_an_experiment_among_the_settings_is_told_by_its_class_whatever_its_own_settings_are():
    teacher = build_experiment({"chunk_processors": [], "learning_rate": 0.1, "parts": {"training": [1]}, "every": 2})
    exp = build_experiment({"chunk_processors": [], "teacher": teacher})

    assert identity(exp)["config"]["teacher"] == {"class": "Experiment"}


@pytest.mark.parametrize("batches", [None, 1, 2])
def test_a_tracker_of_lines_is_told_nothing_twice(tmp_path, batches):
    """At every step: what it was told of epochs and batches that are trained again goes."""

    def tracked(place, name):
        exp = built(place, name, steps_per_call=1)
        exp.callbacks.append(Track(JsonLinesTracker(), batches=batches))
        return exp

    def told(run):
        rows = map(json.loads, (run / "scalars.jsonl").read_text().splitlines())
        return [
            (row["step"], sorted(row), row.get("batch/loss"), row.get("training/loss")) for row in rows if "step" in row
        ]

    whole = tmp_path / "p" / "whole"
    tracked(tmp_path, "whole").train(EPOCHS)
    for number in range(1, 1 + len(numbered(whole / "checkpoints")), 1 if batches == 1 else 3):
        run = cut(whole, number, tmp_path / str(number))
        append_text(run / "scalars.jsonl", '{"step": 9')  # killed while it wrote
        exp = tracked(run.parent.parent, run.name)
        exp.resume(run)
        exp.train(EPOCHS)
        assert told(run) == told(whole)
    assert len(told(whole)) == EPOCHS + (batches is not None and EPOCHS * 5 // batches)


def test_a_training_that_ended_has_nothing_left_to_do(reference, tmp_path):
    run = cut(reference, 1000, tmp_path)
    exp = built(run.parent.parent, run.name)
    exp.resume(run)

    assert [row["epoch"] for row in exp.train(EPOCHS)] == [1, 2, 3]
    assert exp.counts == {}


def test_a_call_with_nothing_to_train_counts_no_more_than_its_own_time_to_the_epoch_that_was_cut(reference, tmp_path):
    states = {int(path.name): path / "state.json" for path in numbered(reference / "checkpoints")}
    within = next(count for count, state in states.items() if json.loads(state.read_text())["epoch"] == 1)
    run = cut(reference, within, tmp_path)
    exp = built(run.parent.parent, run.name)
    exp.resume(run)
    before, begun = exp.walk.position.seconds, time.perf_counter()
    exp.train(1)

    assert before <= exp.walk.position.seconds <= before + time.perf_counter() - begun


def test_a_finished_training_goes_on_to_more_epochs_as_if_it_had_never_ended(reference, tmp_path):
    built(tmp_path / "long", "long").train(EPOCHS + 2)
    run = cut(reference, 1000, tmp_path)
    exp = built(run.parent.parent, run.name)
    exp.resume(run)
    exp.train(EPOCHS + 2)

    old, new = ([one for one in lines(r) if "state/epochs" not in one] for r in (tmp_path / "long/p/long", run))
    assert old == new


def test_weights_that_are_loaded_behind_a_resume_are_those_that_training_goes_on_with(reference, tmp_path):
    run = cut(reference, 3, tmp_path)
    exp = built(run.parent.parent, run.name)
    exp.resume(run)
    exp.save_weights(tmp_path / "as_saved.safetensors")
    other = built(tmp_path / "other", "other")
    other.load_weights(tmp_path / "as_saved.safetensors")
    (slope,) = (key for key in other.backend.weights() if key.endswith("slope"))
    other.backend.set_weights({**other.backend.weights(), slope: np.array(40.0)})
    other.save_weights(tmp_path / "other.safetensors")

    exp.load_weights(tmp_path / "other.safetensors")
    exp.train(1)

    assert exp.backend.weights()[slope] > 20  # two steps from 40


def test_a_checkpoint_that_is_saved_behind_a_resume_has_all_that_was_resumed(reference, tmp_path):
    run = cut(reference, 3, tmp_path)
    exp = built(run.parent.parent, run.name)
    exp.resume(run)
    exp.save_checkpoint(tmp_path / "again")
    exp.learning_rate = 0.5
    exp.save_checkpoint(tmp_path / "faster")

    for place, rate in (("again", exp.walk.restore.rate), ("faster", 0.5)):
        one, other = (built(tmp_path / place / name, name) for name in ("one", "other"))
        one.resume(run / "checkpoints")
        one.learning_rate = rate
        other.resume(tmp_path / place)
        for which in (one, other):
            which.train(EPOCHS)
        np.testing.assert_equal(
            other.backend.optimizer_state(other.optimizer), one.backend.optimizer_state(one.optimizer)
        )
        np.testing.assert_equal(other.backend.weights(), one.backend.weights())


def test_a_batch_that_is_trained_on_by_itself_behind_a_resume_is_said_not_to_last(reference, tmp_path, caplog):
    run = cut(reference, 3, tmp_path)
    exp = built(run.parent.parent, run.name)
    exp.batch_train(exp.batch("training"))
    assert "will be lost" not in caplog.text

    exp.resume(run)
    exp.batch_train(exp.batch("training"))
    assert caplog.text.count("This batch will be lost: train() continues from the resumed checkpoint.") == 1
    exp.train(EPOCHS)
    assert lines(run) == lines(reference)


def test_another_batch_size_within_a_pass_is_refused_and_may_be_set_behind_it(reference, tmp_path):
    """Rows would be trained on twice, or never."""
    run = cut(reference, 3, tmp_path)
    exp = built(run.parent.parent, run.name)
    exp.resume(run)
    before = exp.batch_size
    exp.batch_size = 2
    with pytest.raises(ConfigError, match=rf"3 batches over 'training' are done.\nSeen: 2, where .* has {before}\."):
        exp.train(EPOCHS)

    exp.batch_size = before
    exp.train(1)
    exp.batch_size = 2
    exp.train(2)
    assert exp.counts["training"]["batches"] == 2 + len(exp.subset("training")) // 2


# Refusals


def changed(**overrides):
    return lambda place: built(place, "new", **overrides)


def with_other_keys(place):
    exp = built(place, "new")
    exp.subset("training").keys = exp.subset("training").keys[:-1]
    return exp


class Faster:
    learning_rate = 0.01


BETWEEN = {
    "the order of subsets": lambda exp: exp.subsets.reverse(),
    "optimizer": lambda exp: setattr(exp, "optimizer", Faster()),
    "processors": lambda exp: exp.chunk_processors.append(lambda chunk: chunk.update(more=chunk["loss"])),
    "callbacks": lambda exp: exp.callbacks.append(EarlyStopping("training_loss")),
    "subsets": lambda exp: setattr(exp, "subsets", exp.subsets[:1]),
    "keys": lambda exp: setattr(exp.subset("training"), "keys", range(12)),
}  # fmt: skip


@chunk_processor(inputs=["loss"], outputs=["more"])
def more(loss):
    return loss


@pytest.mark.parametrize("what", BETWEEN)
def test_what_is_changed_between_trainings_is_changed_before_a_resume(tmp_path, what):
    exp = built(tmp_path, "one")
    exp.train(1)
    BETWEEN[what](exp)
    exp.train(2)

    with pytest.raises(ResumeError, match="saved by another experiment"):
        built(tmp_path, "one").resume(tmp_path / "p" / "one")
    again = built(tmp_path, "one")
    BETWEEN[what](again)
    again.resume(tmp_path / "p" / "one")
    again.train(3)
    assert again.epoch == 3


@pytest.mark.parametrize("again", [True, False])
def test_metrics_that_are_set_between_trainings_may_be_set_before_a_resume_or_come_back(tmp_path, again):
    exp, other = built(tmp_path, "one"), built(tmp_path, "one")
    exp.chunk_processors += [more]
    other.chunk_processors += [more]
    exp.train(1)
    exp.metrics = ["more"]
    exp.train(2)

    if again:
        other.metrics = ["more"]
    other.resume(tmp_path / "p" / "one")
    other.train(3)
    assert (other.epoch, other.metrics) == (3, ["more"])


class Narrows(Callback):
    """Takes keys away in each epoch, and saves in the second."""

    def on_epoch_end(self, epoch, **_):
        self.exp.subset("training").keys = range(20 - epoch)
        if epoch == 2:
            self.exp.save_checkpoint("checkpoints")


def test_what_a_callback_changes_in_a_later_training_is_no_change_of_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exp, again = (build_experiment(CONFIG, callbacks=[Narrows()], hide_progress=True) for _ in range(2))
    exp.train(1)
    exp.train(2)

    again.resume("checkpoints")
    assert again.epoch == exp.epoch


class Extra(Callback):
    def state_dict(self):
        return {"count": 1}

    def on_epoch_end(self, **_):
        """Nothing."""


def with_another_callback(place):
    exp = built(place, "new")
    exp.callbacks.append(Extra())
    return exp


def with_another_graph(place):
    exp = built(place, "new")
    exp.chunk_processors.append(exp.chunk_processors[0])
    return exp


@pytest.mark.parametrize(
    "make, told",
    [
        (changed(batch_size=8), "batch_size (config): was 4, is 8"),
        (changed(seed=6), "seed (config): was 5, is 6"),
        (changed(subsets=[Subset("training", "train", {"input": np.zeros(9), "target": np.zeros(9)})]), "(subsets)"),
        (with_other_keys, "training (subsets): was 'TRAIN, 23 items"),
        (with_another_callback, "callbacks with a state: was ['DeclaredLuck#1'], is ['DeclaredLuck#1', 'Extra#1']"),
        (with_another_graph, "TRAIN (graph)["),
    ],
    ids=["batch_size", "seed", "subsets", "keys", "callbacks", "graph"],
)
def test_a_checkpoint_of_another_experiment_is_refused_with_what_differs(reference, tmp_path, make, told):
    exp = make(tmp_path)
    before = exp.backend.weights()

    with pytest.raises(ResumeError) as error:
        exp.resume(reference)
    assert told in str(error.value)
    assert exp.backend.weights() == before
    assert not exp.history


def test_subsets_are_gone_over_in_the_order_they_had(tmp_path):
    def made(*names):
        exp = BaseExperiment({"subsets": [Subset(name, "infer", {"input": [1, 2]}) for name in names]})
        exp.save_checkpoint(tmp_path / names[0])
        return exp

    made("a", "b").resume(tmp_path / "a")
    with pytest.raises(ResumeError, match="order of subsets: was 'a, b', is 'b, a'"):
        made("b", "a").resume(tmp_path / "a")


LONG = {
    "list": lambda last: [0] * 99 + [last],
    "text": lambda last: "x" * 999 + str(last),
    "array": lambda last: np.array([0.0] * 99 + [last]),
    "decimals": lambda last: np.array([1 + last * 1e-12]),
    "nested": lambda last: {"of": [(np.array([0.0] * 99 + [last]), 1)]},
    "short": lambda last: (1, last),
}


@pytest.mark.parametrize("kind", LONG)
def test_of_a_long_setting_every_part_counts(tmp_path, kind):
    def made(last):
        return BaseExperiment({"subsets": [Subset("all", "infer", {"input": [1, 2]})], "long": LONG[kind](last)})

    made(1).save_checkpoint(tmp_path / "as_it_was")
    made(1).resume(tmp_path / "as_it_was")
    with pytest.raises(ResumeError, match=r"long \(config\)"):
        made(2).resume(tmp_path / "as_it_was")

    exp = made(1)
    exp.save_checkpoint(tmp_path / "changed")
    exp.cfg["long"] = LONG[kind](2)
    exp.save_checkpoint(tmp_path / "changed")
    for last in (1, 2):  # as it began, and as it had become
        exp = made(last)
        exp.resume(tmp_path / "changed")
        assert str(exp.cfg["long"]) == str(LONG[kind](2))


def test_a_setting_may_be_written_out_or_left_to_its_default_before_a_resume(tmp_path):
    config = {"subsets": [Subset("all", "infer", {"input": [1, 2]})]}
    BaseExperiment(config).save_checkpoint(tmp_path / "plain")
    BaseExperiment(config, batch_size=32, eager=False).save_checkpoint(tmp_path / "written")

    BaseExperiment(config, batch_size=32, eager=False).resume(tmp_path / "plain")
    BaseExperiment(config).resume(tmp_path / "written")
    with pytest.raises(ResumeError, match=r"batch_size \(config\): was 32, is 64"):
        BaseExperiment(config, batch_size=64).resume(tmp_path / "plain")


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("a" * 50 + "b", "a" * 50 + "c", f"was '{'a' * 50}b', is '{'a' * 50}c'"),
        ("a" * 300 + "b" * 300, "a" * 300 + "c", f"was ...{'a' * 40}{'b' * 77}..., is ...{'a' * 40}c'"),
        ("a" * 300, "a" * 301, f"was ...{'a' * 40}', is ...{'a' * 40}a'"),
        ("a" * 60 + "b" * 300, "a" * 60, f"was '{'a' * 60}{'b' * 56}..., is '{'a' * 60}'"),
        ("b" * 300, "c", f"was '{'b' * 116}..., is 'c'"),
    ],
)
def test_long_values_are_shown_where_they_differ(tmp_path, old, new, told):
    assert f"\n  text (config): {told}\n" in str(undone(tmp_path, {"text (config)": (old, new)}))


def test_another_version_is_told_and_no_obstacle(reference, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("experimentator.saving.identity.__version__", "9.9.9")

    built(tmp_path, "new").resume(reference)

    assert "Not exact" in caplog.text
    assert "9.9.9 now" in caplog.text


@pytest.mark.parametrize("folder", ["absent", "."])
def test_a_folder_without_checkpoints_is_told_from_one_that_is_damaged(tmp_path, folder):
    with pytest.raises(CheckpointError, match=r"There is nothing to resume"):
        built(tmp_path, "new").resume(tmp_path / folder)


# What callbacks keep


class Keeper(Callback):
    def __init__(self):
        self.seen = []

    def on_epoch_end(self, epoch, **_):
        self.seen.append(epoch)


def test_a_callback_that_keeps_something_and_declares_nothing_is_named_once(tmp_path, caplog):
    exp = built(tmp_path, "new")
    exp.callbacks.append(Keeper())

    exp.train(3)

    assert caplog.text.count("Keeper changes seen during training and declares no state") == 1
    assert "DeclaredLuck" not in caplog.text
    again = built(tmp_path, "again")
    again.callbacks.append(Keeper())
    again.resume(tmp_path / "p" / "new")
    assert "Not exact: Keeper changes its attributes and has no state_dict" in caplog.text


def test_a_callback_may_say_that_it_keeps_nothing_of_use(tmp_path, caplog):
    exp = built(tmp_path, "new")
    exp.callbacks.append(type("Silent", (Keeper,), {"state_dict": lambda self: {}})())

    exp.train(2)

    assert "declares no state" not in caplog.text


def test_a_state_that_is_no_value_is_refused_by_name(tmp_path):
    exp = built(tmp_path, "new")
    exp.callbacks.append(type("Odd", (Keeper,), {"state_dict": lambda self: {"file": object()}})())

    with pytest.raises(TypeError, match=r"Odd#1\['file'\] cannot be saved: it is an object"):
        exp.train(1)


# Signals


class Signals(Callback):
    """Sends this process signals at the end of a call."""

    def __init__(self, number, batch, times=1):
        self.number, self.batch, self.times = number, batch, times

    def state_dict(self):
        return {}

    def on_block_end(self, epoch, batch, cycle_name, **_):
        if (epoch, cycle_name, batch) == (2, "training", self.batch):
            for _ in range(self.times):
                signal.raise_signal(self.number)


STOPS = [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)]


@pytest.mark.parametrize("number, kind, code", STOPS)
def test_a_signal_saves_at_that_very_step_and_acts_then(reference, tmp_path, number, kind, code):
    exp = built(tmp_path, "stopped", every=1e9, steps_per_call=1)
    exp.callbacks.append(Signals(number, batch=2))
    before = signal.getsignal(number)

    with pytest.raises(kind) as stopped:
        exp.train(EPOCHS)
    run = tmp_path / "p" / "stopped"
    assert getattr(stopped.value, "code", None) == code
    assert signal.getsignal(number) == before
    assert json.loads((run / "status.json").read_text())["status"] == "interrupted"
    (newest,) = numbered(run / "checkpoints")
    assert json.loads((newest / "MANIFEST.json").read_text())["step"] == 5 + 3
    assert resumed(run, every=1e9) == lines(reference)


@pytest.mark.parametrize("number, kind, code", STOPS)
def test_a_second_signal_does_not_wait(tmp_path, number, kind, code):
    exp = built(tmp_path, "stopped", every=1e9, steps_per_call=1)
    exp.callbacks.append(Signals(number, batch=2, times=2))

    with pytest.raises(kind):
        exp.train(EPOCHS)
    assert numbered(tmp_path / "p" / "stopped" / "checkpoints") == []


def test_a_terminal_that_is_closed_sends_two_signals_and_is_answered_once(tmp_path):
    exp = built(tmp_path, "stopped", every=1e9, steps_per_call=1)
    exp.callbacks.append(Signals(signal.SIGHUP, batch=2, times=2))
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    try:
        with pytest.raises(SystemExit, match="129"):
            exp.train(EPOCHS)
    finally:
        signal.signal(signal.SIGHUP, before)
    (newest,) = numbered(tmp_path / "p" / "stopped" / "checkpoints")
    assert json.loads((newest / "MANIFEST.json").read_text())["step"] == 5 + 3


def test_before_the_first_call_a_signal_does_not_wait(tmp_path):
    exp = built(tmp_path, "new")
    exp.callbacks.append(type("Impatient", (Extra,), {"on_epoch_begin": lambda *_, **__: signal.raise_signal(2)})())

    with pytest.raises(KeyboardInterrupt):
        exp.train(1)
    assert exp.counts == {}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_python_drops_acts_at_the_next_pause(tmp_path):
    """As in a `__del__`, or in what JAX does whenever Python collects garbage."""
    dying = type("Dying", (), {"__del__": lambda _: signal.raise_signal(signal.SIGTERM)})
    exp = built(tmp_path, "new", every=1e9, steps_per_call=1)
    exp.callbacks.append(type("Drops", (Extra,), {"on_epoch_begin": lambda *_, **__: dying() and None})())

    with pytest.raises(SystemExit):
        exp.train(1)
    assert [exp.counts["training"]["batches"], len(numbered(tmp_path / "p" / "new" / "checkpoints"))] == [1, 1]


def test_a_handler_of_the_users_is_called_once_the_step_was_saved(tmp_path):
    saved = []
    before = signal.signal(signal.SIGTERM, lambda *_: saved.extend(numbered(tmp_path / "p" / "new" / "checkpoints")))
    exp = built(tmp_path, "new", every=1e9, steps_per_call=1)
    exp.callbacks.append(Signals(signal.SIGTERM, batch=1))
    try:
        exp.train(2)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert len(saved) == 1
    assert exp.epoch == 2


class Hanging:
    """The item at a place of an epoch hangs; the signal comes once the training waits for its batch."""

    def __init__(self, exp, number, epoch, place):
        self.exp = weakref.ref(exp)  # whose callback draws, as the dataset of whoever holds it is taken to do
        self.number, self.epoch, self.place, self.let_go = number, epoch, place, threading.Event()
        dataset = exp.subsets[0].dataset
        dataset.query_item, self.query_item = self.query, dataset.query_item

    def query(self, key):
        subset, walk = self.exp().subsets[0], self.exp().walk
        awaited = self.epoch + 1, self.place // self.exp().batch_size
        if subset.epoch == self.epoch and key == subset.shuffled_keys()[self.place]:
            while (walk.position.row["epoch"], walk.position.batch) != awaited:
                self.let_go.wait(0.001)
            os.kill(os.getpid(), self.number)
            self.let_go.wait(20)
        return self.query_item(key)


@pytest.mark.parametrize("number, kind, code", STOPS)
@pytest.mark.parametrize("batch", [0, 3], ids=["first batch", "fourth batch"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_acts_while_an_item_hangs(tmp_path, monkeypatch, number, kind, code, batch, workers):
    text = Path(CONFIG).read_text("utf-8").replace("CallbackedExperiment", "CallbackedExperiment, AsyncExperiment")
    (tmp_path / "hanging.py").write_text(text, "utf-8")
    monkeypatch.setitem(globals(), "CONFIG", str(tmp_path / "hanging.py"))
    options = {"every": 1e9, "steps_per_call": 1, "residency": "stream", "workers": workers}
    built(tmp_path, "whole", **options).train(EPOCHS)
    exp = built(tmp_path, "stopped", **options)
    hanging = Hanging(exp, number, epoch=1, place=batch * exp.batch_size)

    with pytest.raises(kind) as stopped:
        exp.train(EPOCHS)
    was_let_go = hanging.let_go.is_set()
    hanging.let_go.set()
    run = tmp_path / "p" / "stopped"
    (newest_one,) = numbered(run / "checkpoints")
    assert (getattr(stopped.value, "code", None), was_let_go) == (code, False)
    assert json.loads((newest_one / "MANIFEST.json").read_text())["step"] == 5 + batch
    assert resumed(run, **options) == lines(tmp_path / "p" / "whole")


@pytest.mark.parametrize("is_other", [False, True])
def test_an_order_of_ones_own_that_is_another_after_a_resume_is_told(tmp_path, caplog, is_other):
    def ordered(name, turned):
        exp = built(tmp_path, name, steps_per_call=1)
        subset = next(one for one in exp.subsets if one.is_training)
        subset.shuffled_keys = lambda: subset.keys[turned:] + subset.keys[:turned]
        return exp

    ordered("whole", 1).train(2)
    folder = tmp_path / "p" / "whole" / "checkpoints"
    steps = {json.loads((path / "MANIFEST.json").read_text())["step"]: path for path in numbered(folder)}
    middle = steps[7]  # an epoch has 5 batches
    exp = ordered("again", 1 + is_other)
    exp.resume(middle)
    exp.train(2)

    assert ("continues in another order than it began in" in caplog.text) == is_other


class Grow(Callback):
    """Changes the data before each epoch, in place and by assigning them, as a replay buffer does."""

    def __init__(self, data, subset):
        self.data, self.subset = data, subset

    def on_epoch_begin(self, **_):
        self.data["input"] += 1
        self.subset.dataset = self.data

    def state_dict(self):
        return {"input": self.data["input"].copy()}

    def load_state_dict(self, state):
        self.data["input"][:] = state["input"]
        self.subset.dataset = self.data


def growing(place, rows=20):
    import keras  # here, as most tests of this file train without a framework, and saboteurs run them alone

    @chunk_processor(inputs=["batch_input"], outputs=["loss"])
    def loss(batch_input):
        return keras.ops.mean(batch_input) + 0 * slope

    slope = keras.Variable(1.0)
    data = {"input": np.zeros((rows, 1), "float32")}
    subset = Subset("training", Mode.TRAIN, data)
    saving = CheckpointEvery(seconds=EVERY_PAUSE, keep=1000, folder=place)
    settings = {"subsets": [subset], "chunk_processors": [loss], "data": data, "batch_size": 4, "steps_per_call": 1}
    exp = build_experiment(settings, optimizer=keras.optimizers.SGD(1.0), callbacks=[Grow(data, subset), saving])
    return exp, data


class Curriculum(Callback):
    """Four items more in each epoch."""

    def __init__(self, subset):
        self.subset = subset

    def on_epoch_begin(self, epoch, **_):
        self.subset.keys = range(4 + 4 * epoch)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_subset_whose_keys_a_callback_sets_is_known_by_those_it_began_with(tmp_path, by_hand):
    def made():
        exp, _ = growing(tmp_path)
        (subset,) = exp.subsets
        subset.keys = range(4)
        exp.callbacks[:] = [Curriculum(subset), *exp.callbacks[1 if not by_hand else 2 :]]
        return exp

    exp = made()
    exp.train(2)
    if by_hand:
        exp.save_checkpoint(tmp_path)
    again = made()
    again.resume(tmp_path)
    again.train(3)

    assert again.counts["training"]["batches"] == 4  # of the third epoch


class Labels(Callback):
    """Four items more after each epoch, which are its state, as in active learning."""

    def __init__(self, subset):
        self.subset, self.known = subset, 4

    def on_epoch_end(self, **_):
        self.known += 4
        self.subset.keys = range(self.known)

    def state_dict(self):
        return {"known": self.known}

    def load_state_dict(self, state):
        self.known = state["known"]
        self.subset.keys = range(self.known)


class Forgets(Callback):
    """Four items more after each epoch, in the subset alone."""

    def __init__(self, subset):
        self.subset = subset

    def on_epoch_end(self, **_):
        self.subset.keys = range(len(self.subset.keys) + 4)


def test_a_resumed_training_whose_callback_sets_keys_again_may_be_resumed_again(tmp_path):
    for epochs in (1, 2, 3):
        exp, _ = growing(tmp_path)
        (subset,) = exp.subsets
        subset.keys = range(4)
        exp.callbacks[:] = [Labels(subset), *exp.callbacks[1:]]
        if epochs > 1:
            exp.resume(tmp_path)
        exp.train(epochs)

    assert exp.counts["training"]["batches"] == 3  # of the third epoch


@pytest.mark.parametrize("callback", [Curriculum, Labels, Forgets])
def test_keys_that_no_callback_sets_again_after_a_resume_are_told(tmp_path, caplog, callback):
    def made():
        exp, _ = growing(tmp_path)
        (subset,) = exp.subsets
        subset.keys = range(4)
        exp.callbacks[:] = [callback(subset), *exp.callbacks[1:]]
        return exp

    made().train(2)
    for path in numbered(tmp_path):
        caplog.clear()
        again = made()
        again.resume(path)
        again.train(3)
        is_told = "subset 'training' had other keys when the training was interrupted" in caplog.text
        assert is_told == (callback is Forgets and int(path.name) > 1), path


class Scaled(ChunkProcessor):
    """A loss with a setting, two weights, a layer with a setting, and a count of its own."""

    inputs, outputs, calls = ["batch_input"], ["loss"], 0

    def __init__(self):
        import keras

        self.scale, self.slope, self.bias = 1.0, keras.Variable(1.0, name="slope"), keras.Variable(0.0, name="bias")
        self.bent = keras.layers.LeakyReLU(0.3)

    def __call__(self, chunk):
        import keras

        self.calls += 1
        error = keras.ops.mean(keras.ops.square(self.bent(chunk["batch_input"] * self.slope + self.bias)))
        chunk["loss"] = self.scale * error


def once(self, epoch, **_):
    """Thaw the bias, scale the loss, bend less, and decay less, once."""
    if epoch == 2:
        take(self, {"trainable": True, "scale": 0.5, "slope": 0.1, "decay": 0.01})


def by_epoch(self, epoch, **_):
    take(self, {"trainable": epoch >= 2, "scale": 1 / epoch, "slope": 0.3 / epoch, "decay": 0.1 / epoch})


def held(self):
    loss = self.loss
    settings = {"scale": loss.scale, "slope": loss.bent.negative_slope, "decay": self.optimizer.weight_decay}
    return settings | {"trainable": loss.bias.trainable}


def take(self, state):
    self.loss.bias.trainable, self.loss.scale = state["trainable"], state["scale"]
    self.loss.bent.negative_slope, self.optimizer.weight_decay = state["slope"], state["decay"]


@pytest.mark.parametrize(
    "methods, is_told",
    [
        pytest.param({"on_epoch_begin": once}, True, id="once as an epoch begins"),
        pytest.param({"on_epoch_end": once}, True, id="once as an epoch ends"),
        pytest.param({"on_epoch_end": once, "state_dict": held, "load_state_dict": take}, False, id="with a state"),
        pytest.param({"on_epoch_begin": by_epoch}, False, id="by the epoch"),
        pytest.param(None, False, id="by Freeze"),
    ],
)
def test_settings_that_no_callback_sets_again_after_a_resume_are_told(tmp_path, caplog, methods, is_told):
    import keras

    def made():
        loss, optimizer = Scaled(), keras.optimizers.SGD(0.1, weight_decay=0.1)
        begin = {"loss": loss, "optimizer": optimizer}
        begin |= {"on_train_begin": lambda *_, **__: setattr(loss.bias, "trainable", False)}
        own = Freeze("*/bias", epochs=2) if methods is None else type("Sets", (Callback,), begin | methods)()
        data = Subset("training", Mode.TRAIN, {"input": np.ones((4, 1), "float32")})
        settings = {"subsets": [data], "chunk_processors": [loss], "batch_size": 4, "seed": 1, "eager": True}
        saving = CheckpointEvery(epochs=1, folder=tmp_path)
        return build_experiment(settings, optimizer=optimizer, callbacks=[own, saving])

    whole = made()
    whole.train(3)
    again = made()
    again.resume(numbered(tmp_path)[1])
    again.train(3)

    told = (
        "#0 Scaled: scale was 0.5, is 1.0; Scaled/1/bias: trainable was True, is False; "
        "LeakyReLU 1: negative_slope was 0.1, is 0.3; SGD 1: weight_decay was 0.01, is 0.1, as when the training began."
    )
    assert (told in caplog.text) == ("Not exact" in caplog.text) == is_told
    assert (again.backend.weights() == whole.backend.weights()) != is_told


def test_what_another_dictionary_sets_otherwise_is_told_once_when_a_training_is_resumed(tmp_path, caplog):
    import keras

    def made(**settings):
        loss = Scaled()
        dense = keras.layers.Dense(1, activation=settings.pop("activation", "relu"))
        loss.bent = keras.Sequential([keras.layers.Dropout(0.1, seed=next(seeds)), dense])  # as RandomCrop draws one
        loss.slope.trainable = settings.pop("trainable", True)
        vars(loss).update(settings)
        data = Subset("training", Mode.TRAIN, {"input": np.ones((4, 1), "float32")})
        config = {"subsets": [data], "chunk_processors": [loss], "batch_size": 4, "seed": 1}
        config["callbacks"] = [Freeze("*/bias", epochs=1)]  # thawed once it is resumed
        return build_experiment(config, optimizer=keras.optimizers.SGD(0.1))

    seeds = count()
    exp = made(table="/data/table.csv")
    exp.train(1)
    exp.save_checkpoint(tmp_path)

    alike, other = made(table="/disk/table.csv"), made(scale=2.0, activation="tanh", trainable=False)
    for again in (alike, other):
        caplog.clear()
        again.resume(tmp_path)
        for epochs in (2, 3):
            again.train(epochs)
        told = (
            "Not exact: #0 Scaled: scale was 1.0, is 2.0; Scaled/0/slope: trainable was True, is False; "
            "Dense 1: activation was relu, is tanh, unlike in the training"
        )
        assert caplog.text.count("Not exact") == caplog.text.count(told) == (again is other)


def test_what_a_refusal_names_may_be_changed_and_the_resume_tried_again(tmp_path):
    exp, _ = growing(tmp_path)
    exp.train(1)
    again, _ = growing(tmp_path)
    again.subset("training").keys, again.batch_size = range(8), 2
    with pytest.raises(ResumeError, match="is 'TRAIN, 8 items"):
        again.resume(tmp_path)

    again.subset("training").keys, again.batch_size = range(20), 4
    again.resume(tmp_path)
    assert again.epoch == 1


class RoundedLoss(Callback):
    """A number that appears in the state while a pass runs."""

    def on_batch_end(self, loss, state, **_):
        state["rounded"] = round(float(loss), 1)


def test_data_that_a_callback_changes_before_an_epoch_are_restored_before_it_reads_them(tmp_path):
    whole, _ = growing(tmp_path, 12)
    expected = [row["training_loss"] for row in whole.train(EPOCHS)]
    assert expected == [1, 2, 3]

    for path in numbered(tmp_path):
        again, data = growing(tmp_path / "again", 12)
        again.resume(path)
        assert [row["training_loss"] for row in again.train(EPOCHS)] == expected, path
        assert again.cfg["data"] is data  # what was written into it in place is not put into another
        assert data["input"].mean() == EPOCHS


@pytest.mark.parametrize("with_validation", [True, False])
def test_numbers_that_appear_in_a_pass_are_told_alike_after_a_resume_at_its_end(tmp_path, with_validation):
    """The pass that begins next finds the same state, whether the one before it made a call or had none left."""

    def built_into(place):
        exp, _ = growing(place)
        exp.callbacks.append(AverageMetrics(["loss"]))
        exp.callbacks.append(RoundedLoss())
        if with_validation:
            exp.subsets.append(Subset("validation", Mode.EVAL, {"input": np.zeros((8, 1), "float32")}))
        return exp

    def written(place):
        return json.loads((newest(place).path / "state.json").read_text())["callbacks"]["AverageMetrics#1"]

    built_into(tmp_path / "whole").train(EPOCHS)
    for path in numbered(tmp_path / "whole")[:8]:  # from within the last pass back to the epoch before the last
        place = tmp_path / f"from-{path.name}"
        again = built_into(place)
        again.resume(path)
        again.train(EPOCHS)
        again.save_checkpoint(place)
        assert written(place) == written(tmp_path / "whole"), path


def test_settings_that_a_callback_changes_before_each_epoch_are_changed_once(tmp_path):
    class Doubles(Callback):
        def init(self, exp):
            self.exp = exp

        def on_epoch_begin(self, **_):
            self.exp.batch_size *= 2
            self.exp.cfg["told"] = self.exp.cfg["told"] + 1

        def state_dict(self):
            return {}

    def made(place):
        exp, _ = growing(place, 12)
        exp.cfg["told"] = 0
        exp.callbacks[0] = Doubles()
        exp.batch_size = 2
        return exp

    whole = made(tmp_path)
    whole.train(EPOCHS)
    assert (whole.batch_size, whole.cfg["told"]) == (16, EPOCHS)
    for path in numbered(tmp_path):
        again = made(tmp_path / "again")
        again.resume(path)
        again.train(EPOCHS)
        assert (again.batch_size, again.cfg["told"], again.walk.batches) == (16, EPOCHS, whole.walk.batches), path


# From the command line


def test_what_changed_in_the_configuration_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = Path(CONFIG).read_text()
    Path("own.py").write_text(text)
    words = ["run", "own.py", "--quiet", "--epochs", "1"]
    assert main(words) == 0
    assert "0.9 * self" in text
    Path("own.py").write_text(text.replace("0.9 * self", "0.8 * self"))
    capsys.readouterr()

    assert main([*words, "--resume"]) == 2
    err = capsys.readouterr().err
    number = 1 + next(place for place, line in enumerate(text.splitlines()) if "0.9 * self" in line)
    assert f"line {number} of the configuration: was 'velocity = 0.9 * self" in err
    assert "is 'velocity = 0.8 * self" in err


@pytest.mark.parametrize(
    "now, told",
    [
        ("workers, steps_per_call = 3, 2\nepochs = 3", "workers, steps_per_call"),
        ("workers = 3\nepochs = 2\n'a text'", ""),
        ("workers = 1\nepochs = 2\nbatch_size = 5", "batch_size (config)"),
        ("workers = 1\nepochs = 2\n_goal = epochs", "'epochs = 2'"),
    ],
)
def test_what_changes_no_result_may_be_edited_in_the_file_if_nothing_reads_it(tmp_path, monkeypatch, capsys, now, told):
    monkeypatch.chdir(tmp_path)
    text = Path(CONFIG).read_text()
    Path("own.py").write_text(f"{text}\nworkers = 1\nepochs = 1\n")
    assert main(["run", "own.py", "--quiet"]) == 0
    Path("own.py").write_text(f"{text}\n{now}\n")

    assert main(["run", "own.py", "--quiet", "--resume"]) == (2 if told else 0)
    assert told in capsys.readouterr().err
    assert len(Path("runs", "own", "latest", "history.jsonl").read_text().splitlines()) == (1 if told else 2)


def run(*words):
    return main(["run", CONFIG, "--quiet", "--output-folder", "runs", *map(str, words)])


def test_stopped_from_outside_it_is_resumed_by_the_command_line(tmp_path, monkeypatch, capsys):
    """R7: SIGTERM at a random moment of a training in a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = [sys.executable, "-m", "experimentator", "run", CONFIG, "--quiet", "--experiment-id"]
    child = subprocess.Popen([*words, "stopped", "--epochs", "1000000"], stderr=subprocess.PIPE, text=True)
    run_folder = tmp_path / "runs" / "momentum" / "stopped"
    while not (run_folder / "history.jsonl").exists():
        assert child.poll() is None
    child.terminate()
    child.communicate(timeout=30)
    goal = 2 + json.loads((run_folder / "status.json").read_text())["epoch"]

    assert child.returncode == 143
    assert run("--resume", "--epochs", goal) == 0
    assert f"Resuming {Path('runs', 'momentum', 'stopped')}: {goal - 2} epoch" in capsys.readouterr().err
    subprocess.run([*words, "reference", "--epochs", str(goal)], check=True, capture_output=True)
    assert lines(run_folder) == lines(run_folder.with_name("reference"))


def witnessed(place, name, *words, dies_after=0):
    """The batches that a process trained on, told by what they are handed to; and how the process ended."""
    command = [sys.executable, "-m", "experimentator", "run", CONFIG, "--quiet", "--epochs", "3", *words]
    told = {"WITNESS": str(place / name), "DIES_AFTER": str(dies_after), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=os.environ | told, capture_output=True, check=False)
    lines_of = [line.partition(" ") for line in (place / name).read_text().splitlines()]
    assert len({pid for pid, _, _ in lines_of}) == 1
    return [batch for _, _, batch in lines_of], done.returncode


def test_what_was_trained_before_the_kill_is_not_trained_again(tmp_path):
    """A witness outside of the library: after SIGKILL, the order goes on where the newest checkpoint stands."""
    options = ["--checkpoint-seconds", "0.000001", "--set", "steps_per_call=1", "--experiment-id"]
    whole, _ = witnessed(tmp_path, "whole.txt", *options, "whole")
    first, killed = witnessed(tmp_path, "first.txt", *options, "again", dies_after=8)
    (newest, *_) = numbered(tmp_path / "runs" / "momentum" / "again" / "checkpoints")
    step = json.loads((newest / "MANIFEST.json").read_text())["step"]
    second, ended = witnessed(tmp_path, "second.txt", *options, "again", "--resume", "auto")

    assert (killed, ended) == (-signal.SIGKILL, 0)
    assert (len(whole), first) == (15, whole[:8])
    assert step == 7  # the eighth batch was under way
    assert second == whole[step:]


def test_the_same_command_begins_goes_on_and_finds_nothing_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert [run("--resume", "auto", "--epochs", epochs) for epochs in (1, 2, 2)] == [0, 0, 0]
    (only,) = [path for path in Path("runs/momentum").iterdir() if not path.is_symlink()]
    assert len((only / "history.jsonl").read_text().splitlines()) == 2
    assert capsys.readouterr().err.count("Resuming") == 2


def test_the_newest_run_goes_on_where_it_was_moved_to_with_a_link_left_in_its_place(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--epochs", 1, "--experiment-id", "first") == 0
    moved = Path("runs/momentum/first").rename(tmp_path / "of another name")
    Path("runs/momentum/first").symlink_to(moved)

    assert run("--resume", "auto", "--epochs", 2) == 0
    assert len((moved / "history.jsonl").read_text().splitlines()) == 2


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--epochs", 1, "--experiment-id", "a", "--resume", "auto"]
    run(*words)
    killed = Path("runs/momentum/a")
    shutil.rmtree(killed / "checkpoints")  # the line of an epoch is written before its checkpoint

    assert [run(*words), run(*words)] == [0, 0]
    assert sorted(os.listdir(killed / "before-1")) == sorted({*os.listdir(killed)} - {"before-1", "checkpoints"})
    assert len((killed / "history.jsonl").read_text().splitlines()) == 1


DEADLY = """
import os, signal

class Deadly:
    def on_epoch_end(self, epoch, **_):
        if batch_size == 2 and epoch == 2 and os.path.exists("deadly"):
            os.remove("deadly")
            for process in (os.getppid(), os.getpid()):
                os.kill(process, signal.SIGKILL)

callbacks.append(Deadly())
"""


def test_a_grid_that_was_killed_is_given_again_and_goes_on_within_its_point(tmp_path, monkeypatch):
    """SIGKILL for the grid and its second training, in its second epoch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("task.py").write_text(Path(CONFIG).read_text() + DEADLY)
    Path("deadly").touch()
    points = ["--grid", "batch_size=[4,2,8]", "--experiment-id", "g", "--resume", "auto"]
    often = ["--checkpoint-seconds", "0.000001"]
    command = [sys.executable, "-m", "experimentator", "task.py", "--epochs", "3", *often, *points]

    killed = subprocess.run(command, capture_output=True, check=False)
    while (left := {run.name: run.status for run in find_runs("runs")})["task/g-2"] == "running":
        """Its process ends."""
    again = subprocess.run(command, capture_output=True, check=False, text=True)

    assert (killed.returncode, again.returncode) == (-signal.SIGKILL, 0)
    assert left == {"task/g-1": "finished", "task/g-2": "lost"}
    assert again.stderr.count(": 1 epoch is done, ") == again.stderr.count("finished before") == 1
    assert {(run.name, run.status, run.epochs) for run in find_runs("runs")} == {
        (f"task/g-{point}", "finished", 3) for point in (1, 2, 3)
    }


@pytest.mark.parametrize(
    "words, status, told",
    [
        (["--resume"], 5, "There is no run to resume"),
        (["--resume", "absent"], 5, "no such folder"),
        (["--resume", "--grid", "batch_size=[2,4]"], 5, "There is no sweep to resume"),
        (["--resume", "run", "--grid", "batch_size=[2,4]"], 2, "--grid begins many"),
        (["--checkpoint-seconds", "0"], 2, "no number of seconds above 0"),
    ],
)
def test_what_cannot_be_resumed_is_told_in_one_message(tmp_path, monkeypatch, capsys, words, status, told):
    monkeypatch.chdir(tmp_path)

    assert run(*words) == status
    assert told in capsys.readouterr().err


# When


@pytest.mark.parametrize(
    "period, steps",
    [({"steps": 2}, [2, 4, 7, 9, 10]), ({"steps": 5}, [5, 10]), ({"epochs": 1}, [5, 10]), ({"epochs": 2}, [10])],
    ids=str,
)
def test_checkpoints_are_written_when_they_are_due(tmp_path, period, steps):
    """A pass has five batches, of which every second is one where a call ends."""
    exp = build_experiment(CONFIG, hide_progress=True)
    exp.callbacks.append(CheckpointEvery(**period, keep=99, folder=tmp_path))

    exp.train(2)

    found = [json.loads((path / "MANIFEST.json").read_text())["step"] for path in reversed(numbered(tmp_path))]
    assert sorted(set(found)) == steps


def test_a_run_folder_has_checkpoints_by_itself_and_from_python_nothing_else_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_experiment(CONFIG, hide_progress=True).train(1)
    assert os.listdir() == []

    build_experiment(CONFIG, hide_progress=True, output_folder="runs", project_name="p", experiment_id="a").train(2)
    assert newest("runs/p/a/checkpoints").about["epoch"] == 2


def test_what_killed_writers_left_goes_with_the_next_save(tmp_path):
    aside = tmp_path / ".tmp-0123"
    aside.mkdir()
    exp = build_experiment(CONFIG, hide_progress=True)
    exp.callbacks.append(CheckpointEvery(folder=tmp_path))

    exp.train(1)

    assert not aside.exists()


def test_weights_that_a_killed_run_left_unfinished_go_as_it_goes_on(reference, tmp_path):
    run = cut(reference, 8, tmp_path)
    (run / ".weights.safetensors.0123abcd").write_bytes(bytes(8))
    (run / ".mine").touch()

    resumed(run)

    assert [path.name for path in run.glob(".*")] == [".mine"]


def test_generators_are_where_they_were(tmp_path):
    exp = build_experiment(CONFIG, hide_progress=True)
    exp.train(1)
    exp.save_checkpoint(tmp_path)
    drawn = random.random(), np.random.random()

    other = build_experiment(CONFIG, hide_progress=True)
    other.resume(tmp_path)

    assert (random.random(), np.random.random()) == drawn


@pytest.fixture(autouse=True)
def loud(caplog):
    caplog.set_level(logging.WARNING)


# What stands between two trainings


def test_a_run_that_is_under_way_is_not_resumed_by_another_process(reference, tmp_path):
    run = cut(reference, 5, tmp_path)
    first = built(tmp_path, "cut")
    first.resume(run)
    code = (
        "import sys; from experimentator import build_experiment\n"
        f"exp = build_experiment({CONFIG!r}, output_folder={str(tmp_path)!r}, project_name='p', experiment_id='cut')\n"
        f"exp.resume({str(run)!r})"
    )
    second = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    first.train(EPOCHS)

    assert "A training is under way in" in second.stderr
    assert lines(run) == lines(reference)
    built(tmp_path, "cut").resume(run)  # the folder is free again


def test_a_training_that_finds_its_folder_taken_writes_nothing_there(tmp_path):
    first, run = built(tmp_path, "shared"), tmp_path / "p" / "shared"
    first.train(1)
    second = built(tmp_path, "shared")
    second.resume(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    with pytest.raises(CheckpointError, match="A training is under way"):
        first.train(2)

    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_resumed_run_tells_what_its_status_told_until_it_knows_better(reference, tmp_path):
    run = cut(reference, 5, tmp_path)
    told = {"epoch_of_weights": 3, "compilers": {"training": "xla"}}
    (run / "status.json").write_text(json.dumps({"status": "finished", "epoch": 3, **told}))
    exp = built(tmp_path, "cut")
    exp.resume(run)
    folder = RunFolder.of(exp)
    folder.on_train_begin()
    status = json.loads((run / "status.json").read_text())
    folder.on_train_end()

    assert {name: status[name] for name in told} == told
    assert status["status"] == "running"


def test_a_damaged_status_keeps_no_run_from_being_resumed(reference, tmp_path):
    run = cut(reference, 5, tmp_path)
    (run / "status.json").write_text("{")

    assert resumed(run) == lines(reference)


def test_code_beside_the_configuration_is_a_part_of_the_training(tmp_path, capsys):
    def write(factor):
        (tmp_path / "factor_beside.py").write_text(f"def factor():\n    return {factor}\n")

    text = Path(CONFIG).read_text()
    (tmp_path / "task.py").write_text(f"from factor_beside import factor\n{text}")
    write(1)
    command = [sys.executable, "-m", "experimentator", "run", str(tmp_path / "task.py"), "--quiet"]
    options = ["--output-folder", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    train = [*command, *options, "--epochs", "2"]
    subprocess.run(train, cwd=ROOT, env=environment, check=True, capture_output=True)
    write(2)
    again = [*command, *options, "--epochs", "3", "--resume"]
    done = subprocess.run(again, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)

    assert done.returncode == 2
    assert "factor_beside.py, beside the configuration: was" in done.stderr


def test_weights_that_a_callback_brought_into_the_graph_are_told_where_to_be_made(tmp_path):
    import keras

    def made():
        held = SimpleNamespace(teacher=None)
        network = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])

        @chunk_processor(inputs=["batch_input"], outputs=["loss"])
        def loss(images):
            wanted = 0.0 if held.teacher is None else keras.ops.stop_gradient(held.teacher(images))
            return keras.ops.mean((network(images) - wanted) ** 2)

        subsets = [Subset("training", Mode.TRAIN, {"input": np.ones((8, 1), "float32")})]
        exp = build_experiment({"subsets": subsets, "chunk_processors": [loss], "optimizer": keras.optimizers.SGD(0.1)})
        return exp, lambda: setattr(held, "teacher", keras.models.clone_model(network))

    exp, teach = made()
    exp.train(1)
    teach()
    exp.train(2)
    resume.save(exp, tmp_path)

    with pytest.raises(ResumeError, match="make that network when the experiment is built"):
        made()[0].resume(tmp_path)
