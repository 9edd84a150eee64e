"""What readers see is what the library does: the tour runs, and README's pictures are those of today."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from sklearn.datasets import load_digits
from sklearn.metrics import jaccard_score

import experimentator
from experimentator import CheckpointEvery, Mode, NonFiniteLossError, Subset, build_experiment, ops
from experimentator.checkpoint import load_weights
from tests.pictures import needs_pictures

ROOT = Path(__file__).resolve().parent.parent


@needs_pictures
@pytest.mark.filterwarnings("ignore")  # of the notebook's own machinery
def test_the_tour_runs_from_top_to_bottom_and_draws(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tour = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    NotebookClient(tour, timeout=300, resources={"metadata": {"path": str(ROOT / "examples")}}).execute()

    shown = [output.get("data", {}) for cell in tour.cells for output in cell.get("outputs", ())]
    assert sum("image/svg+xml" in data for data in shown) == 4
    assert any("<table>" in data.get("text/html", "") for data in shown)


@needs_pictures
def test_the_pictures_of_the_readme_are_those_that_the_examples_give(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "docs" / "draw.py"), str(tmp_path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)

    drawn = {path.name: texts(path) for path in tmp_path.iterdir()}
    assert drawn == {path.name: texts(path) for path in (ROOT / "docs").glob("*.svg")}
    assert set(re.findall(r"docs/(\w+\.svg)\)", (ROOT / "README.md").read_text("utf-8"))) == set(drawn)


RECIPES = (ROOT / "docs" / "recipes.md").read_text("utf-8")
TITLES = re.findall(r"^## (.*)$", RECIPES, flags=re.MULTILINE)


def recipe(title):
    """The configuration that a recipe makes: what the page begins with, and what it changes."""
    first, *rest = re.split(r"^## ", RECIPES, flags=re.MULTILINE)
    (own,) = [part for part in rest if part.startswith(f"{title}\n")]
    return "\n".join(block for part in (first, own) for block in re.findall(r"```python\n(.*?)```", part, re.DOTALL))


ENSEMBLE = "Ensembles: several runs predict as one"  # the one recipe that trains nothing itself


@pytest.mark.parametrize("title", [title for title in TITLES if title != ENSEMBLE])
def test_a_recipe_trains_and_what_it_promises_is_there(title, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    exp = build_experiment(recipe(title), hide_progress=True, jit_compile=False, output_folder=str(tmp_path))
    rows = exp.train(2)

    loss = next(name for name in rows[0] if name.startswith("training") and name.endswith("_loss"))
    assert rows[-1][loss] < rows[0][loss]
    images = load_digits().images[:3].astype("float32")[..., None] / 16
    given = {"batch_input": images} if "batch_input" in exp.batch("validation") else "validation"
    seen = {name: values.shape for name, values in exp.predict(given).items()}
    shown = PROMISED.get(title, lambda exp, rows, seen: True)
    assert shown(exp, rows, seen), (rows, seen)
    assert "No gradient reaches" not in caplog.text


def kernel(weights):
    return next(value for key, value in weights.items() if key.startswith("Trunk/") and key.endswith("/kernel"))


def where_it_began(exp):
    """What is said where the weights of a head are spoilt, and what its run keeps of two processors."""
    spoilt = {
        key: np.full_like(value, np.nan) for key, value in exp.backend.weights().items() if key.startswith("Head")
    }
    exp.backend.set_weights({**exp.backend.weights(), **spoilt})
    with pytest.raises(NonFiniteLossError) as failed:
        exp.train(3)
    statuses = json.loads(Path(exp.folder, "status.json").read_text("utf-8"))["processors"]
    return re.search("'.*#3 Head", str(failed.value))[0], statuses["Trunk"], statuses["Head"]


def changed(exp, prefix):
    """Names of the weights below `prefix` that another epoch changes."""
    before = exp.backend.weights()
    exp.train(3)
    after = exp.backend.weights()
    return {
        key.split("/")[-1] for key in before if key.startswith(prefix) and not np.array_equal(before[key], after[key])
    }


def mean_iou(exp, *, ignored):
    """By scikit-learn, of all validation images at once."""
    subset, classes = exp.subset("validation"), exp.predict("validation")["batch_classes"]
    masks = np.stack([subset.dataset.query_item(key)["mask"] for key in subset.keys])
    return jaccard_score(masks[masks != ignored], classes[masks != ignored], average="macro")


PROMISED = {
    "Truncated backpropagation through time: a state carried from batch to batch": lambda exp, rows, seen: (
        seen == {"batch_letters": (128, 10, 7)}
        and all(np.any(w) for key, w in exp.backend.weights().items() if "state" in key)
    ),
    "Fine-tuning: a learning rate for each part, frozen layers": lambda exp, rows, seen: (
        exp.optimizer["Trunk"].iterations == 0
    ),
    "Evolution strategies: training by what has no gradient": lambda exp, rows, seen: (
        rows[-1]["validation_accuracy"] > 0.4
    ),
    "LoRA: adapters on a trained network": lambda exp, rows, seen: (
        np.array_equal(kernel(exp.backend.weights()), kernel(load_weights("base.safetensors")))
        and any(key.endswith("lora_kernel_b") and value.any() for key, value in exp.backend.weights().items())
    ),
    "Segmentation: masks that turn with their images, ignored pixels, the IoU of each class": lambda exp, rows, seen: (
        np.mean([rows[-1][f"validation_iou_{name}"] for name in ("background", "even", "odd")])
        == pytest.approx(mean_iou(exp, ignored=255), abs=1e-6)
        and seen["batch_classes"] == (3, 8, 8)
    ),
    "Cross-validation: a run for each fold": lambda exp, rows, seen: "Standardize" in str(exp.graph("infer")),
    "Learning-rate schedules: warm-up, cosine, plateau, a search for the rate": lambda exp, rows, seen: (
        [row["learning_rate"] for row in rows]
        == pytest.approx([1e-3 * (0.01 + 0.99 * 43 / 44), 1e-3 * (1 + np.cos(np.pi * 43 / 44 / 9)) / 2])
        and [float(np.asarray(exp.optimizer[name].learning_rate)) for name in ("Trunk", "*")]
        == pytest.approx([1e-4, 1e-3])
    ),
    "Out of memory: what to try, in which order": lambda exp, rows, seen: (
        str(exp).count("in host memory") == 2
        and exp.cfg["head"].compute_dtype == "bfloat16"
        and exp.counts["training"]["batches"] // int(np.asarray(exp.optimizer.iterations)) == 4
    ),
    "A pretrained backbone: its preprocessing, BatchNormalization, two learning rates": lambda exp, rows, seen: (
        changed(exp, "Backbone/") == {"kernel", "gamma", "beta"}
    ),
    "Annealing: a number that changes during training": lambda exp, rows, seen: (
        rows[1]["training_weight_now"] == pytest.approx(0.2) and exp.counts["training"]["traces"] <= 3
    ),
    "Long epochs: evaluation and checkpoints within an epoch": lambda exp, rows, seen: (
        exp.counts["training"]["batches"] == 20 and [len(row) for row in rows] == [5, 5]
    ),
    "Uncertainty: temperature scaling and Monte Carlo dropout": lambda exp, rows, seen: (
        float(exp.cfg["temperature"].numpy()) < 2.5
        and not np.array_equal(*(exp.predict("validation", outputs="batch_drawn")["batch_drawn"] for _ in range(2)))
        and np.array_equal(*(exp.predict("validation", outputs="batch_logits")["batch_logits"] for _ in range(2)))
    ),
    "Variational autoencoder: sampling within the graph": lambda exp, rows, seen: (
        exp.predict({"batch_code": np.zeros((5, 8), "float32")})["batch_image"].shape == (5, 8, 8, 1)
    ),
    "Sequences: teacher forcing, then decoding": lambda exp, rows, seen: seen == {"batch_written": (3, 6)},
    "Class imbalance: draw rare classes more often, or weigh them more": lambda exp, rows, seen: (
        exp.counts["training"]["batches"] == 2 * (10 * 146 // 32)  # each class as often as the largest, of 146
        and 1 < build_experiment(exp.source.text, balance="weighed", hide_progress=True).evaluate()["balanced_loss"] < 4
        and rows[1]["balanced_accuracy"] > 0.5
    ),
    "Hard example mining: an order of your own": lambda exp, rows, seen: (
        np.ptp(exp.subset("training").chances) > 0.1 and rows[1]["training_loss"] > rows[1]["validation_loss"]
    ),
    "A curriculum: easy items first": lambda exp, rows, seen: (
        exp.subset("training").share > 0.4 and 2 * 17 < exp.counts["training"]["batches"] < 2 * 44
    ),
    "Replay buffers and active learning: data that grow": lambda exp, rows, seen: (
        len(exp.subset("training").keys) == 100 + 2 * 50 and exp.counts["training"]["batches"] == 3 + 4
    ),
    "Data larger than memory: items read by workers, and kept on disk": lambda exp, rows, seen: (
        str(exp).count("streamed") == 2 and len(list(Path("cache").rglob("*.item"))) == 1797
    ),
    "Items of several lengths: buckets and padding": lambda exp, rows, seen: (
        sum(label.startswith("training (") for label in exp.compilers) == 3
        and exp.program.counts()["training"]["batches"] == len(rows) * (160 // exp.batch_size)
    ),
    "NaN and shape errors: where they begin": lambda exp, rows, seen: (
        where_it_began(exp)
        == (
            "'batch_logits' holds NaN or infinity first, made by #3 Head",
            "ok",
            "failed: first NaN or infinity, in 'batch_logits'",
        )
    ),
    "Error analysis: the worst items of each evaluation": lambda exp, rows, seen: (
        len(list(Path(exp.folder).glob("worst-*.json"))) == 2
    ),
}


def test_the_ensemble_of_the_recipe_predicts_the_mean_of_its_members(tmp_path):
    exp = build_experiment(recipe(ENSEMBLE), hide_progress=True, jit_compile=False, output_folder=str(tmp_path))
    members = [one.predict("validation")["batch_probabilities"] for one in exp.cfg["members"]]

    assert exp.predict("validation")["batch_probabilities"] == pytest.approx(np.mean(members, axis=0), abs=1e-6)
    right = np.mean(members, axis=0).argmax(axis=1) == exp.cfg["digits"].target[list(exp.subset("validation").keys)]
    assert exp.evaluate()["validation_accuracy"] == pytest.approx(right.mean())
    assert np.ptp(members, axis=0).max() > 0.1  # they differ


def test_every_promise_is_that_of_a_recipe():
    assert PROMISED.keys() <= set(TITLES)
    assert len(TITLES) == len(set(TITLES)) > 5


COMING = (ROOT / "docs" / "coming_from.md").read_text("utf-8")


def test_the_training_written_for_keras_and_for_this_library_is_one():
    made = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", COMING, re.DOTALL)), made)  # noqa: S102  # the page's own code

    for theirs, ours in zip(made["model"].get_weights(), made["same"].get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    row, history = made["exp"].history[-1], made["model"].history.history
    assert row["validation_accuracy"] == pytest.approx(history["val_accuracy"][-1])
    assert row["validation_loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)


def test_what_the_page_for_those_who_come_from_elsewhere_names_is_there():
    exp = build_experiment({"subsets": [], "chunk_processors": []})
    right = "\n".join(row.split("|")[2] for row in COMING.splitlines() if row.startswith("| "))
    capitals = set(re.findall(r"(?<![\w.])([A-Z][a-z]+[A-Z]\w+)\(", right)) - {"AdamW"}

    assert all(hasattr(ops, name) for name in re.findall(r"ops\.(\w+)", COMING))
    assert all(hasattr(exp, name) for name in re.findall(r"exp\.(\w+)", COMING))
    assert len(capitals) > 5
    assert all(hasattr(experimentator, name) for name in capitals), capitals


PARTS = (ROOT / "docs" / "parts.md").read_text("utf-8")


def test_the_parts_that_are_listed_are_those_there_are(tmp_path, monkeypatch):
    (tmp_path / "parts.md").write_text(re.sub(r"^\| `(?!on_).*\n", "", PARTS, flags=re.MULTILINE), "utf-8")
    written = tmp_path / "parts.md", tmp_path / "stub.pyi"
    monkeypatch.setattr(sys, "argv", ["list.py", *map(str, written)])
    runpy.run_path(str(ROOT / "docs" / "list.py"), run_name="__main__")

    known = PARTS, (ROOT / "experimentator" / "__init__.pyi").read_text("utf-8")
    assert tuple(one.read_text("utf-8") for one in written) == known, "write them anew: python docs/list.py"


def test_a_type_checker_knows_the_top_level_names_and_what_an_experiment_gives(tmp_path):
    (tmp_path / "task.py").write_text(
        "from experimentator import Mode, Subset, build_experiment\n"
        "exp = build_experiment('task.py', width=3)\n"
        "exp.width = 4\n"
        "reveal_type(exp.subset('training'))\n"
        "reveal_type(exp.evaluate())\n"
        "exp.train('five')\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "setup.cfg"), str(tmp_path / "task.py")]
    done = subprocess.run(
        command, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )

    told = [line.partition("task.py:")[2] for line in done.stdout.splitlines() if "task.py:" in line]
    assert told[:2] == [
        '4: note: Revealed type is "experimentator.subset.Subset"',
        '5: note: Revealed type is "dict[str, float]"',
    ]
    assert told[2].startswith("6: error: Argument 1 to ")
    assert len(told) == 3


def test_callbacks_are_given_what_the_page_says():
    told = {
        method: set(re.findall(r"`(\w+)`", given)) - {"validation_loss"}
        for method, given in re.findall(r"^\| `(on_\w+)` \|[^|]*\|(.*)\|$", PARTS, flags=re.MULTILINE)
    }
    seen = {method: [] for method in told}
    methods = {method: lambda self, method=method, **state: seen[method].append(set(state)) for method in told}
    first = re.split(r"^## ", RECIPES, flags=re.MULTILINE)[0]
    changes = {"callbacks": [type("Sees", (), methods)()], "hide_progress": True, "jit_compile": False}
    build_experiment("\n".join(re.findall(r"```python\n(.*?)```", first, re.DOTALL)), **changes).train(1)

    assert len(told) == 9
    for method, given in told.items():
        assert seen[method], method
        assert all(given | {"state"} <= names for names in seen[method]), method
        assert all("epoch" in names for names in seen[method]), method


def test_the_mean_of_the_page_is_that_of_what_is_known():
    (source,) = [one for one in re.findall(r"```python\n(.*?)```", PARTS, re.DOTALL) if "known_alone" in one]
    error, known = np.arange(20, dtype="float32"), (np.arange(20) % 7 < 3).astype("float32")
    text = f"import keras\nfrom experimentator import chunk_processor\n{source}\nchunk_processors = [known_alone]"
    subset = Subset("validation", Mode.EVAL, {"error": error, "known": known})
    exp = build_experiment(text, subsets=[subset], batch_size=8)

    assert exp.evaluate()["validation_loss"] == pytest.approx(error[known > 0].mean())


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_search_of_the_recipe_finds_and_gives_up(tmp_path, monkeypatch, capsys):
    title = next(title for title in TITLES if title.startswith("Searching"))
    (program,) = [one for one in re.findall(r"```py\n(.*?)```", RECIPES, re.DOTALL) if "optuna" in one]
    (tmp_path / "task.py").write_text(recipe(title), "utf-8")
    monkeypatch.chdir(tmp_path)
    exec(program.replace("n_trials=20", "n_trials=8"), made := {})  # noqa: S102  # the page's own code

    best = capsys.readouterr().out.splitlines()[-1]
    assert {one.state.name for one in made["study"].trials} == {"COMPLETE", "PRUNED"}
    assert "learning_rate" in best
    assert float(best.split()[-1]) < 0.5  # a guess has 2.3


def test_the_worst_member_of_the_recipes_population_goes_on_from_the_best(tmp_path, monkeypatch):
    title = next(title for title in TITLES if title.startswith("Population"))
    (program,) = [one for one in re.findall(r"```py\n(.*?)```", RECIPES, re.DOTALL) if "members" in one]
    (tmp_path / "task.py").write_text(recipe(title), "utf-8")
    monkeypatch.chdir(tmp_path)
    exec(program, made := {})  # noqa: S102  # the page's own code

    assert [exp.epoch for exp in made["members"]] == [20] * 4
    losses = [exp.history[-1]["validation_loss"] for exp in made["members"]]
    assert losses == sorted(losses)
    worst, best = made["members"][-1], made["members"][0]
    assert worst.evaluate() == best.evaluate()
    rates = worst.get_learning_rate() / best.get_learning_rate()
    assert min(abs(rates - 0.8), abs(rates - 1.25)) < 1e-5


def texts(path):
    """The words of a picture: where they stand may differ with the fonts of a machine."""
    return sorted(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text("utf-8")))


def test_the_callback_of_the_page_measures_is_watched_and_survives_a_resume(tmp_path):
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", PARTS, re.DOTALL) if "class Recall" in one]
    first = re.split(r"^## ", RECIPES, flags=re.MULTILINE)[0]
    text = "\n".join(
        [
            *re.findall(r"```python\n(.*?)```", first, re.DOTALL),
            "import numpy as np",
            code,
            "from experimentator import CheckpointEvery, EarlyStopping",
            'callbacks = [Recall(), EarlyStopping("validation_recall", patience=9, mode="max")]',
            "steps_per_call = 2",
        ]
    )
    exp = build_experiment(text, hide_progress=True)
    rows = exp.train(2)
    assert all(0.9 < row["validation_recall"] <= 1 for row in rows)

    class Stops:
        wanted = True

        def on_batch_end(self, batch, mode, epoch, **_):
            if self.wanted and (batch, mode, epoch) == (3, Mode.EVAL, 2):
                raise KeyboardInterrupt

    stopped, resumed = (build_experiment(text, hide_progress=True) for _ in range(2))
    for one in (stopped, resumed):
        one.callbacks += [CheckpointEvery(seconds=1e-9, folder=tmp_path), Stops()]
    with pytest.raises(KeyboardInterrupt):
        stopped.train(2)
    Stops.wanted = False
    resumed.resume(tmp_path)
    assert resumed.walk.position.subset == "validation"
    assert resumed.train(2)[-1]["validation_recall"] == rows[-1]["validation_recall"]


HOOKS = {"call_limit", "cycle", "fire", "listens", "requests"}  # of an experiment, for features: nobody calls them
PLAIN = {"batch_generator", "expect_weights", "get_learning_rate", "names_of", "own_folder", "set_learning_rate"}


def test_every_public_name_has_an_example():
    names = {name: getattr(experimentator, name) for name in experimentator.__all__ if name != "__version__"}
    names |= {f"ops.{name}": getattr(ops, name) for name in ops.__all__}
    methods = inspect.getmembers(experimentator.BaseExperiment, inspect.isfunction)
    names |= {name: one for name, one in methods if name not in HOOKS | PLAIN and not name.startswith("_")}

    without = sorted(name for name, one in names.items() if ">>> " not in (one.__doc__ or ""))
    assert not without, "show in its docstring what it does, as a doctest"
