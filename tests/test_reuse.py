"""Finished runs, used from the command line: measured again, asked for predictions, exported."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from experimentator import build_experiment
from experimentator.cli import main
from experimentator.config import ConfigError, load
from experimentator.data.choosing import PartKey
from experimentator.records.history import read_history
from experimentator.records.predictions import Predictions

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """\
import keras
from beside import CLASSES
from experimentator import ExponentialMovingAverage, SaveWeights
from experimentator.ops import Accuracy, Cast, Model, Scale, Softmax, SoftmaxCrossEntropy
from sklearn.datasets import load_digits
from experimentator import Mode, Subset

jit_compile = False
units = CLASSES
images, classes = load_digits(return_X_y=True)
keys = [f"={number}" for number in range(200)]
items = {key: {"input": image, "target": label} for key, image, label in zip(keys, images, classes)}
subsets = [Subset("training", Mode.TRAIN, items, keys[:150]), Subset("validation", Mode.EVAL, items, keys[150:])]
batch_size = 32
learning_rate = 1e-2
optimizer = keras.optimizers.Adam(learning_rate)
chunk_processors = [
    Cast("batch_input", "float32"),
    Scale("batch_input", 16.0),
    Model(keras.layers.Dense(units), inputs="batch_input", outputs="batch_logits"),
    SoftmaxCrossEntropy("batch_logits", "batch_target"),
    Accuracy("batch_logits", "batch_target"),
    Softmax("batch_logits", output="batch_probabilities"),
]
average = False
callbacks = [SaveWeights("best", "validation_accuracy"), ExponentialMovingAverage(0.5) if average else None]
outputs = ["batch_probabilities"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs: one that kept its best weights, one that evaluated averaged ones."""
    place = tmp_path_factory.mktemp("place")
    (place / "task.py").write_text(CONFIG)
    (place / "beside.py").write_text("CLASSES = 10\n")
    options = ["--quiet", "--epochs", "3", "--output-folder", str(place / "runs")]
    assert main([str(place / "task.py"), *options, "--experiment-id", "plain", "--set", "learning_rate=0.05"]) == 0
    assert main([str(place / "task.py"), *options, "--experiment-id", "averaged", "--set", "average=True"]) == 0
    return place / "runs" / "task"


@pytest.fixture
def run(place, tmp_path):
    """A copy of the first run, to change."""
    return Path(shutil.copytree(place / "plain", tmp_path / "copy"))


def answered(capsys, *words):
    capsys.readouterr()
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def linked(run):
    (run / "weights.safetensors").rename(run.parent / "elsewhere.safetensors")
    (run / "weights.safetensors").symlink_to(run.parent / "elsewhere.safetensors")


# evaluate


@pytest.mark.parametrize("name", ["plain", "averaged"])
def test_a_run_measures_again_what_it_measured(name, place, capsys):
    status, out, err = answered(capsys, "evaluate", place / name, "--json")

    last = read_history(place / name)[-1]
    assert status == 0
    assert json.loads(out) == {key: last[key] for key in ("validation_loss", "validation_accuracy")}
    assert ("weights.average.safetensors" in err) == (name == "averaged")


@pytest.mark.parametrize("name", ["plain", "averaged"])
def test_the_configuration_of_a_run_measures_what_the_run_measured(name, place):
    exp = build_experiment(place / name / "config.py", hide_progress=True)
    last = read_history(place / name)[-1]

    assert exp.evaluate() == {key: last[key] for key in ("validation_loss", "validation_accuracy")}


def test_the_best_weights_measure_the_best_epoch(place, capsys):
    told = json.loads((place / "plain" / "best.json").read_text())
    _, out, err = answered(capsys, "evaluate", place / "plain", "--weights", "best")

    assert f"validation_accuracy  {told['value']:.4g}" in out
    assert f"best.safetensors, of epoch {told['epoch']} out of 3\n" in err


def test_weights_that_are_not_there_are_told_with_those_that_are(place, capsys):
    status, _, err = answered(capsys, "evaluate", place / "plain", "--weights", "absent.safetensors")

    assert status == 5
    assert "best.safetensors, weights.safetensors.\nWrite --weights last, best, or a file." in err


@pytest.mark.parametrize(
    "told, said",
    [
        ({"epoch_of_weights": 2}, ", of epoch 2 out of 3"),
        ({"epoch_of_weights": None, "weights": "from the middle of epoch 3"}, ", from the middle of epoch 3"),
        ({}, ""),
    ],
)
def test_it_is_said_of_which_epoch_weights_are_since_not_every_epoch_is_saved(told, said, run, capsys):
    (run / "status.json").write_text(json.dumps({"status": "failed", "epoch": 3, **told}))

    assert answered(capsys, "evaluate", run)[2].endswith(f"weights.safetensors{said}\n")


def test_one_subset_of_any_mode_is_measured_and_files_may_be_named(place, capsys):
    words = ("evaluate", place / "averaged", "--subset", "training", "--json", "--weights")
    inside = answered(capsys, *words, "weights.safetensors")
    named = answered(capsys, *words, place / "averaged" / "weights.safetensors")

    assert json.loads(inside[1]) == json.loads(named[1])
    assert set(json.loads(inside[1])) == {"training_loss", "training_accuracy"}


def test_nothing_is_written_by_looking(place, capsys):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    answered(capsys, "evaluate", place / "plain")
    answered(capsys, "runs", place)

    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_an_altered_configuration_is_refused_before_it_runs(run, capsys, tmp_path):
    config = (run / "config.py").read_text()
    (run / "config.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\n{config}")

    status, _, err = answered(capsys, "evaluate", run)
    assert status == 2
    assert f"{run / 'config.py'} is not what was trained.\nSeen: another SHA-256" in err
    assert not (tmp_path / "canary").exists()
    assert answered(capsys, "evaluate", run, "--config", run / "config.py")[0] == 0  # the control
    assert (tmp_path / "canary").exists()


def test_another_module_beside_the_configuration_is_refused_before_anything_runs(run, capsys):
    beside = run.parent.parent.parent / "beside.py"
    told = json.loads((run / "environment.json").read_text())
    told["modules"] = {"beside.py": "0" * 64}
    (run / "environment.json").write_text(json.dumps(told))

    status, _, err = answered(capsys, "evaluate", str(run))

    assert status == 2
    assert "'beside.py', which the configuration imports, is not what was trained." in err
    assert beside.name in err


def test_another_configuration_gets_the_overrides_of_the_run(run, capsys):
    (run / "other.py").write_text(CONFIG.replace("batch_size = 32", "batch_size = 8"))
    with_its_own = answered(capsys, "evaluate", run, "--config", run / "other.py", "--json")
    given = answered(capsys, "evaluate", run, "--set", "batch_size=8", "--json")

    assert with_its_own[0] == given[0] == 0
    assert json.loads(with_its_own[1])["validation_accuracy"] == json.loads(given[1])["validation_accuracy"]


def test_an_override_that_no_file_holds_must_be_given_again(run, capsys):
    environment = json.loads((run / "environment.json").read_text())
    environment |= {"overrides": {"optimizer": "<Adam>"}, "not_stored": ["output_folder", "optimizer"]}
    (run / "environment.json").write_text(json.dumps(environment))

    status, _, err = answered(capsys, "evaluate", run)
    assert status == 2
    assert "'optimizer' was overridden by an object, which cannot be stored.\nSeen: <Adam>." in err
    assert answered(capsys, "evaluate", run, "--set", "optimizer=None")[0] == 0


@pytest.mark.parametrize(
    "spoil, status, said",
    [
        (lambda run: (run / "config.py").unlink(), 5, "config.py' cannot be read.\nSeen: No such file"),
        (lambda run: (run / "weights.safetensors").unlink(), 5, "has no last weights.\nSeen: best.safetensors."),
        (lambda run: (run / "weights.safetensors").write_bytes(b"\xff" * 99), 5, "cannot be read as weights"),
        (linked, 5, "weights.safetensors' cannot be read.\nSeen: it is a link."),
        (lambda run: (run / "environment.json").write_text("{}"), 2, "cannot be checked.\nSeen: no config_sha256"),
        (lambda run: (run / "environment.json").write_text("[" * 99_999), 5, "environment.json' cannot be read"),
        (lambda run: (run / "environment.json").write_text('{"overrides": 3}'), 2, "environment.json is damaged"),
        (lambda run: shutil.rmtree(run), 5, "is no run folder.\nSeen: no status.json"),
    ],
)
def test_a_run_that_is_not_whole_is_refused_with_one_message(spoil, status, said, run, capsys):
    spoil(run)

    found, out, err = answered(capsys, "evaluate", run)
    assert (found, out) == (status, "")
    assert said in err
    assert "Traceback" not in err


def test_weights_of_another_graph_are_refused_with_what_does_not_fit(run, capsys):
    status, _, err = answered(capsys, "evaluate", run, "--set", "units=11")

    assert status == 2
    assert "wrong shape  Model/0/kernel is [64, 10] in the file, [64, 11] in the experiment" in err


# predict


def test_predictions_are_those_of_the_experiment_in_the_order_of_keys(place, capsys, tmp_path):
    status, out, _ = answered(capsys, "predict", place / "plain", "--subset", "validation", "-o", tmp_path / "p.npz")
    found = np.load(tmp_path / "p.npz", allow_pickle=False)

    assert (status, out) == (0, f"{tmp_path / 'p.npz'}\n")
    assert sorted(found) == ["batch_probabilities", "keys"]
    assert found["keys"].tolist() == [f"={number}" for number in range(150, 200)]
    exp = build_experiment(str(place.parent.parent / "task.py"))
    exp.load_weights(place / "plain" / "weights.safetensors")
    whole = exp.predict(exp.subset("validation").batch(exp.subset("validation").keys))
    np.testing.assert_allclose(found["batch_probabilities"], whole["batch_probabilities"], rtol=1e-5)


def test_a_training_subset_is_predicted_whole_and_in_order(place, capsys, tmp_path):
    words = ("predict", place / "plain", "--subset", "training", "--outputs", "batch_logits", "-o", tmp_path / "p.npz")
    answered(capsys, *words)
    found = np.load(tmp_path / "p.npz")

    assert found["keys"].tolist() == [f"={number}" for number in range(150)]
    assert found["batch_logits"].shape == (150, 10)


def test_small_predictions_are_lines_of_json_or_of_csv_that_no_spreadsheet_computes(place, capsys, tmp_path):
    for name in ("p.jsonl", "p.csv"):
        answered(capsys, "predict", place / "plain", "--subset", "validation", "-o", tmp_path / name)
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    with open(tmp_path / "p.csv", newline="") as file:
        table = list(csv.reader(file))

    assert (rows[0]["key"], len(rows[0]["batch_probabilities"]), len(rows)) == ("=150", 10, 50)
    assert table[0] == ["key", *(f"batch_probabilities_{place}" for place in range(10))]
    assert table[1][0] == "'=150"
    assert [float(cell) for cell in table[1][1:]] == rows[0]["batch_probabilities"]


@pytest.mark.parametrize(
    "words, status, said",
    [
        (["--subset", "validation", "-o", "p.npy"], 2, "'p.npy' is no file of predictions.\nSeen: .npy."),
        (["--subset", "validaton", "-o", "p.npz"], 2, "No subset named 'validaton'"),
        (["--subset", "validation", "-o", "p.npz", "--outputs", "batch_prob"], 2, "Did you mean 'batch_probabilities'"),
        (["-o", "p.npz"], 2, "required: --subset"),
        (["--subset", "validation", "-o", "/dev/null/p.npz"], 5, "cannot be written"),
    ],
)
def test_a_mistake_is_one_message(words, status, said, place, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, out, err = answered(capsys, "predict", place / "plain", *words)

    assert (found, out) == (status, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


# export


@pytest.mark.parametrize("name", ["plain", "averaged"])
def test_a_run_is_exported_with_the_weights_that_it_evaluated_with(name, place, capsys, tmp_path):
    status, out, err = answered(capsys, "export", place / name, "-o", tmp_path / "digits")
    images = load_digits().data[:7]
    serve = tf.saved_model.load(tmp_path / "digits").signatures["serving_default"]
    exp = build_experiment(place / name / "config.py", hide_progress=True)

    assert (status, out) == (0, f"{tmp_path / 'digits'}\n")
    assert ("weights.average.safetensors" in err) == (name == "averaged")
    np.testing.assert_allclose(
        serve(batch_input=tf.constant(images))["batch_probabilities"],
        exp.predict({"batch_input": images})["batch_probabilities"],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "words, status, said",
    [
        (["-o", "p.npy"], 2, "p.npy is no file that can be exported with tensorflow.\nSeen: .npy."),
        (["-o", "p", "--outputs", "batch_prob"], 2, "Did you mean 'batch_probabilities'"),
        (["-o", "p", "--sizes", "batch_input=[8, 8]"], 2, "Seen: [8, 8]; an item has [64]"),
        (["-o", "p", "--sizes", "batch_input"], 2, "is not an assignment"),
        ([], 2, "required: -o"),
        (["-o", "/dev/null/p"], 5, "cannot be written"),
        (["-o", "/"], 5, "exists already"),
    ],
)
def test_a_mistake_in_exporting_is_one_message(words, status, said, place, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, out, err = answered(capsys, "export", place / "plain", *words)

    assert (found, out) == (status, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


# keys


def test_keys_with_named_parts_have_a_column_for_each():
    keys = [PartKey("real", 3), PartKey("=drawn", "b")]
    found = Predictions(keys, {"batch_x": np.array([0.5, 1.0])})

    assert found.csv() == b"key_subset,key,batch_x\nreal,3,0.5\n'=drawn,b,1.0\n"
    assert [json.loads(line) for line in found.jsonl().splitlines()] == [
        {"key_subset": "real", "key": "3", "batch_x": 0.5},
        {"key_subset": "=drawn", "key": "b", "batch_x": 1.0},
    ]


def test_files_of_predictions_are_read_by_others_whatever_numbers_and_names_are_in_them():
    predictions = Predictions(["caf\udce9.jpg"], {"batch_x": np.array([0.5], ml_dtypes.bfloat16)})

    with np.load(io.BytesIO(predictions.npz())) as arrays:
        assert (arrays["batch_x"].dtype, arrays["batch_x"].tolist()) == (np.float32, [0.5])
    assert predictions.csv() == b"key,batch_x\ncaf\\udce9.jpg,0.5\n"


def test_keys_that_are_no_texts_and_no_numbers_are_written_as_texts():
    predictions = Predictions([("a", 1), ("b", 2)], {"batch_x": np.array([1.0, np.nan])})

    assert predictions.csv() == b"key,batch_x\n\"('a', 1)\",1.0\n\"('b', 2)\",nan\n"
    assert json.loads(predictions.jsonl().splitlines()[1]) == {"key": "('b', 2)", "batch_x": None}
    assert Predictions([1, 2], predictions.outputs).csv() == b"key,batch_x\n1,1.0\n2,nan\n"
    with pytest.raises(ConfigError, match="An output is called 'keys'"):
        Predictions([1], {"keys": np.zeros(1)}).npz()
    with pytest.raises(ConfigError, match="An output is called 'key', as the keys are"):
        Predictions([1], {"key": np.zeros(1)}).jsonl()


@pytest.mark.parametrize("keys", [[1, 2**63 + 5], [0, 2**64 - 1], [-3, 2**63 + 5], [2**70]])
def test_keys_of_64_bits_are_kept_to_the_last(keys):
    with np.load(io.BytesIO(Predictions(keys, {}).npz())) as arrays:
        assert [int(key) for key in arrays["keys"]] == keys


OVERRIDDEN = """
import keras
from experimentator import Mode, Subset, chunk_processor

shift = 0.0
weight = keras.Variable(0.0)
subsets = [Subset("training", Mode.TRAIN, [{"n": shift + n} for n in range(4)])]
chunk_processors = [chunk_processor(inputs=["batch_n"], outputs=["loss"])(lambda n: (keras.ops.mean(n) - weight) ** 2)]
optimizer = keras.optimizers.SGD(0.1)
batch_size = 4
"""


def test_a_run_is_built_with_what_it_was_overridden_with(tmp_path, caplog):
    """What comes from its folder is the run: the data it saw, and the weights it left; where it went is not."""
    (tmp_path / "task.py").write_text(OVERRIDDEN)
    where = {"output_folder": tmp_path, "experiment_id": "one", "hide_progress": True}
    run = build_experiment(tmp_path / "task.py", shift=5.0, optimizer=keras.optimizers.SGD(0.2), **where)
    run.train(1)

    for source in (run.folder, str(run.folder), run.folder / "config.py"):
        again = build_experiment(source, hide_progress=True)
        assert (again.shift, again.get("output_folder"), again.get("experiment_id")) == (5.0, None, None)
        assert again.evaluate("training") == run.evaluate("training") == {"training_loss": pytest.approx(15.21)}
    assert "'optimizer' of the run" in caplog.text
    caplog.clear()
    build_experiment(run.folder, optimizer=keras.optimizers.SGD(0.3))
    assert not caplog.text
    assert build_experiment(run.folder, shift=1.0).shift == 1.0
    assert build_experiment(tmp_path / "task.py").shift == 0.0


def test_the_configuration_of_a_run_finds_what_lies_beside_the_file_that_was_trained(tmp_path, capsys, monkeypatch):
    text = OVERRIDDEN.replace("import keras\n", "import keras\nimport beside_it\nfrom pathlib import Path\n")
    (tmp_path / "task.py").write_text(f"{text}\nassert (Path(__file__).parent / 'rows.csv').is_file(), __file__\n")
    (tmp_path / "beside_it.py").write_text("")
    (tmp_path / "rows.csv").write_text("")
    options = ["--quiet", "--epochs", "1", "--output-folder", str(tmp_path / "runs"), "--experiment-id"]
    assert main([str(tmp_path / "task.py"), *options, "first"]) == 0
    first, second = (tmp_path / "runs" / "task" / "first", tmp_path / "runs" / "task" / "second")

    def is_found(does):
        monkeypatch.delitem(sys.modules, "beside_it")  # as in another process
        return does()

    assert is_found(lambda: build_experiment(first)).chunk_processors
    assert is_found(lambda: answered(capsys, "evaluate", first, "--subset", "training"))[0] == 0
    assert is_found(lambda: answered(capsys, "run", first / "config.py", *options, "second"))[0] == 0
    assert is_found(lambda: answered(capsys, "evaluate", second, "--subset", "training"))[0] == 0
    (tmp_path / "beside_it.py").write_text("a = 1\n")
    assert is_found(lambda: answered(capsys, "evaluate", second, "--subset", "training"))[0] == 2


@pytest.mark.parametrize(
    "told", ["no JSON", "[]", "{}", '{"config_folder": 3}', '{"config_folder": "/nowhere/at/all"}']
)
def test_another_environment_file_beside_a_configuration_means_nothing(told, tmp_path):
    (tmp_path / "environment.json").write_text(told)
    (tmp_path / "config.py").write_text("here = __file__")

    assert load(tmp_path / "config.py")["here"] == str(tmp_path / "config.py")


def test_the_configuration_of_a_run_is_trained_and_drawn_with_what_that_run_was_overridden_with(tmp_path, capsys):
    text = OVERRIDDEN.replace('outputs=["loss"]', 'outputs=["loss"], node=f"By {shift}"')
    (tmp_path / "task.py").write_text(text)
    options = ["--quiet", "--epochs", "1", "--output-folder", tmp_path / "runs", "--experiment-id"]

    assert answered(capsys, "run", tmp_path / "task.py", *options, "one", "--set", "shift=5.0")[0] == 0
    first = tmp_path / "runs" / "task" / "one" / "config.py"
    assert "By 5.0" in answered(capsys, "graph", first)[1]
    assert "By 1.0" in answered(capsys, "graph", first, "--set", "shift=1.0")[1]
    assert answered(capsys, "run", first, *options, "two")[0] == 0
    assert answered(capsys, "run", first.parent.parent / "latest", *options, "three")[0] == 0
    grid = ("--grid", "batch_size=[4]", "--set", "shift=5.0")
    assert answered(capsys, "run", first.parent, *options, "four", *grid)[0] == 0
    names = {path.name for path in (tmp_path / "runs" / "task").iterdir()}
    assert names == {"latest", "one", "two", "three", "four", "four-1"}
    assert json.loads((tmp_path / "runs" / "task" / "two" / "config.json").read_text())["shift"] == 5.0


@pytest.mark.parametrize("damage", [{"overrides": None}, {"overrides": [1]}, {"overrides": {}, "not_stored": None}])
def test_overrides_that_are_damaged_are_told(damage, tmp_path, caplog):
    (tmp_path / "config.py").write_text("rate = 0.1\nsubsets = []\nchunk_processors = []\n")
    (tmp_path / "environment.json").write_text(json.dumps(damage))

    assert build_experiment(tmp_path).rate == 0.1
    assert "its environment.json is damaged" in caplog.text


def test_an_override_of_a_run_that_its_edited_configuration_lost_is_told_where_from(tmp_path):
    (tmp_path / "config.py").write_text("subsets = []\nchunk_processors = []\n")
    (tmp_path / "environment.json").write_text(json.dumps({"overrides": {"rate": 0.1}}))

    with pytest.raises(ConfigError) as caught:
        build_experiment(tmp_path)
    assert caught.value.__notes__ == ["rate: overridden in that run, says its environment.json."]
