"""What an experiment infers, as a Keras model and as files that run without the library."""

from __future__ import annotations

import inspect
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
from keras import layers

from experimentator import (
    BaseExperiment,
    CheckpointError,
    ConfigError,
    ExponentialMovingAverage,
    GraphError,
    Mode,
    Subset,
    build_experiment,
    chunk_processor,
    ops,
)
from experimentator.backends.keras.model import quietly
from tests.frameworks import NAME, ON_JAX, ON_TORCH, variable

IMAGES = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 1)).astype(np.uint8)
TARGETS = np.arange(24, dtype=np.int32) % 3
not_on_jax = pytest.mark.skipif(ON_JAX, reason="JAX writes no ONNX, and tells no even size from another")
OWN = "program.pt2" if ON_TORCH else "program"  # what the framework reads itself
ELSEWHERE = """
from __future__ import annotations
import sys
from pathlib import Path
import numpy as np
path, given, results = sys.argv[1:]
given = dict(np.load(given))
{reader}
assert "experimentator" not in sys.modules
np.savez(results, **read(path, given))
"""


def read(path: Path, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a program gives, read by its framework alone."""
    if str(path).endswith(".pt2"):
        import torch

        found = torch.export.load(path).module()({name: torch.tensor(value) for name, value in given.items()})
        return {name: value.detach().numpy() for name, value in found.items()}
    import tensorflow as tf

    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    found = serve(**{name: tf.constant(value) for name, value in given.items()})
    return {name: value.numpy() for name, value in found.items()}


def read_elsewhere(path: Path, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same in a process of its own, which does not know the library."""
    np.savez(path.parent / "given.npz", **given)
    code = ELSEWHERE.format(reader=inspect.getsource(read))
    command = [sys.executable, "-c", code, path, path.parent / "given.npz", path.parent / "found.npz"]
    environment = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(list(map(str, command)), check=True, env=environment, cwd=path.parent)
    return dict(np.load(path.parent / "found.npz"))


def read_onnx(path: Path, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def network() -> Any:
    keras.utils.set_random_seed(3)
    body = [layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.5)]
    return keras.Sequential([*body, layers.GlobalAveragePooling2D(), layers.Dense(3)])


def build(*callbacks: Any, **changes: Any) -> Any:
    data = {"input": IMAGES, "target": TARGETS}
    processors = [
        ops.Cast("batch_input", "float32"),
        ops.Scale("batch_input", 255.0),
        ops.RandomCrop("batch_input", (8, 8), padding=1, mode=Mode.TRAIN),
        ops.Model(network(), inputs="batch_input", outputs="batch_logits", node="Network"),
        ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
        ops.Accuracy("batch_logits", "batch_target"),
        ops.Softmax("batch_logits", output="batch_probabilities"),
    ]
    config = {
        "subsets": [Subset("training", Mode.TRAIN, data), Subset("validation", Mode.EVAL, data)],
        "chunk_processors": processors,
        "optimizer": keras.optimizers.Adam(1e-2),
        "batch_size": 8,
        "outputs": ["batch_logits", "batch_probabilities"],
        "callbacks": list(callbacks),
        "hide_progress": True,
    }
    return build_experiment(config | changes)


def numbers(tensors: Any) -> dict[str, np.ndarray]:
    return {name: keras.ops.convert_to_numpy(keras.ops.stop_gradient(one)) for name, one in tensors.items()}


def alike(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


def test_a_model_infers_what_predict_gives_for_any_number_of_rows():
    exp = build()
    exp.train(1)
    model = exp.as_model()

    for rows in (1, 5):
        alike(numbers(model({"batch_input": IMAGES[:rows]})), exp.predict({"batch_input": IMAGES[:rows]}))
    assert [tuple(one.shape) for one in model.outputs] == [(None, 3), (None, 3)]
    assert sum(np.prod(one.shape) for one in model.weights) == sum(np.prod(v.shape) for v in network_weights(exp))


def network_weights(exp: Any) -> list[np.ndarray]:
    """Of the network, the state of its dropout included."""
    return [value for key, value in exp.backend.weights().items() if key.startswith("Network/")]


def test_a_model_is_not_saved_as_keras_saves_them(tmp_path):
    model = build().as_model()
    for save in (lambda: model.save(tmp_path / "model.keras"), model.to_json):
        with pytest.raises(NotImplementedError, match=r"processors are Python.\nWrite exp.export"):
            save()


def test_what_a_model_learns_the_experiment_knows():
    exp = build()
    exp.train(1)
    model = exp.as_model("batch_logits")
    before = exp.predict({"batch_input": IMAGES})["batch_logits"]
    model.compile("sgd", {"batch_logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    model.fit({"batch_input": IMAGES}, {"batch_logits": TARGETS}, verbose=0)
    after = exp.predict({"batch_input": IMAGES})["batch_logits"]

    assert not np.allclose(before, after)
    alike(numbers(model({"batch_input": IMAGES})), {"batch_logits": after})


def test_an_exported_file_runs_without_the_library(tmp_path):
    exp = build()
    exp.train(2)
    expected = exp.predict({"batch_input": IMAGES[:5]})

    assert exp.export(tmp_path / "new" / OWN) == tmp_path / "new" / OWN
    assert os.listdir(tmp_path / "new") == [OWN]
    alike(read_elsewhere(tmp_path / "new" / OWN, {"batch_input": IMAGES[:5]}), expected)


def test_an_exported_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    exp, synced, rename, sync = build(), set(), os.rename, os.fsync

    def renamed(aside, path):
        if path == tmp_path / OWN:
            files = [one for one in (aside, *aside.rglob("*")) if one.is_file()]
            assert files
            assert synced.issuperset(one.stat().st_ino for one in files)
            synced.clear()
        rename(aside, path)

    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), sync(handle)))
    monkeypatch.setattr(os, "rename", renamed)
    exp.export(tmp_path / OWN)

    assert synced == {tmp_path.stat().st_ino}


@pytest.mark.parametrize("suffix", ["onnx", "pt2"] if ON_TORCH else ["onnx"])
@not_on_jax
def test_a_product_of_three_tensors_is_exported_for_any_number_of_rows(suffix, tmp_path):
    weights = np.random.default_rng(0).normal(size=(3, 8, 4)).astype("float32")

    @chunk_processor(inputs=["batch_input"], outputs=["batch_mixed"])
    def mixed(x):
        hidden, gates = keras.ops.reshape(x, (-1, 3, 8)), x[:, :3]
        return keras.ops.einsum("beh,ehd,be->bd", hidden, keras.ops.convert_to_tensor(weights), gates)

    items = {"input": np.random.default_rng(1).normal(size=(8, 24)).astype("float32")}
    subsets = [Subset("validation", Mode.EVAL, items)]
    exp = build_experiment({"subsets": subsets, "chunk_processors": [mixed], "hide_progress": True})
    path = exp.export(tmp_path / f"program.{suffix}")

    for rows in (1, 5):
        given = {"batch_input": items["input"][:rows]}
        alike((read if suffix == "pt2" else read_onnx)(path, given), exp.predict(given))


@not_on_jax
def test_onnx_keeps_names_and_takes_any_number_of_rows(tmp_path):
    exp = build()
    exp.train(2)
    path = exp.export(tmp_path / "program.onnx", ["batch_probabilities", "batch_logits"])

    for rows in (1, 5):
        given = {"batch_input": IMAGES[:rows]}
        alike(read_onnx(path, given), exp.predict(given))


@not_on_jax
@pytest.mark.parametrize("precision", [None, "float16"])
def test_an_exact_gelu_is_written_as_onnx(precision, tmp_path):
    layer = layers.Dense(3, activation="gelu")
    model = ops.Model(keras.Sequential([layers.Flatten(), layer]), inputs="batch_input", outputs="batch_logits")
    processors = [ops.Scale("batch_input"), model, ops.Cast("batch_logits", "float32")]
    subsets = [Subset("all", Mode.INFER, {"input": IMAGES})]
    exp = build(chunk_processors=processors, subsets=subsets, outputs=["batch_logits"], precision=precision)
    given = {"batch_input": IMAGES[:5]}

    exp.export(tmp_path / "program.onnx")
    found, expected = read_onnx(tmp_path / "program.onnx", given), exp.predict(given)
    np.testing.assert_allclose(found["batch_logits"], expected["batch_logits"], atol=0.01 if precision else 1e-5)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings(r"ignore:(.|\n)*tf.lite.Interpreter is deprecated")
def test_a_file_for_small_devices_is_written(tmp_path):
    import tensorflow as tf

    exp = build()
    path = exp.export(tmp_path / "program.tflite", "batch_probabilities")
    interpreter = tf.lite.Interpreter(model_content=path.read_bytes())
    found = interpreter.get_signature_runner("serving_default")(batch_input=IMAGES[:1])

    alike(found, exp.predict({"batch_input": IMAGES[:1]}, outputs=["batch_probabilities"]))


@pytest.mark.filterwarnings(r"ignore:(.|\n)*tf.lite.Interpreter is deprecated")
def test_classes_go_along_into_files_of_every_kind(tmp_path):
    scores = np.array([[0.0, 2.0, 2.0], [-0.0, 0.0, -1.0], [-3.0, -2.0, -1.0]], np.float32)
    subset = Subset("all", Mode.INFER, {"x": scores})
    exp = build(
        subsets=[subset], chunk_processors=[ops.ArgMax("batch_x", output="batch_class")], outputs=["batch_class"]
    )

    assert read(exp.export(tmp_path / OWN), {"batch_x": scores})["batch_class"].tolist() == [1, 0, 2]
    if not ON_JAX:
        path = exp.export(tmp_path / "program.onnx")
        assert read_onnx(path, {"batch_x": scores})["batch_class"].tolist() == [1, 0, 2]
    if NAME == "tensorflow":
        import tensorflow as tf

        path = exp.export(tmp_path / "program.tflite")
        run = tf.lite.Interpreter(model_content=path.read_bytes()).get_signature_runner("serving_default")
        assert [int(run(batch_x=row[None])["batch_class"][0]) for row in scores] == [1, 0, 2]


@pytest.mark.tensorflow  # PyTorch takes -0.0 and 0.0 for equals
@pytest.mark.parametrize("function, expected", [(keras.ops.argmax, [1, 1, 2]), (keras.ops.argmin, [0, 2, 0])])
def test_a_search_for_the_best_of_ones_own_goes_along_into_files(tmp_path, function, expected):
    scores = np.array([[0.0, 2.0, 2.0], [-0.0, 0.0, -1.0], [-3.0, -2.0, -1.0]], np.float32)
    best = ops.Apply(lambda scores: function(scores, axis=-1), inputs="batch_x", outputs="batch_class")
    exp = build(subsets=[Subset("all", Mode.INFER, {"x": scores})], chunk_processors=[best], outputs=["batch_class"])

    assert exp.predict({"batch_x": scores})["batch_class"].tolist() == expected
    assert read_onnx(exp.export(tmp_path / "program.onnx"), {"batch_x": scores})["batch_class"].tolist() == expected


@pytest.mark.tensorflow
@pytest.mark.filterwarnings(r"ignore:(.|\n)*tf.lite.Interpreter is deprecated")
def test_a_file_for_small_devices_finds_the_best_without_operations_of_tensorflows_own(tmp_path, caplog):
    import tensorflow as tf

    best = chunk_processor(inputs=["batch_x"], outputs=["batch_class"])(
        lambda scores: keras.ops.argmax(scores, axis=-1)
    )
    subsets = [Subset("all", Mode.INFER, {"x": np.zeros((8, 3), np.float32)})]
    path = build(subsets=subsets, chunk_processors=[best], outputs=["batch_class"]).export(tmp_path / "program.tflite")
    run = tf.lite.Interpreter(model_content=path.read_bytes()).get_signature_runner("serving_default")

    assert run(batch_x=np.float32([[-1, 2, 1]]))["batch_class"].tolist() == [1]
    assert "Flex" not in caplog.text


def spoken(merged: bool, blank: int | None) -> Any:
    """An experiment that reads texts out of scores."""

    @chunk_processor(inputs=["batch_x", "batch_n"], outputs=["batch_text", "batch_score"])
    def read_out(scores, n):
        options = {"strategy": "greedy", "merge_repeated": merged, "mask_index": blank}
        text, score = keras.ops.ctc_decode(scores, n, **options)
        return text[0], score

    heard = [[3, 3, 0, 3, 1, 1, 2], [0, 0, 0, 0, 0, 0, 0], [1, 2, 2, 2, 0, 0, 2], [3, 3, 3, 3, 3, 3, 3]]
    scores = 2.0 + np.eye(4, dtype=np.float32)[heard]
    data = {"x": scores, "n": np.array([7, 7, 4, 2], np.int32)}
    subsets = [Subset("all", Mode.INFER, data)]
    return build(subsets=subsets, chunk_processors=[read_out], outputs=["batch_text", "batch_score"])


@pytest.mark.tensorflow
@pytest.mark.filterwarnings(r"ignore:(.|\n)*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("merged, blank", [(True, 0), (False, 0), (True, None)])
def test_texts_are_read_in_files_as_in_the_graph(merged, blank, tmp_path, caplog):
    import tensorflow as tf

    exp = spoken(merged, blank)
    given = exp.subsets[0].batch(range(4))
    exp.export(tmp_path / "program.tflite")
    run = tf.lite.Interpreter(str(tmp_path / "program.tflite")).get_signature_runner("serving_default")
    exp.export(tmp_path / "program.onnx")

    alike(read_onnx(tmp_path / "program.onnx", given), exp.predict(given))
    alike(run(**given), exp.predict(given))
    assert caplog.text == ""


def test_what_is_not_asked_for_is_all_that_infer_computes_less_what_items_have():
    """Steps before the network write `batch_input` anew."""
    exp = build(outputs=None)
    model = exp.as_model()

    assert {one.name for one in model.inputs} == {"batch_input"}
    alike(
        numbers(model({"batch_input": IMAGES})),
        exp.predict({"batch_input": IMAGES}, outputs=["batch_logits", "batch_probabilities"]),
    )


def test_a_configuration_may_be_called_as_one_likes(tmp_path):
    exp = build()
    exp.source.filename = "_my tâsk.py"
    assert exp.as_model().name == "my_t_sk"

    exp.export(tmp_path / OWN)
    alike(read(tmp_path / OWN, {"batch_input": IMAGES}), exp.predict({"batch_input": IMAGES}))


def test_the_weights_are_those_that_are_evaluated_with(tmp_path):
    exp = build(ExponentialMovingAverage(0.5))
    exp.train(2)
    trained = exp.backend.weights()
    exp.export(tmp_path / OWN)

    alike(read(tmp_path / OWN, {"batch_input": IMAGES}), exp.predict({"batch_input": IMAGES}))
    assert all(np.array_equal(value, trained[key]) for key, value in exp.backend.weights().items())
    assert not np.allclose(
        read(tmp_path / OWN, {"batch_input": IMAGES})["batch_logits"],
        numbers(exp.as_model()({"batch_input": IMAGES}))["batch_logits"],
    )


def test_axes_of_any_size_are_asked_for(tmp_path):
    exp = build(jit_compile=False)
    exp.export(tmp_path / OWN, sizes={"batch_input": [None, None, 1]})
    large = np.random.default_rng(1).integers(0, 255, (3, 13, 9, 1)).astype(np.uint8)

    alike(read(tmp_path / OWN, {"batch_input": large}), exp.predict({"batch_input": large}))


def test_a_file_refuses_other_sizes_than_it_was_written_for(tmp_path):
    mean = ops.Apply(lambda x: keras.ops.sum(x, axis=1) / x.shape[1], inputs="batch_x", outputs="batch_y")
    data = {"x": np.ones((4, 6), np.float32)}
    exp = build(chunk_processors=[mean], subsets=[Subset("all", Mode.INFER, data)], outputs=["batch_y"])
    exp.export(tmp_path / OWN)

    assert read(tmp_path / OWN, {"batch_x": data["x"]})["batch_y"].tolist() == [1.0] * 4
    with pytest.raises(Exception, match=r"\[4,3\] is not compatible with expected shape \[\?,6\]|6xf32| == 6"):
        read(tmp_path / OWN, {"batch_x": data["x"][:, :3]})


@not_on_jax
def test_places_along_an_axis_of_any_size_are_written(tmp_path):
    table = layers.Embedding(40, 4)

    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def placed(x):
        return keras.ops.expand_dims(x, -1) + table(keras.ops.arange(keras.ops.shape(x)[1]))

    data = {"x": np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)}
    exp = build(chunk_processors=[placed], subsets=[Subset("all", Mode.INFER, data)], outputs=["batch_y"])
    given = {"batch_x": data["x"][:3, :7]}

    for path, reader in ((tmp_path / OWN, read), (tmp_path / "program.onnx", read_onnx)):
        exp.export(path, sizes={"batch_x": [None]})
        alike(reader(path, given), exp.predict(given))


def test_a_masked_reading_in_both_directions_is_written_for_any_number_of_rows(tmp_path, caplog):
    words = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 0], [8, 9, 0, 0, 0]] * 2, np.int32)
    both = layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True, recurrent_dropout=0.1))
    cells = layers.RNN(layers.StackedRNNCells([layers.GRUCell(4), layers.LSTMCell(3)]), return_sequences=True)
    reader = keras.Sequential([layers.Embedding(10, 4, mask_zero=True), both, cells])

    @chunk_processor(inputs=["batch_scores", "batch_x"], outputs=["batch_text", "batch_best"])
    def decoded(scores, x):
        lengths = keras.ops.sum(keras.ops.cast(x > 0, "int32"), axis=1)
        text = keras.ops.ctc_decode(scores, lengths, strategy="greedy", mask_index=0)[0][0]
        best = keras.ops.argsort(scores, axis=-1)[:, :1]  # of the first place, for all
        return text, keras.ops.take_along_axis(scores, best, axis=-1)

    processors = [ops.Model(reader, inputs="batch_x", outputs="batch_scores"), decoded]
    exp = build(
        chunk_processors=processors,
        subsets=[Subset("all", Mode.INFER, {"x": words})],
        outputs=["batch_scores", "batch_text", "batch_best"],
    )
    exp.export(tmp_path / OWN)
    assert caplog.text == ""
    alike(read(tmp_path / OWN, {"batch_x": words}), exp.predict({"batch_x": words}))


@pytest.mark.skipif(NAME != "tensorflow", reason="it is TensorFlow that has None there")
def test_an_open_size_that_a_processor_takes_for_a_number_is_told_with_what_to_write(tmp_path):
    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def placed(x):
        return x * keras.ops.cast(keras.ops.arange(x.shape[1]), x.dtype)

    data = {"x": np.ones((8, 4), np.float32)}
    exp = build(subsets=[Subset("all", Mode.INFER, data)], chunk_processors=[placed], outputs=None)

    with pytest.raises(ValueError, match="Invalid dtype: NoneType") as caught:
        exp.export(tmp_path / OWN, sizes={"batch_x": [None]})
    notes = "".join(caught.value.__notes__)
    assert "sizes that an export leaves open" in notes
    assert "In chunk processor #0 placed(batch_x) [INFER]" in notes


def test_only_what_the_outputs_need_is_exported(tmp_path):
    """Of two networks, one; it takes several inputs, of several kinds, and a variable that no layer owns."""
    scale = variable(2.0)
    other = layers.Dense(1000)
    data = {"left": np.ones((8, 2), np.float32), "right": np.arange(8, dtype=np.int32), "target": TARGETS[:8]}

    @chunk_processor(inputs=["batch_left", "batch_right"], outputs=["batch_sum"])
    def add(left, right):
        return left * keras.ops.cast(scale, "float32") + keras.ops.cast(right, "float32")[:, None]

    processors = [
        add,
        ops.Model(layers.Dense(3), inputs="batch_sum", outputs="batch_logits", node="Wanted"),
        ops.Model(other, inputs="batch_left", outputs="batch_other", node="Other"),
        ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
    ]
    exp = build(subsets=[Subset("training", Mode.TRAIN, data)], chunk_processors=processors, outputs=None)
    model = exp.as_model(["batch_logits"])
    given = {"batch_left": np.full((3, 2), 0.5, np.float32), "batch_right": np.array([1, 2, 3], np.int32)}
    exp.export(tmp_path / OWN, "batch_logits")

    assert sum(int(np.prod(one.shape)) for one in model.weights) in (9, 10)  # the scale is Keras' or TensorFlow's own
    alike(read(tmp_path / OWN, given), exp.predict(given, outputs=["batch_logits"]))


def test_an_experiment_within_another_goes_along(tmp_path):
    teacher = build()
    teacher.train(1)
    processors = [teacher.as_processor({"batch_logits": "batch_taught"}, node="Teacher")]
    subsets = [Subset("all", Mode.INFER, {"input": IMAGES})]
    exp = build(chunk_processors=processors, outputs=["batch_taught"], subsets=subsets)
    exp.export(tmp_path / OWN)

    expected = teacher.predict({"batch_input": IMAGES}, outputs=["batch_logits"])["batch_logits"]
    alike(read(tmp_path / OWN, {"batch_input": IMAGES}), {"batch_taught": expected})


def test_what_is_there_already_stays(tmp_path):
    (tmp_path / OWN).write_text("mine")

    with pytest.raises(CheckpointError, match=r"exists already.\nSeen: a file.\nName another, or remove it"):
        build().export(tmp_path / OWN)
    assert (tmp_path / OWN).read_text() == "mine"
    assert os.listdir(tmp_path) == [OWN]


def test_nothing_remains_of_what_failed(tmp_path, monkeypatch):
    exp = build()

    def fails(model: Any, path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exp.backend, "export", fails)
    with pytest.raises(CheckpointError, match=rf"{OWN} cannot be written.\nSeen: No space left on device"):
        exp.export(tmp_path / OWN)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "path, outputs, sizes, error, said",
    [
        ("program.h5", None, {}, ConfigError, rf"no file that can be exported with {NAME}.\nSeen: .h5.\nSuffixes: "),
        (OWN, "batch_logit", {}, GraphError, r"Did you mean 'batch_logits'"),
        (OWN, None, {"batch_inptu": [1]}, ConfigError, r"Nothing reads 'batch_inptu' .*\n.*\nName an input: batch_inp"),
        (
            OWN,
            None,
            {"batch_input": [8]},
            ConfigError,
            r"Seen: \[8\]; an item has \[8, 8, 1\].\nWrite sizes={'batch_input': \[None, None, 1\]}",
        ),
        (OWN, None, {"batch_input": 8}, ConfigError, r"Seen: 8; an item has"),
        (OWN, None, [8, 8, 1], ConfigError, r"sizes go by name.\nSeen: \[8, 8, 1\].\nName the input: sizes={'batch_"),
        (OWN, None, {"batch_input": [8, 8, 0]}, ConfigError, r"whole numbers, or None for any"),
    ],
)
def test_a_mistake_is_told(path, outputs, sizes, error, said, tmp_path):
    with pytest.raises(error, match=said):
        build().export(tmp_path / path, outputs, sizes=sizes)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(ON_TORCH, reason="PyTorch writes any name")
def test_a_name_that_tensorflow_has_not_is_refused_with_what_to_write(tmp_path):
    exp = build(subsets=[Subset("all", Mode.INFER, {"größe": [1.0]})], chunk_processors=[ops.Scale("batch_größe")])

    with pytest.raises(
        ValueError, match=r"cannot give an input of a file this name.\nSeen: 'batch_größe'.\nRename it in the items"
    ):
        exp.export(tmp_path / "program", ["batch_größe"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a>b", "a\\b", "-a", "1.a"])
def test_a_name_that_tensorflow_takes_is_written(name, tmp_path):
    exp = build(subsets=[Subset("all", Mode.INFER, {name: [1.0]})], chunk_processors=[ops.Scale(f"batch_{name}")])

    assert exp.export(tmp_path / ("program.pt2" if ON_TORCH else "program"), [f"batch_{name}"]).exists()


@not_on_jax
def test_what_draws_is_written_or_refused_and_nothing_remains(tmp_path):
    """ONNX has no such draws, and PyTorch's are of a fixed number of rows."""
    seed = keras.random.SeedGenerator(1)

    @chunk_processor(inputs=["batch_logits"], outputs=["batch_drawn"])
    def draw(logits):
        return logits + keras.random.normal(keras.ops.shape(logits), seed=seed)

    exp = build(chunk_processors=[*build().chunk_processors, draw])
    with pytest.raises(
        ValueError, match=r"ONNX cannot express all|PyTorch cannot write this graph for batches of any size"
    ):
        exp.export(tmp_path / "program.onnx", "batch_drawn")
    assert os.listdir(tmp_path) == []

    exp.export(tmp_path / "program.onnx", "batch_logits")
    given = {"batch_input": IMAGES[:3]}
    alike(read_onnx(tmp_path / "program.onnx", given), exp.predict(given, outputs=["batch_logits"]))


def onnx_of(processor: Any, path: Path, **changes: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """An experiment of one processor, which takes "batch_x", once it is written; and five rows for it."""
    data = {"x": np.arange(1, 25, dtype=np.int32)}
    exp = build(chunk_processors=[processor], subsets=[Subset("all", Mode.INFER, data)], outputs=None, **changes)
    exp.export(path)
    return exp, {"batch_x": data["x"][3:8]}


@not_on_jax
@pytest.mark.parametrize("name", [OWN, "program.onnx"])
def test_what_was_computed_before_is_a_constant_in_a_file(name, tmp_path):
    """The mean that a layer keeps, and tensors of any size that a processor reads from where it was defined."""
    centred = layers.Normalization()
    centred.adapt(np.arange(24, dtype=np.float32)[:, None])
    table, scale = keras.ops.arange(1000, dtype="float32"), keras.ops.convert_to_tensor(0.5)

    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def looked_up(x):
        return scale * keras.ops.take(table, x) + centred(keras.ops.cast(x, "float32")[:, None])[:, 0]

    exp, given = onnx_of(looked_up, tmp_path / name)
    alike((read if name == OWN else read_onnx)(tmp_path / name, given), exp.predict(given))


@not_on_jax
@pytest.mark.parametrize("kind", ["uint16", "uint32"])
@pytest.mark.parametrize("name", [OWN, "program.onnx"])
def test_a_file_takes_the_numbers_that_items_have(name, kind, tmp_path):
    """Keras computes with others on PyTorch."""
    data = {"x": np.arange(8).astype(kind)}
    shifted = chunk_processor(inputs=["batch_x"], outputs=["batch_y"])(
        lambda batch_x: keras.ops.cast(batch_x, "float32") / 2
    )
    exp = build(chunk_processors=[shifted], subsets=[Subset("all", Mode.INFER, data)], outputs=None)
    exp.export(tmp_path / name)

    given = {"batch_x": data["x"][:3]}
    alike((read if name == OWN else read_onnx)(tmp_path / name, given), exp.predict(given))


@pytest.mark.skipif(not ON_TORCH, reason="it is PyTorch that looks at values")
def test_a_branch_that_a_value_decides_is_told_as_what_pytorch_cannot_write(tmp_path):
    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def either(x):
        return keras.ops.cond(keras.ops.sum(x) > 0, lambda: 2 * x, lambda: x - 1)

    with pytest.raises(ValueError, match=r"looks at values of tensors.\nSeen: keras.ops.cond.*\nWrite keras.ops.where"):
        onnx_of(either, tmp_path / OWN)


@pytest.mark.tensorflow
@pytest.mark.parametrize("suffix, form", [("onnx", "ONNX"), ("tflite", "LiteRT")])
def test_what_a_converter_fails_at_is_told_with_what_to_write(suffix, form, tmp_path):
    @chunk_processor(inputs=["batch_x"], outputs=["batch_y", "batch_z"])
    def failing(x):
        x = keras.ops.cast(x, "float16")
        if form == "LiteRT":
            return keras.ops.gelu(x, approximate=False), x + 1
        return keras.ops.scan(lambda carry, one: (carry + one, carry), keras.ops.zeros_like(x), keras.ops.stack([x, x]))

    with pytest.raises(ValueError, match=rf"{form} cannot express all that this graph computes.\nSeen: .*\nLeave"):
        onnx_of(failing, tmp_path / f"program.{suffix}")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not ON_JAX, reason="it is about what JAX writes")
@pytest.mark.parametrize("kind", ["the largest", "an error function", "a loop of any length"])
def test_what_jax_writes_of_its_own_runs_for_any_number_of_rows(kind, tmp_path, capsys):
    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def computed(x):
        x = keras.ops.cast(keras.ops.stack([x, 2 * x, 9 - x], axis=1), "float32")
        if kind == "the largest":
            return keras.ops.top_k(x, 2)[1]
        if kind == "an error function":
            return keras.ops.erf(x / 30) + keras.ops.cosh(x / 30)
        return keras.ops.while_loop(lambda x: keras.ops.sum(x) < 1000, lambda x: (x + 1,), (x,))[0]

    exp, given = onnx_of(computed, tmp_path / OWN)
    assert "Traceback" not in capsys.readouterr().err
    alike(read(tmp_path / OWN, given), exp.predict(given))


@pytest.mark.skipif(not ON_JAX, reason="it is about what JAX writes")
def test_what_tensorflow_cannot_run_of_what_jax_writes_is_told(tmp_path):
    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def computed(x):
        square = keras.ops.cast(x, "float32")[:, None, None] * keras.ops.eye(2)
        return keras.ops.cholesky(square)

    with pytest.raises(ValueError, match=r"what JAX writes for this graph.\nSeen: No FFI handler .*\nExport on Tens"):
        onnx_of(computed, tmp_path / OWN)
    assert os.listdir(tmp_path) == []


@not_on_jax
@pytest.mark.parametrize("axis", [None, 0])
def test_windows_of_a_series_are_written_as_onnx(axis, tmp_path):
    series = np.sin(np.arange(40, dtype=np.float32))

    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def windows(places):
        places = places[:, None] + keras.ops.arange(8, dtype="int32")
        return keras.ops.take(keras.ops.convert_to_tensor(series), places, axis=axis)

    exp, given = onnx_of(windows, tmp_path / "program.onnx")
    alike(read_onnx(tmp_path / "program.onnx", given), exp.predict(given))


@not_on_jax
@pytest.mark.parametrize("name", [OWN, "program.onnx"])
def test_rows_that_are_repeated_are_written(name, tmp_path):
    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def thrice(x):
        return keras.ops.reshape(keras.ops.repeat(x, 3), (-1, 3))

    exp, given = onnx_of(thrice, tmp_path / name)
    alike((read if name == OWN else read_onnx)(tmp_path / name, given), exp.predict(given))


@not_on_jax
def test_a_mean_over_all_axes_is_written_as_onnx(tmp_path):
    """An output has the name that PyTorch gives to a value within, too."""

    @chunk_processor(inputs=["batch_x"], outputs=["mean"])
    def centred(x):
        x = keras.ops.cast(x, "float32")
        return x - keras.ops.mean(x)

    exp, given = onnx_of(centred, tmp_path / "program.onnx")
    alike(read_onnx(tmp_path / "program.onnx", given), exp.predict(given))


NOT_OF_ZEROS = {
    "a divisor": lambda x: 12 // x,
    "classes from one on": lambda x: keras.ops.one_hot(x - 1, 40),
}


@not_on_jax
@pytest.mark.parametrize("kind", NOT_OF_ZEROS)
def test_an_onnx_file_is_tried_on_an_item(kind, tmp_path, caplog):
    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def computed(x):
        return keras.ops.cast(NOT_OF_ZEROS[kind](x), "float32")

    exp, given = onnx_of(computed, tmp_path / "program.onnx")
    alike(read_onnx(tmp_path / "program.onnx", given), exp.predict(given))
    assert "could not be tried" not in caplog.text


@not_on_jax
def test_an_onnx_file_that_does_not_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"onnxruntime does not compute(.|\n)*Set exp.precision = 'float32'") as raised:
        build(precision="bfloat16").export(tmp_path / "program.onnx")
    assert "program" not in str(raised.value)
    assert os.listdir(tmp_path) == []


@not_on_jax
def test_an_onnx_file_that_gives_other_numbers_is_refused(tmp_path):
    calls = []

    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def count(x):
        calls.append(x)
        return keras.ops.cast(x, "float32") + 10.0 * len(calls)

    with pytest.raises(ValueError, match=r"onnxruntime does not compute(.|\n)*'batch_y' is off by"):
        onnx_of(count, tmp_path / "program.onnx")
    assert os.listdir(tmp_path) == []


@not_on_jax
def test_an_onnx_file_that_gives_other_integers_is_told(tmp_path, caplog, monkeypatch):
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *a: [one + (one == 3) for one in run(*a)])

    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def shifted(x):
        return x + 2

    onnx_of(shifted, tmp_path / "program.onnx")
    assert "onnxruntime computes 3 of 3 in 'batch_y' otherwise than the graph: by a tie" in caplog.text


@not_on_jax
@pytest.mark.filterwarnings("ignore:.*draws by")
def test_an_onnx_file_that_draws_may_give_others(tmp_path):
    @chunk_processor(inputs=["batch_x"], outputs=["batch_y"])
    def draw(x):
        if ON_TORCH:
            import torch

            return torch.randn_like(x.float())
        import tensorflow as tf

        return tf.random.normal(tf.shape(x))

    _, given = onnx_of(draw, tmp_path / "program.onnx")
    assert read_onnx(tmp_path / "program.onnx", given)["batch_y"].shape == (5,)


@not_on_jax
def test_a_network_that_halves_and_doubles_is_written_for_any_size(tmp_path):
    image = keras.Input((None, None, 1))
    fine = layers.Conv2D(2, 3, padding="same")(image)
    coarse = layers.UpSampling2D()(layers.Conv2D(2, 3, padding="same")(layers.MaxPooling2D()(fine)))
    network = keras.Model(image, layers.Conv2D(2, 1)(layers.Concatenate()([fine, coarse])))
    processors = [
        ops.Cast("batch_input", "float32"),
        ops.Model(network, inputs="batch_input", outputs="batch_logits"),
    ]
    subsets = [Subset("all", Mode.INFER, {"input": IMAGES})]
    exp = build(chunk_processors=processors, subsets=subsets, outputs=["batch_logits"])
    given = {"batch_input": np.random.default_rng(1).integers(0, 255, (3, 12, 6, 1)).astype(np.uint8)}
    sizes = {"batch_input": [None, None, 1]}

    assert [tuple(one.shape) for one in exp.as_model(sizes=sizes).outputs] == [(None, None, None, 2)]
    exp.export(tmp_path / OWN, sizes=sizes)
    exp.export(tmp_path / "program.onnx", sizes=sizes)
    alike(read(tmp_path / OWN, given), exp.predict(given))
    alike(read_onnx(tmp_path / "program.onnx", given), exp.predict(given))


def test_inputs_passed_through_and_numbers_of_a_whole_batch_are_outputs_like_others(tmp_path):
    data = {"x": np.arange(8, dtype=np.float32)[:, None], "id": np.arange(8, dtype=np.int32)}
    processors = [
        chunk_processor(inputs=["batch_x"], outputs=["batch_y", "batch_again"])(lambda batch_x: (2 * batch_x,) * 2),
        chunk_processor(inputs=["batch_x"], outputs=["mean"])(keras.ops.mean),
    ]
    names = ["batch_y", "batch_again", "batch_x", "batch_id", "mean"]
    exp = build(subsets=[Subset("all", Mode.INFER, data)], chunk_processors=processors, outputs=names)
    given = {"batch_x": data["x"][:3], "batch_id": data["id"][:3]}
    expected = exp.predict(given)
    expected["mean"] = expected["mean"].reshape(())
    shapes = {one.name: tuple(one.shape) for one in exp.as_model().outputs}

    exp.export(tmp_path / OWN)
    alike(read(tmp_path / OWN, given), expected)
    assert () in shapes.values()
    if not ON_JAX:
        with pytest.raises(ValueError, match=r"In ONNX, no output can be an input.\nSeen: batch_id, batch_x"):
            exp.export(tmp_path / "program.onnx")
        exp.export(tmp_path / "program.onnx", ["batch_y", "batch_again"])
        found = read_onnx(tmp_path / "program.onnx", {"batch_x": given["batch_x"]})
        alike(found, {name: expected[name] for name in ("batch_y", "batch_again")})


@pytest.mark.tensorflow
def test_what_an_interpreter_needs_besides_is_told(tmp_path, caplog):
    cumulated = chunk_processor(inputs=["batch_x"], outputs=["batch_y"])(keras.ops.cumprod)
    subsets = [Subset("all", Mode.INFER, {"x": np.zeros((8, 4), np.float32)})]
    build(subsets=subsets, chunk_processors=[cumulated], outputs=["batch_y"]).export(tmp_path / "program.tflite")

    assert re.search(
        r".tflite has operations that only an interpreter with TensorFlow's own \(Flex\) runs: Flex", caplog.text
    )


@pytest.mark.tensorflow
def test_an_export_leaves_the_handlers_of_logs_as_they_are(tmp_path, monkeypatch):
    """Else our messages begin with WARNING:experimentator.backends.keras.model: from then on."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    build().export(tmp_path / "program.tflite")

    assert logging.getLogger().handlers == []


def test_what_converters_log_is_silent_and_what_comes_after_is_not(caplog):
    with quietly():
        logging.warning("of tf2onnx")  # noqa: LOG015
        logging.getLogger("experimentator.walk").warning("ours")
        other = Thread(target=lambda: logging.getLogger("tf2onnx").warning("of another thread"))
        other.start()
        other.join()
    logging.warning("of a user")  # noqa: LOG015

    assert [record.message for record in caplog.records] == ["ours", "of another thread", "of a user"]


def test_exports_in_two_threads_leave_logs_as_they_are(caplog):
    begun, ended = Event(), Event()

    def convert():
        with quietly():
            begun.set()
            ended.wait(5)
        logging.warning("of one")  # noqa: LOG015

    one = Thread(target=convert)
    one.start()
    begun.wait(5)
    other = Thread(target=convert)
    other.start()
    ended.set()
    one.join()
    other.join()
    logging.warning("of a user")  # noqa: LOG015

    assert [record.message for record in caplog.records] == ["of one", "of one", "of a user"]


def test_no_room_is_told_and_the_process_goes_on(tmp_path):
    """A limit to the size of files: what is written beyond it fails as on a full disk."""
    exp = build()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=rf"{OWN} cannot be written.\nSeen: (.|\n)*Name another place"):
            exp.export(tmp_path / OWN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.listdir(tmp_path) == []


def test_what_reads_no_input_is_no_model(tmp_path):
    image = keras.Variable(np.zeros((1, 4, 4, 3), "float32"), name="image")
    drawn = chunk_processor(inputs=[], outputs=["image"])(lambda: 1.0 * image)
    exp = build_experiment({"subsets": [Subset("all", Mode.TRAIN, {"x": np.ones(4)})], "chunk_processors": [drawn]})

    with pytest.raises(ConfigError, match=r"image is computed from weights alone.*\nSeen: no input"):
        exp.export(tmp_path / OWN)
    with pytest.raises(ValueError, match=r"Name a subset: predict\('validation'\)"):
        exp.predict({})


@pytest.mark.parametrize("written, seen", [(lambda x: {"twice": 2 * x}, "a dict"), (lambda x: None, "None")])
def test_what_is_no_tensor_cannot_be_an_output(written, seen):
    exp = build(chunk_processors=[lambda chunk: chunk.update(odd=written(chunk["batch_input"]))], outputs=["odd"])

    with pytest.raises(GraphError, match=f"(?s)'odd' is asked for, and its processor writes no .*Seen: {seen}"):
        exp.as_model()


def test_without_a_subset_sizes_are_not_known(tmp_path):
    with pytest.raises(ConfigError, match=r"sizes of 'batch_input' are not known.\n.*\nGive the experiment a subset"):
        build(subsets=[]).export(tmp_path / OWN)


def test_a_missing_converter_is_told_with_the_command(tmp_path, monkeypatch):
    path, needed, extra = ("program", "tensorflow", "tensorflow-cpu") if ON_JAX else ("program.onnx", "onnx", "onnx")
    monkeypatch.setitem(sys.modules, needed, None)
    with pytest.raises(
        ImportError, match=rf'files cannot be written here.\nSeen: .*{needed}.*\nType: pip install "\S+\[{extra}\]"'
    ):
        build().export(tmp_path / path)
    assert os.listdir(tmp_path) == []


@pytest.mark.tensorflow
def test_processors_in_python_alone_make_no_model():
    double = chunk_processor(inputs=["batch_x"], outputs=["batch_y"])(lambda batch_x: 2 * batch_x)
    subsets = [Subset("x", Mode.INFER, {"x": np.arange(4)})]
    exp = build_experiment({"chunk_processors": [double], "subsets": subsets, "experiment_type": [BaseExperiment]})

    with pytest.raises(ValueError, match=r"The numpy backend makes no Keras model"):
        exp.as_model()
    with pytest.raises(ConfigError, match=r"Train with TensorFlow, JAX or PyTorch"):
        exp.export("nowhere")


def test_what_no_item_has_is_an_input_where_its_sizes_are_given(tmp_path):
    """As of a sampler, which begins with noise, while items are images."""
    start = layers.Dense(4)

    @chunk_processor(inputs=["batch_noise"], outputs=["batch_sample"], mode=Mode.INFER)
    def sampled(batch_noise: Any) -> Any:
        return start(batch_noise)

    exp = build()
    exp.chunk_processors = [*exp.chunk_processors, sampled]
    with pytest.raises(GraphError, match="batch_noise"):
        exp.as_model(["batch_sample"])
    noise = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = exp.predict({"batch_noise": noise}, outputs=["batch_sample"])

    path = exp.export(tmp_path / OWN, ["batch_sample"], sizes={"batch_noise": [3]})

    alike(read(path, {"batch_noise": noise}), expected)
    with pytest.raises(ConfigError, match="Nothing reads 'batch_nose'"):
        exp.as_model(["batch_logits"], sizes={"batch_nose": [3]})
