"""The examples keep what their docstrings say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experimentator import build_experiment

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_digits_reaches_the_accuracy_it_states():
    exp = build_experiment(EXAMPLES / "digits.py", jit_compile=False, hide_progress=True)

    assert exp.train(exp.epochs)[-1]["validation_accuracy"] >= 0.985


def test_digit_pairs_trains_its_three_tasks_and_predicts_without_targets():
    exp = build_experiment(EXAMPLES / "digit_pairs.py", jit_compile=False, hide_progress=True)
    row = exp.train(3)[-1]
    images = load_digits().images[:7].astype(np.uint8)[..., None]
    outputs = exp.predict({"batch_first": images, "batch_second": images[::-1]})

    assert min(row[f"validation_{task}_accuracy"] for task in ("first", "second", "same")) > 0.85
    assert {name: values.shape[0] for name, values in outputs.items()} == {
        "batch_first_digit": 7, "batch_second_digit": 7, "batch_same": 7,
    }  # fmt: skip


def test_digit_search_finds_digits_among_scrambled_ones():
    exp = build_experiment(EXAMPLES / "digit_search.py", jit_compile=False, hide_progress=True)
    row = exp.train(3)[-1]
    _, batch = next(exp.batch_generator(exp.subset("validation")))
    found = exp.predict({"batch_input": batch["batch_input"]})

    assert min(row["validation_precision"], row["validation_recall"]) > 0.8
    assert {name: values.shape for name, values in found.items()} == {
        "batch_positions": (32, 5, 2), "batch_values": (32, 5),
    }  # fmt: skip


def test_digit_tasks_learns_both_tasks_from_the_labels_there_are():
    exp = build_experiment(EXAMPLES / "digit_tasks.py", jit_compile=False, hide_progress=True)
    row = exp.train(12)[-1]
    batch = exp.batch("training", 1000)

    assert row["validation_digit_accuracy"] > 0.5
    assert row["validation_degrees_off"] < 15
    assert np.isnan(batch["batch_digit"]).mean() == pytest.approx(0.9, abs=0.03)
    assert np.isnan(batch["batch_angle"]).mean() == pytest.approx(0.5, abs=0.05)


def test_digit_views_learns_features_that_a_few_labels_suffice_for():
    exp = build_experiment(EXAMPLES / "digit_views.py", epochs=12, jit_compile=False, hide_progress=True)
    row = exp.train(12)[-1]

    assert row["validation_probe_accuracy"] > row["validation_pixel_accuracy"] + 0.1


def test_digit_gan_makes_the_digits_it_is_asked_for():
    exp = build_experiment(EXAMPLES / "digit_gan.py", epochs=40, jit_compile=False, hide_progress=True)
    row = exp.train(40)[-1]

    assert row["recognised"] > 0.7


def test_digit_diffusion_makes_the_digits_it_is_asked_for(capsys):
    exp = build_experiment(EXAMPLES / "digit_diffusion.py", epochs=30, jit_compile=False, hide_progress=True)
    row = exp.train(30)[-1]

    assert row["recognised"] > 0.6
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_topics_learns_to_spell(capsys):
    smaller = {"sizes": [64, 128], "batch_sizes": [32, 16], "width": 48, "blocks": 1}
    exp = build_experiment(EXAMPLES / "topics.py", jit_compile=False, hide_progress=True, **smaller)
    row = exp.train(4)[-1]

    assert row["validation_loss"] < 2.2  # nats; as frequent as letters are: 3.1
    assert exp.predict({"batch_letters": exp.batch("validation")["batch_letters"]})["batch_logits"].shape[2] == 97
    assert capsys.readouterr().out.startswith("The statement ")


def test_mnist_says_what_to_do_where_its_data_cannot_be_fetched(tmp_path):
    nowhere = {"KERAS_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "experimentator", "run", str(EXAMPLES / "mnist.py")]
    done = subprocess.run(command, env={**os.environ, **nowhere}, capture_output=True, text=True, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert "MNIST could not be fetched" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_states_command_result_and_time_and_stays_short(example):
    text = example.read_text(encoding="utf-8")

    assert all(word in text for word in ("Command:", "Result:", "Time:"))
    assert len(text.splitlines()) <= {"digits": 60}.get(example.stem, 120)
