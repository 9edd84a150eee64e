"""verify-resume: a real training, killed with SIGKILL, resumed by the command line, read by what imports no library."""

import ast
import os
import re
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import pytest

from experimentator.cli import main
from experimentator.commands import outside
from experimentator.commands.verify import _options

CONFIGS = Path(__file__).parent / "configs"
KILLS = os.environ.get("EXPERIMENTATOR_KILLS", "3")


def test_a_training_with_everything_that_holds_state_is_exact(capsys):
    """R1: kills at moments drawn anew each time, which the first line tells."""
    status = main(["verify-resume", str(CONFIGS / "stateful.py"), "--kills", KILLS, "--epochs", "8"])

    out = capsys.readouterr().out
    assert status == 0, out
    assert re.search(rf"\n{KILLS} kills \(proved by the signal\), \d+ resumed within the training: equal", out)
    for kind in ("weights and seeds", "variables of the optimizer", "arrays of callbacks", "lines of logs"):
        assert re.search(rf"killed-1 is equal in all that was saved:.* \d+ {kind}", out)


def test_a_callback_that_forgets_is_found_out(capsys, tmp_path):
    """The kill comes when a part of it is over: before the first checkpoint, a run begins anew, and is equal."""
    words = ["--kills", "1", "--epochs", "200", "--seed", "2", "--output-folder", str(tmp_path)]
    status = main(["verify-resume", str(CONFIGS / "momentum.py"), *words, "--set", "forgetful=True"])

    out = capsys.readouterr().out
    assert status == 1, out
    assert "differs in" in out
    assert "/drawn: " in out
    assert re.search(r"differs in \d+ of \d+ saved things:\n  state.json/", out)  # not a hash of weights
    assert "Two uninterrupted trainings are equal: it is the resume that differs." in out
    assert "not covered: ForgetfulLuck changes its attributes and has no state_dict" in out


def test_a_training_may_write_more_to_stderr_than_a_pipe_holds(tmp_path):
    config = tmp_path / "noisy.py"
    config.write_text(f"{(CONFIGS / 'momentum.py').read_text()}\nimport sys\nsys.stderr.write('x' * 200_000)\n")
    command = [sys.executable, "-m", "experimentator", "verify-resume", config, "--kills", "1", "--epochs", "100"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_training_that_keeps_its_checkpoints_elsewhere_is_told_what_to_write(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = f"{(CONFIGS / 'momentum.py').read_text()}\nfrom experimentator import CheckpointEvery\n"
    Path("task.py").write_text(f"{text}callbacks.append(CheckpointEvery(folder='kept'))\n")

    assert main(["verify-resume", "task.py", "--kills", "1", "--epochs", "2", "--output-folder", "runs"]) == 5
    assert "List CheckpointEvery without folder=" in capsys.readouterr().err


def test_a_training_that_fails_by_itself_has_nothing_to_compare_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    (tmp_path / "place").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "place"))
    config = tmp_path / "bad.py"
    config.write_text("batch_size = 0\n")

    assert main(["verify-resume", str(config)]) == 2
    assert "batch_size=0 cannot be used" in capsys.readouterr().err
    assert not list((tmp_path / "place").iterdir())


@pytest.mark.parametrize(
    "words",
    [["verify-resume"], ["verify-resume", "x.py", "--kills", "many"], ["verify-resume", "x.py", "--kills", "0"]],
)
def test_a_mistake_of_use_exits_2(capsys, words):
    assert main(words) == 2
    assert "Type: experimentator verify-resume --help" in capsys.readouterr().err


def test_the_reader_imports_the_standard_library_only():
    tree = ast.parse(Path(outside.__file__).read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


@pytest.mark.parametrize("framework, sees_a_gpu", [("torch", True), ("jax", False)])
def test_compilers_that_are_found_by_timing_are_fixed(framework, sees_a_gpu, monkeypatch, tmp_path, capsys):
    """PyTorch times them on a GPU, too; JAX never does."""
    monkeypatch.setenv("KERAS_BACKEND", framework)
    monkeypatch.setenv("PATH", str(tmp_path))
    if sees_a_gpu:
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    arguments = Namespace(config=str(CONFIGS / "light.py"), assignments=["seed=1"], epochs=3)

    given, fixed = (options := _options(arguments))[:4], options[4:]

    assert given == ["--set", "seed=1", "--epochs", "3"]
    assert fixed == (["--set", "jit_compile=False"] if framework == "torch" else [])
    assert len(capsys.readouterr().out.splitlines()) == len(fixed) // 2
