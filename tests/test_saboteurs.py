"""Defects of one line, put into a copy of the package one at a time: each must turn a check red, or the check is none.

A third of them is tried, drawn anew for each run of the tests; with `EXPERIMENTATOR_SABOTEURS=all` all are, and those
too that only a training with TensorFlow can notice.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("experimentator", "graph", "ops", "tests", "setup.cfg", "README.md")
FAKES = r"(Syntax|Name|Import|ModuleNotFound|UnboundLocal)Error"  # a copy that does not run proves nothing


class Saboteur(NamedTuple):
    """Text of a file that gives way to another, and the check that must notice: a file of tests and a part of names."""

    file: str
    old: str
    new: str
    check: str
    names: str = ""


MANIFEST, CHECKPOINT, RESUME = "saving/manifest.py", "checkpoint.py", "saving/resume.py"
WHOLE, STEP = "test_manifest.py", "what_changes_no_result and hide_progress"
FAULTS, REGISTER = "test_faults.py", "sweep/register.py"
SABOTEURS = {
    "a checkpoint is written in place": Saboteur(
        MANIFEST,
        "_fill(aside, files,",
        "aside = aside.rename(path)\n            _fill(aside, files,",
        WHOLE,
        "killed_before",
    ),
    "keys that nobody sets again after a resume are not told": Saboteur(
        "saving/undeclared.py",
        "sorted({*then}.difference(rekeyed(exp)) if then else ())",
        "()",
        "test_resume.py",
        "no_callback_sets_again",
    ),
    "settings that nobody sets again after a resume are not told": Saboteur(
        "saving/undeclared.py",
        "if now.get(name) == first]",
        "if False]",
        "test_resume.py",
        "no_callback_sets_again and settings",
    ),
    "settings that a callback sets again after a resume are told": Saboteur(
        "saving/undeclared.py",
        "if now.get(name) == first]",
        "]",
        "test_resume.py",
        "no_callback_sets_again and settings",
    ),
    "the manifest comes first": Saboteur(
        MANIFEST,
        "    for name, data in files.items():\n        put(aside / name, data)\n"
        '    put(aside / MANIFEST, _sealed({"format": FORMAT, **about, "files": told}))\n',
        '    put(aside / MANIFEST, _sealed({"format": FORMAT, **about, "files": told}))\n'
        "    for name, data in files.items():\n        put(aside / name, data)\n",
        WHOLE,
        "forced_to_disk",
    ),
    "files are not forced to disk": Saboteur(
        CHECKPOINT, "if lasting:\n            os", "if not lasting:\n            os", WHOLE, "forced_to_disk"
    ),
    "their folder is not": Saboteur(MANIFEST, "sync_folder(aside)", "pass", WHOLE, "forced_to_disk"),
    "its name is not": Saboteur(MANIFEST, "sync_folder(place)", "pass", WHOLE, "forced_to_disk"),
    "a short write is the end": Saboteur(
        CHECKPOINT, "        while view:\n", "        if view:\n", WHOLE, "short_write"
    ),
    "the previous one goes first": Saboteur(
        MANIFEST,
        "before = numbered(place)",
        "before = numbered(place)\n        [*map(_remove, before)]",
        WHOLE,
        "killed_before",
    ),
    "the new one is not read back": Saboteur(
        MANIFEST, "    read(path, keep=False)\n    for old", "    for old", WHOLE, "only_after_the_newer_was_read"
    ),
    "only one is kept": Saboteur(MANIFEST, "max(1, keep) - 1", "0", WHOLE, "two_stay"),
    "a failing save is silent": Saboteur(
        MANIFEST,
        '    except OSError as error:\n        raise CheckpointError(\n            f"A',
        '    except OSError as error:\n        return place\n        raise CheckpointError(\n            f"A',
        WHOLE,
        "no_failing_file_operation and ENOSPC",
    ),
    "a hash is not looked at": Saboteur(
        MANIFEST, "digest.hexdigest() != sha256", "not sha256", WHOLE, "no_changed_byte"
    ),
    "the manifest's own hash is not": Saboteur(MANIFEST, "_sealed(own) != data", "not data", WHOLE, "no_changed_byte"),
    "links are followed": Saboteur(
        "records/plainfile.py", 'getattr(os, "O_NOFOLLOW", 0)', "0", WHOLE, "not_what_was_written"
    ),
    "a damaged one is left out in silence": Saboteur(
        MANIFEST, 'log.warning("Checkpoint', 'log.debug("Checkpoint', WHOLE, "no_cut"
    ),
    "what was left aside stays": Saboteur(
        "callbacks/checkpoint_every.py",
        "remove_unfinished(self.place)",
        "pass",
        "test_resume.py",
        "killed_writers_left",
    ),
    "a file is replaced in place": Saboteur(
        CHECKPOINT,
        "put(aside, data, lasting=lasting)",
        "aside = path\n            path.unlink(missing_ok=True)\n            put(aside, data, lasting=lasting)",
        "test_checkpoint.py",
        "write_that_fails",
    ),
    "a file is not forced to disk": Saboteur(
        CHECKPOINT,
        "if lasting:\n            os",
        "if not lasting:\n            os",
        "test_checkpoint.py",
        "file_and_folder",
    ),
    "a disk that loses a name is no news": Saboteur(
        CHECKPOINT,
        "not in UNABLE:\n            raise",
        "not in UNABLE:\n            pass",
        "test_checkpoint.py",
        "keep_a_name",
    ),
    "the digest of weights is not looked at": Saboteur(
        CHECKPOINT, "told != _digest(weights)", "not told", "test_checkpoint.py", "no_changed_bit"
    ),
    "a part of a line stays": Saboteur(
        CHECKPOINT,
        "file.truncate(size)\n                raise",
        "pass\n                raise",
        "test_runs.py",
        "no_part_of_it",
    ),
    "a line is not forced to disk": Saboteur(
        CHECKPOINT,
        "os.fsync(file.fileno())\n            except OSError:\n",
        "pass\n            except OSError:\n",
        "test_runs.py",
        "no_part_of_it",
    ),
    "a log is not cut back": Saboteur(
        CHECKPOINT, "file.truncate(size)\n                os", "pass\n                os", "test_checkpoint.py"
    ),
    "StateLogger does not ask for it": Saboteur(
        "callbacks/journal.py", "shorten(self.path, self.kept)", "pass", "test_resume.py", "log_of_states"
    ),
    "the history is not cut back": Saboteur(
        "runs.py", "write_atomically(self.history,", "len(", "test_resume.py", "ran_ahead"
    ),
    "a tracker is told twice": Saboteur(
        "trackers/json_lines.py", "self._forget(run)", "pass", "test_resume.py", "told_nothing_twice"
    ),
    "slots of the optimizer are forgotten": Saboteur(RESUME, "if optimizer:", "if False:", "test_resume.py", STEP),
    "states of callbacks are forgotten": Saboteur(RESUME, "self._load(name, one)", "pass", "test_resume.py", STEP),
    "shared generators are forgotten": Saboteur(
        RESUME, "generators.set_states(self.generators, self.path)", "pass", "test_resume.py", STEP
    ),
    "seeds are forgotten": Saboteur(
        RESUME,
        "exp.backend.set_weights(self.weights)\n        if",
        "kept = {key: one for key, one in exp.backend.weights().items() if 'seed' in key}\n"
        "        exp.backend.set_weights({key: one * (1, 0) for key, one in kept.items()} | "
        "{key: one for key, one in self.weights.items() if key not in kept})\n        if",
        "test_resume.py",
        STEP,
    ),
    "a batch is trained twice": Saboteur(
        "walk.py",
        "begun = position.batch\n        averages",
        "begun = max(position.batch - 1, 0)\n        averages",
        "test_resume.py",
        STEP,
    ),
    "a batch is left out": Saboteur("walk.py", "cycle.skip(begun,", "cycle.skip(begun + 1,", "test_resume.py", STEP),
    "every epoch has the order of the first": Saboteur(
        "data/ordered.py", "self.name, self.epoch, *address", "self.name, 0 * self.epoch, *address", "test_subset.py"
    ),
    "memory that is forbidden ends a training": Saboteur(
        "loading/shared.py",
        "with suppress(OSError):  # a sandbox may forbid it; then the array goes through the pipe\n"
        "                    self.lent",
        "if name:\n                    self.lent",
        "test_processes.py",
        "through_the_pipe",
    ),
    "pickles are read": Saboteur(
        "saving/packing.py", "import json\n", "import json\nimport pickle\n", "test_packaging.py", "loader_that_can_run"
    ),
    "a point that failed is done": Saboteur(
        REGISTER, 'if not row.get("done") or', "if not row or", "test_sweep.py", "ended_otherwise"
    ),
    "a point is known by its place": Saboteur(
        REGISTER,
        "setdefault(key_of(values), 1",
        "setdefault(str(len(self._numbers) - len(self._ended)), 1",
        "test_sweep.py",
        "what_failed_is_trained",
    ),
    "a line's checksum is not looked at": Saboteur(
        REGISTER, "if not sign or check", "if not sign and check", "test_sweep.py", "changed_byte"
    ),
    "a line cut short stays": Saboteur(REGISTER, "shorten(self.path, place - 1)", "pass", "test_sweep.py", "cut_short"),
    "two sweeps share a folder": Saboteur(
        REGISTER, 'Hold(folder, what="sweep")', "open(os.devnull)", "test_sweep.py", "one_too_many"
    ),
}
TRACED = {
    "struck: a file is replaced in place": SABOTEURS["a file is replaced in place"]._replace(
        check=FAULTS, names="killed and replaced"
    ),
    "struck: a disk that loses a name is no news": SABOTEURS["a disk that loses a name is no news"]._replace(
        check=FAULTS, names="EIO and replaced"
    ),
    "struck: the previous one goes first": SABOTEURS["the previous one goes first"]._replace(
        check=FAULTS, names="killed and checkpoint-1"
    ),
}
KERAS, TRAINED = "backends/keras/__init__.py", ("backends/test_resume.py", "drawn_anew and training")
KEYED = "in state.items() if key != BUILT_FOR"
SLOW = {
    "Adam's v is forgotten": Saboteur(
        KERAS,
        KEYED,
        KEYED.replace("state.", "{**state, **{n: 0 * state[n] for n in list(state)[3::2]}}."),
        *TRAINED,
    ),
    "an evaluation moves the seeds": Saboteur(
        "isolation.py",
        "backend.set_seeds(position.seeds)",
        "pass",
        "backends/test_processors.py",
        "an_evaluation_draws",
    ),
    "what layers add is left out": Saboteur(
        "backends/keras/context.py",
        "in keras.tree.flatten(list(added))",
        "in []",
        "backends/test_options.py",
        "layers_add",
    ),
    "a cell keeps its masks": Saboteur(
        "backends/keras/trace_leaks.py",
        "        layer.reset_dropout_mask()\n",
        "",
        "backends/test_processors.py",
        "recurrent_cell and eager",
    ),
    "iterations are forgotten": Saboteur(
        KERAS, KEYED, KEYED.replace("state.", '{**state, "0000": 0 * state["0000"]}.'), *TRAINED
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and its tests, to be harmed."""
    place = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source = ROOT / name
        copying = shutil.copytree if source.is_dir() else shutil.copy
        copying(source, place / name, **({"symlinks": True, "ignore": IGNORED} if source.is_dir() else {}))
    return place


IGNORED = shutil.ignore_patterns("__pycache__")


def notices(copy, saboteur):
    """Whether the check turns red, by a test that fails, once the line is what the saboteur makes of it."""
    path = copy / "experimentator" / saboteur.file
    whole = path.read_text("utf-8")
    assert whole.count(saboteur.old) == 1, f"{saboteur.file} has no such line any more, or several"
    path.write_text(whole.replace(saboteur.old, saboteur.new), "utf-8")
    words = ["--randomly-dont-reorganize", "-p", "no:cacheprovider", "-x", "-q", "-k", saboteur.names]
    command = [sys.executable, "-B", "-m", "pytest", f"tests/{saboteur.check}", *words]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    finally:
        path.write_text(whole, "utf-8")
    assert not re.search(FAKES, done.stdout), done.stdout
    return done.returncode == 1 and "1 failed" in done.stdout


def drawn(names):
    """Which of them are tried; processes that share the tests of a run draw alike."""
    if os.environ.get("EXPERIMENTATOR_SABOTEURS") == "all":
        return list(names)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or os.urandom(8).hex()
    return sorted(random.Random(run).sample(list(names), len(names) // 3))


@pytest.mark.parametrize("what, saboteur", {**SABOTEURS, **TRACED, **SLOW}.items())
def test_each_defect_has_its_line_even_where_it_is_not_tried(what, saboteur):
    text = (ROOT / "experimentator" / saboteur.file).read_text("utf-8")

    assert text.count(saboteur.old) == 1, what
    assert (ROOT / "tests" / saboteur.check).is_file()


@pytest.mark.parametrize("what", drawn(SABOTEURS))
def test_each_defect_is_noticed(copy, what):
    assert notices(copy, SABOTEURS[what])


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which puts faults, is not installed")
@pytest.mark.parametrize("what", drawn(TRACED))
def test_each_defect_is_noticed_by_faults_too(copy, what):
    assert notices(copy, TRACED[what])


@pytest.mark.skipif(os.environ.get("EXPERIMENTATOR_SABOTEURS") != "all", reason="set EXPERIMENTATOR_SABOTEURS=all")
@pytest.mark.parametrize("what", SLOW)
def test_each_defect_is_noticed_by_trainings_with_tensorflow(copy, what):
    assert notices(copy, SLOW[what])
