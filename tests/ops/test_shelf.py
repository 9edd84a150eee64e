"""What holds for every op, and whole lists of them."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import experimentator.ops
from experimentator import ops
from experimentator.config import load_text
from experimentator.graph import ChunkProcessor, DeclarationError, Graph, Mode

EVERY = {
    "Accuracy": lambda **options: ops.Accuracy("p", "t", **options),
    "Apply": lambda **options: ops.Apply(abs, inputs=["x"], outputs=["y"], **options),
    "ArgMax": lambda **options: ops.ArgMax("x", **options),
    "AssertFinite": lambda **options: ops.AssertFinite("x", **options),
    "AssertShape": lambda **options: ops.AssertShape("x", ["B", 3], **options),
    "Cast": lambda **options: ops.Cast("x", **options),
    "CenterCrop": lambda **options: ops.CenterCrop("x", (2, 2), **options),
    "CombineLosses": lambda **options: ops.CombineLosses(["a", "b"], **options),
    "Concatenate": lambda **options: ops.Concatenate(["x", "y"], "z", **options),
    "ConfusionMatrix": lambda **options: ops.ConfusionMatrix("p", "t", num_classes=3, **options),
    "Contrastive": lambda **options: ops.Contrastive("a", "b", **options),
    "CutMix": lambda **options: ops.CutMix("x", "t", num_classes=3, **options),
    "Dice": lambda **options: ops.Dice("p", "t", **options),
    "Drop": lambda **options: ops.Drop("x", 0, **options),
    "ExpandDims": lambda **options: ops.ExpandDims("x", **options),
    "Focal": lambda **options: ops.Focal("p", "t", **options),
    "Gamma": lambda **options: ops.Gamma("x", **options),
    "GlobalAveragePool": lambda **options: ops.GlobalAveragePool("x", **options),
    "GlobalMaxPool": lambda **options: ops.GlobalMaxPool("x", **options),
    "Heatmap": lambda **options: ops.Heatmap("x", (4, 4), **options),
    "Huber": lambda **options: ops.Huber("p", "t", **options),
    "KerasMetric": lambda **options: ops.KerasMetric(keras.metrics.AUC(name="area"), "p", "t", **options),
    "Mask": lambda **options: ops.Mask("x", "m", **options),
    "MeanAbsoluteError": lambda **options: ops.MeanAbsoluteError("p", "t", **options),
    "MeanSquaredError": lambda **options: ops.MeanSquaredError("p", "t", **options),
    "MixUp": lambda **options: ops.MixUp("x", "t", num_classes=3, **options),
    "Model": lambda **options: ops.Model(keras.layers.Dense(3, name="head"), inputs="x", outputs="y", **options),
    "NamedOutputs": lambda **options: ops.NamedOutputs("x", {"y": 2, "z": 1}, **options),
    "Noise": lambda **options: ops.Noise("x", **options),
    "OneHot": lambda **options: ops.OneHot("x", 3, **options),
    "Pad": lambda **options: ops.Pad("x", 1, **options),
    "PrecisionRecall": lambda **options: ops.PrecisionRecall("p", "t", **options),
    "Print": lambda **options: ops.Print("x", **options),
    "RandomBrightness": lambda **options: ops.RandomBrightness("x", **options),
    "RandomContrast": lambda **options: ops.RandomContrast("x", **options),
    "RandomCrop": lambda **options: ops.RandomCrop("x", (2, 2), **options),
    "RandomFlip": lambda **options: ops.RandomFlip("x", **options),
    "RandomRotation": lambda **options: ops.RandomRotation("x", 10, **options),
    "Rename": lambda **options: ops.Rename("x", "y", **options),
    "Resize": lambda **options: ops.Resize("x", (4, 4), **options),
    "Scale": lambda **options: ops.Scale("x", **options),
    "Select": lambda **options: ops.Select("x", 0, **options),
    "Sigmoid": lambda **options: ops.Sigmoid("x", **options),
    "SigmoidCrossEntropy": lambda **options: ops.SigmoidCrossEntropy("p", "t", **options),
    "Softmax": lambda **options: ops.Softmax("x", **options),
    "SoftmaxCrossEntropy": lambda **options: ops.SoftmaxCrossEntropy("p", "t", **options),
    "Split": lambda **options: ops.Split("x", ["y", "z"], **options),
    "Stack": lambda **options: ops.Stack(["x", "y"], "z", **options),
    "Standardize": lambda **options: ops.Standardize("x", **options),
    "StopGradient": lambda **options: ops.StopGradient("x", **options),
    "ToUint8": lambda **options: ops.ToUint8("x", **options),
    "TopKAccuracy": lambda **options: ops.TopKAccuracy("p", "t", **options),
    "TopKPeaks": lambda **options: ops.TopKPeaks("x", k=3, **options),
    "Triplet": lambda **options: ops.Triplet("a", "p", "n", **options),
    "UncertaintyWeighting": lambda **options: ops.UncertaintyWeighting({"a": "regression"}, **options),
    "Where": lambda **options: ops.Where("c", "x", "y", "z", **options),
}
APART = {"GradientNorm"}  # which reads nothing, and has one mode
every_op = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


def test_every_op_of_the_shelf_is_in_these_tests():
    assert {name for name in ops.__all__ if not name.endswith("Error") or "Mean" in name} == {*EVERY, *APART}
    assert all(hasattr(ops, name) for name in ops.__all__)


def test_a_star_import_brings_the_shelf():
    text = "from experimentator import *\nchunk_processors = [ops.Scale('batch_input')]\ngraph_of = Graph"

    assert isinstance(load_text(text)["chunk_processors"][0], ops.Scale)


@every_op
def test_every_op_takes_a_label_a_mode_and_an_order(make):
    first, second = make(node="First"), make(node="Second", mode="eval", after=["First"])

    nodes = Graph([first, second], provided=set(), mode=Mode.EVAL).nodes

    assert [node.name for node in nodes][-1] == "Second"
    assert second.mode == Mode.EVAL
    assert second.after == ["First"]


@every_op
def test_every_op_declares_its_names(make):
    op = make()

    assert isinstance(op, ChunkProcessor)
    assert op.inputs
    assert all(isinstance(name, str) for name in (*op.inputs, *op.outputs))


@every_op
def test_equal_ops_are_two_nodes_and_can_be_keys(make):
    first, second = make(), make()

    assert first != second
    assert len({first, second}) == 2
    assert repr(first) == repr(second)


@every_op
def test_options_are_keywords(make):
    with pytest.raises(TypeError):
        type(make())("a", "b", "c", "d", "e", "f", "g")


def test_a_picture_shows_what_differs_from_the_defaults():
    assert repr(ops.Cast("x")) == "Cast(name='x')"
    assert repr(ops.RandomCrop("x", (2, 3), seed=3)) == "RandomCrop(name='x', seed=3, size=(2, 3))"
    assert repr(ops.CombineLosses({"a": 2.0})) == "CombineLosses(parts={'a': 2.0})"


@pytest.mark.parametrize("op", [ops.Model, ops.Apply])
@pytest.mark.parametrize("names", [("x", 3), (None, "y"), ("x", [abs])])
def test_what_is_no_name_is_told(op, names):
    with pytest.raises(
        DeclarationError, match=r"(3|None|<built-in function abs>) is no tensor name\.\nWrite one string"
    ):
        op(abs, *names)


def test_one_op_handles_one_name():
    with pytest.raises(DeclarationError, match=r"\['a', 'b'\] is no tensor name\.\nWrite one string per tensor"):
        ops.Cast(["a", "b"])


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: ops.Softmax("x", "y"), r"its axis is 'y'\.\nWrite output='y' for a name\. Give a whole number\."),
        (lambda: ops.TopKPeaks("x", k=2.0), r"its k is 2\.0\.\nGive a whole number\."),
        (lambda: ops.TopKAccuracy("p", "t", k="2"), "its k is '2'"),
        (lambda: ops.TopKAccuracy("p", "t", k=True), "its k is True"),
        (lambda: ops.Softmax("x", axis=1.0), r"its axis is 1\.0"),
        (
            lambda: ops.SoftmaxCrossEntropy("p", "t", label_smoothing="x"),
            r"its label_smoothing is 'x'\.\nGive a number\.",
        ),
        (lambda: ops.Focal("p", "t", alpha="x"), r"Give a number or None\."),
        (lambda: ops.RandomFlip("x", probability=None), "its probability is None"),
        (lambda: ops.Where("c", "a", None, "b"), r"its no is None\.\nGive a name or a number\."),
        (lambda: ops.CombineLosses({"a": "x"}), "its factors are"),
        (lambda: ops.CombineLosses({"a": float("nan")}), "its factors are"),
    ],
)
def test_what_is_no_number_is_refused_where_one_is_asked_for(make, told):
    with pytest.raises(DeclarationError, match=told):
        make()


def test_numbers_of_numpy_and_variables_are_numbers():
    ops.TopKAccuracy("p", "t", k=np.int64(2))
    ops.Resize("x", (np.int64(2), np.int32(3)))
    ops.Huber("p", "t", delta=np.float32(2))
    ops.Huber("p", "t", delta=keras.Variable(2.0))
    ops.RandomRotation("x", np.float32(10))


def test_one_loss_may_be_named_without_a_list(call):
    assert call(ops.CombineLosses("digit_loss"), {"digit_loss": 2.0}) == 2.0


def test_weights_are_read():
    assert ops.Huber("p", "t", weight="w").inputs == ("p", "t", "w")


def test_ops_need_no_particular_framework():
    sources = [path.read_text() for path in Path(experimentator.ops.__file__).parent.glob("*.py")]

    assert sources
    assert not [source for source in sources if "import tensorflow" in source or "from tensorflow" in source]


@pytest.fixture(scope="module")
def digits():
    """A whole list, as a configuration holds it."""
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.layers.Flatten(), keras.layers.Dropout(0.5, seed=2), keras.layers.Dense(10)])
    return [
        ops.Cast("batch_input"),
        ops.RandomFlip("batch_input", seed=3),
        ops.RandomCrop("batch_input", (8, 8), 1, seed=3),
        ops.Scale("batch_input", 16),
        ops.Model(network, inputs="batch_input", outputs="batch_logits"),
        ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
        ops.Accuracy("batch_logits", "batch_target"),
        ops.Softmax("batch_logits", output="batch_scores"),
    ]


IMAGES = np.random.default_rng(5).integers(0, 17, (6, 8, 8, 1)).astype("uint8")
TARGETS = np.arange(6)
BATCH = {"batch_input": IMAGES, "batch_target": TARGETS}


def logits_of(digits):
    dense = digits[4].model.layers[-1]
    return (IMAGES.reshape(6, 64) / 16) @ dense.kernel.numpy() + dense.bias.numpy()


@pytest.fixture
def built(digits):
    Graph(digits, provided=set(BATCH), mode=Mode.EVAL).select("loss").run(BATCH)
    return digits


def test_evaluation_computes_loss_and_accuracy(run_xla, built):
    results = run_xla(built, BATCH, "loss", "accuracy", mode=Mode.EVAL)

    logits = logits_of(built)
    log_scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(results["loss"], -log_scores[np.arange(6), TARGETS].mean(), rtol=1e-5)
    np.testing.assert_allclose(results["accuracy"], (logits.argmax(-1) == TARGETS).mean(), rtol=1e-6)


def test_inference_needs_no_target_and_no_augmentation(run_xla, built):
    graph = Graph(built, provided={"batch_input"}, mode=Mode.INFER).select("batch_scores")
    assert graph.inputs == {"batch_input"}
    assert [node.name for node in graph.order] == ["Cast", "Scale", "Model", "Softmax"]

    scores = run_xla(built, {"batch_input": IMAGES}, "batch_scores", mode=Mode.INFER)

    powers = np.exp(logits_of(built))
    np.testing.assert_allclose(scores, powers / powers.sum(-1, keepdims=True), rtol=1e-4)


def test_training_augments_and_drops(run_xla, built):
    evaluated = run_xla(built, BATCH, "loss", mode=Mode.EVAL)

    losses = {float(run_xla(built, BATCH, "loss", mode=Mode.TRAIN)) for _ in range(2)}

    assert len(losses | {float(evaluated)}) == 3


def test_two_tasks_share_a_trunk_and_sum_their_losses(run_xla):
    trunk = keras.layers.Dense(4)
    trunk.build([None, 3])
    processors = [
        ops.Model(trunk, inputs="left", outputs="left_logits"),
        ops.Model(trunk, inputs="right", outputs="right_logits"),
        ops.SoftmaxCrossEntropy("left_logits", "left_target", "left_loss"),
        ops.Huber("right_logits", "right_target", "right_loss"),
        ops.CombineLosses({"left_loss": 1.0, "right_loss": 0.25}),
    ]
    rng = np.random.default_rng(6)
    tensors = {
        "left": rng.normal(size=(5, 3)).astype("float32"),
        "right": rng.normal(size=(5, 3)).astype("float32"),
        "left_target": rng.integers(0, 4, 5),
        "right_target": rng.normal(size=(5, 4)),
    }

    results = run_xla(processors, tensors, "loss", "left_loss", "right_loss")

    np.testing.assert_allclose(results["loss"], results["left_loss"] + 0.25 * results["right_loss"], rtol=1e-6)


def test_importing_the_package_does_not_import_the_shelf():
    code = "import sys, experimentator; print('keras' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_an_array_where_a_name_is_asked_for_does_not_fill_the_screen():
    with pytest.raises(DeclarationError) as caught:
        ops.SoftmaxCrossEntropy("logits", "target", weight=np.ones(900))

    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) < 400
    assert lines[1] == "Write one string per tensor."
