"""From one framework to the other: weights, figures, and a training that goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experimentator.cli import main
from experimentator.records.history import read_history
from tests.frameworks import NAME, ON_JAX

CONFIG = Path(__file__).parents[1] / "configs" / "digits.py"
OTHER = "tensorflow" if ON_JAX else "jax"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of two epochs of this framework, and where the other one may go on."""
    place = tmp_path_factory.mktemp("runs")
    options = ["--epochs", "2", "--quiet", "--output-folder", str(place), "--experiment-id", "run"]
    assert main(["run", str(CONFIG), *options]) == 0
    return place


def under(framework, *words):
    """What the command line says under a framework."""
    environment = os.environ | {"KERAS_BACKEND": framework, "PYTHONPATH": str(CONFIG.parents[2])}
    command = [sys.executable, "-m", "experimentator", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_a_run_of_one_framework_is_measured_alike_by_the_other(runs):
    told = json.loads(under(OTHER, "evaluate", runs / "digits" / "run", "--json").stdout)

    last = read_history(runs / "digits" / "run")[-1]
    for name in ("validation_loss", "validation_accuracy"):
        np.testing.assert_allclose(told[name], last[name], rtol=1e-5)


def test_a_training_goes_on_under_the_other_framework(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "there")
    options = ["--epochs", "4", "--quiet", "--experiment-id", "run", "--resume", "--output-folder"]
    there = under(OTHER, "run", CONFIG, *options, tmp_path / "there")
    assert main(["run", str(CONFIG), *options, str(runs)]) == 0

    own, other = (read_history(place / "digits" / "run") for place in (runs, tmp_path / "there"))
    assert f"backend: {NAME} then, {OTHER} now" in there.stderr
    assert [list(row) for row in other] == [list(row) for row in own]
    np.testing.assert_allclose([r["training_loss"] for r in other], [r["training_loss"] for r in own], rtol=1e-4)


def test_the_framework_that_is_installed_is_taken(tmp_path):
    code = "import sys; sys.modules['tensorflow'] = None; from experimentator.cli import main; main(sys.argv[1:])"
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    words = ["run", str(CONFIG), "--epochs", "1", "--quiet", "--output-folder", str(tmp_path), "--experiment-id", "run"]
    command = [sys.executable, "-c", code, *words]
    subprocess.run(command, env=environment | {"PYTHONPATH": str(CONFIG.parents[2])}, check=True, capture_output=True)

    told = json.loads((tmp_path / "digits" / "run" / "environment.json").read_text("utf-8"))
    assert told["backend"] == "jax"
    assert "tensorflow" not in told["versions"]


def test_a_framework_that_is_missing_is_answered_with_the_command_to_type():
    code = "import sys; sys.modules['jax'] = None; from experimentator.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(CONFIG.parents[2])}
    command = [sys.executable, "-c", code, "run", str(CONFIG), "--epochs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert 'Type: pip install "experimentator-dl[jax]" (or [jax-cuda] for NVIDIA GPUs).' in done.stderr
