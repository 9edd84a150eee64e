"""Names that Keras, PyTorch and Lightning have for what is called otherwise here, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping

# What is asked of a model or a trainer elsewhere.
_EVALUATE = 'Write exp.evaluate(), over every EVAL subset, or exp.evaluate("validation"), over one.'
_EXPORT = "Write exp.export(PATH) for a file that runs without this library."
_LOAD = "Write exp.load_weights(PATH); exp.resume(FOLDER) goes on with a training."
_NUMBERS = 'Let a processor write the number, and list its name in the setting `metrics`: metrics = ["name"].'
_PLACE = 'The framework chooses the device: a GPU where it sees one, else the CPU; CUDA_VISIBLE_DEVICES="" hides GPUs.'
_SAVE = "Write exp.save_weights(PATH) for weights, exp.save_checkpoint(FOLDER) for all that a training goes on from."
_SUMMARY = "Write print(exp), or print(exp.describe()) for what is computed."
_WEIGHTS = "Write exp.backend.weights(), which has arrays by key; the network that ops.Model was given has its own."
ATTRIBUTES: Mapping[str, str] = {
    "compile": "Give an optimizer and metrics in the configuration; a loss is a processor, as ops.SoftmaxCrossEntropy.",
    "cpu": _PLACE,
    "cuda": _PLACE,
    "fit": "Write exp.train(10), which trains on the TRAIN subsets and evaluates on the EVAL subsets of `subsets`.",
    "get_weights": _WEIGHTS,
    "layers": "Write print(exp.describe()); the network that ops.Model was given has its layers.",
    "load": _LOAD,
    "load_from_checkpoint": _LOAD,
    "load_state_dict": _LOAD,
    "log": _NUMBERS,
    "log_dict": _NUMBERS,
    "lr": "Write exp.learning_rate, or exp.get_learning_rate() for the one in force.",
    "model": "Write exp.as_model() for a keras.Model of what INFER computes, or keep the network that ops.Model has.",
    "parameters": _WEIGHTS,
    "save": f"{_SAVE} {_EXPORT}",
    "save_model": f"{_SAVE} {_EXPORT}",
    "set_weights": "Write exp.load_weights(PATH), or exp.backend.set_weights({...}) with arrays by key.",
    "state_dict": f"{_WEIGHTS} {_SAVE}",
    "summary": _SUMMARY,
    "test": _EVALUATE,
    "to": _PLACE,
    "trainable_variables": _WEIGHTS,
    "trainer": "An experiment trains itself: write exp.train(10).",
    "validate": _EVALUATE,
    "weights": _WEIGHTS,
}
