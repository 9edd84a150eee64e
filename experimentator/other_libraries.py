"""Names of Keras, PyTorch and Lightning that are called differently here, and what to write instead."""

from __future__ import annotations

import inspect
import linecache
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import Any

from experimentator.graph.signatures import signature_of

log = logging.getLogger(__name__)

# Attributes of a model or a trainer elsewhere.
_EVALUATE = 'Write exp.evaluate(), over every EVAL subset, or exp.evaluate("validation"), over one.'
_EXPORT = "Write exp.export(PATH) for a file that runs without this library."
_LOAD = "Write exp.load_weights(PATH); exp.resume(FOLDER) continues a training."
_NUMBERS = 'Let a processor write the number, and list its name in the setting `metrics`: metrics = ["name"].'
_PLACE = 'The framework chooses the device: a GPU where it sees one, else the CPU; CUDA_VISIBLE_DEVICES="" hides GPUs.'
_RATE = "Write experimentator.FindLearningRate().find(exp), which gives a rate and leaves the experiment as it is."
_SAVE = (
    "Write exp.save_weights(PATH) for weights, exp.save_checkpoint(FOLDER) for everything a training continues from."
)
_STOP = """Write state["stop"] = "the reason" in a method of a callback that takes `state`."""
_SUMMARY = "Write print(exp), or print(exp.describe()) for what is computed."
_WEIGHTS = "Write exp.backend.weights(), which has arrays by key; the network that ops.Model was given has its own."
ATTRIBUTES: Mapping[str, str] = {
    "compile": "Give an optimizer and metrics in the configuration; a loss is a processor, as ops.SoftmaxCrossEntropy.",
    "cpu": _PLACE,
    "cuda": _PLACE,
    "find_learning_rate": _RATE,
    "fit": "Write exp.train(10), which trains on the TRAIN subsets and evaluates on the EVAL subsets of `subsets`.",
    "get_weights": _WEIGHTS,
    "layers": "Write print(exp.describe()); the network that ops.Model was given has its layers.",
    "load": _LOAD,
    "load_from_checkpoint": _LOAD,
    "load_state_dict": _LOAD,
    "log": _NUMBERS,
    "log_dict": _NUMBERS,
    "lr_find": _RATE,
    "lr": "Write exp.learning_rate, or exp.get_learning_rate() for the one in force.",
    "model": "Write exp.as_model() for a keras.Model of what INFER computes, or keep the network that ops.Model has.",
    "parameters": _WEIGHTS,
    "plot": 'Write pandas.DataFrame(exp.history).plot(x="epoch") for curves, exp.graph("train") for the graph.',
    "save": f"{_SAVE} {_EXPORT}",
    "save_model": f"{_SAVE} {_EXPORT}",
    "should_stop": _STOP,
    "stop": _STOP,
    "stop_training": _STOP,
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

# Arguments of a model or a trainer elsewhere, which would do nothing as settings here.
_ACCUMULATE = "Write optimizer = keras.optimizers.Adam(1e-3, gradient_accumulation_steps=4)."
_PRECISION = 'Write precision = "bfloat16", or "float16".'
SETTINGS: Mapping[str, str] = {
    "accumulate_grad_batches": _ACCUMULATE,
    "class_weight": "Give it to the loss: ops.SoftmaxCrossEntropy(..., class_weights=[1.0, 5.0]).",
    "clipnorm": "Write optimizer = keras.optimizers.Adam(1e-3, clipnorm=1.0).",
    "clipvalue": "Write optimizer = keras.optimizers.Adam(1e-3, clipvalue=0.5).",
    "drop_last": "A last, smaller batch is left out in TRAIN, unless it is the only one, and taken in EVAL and INFER.",
    "global_clipnorm": "Write optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0).",
    "gradient_accumulation": _ACCUMULATE,
    "gradient_accumulation_steps": _ACCUMULATE,
    "gradient_clip_val": "Write optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=1.0).",
    "loss_weights": 'List ops.CombineLosses({"one_loss": 1.0, "other_loss": 0.5}) behind the losses.',
    "lr": "Write learning_rate = 0.1.",
    "max_epochs": "Write epochs = 10, or exp.train(10).",
    "mixed_precision": _PRECISION,
    "num_epochs": "Write epochs = 10, or exp.train(10).",
    "num_workers": "Write workers = 4.",
    "restore_best_weights": 'List SaveWeights("best", "validation_loss"), and load weights/best.safetensors then.',
    "shuffle": "Subsets of TRAIN are shuffled, others are not; a subclass of Subset may have shuffled_keys of its own.",
    "steps_per_epoch": 'Write Subset("training", Mode.TRAIN, ..., length=STEPS * BATCH_SIZE).',
    "validation_data": 'List Subset("validation", Mode.EVAL, {"input": x, "target": y}) in `subsets`.',
    "validation_split": 'Write split(dataset, {"training": 0.8, "validation": 0.2}), and a Subset for each part.',
    "verbose": "Write hide_progress = True, or leave it out.",
}


ASSIGNED = ("lr", "should_stop", "stop_training")  # attributes that loops elsewhere act on as they are assigned


def tell_assigned(name: str, kind: type) -> None:
    """Warn of an attribute that would do nothing here; a class of the user's may have one of that name."""
    if name in ASSIGNED and all(one.__module__.startswith(("experimentator.", "builtins")) for one in kind.__mro__):
        log.warning("%s is nothing that an experiment acts on. %s", name, ATTRIBUTES[name])


# Methods of a model elsewhere that its loop calls.
_STEP = "A step is the processors, one of which writes `loss`; gradient(...) and Optimizers(...) do what a step may."
STEPS: Mapping[str, str] = {
    "configure_optimizers": "Write the setting optimizer = keras.optimizers.Adam(1e-3).",
    "test_step": _STEP,
    "train_step": _STEP,
    "training_step": _STEP,
    "validation_step": _STEP,
}


def tell_steps(kind: str, methods: Mapping[str, Any]) -> None:
    """Warn of methods of an experiment's class that nothing would call, unless one of its own methods does."""
    codes = [method.__code__ for method in methods.values() if inspect.isfunction(method)]
    for name in STEPS.keys() & methods.keys():
        if inspect.isfunction(methods[name]) and not any(name in code.co_names for code in codes):
            log.warning("%s.%s is never called here. %s", kind, name, STEPS[name])


def tell_settings(given: Mapping[str, Any]) -> None:
    """Warn of names in a mapping that only other libraries act on; a file is not checked: it may use them itself."""
    for name in sorted(SETTINGS.keys() & given.keys()):
        value, own = given[name], getattr(given.get("optimizer"), name, None)
        is_done = value is None or (own is not None and own == value)  # as a clipnorm that the optimizer has
        is_asked = not value if name == "shuffle" else value is not False or name == "verbose"  # what is done anyway
        if is_asked and not is_done:
            log.warning("%s is no setting of this library. %s", name, SETTINGS[name])


# Callbacks of other libraries.
_AVERAGED = "Write experimentator.ExponentialMovingAverage(...)."
_PROGRESS = "Leave it out: progress is shown, unless the setting hide_progress is True."
_TRACK = "Write experimentator.Track(experimentator.TensorBoardTracker())."
_SCHEDULE = (
    "Give the optimizer a schedule of Keras: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 9000)), "
    "or list experimentator.LearningRateCosine()."
)
CALLBACKS: Mapping[str, str] = {
    "BackboneFinetuning": 'Write experimentator.Freeze("Trunk", epochs=3).',
    "BackupAndRestore": "Write experimentator.CheckpointEvery().",
    "CSVLogger": "The run folder's history.jsonl has it already; or write pandas.DataFrame(exp.history).to_csv(PATH).",
    "EarlyStopping": "Write experimentator.EarlyStopping(...).",
    "LearningRateFinder": "Write experimentator.FindLearningRate(...).",
    "LearningRateMonitor": "Write experimentator.SaveLearningRate().",
    "LearningRateScheduler": (
        "Write a class of your own with init(self, exp), which keeps exp, and on_epoch_begin(self, epoch, **_), which "
        "calls self.exp.set_learning_rate(schedule(epoch - 1)): epochs count from 1 here, from 0 in Keras."
    ),
    "MLFlowLogger": "Write experimentator.Track(experimentator.MlflowTracker()).",
    "ModelCheckpoint": "Write experimentator.SaveWeights(...).",
    "ModelSummary": ATTRIBUTES["summary"],
    "ProgbarLogger": _PROGRESS,
    "ReduceLROnPlateau": "Write experimentator.ReduceLROnPlateau(...).",
    "RichProgressBar": _PROGRESS,
    "StochasticWeightAveraging": _AVERAGED,
    "SwapEMAWeights": _AVERAGED,
    "TQDMProgressBar": _PROGRESS,
    "TensorBoard": _TRACK,
    "TensorBoardLogger": _TRACK,
    "TerminateOnNaN": "Write experimentator.TerminateOnNaN().",
    "WandbLogger": "Write experimentator.Track(experimentator.WandbTracker(...)).",
}
_OWN = (
    "Write a class of your own: hooks take values by name, as on_epoch_end(self, epoch, training_loss, **_), and "
    "init(self, exp) gives the experiment."
)
_LOOPS = {  # by the package of a class: what it is, and what to write if CALLBACKS lacks its name
    "keras.src.optimizers": ("a schedule of Keras, for its optimizers", _SCHEDULE),
    "keras": ("a callback of Keras, for its fit", _OWN),
    "lightning": ("of Lightning, for its Trainer", _OWN),
    "pytorch_lightning": ("of Lightning, for its Trainer", _OWN),
    "torch.optim": ("of PyTorch, for a loop written by hand", _SCHEDULE),
}


def callback_of_others(callback: Any) -> tuple[str, str] | None:
    """What a callback, logger or schedule made for another loop is, and what to write; None for any other object.

    >>> callback_of_others(object()) is None
    True
    """
    for kind in type(callback).__mro__:
        for room, (what, write) in _LOOPS.items():
            if f"{kind.__module__}.".startswith(f"{room}."):
                if kind.__name__ not in CALLBACKS and kind is not type(callback):
                    write = f"Leave {kind.__name__} out of its bases. {_OWN}"
                return what, CALLBACKS.get(kind.__name__, write)
    return None


# Names that a configuration fails to import, or calls with other arguments.
_BUILD = "Write: from experimentator import build_experiment; build_experiment(subsets=..., chunk_processors=..., ...)"
_SPLIT = 'Write: from experimentator import split; split(dataset, {"training": 0.8, "validation": 0.2})'
NAMES: Mapping[str, str] = {
    "Experiment": _BUILD,
    "KFold": "Write: from experimentator import k_fold; k_fold(dataset, 5, stratify=..., group=...)",
    "Trainer": _BUILD,
    "random_split": _SPLIT,
    "train_test_split": _SPLIT,
}
_OF_A_MODULE = re.compile(r"cannot import name '(\w+)' from 'experimentator(?:\.(ops|graph))?'")
_OF_NO_PART = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_OF_A_CALL = re.compile(r"(\w+)(?:\.__init__)?\(\) (?:got|missing|takes) ")
_OF_A_MODE = re.compile(r"<(Mode\.\w+): \d+>")


def to_write(error: BaseException) -> str:
    """Advice for an error about a name of this library: not imported, unknown, or called wrongly; else empty.

    Of any module, near names are told.

    >>> to_write(NameError("name 'Subset' is not defined", name="Subset"))
    'Add a line above: from experimentator import Subset'
    """
    if isinstance(error, NameError):
        known = [*_package("").__all__, "ops"]
        return f"Add a line above: from experimentator import {error.name}" if error.name in known else ""
    if isinstance(error, ImportError) and (found := _OF_A_MODULE.search(str(error))):
        return _to_import(found[1], found[2] or "")
    if isinstance(error, AttributeError) and (found := _OF_NO_PART.match(str(error))) and found[1] in sys.modules:
        if found[1] == "experimentator.ops" and (write := _op_of_others(found[2])):
            return write
        module = sys.modules[found[1]]
        near = get_close_matches(found[2], getattr(module, "__all__", dir(module)), 2)
        return f"Did you mean {' or '.join(near)}?" if near else ""
    if isinstance(error, TypeError) and (found := _OF_A_CALL.match(str(error))):
        with suppress(Exception):  # the user's objects are looked at, and advice must not hide the error
            return _to_call(found[1], error)
    return ""


def refuse_import(name: str) -> None:
    """Refuse to import a name, where one knows what to write: of an AttributeError, an import shows no more than that.

    >>> refuse_import("cli")  # a module
    """
    if find_spec(f"experimentator.{name}") is None and (write := _to_import(name, "")):
        error = ImportError(f"cannot import name {name!r} from 'experimentator'", name="experimentator")
        error.add_note(write)
        raise error


def _package(room: str) -> Any:
    return import_module(f"experimentator.{room}".strip("."))


def _op_of_others(name: str) -> str:
    return str(_package("ops.elsewhere").op_for(name))


def _to_import(name: str, room: str) -> str:
    if write := _op_of_others(name) if room == "ops" else NAMES.get(name):
        return write
    if name in _package("ops").__all__:
        return f"Write: from experimentator.ops import {name}"
    for place in dict.fromkeys((room, "ops")):
        if near := get_close_matches(name, _package(place).__all__, 1, 0.7 if place == room else 0.9):
            return f"Write: from {f'experimentator.{place}'.strip('.')} import {near[0]}"
    return CALLBACKS.get(name, "")


def _to_call(name: str, error: BaseException) -> str:
    """The signature to call, if the line calls a name of this library: others have classes of these names, too."""
    calls = [call for at in traceback.walk_tb(error.__traceback__) for call in [_called(name, *at)] if call is not None]
    called = calls[-1] if calls else None
    is_ours = any(called is getattr(_package(room), name, None) for room in ("", "ops"))
    if not is_ours or not (inspect.isclass(called) or inspect.isfunction(called)):
        return ""
    known = signature_of(called)
    shown = [one.replace(annotation=one.empty) for one in known.parameters.values()]
    write = _OF_A_MODE.sub(r"\1", f"Write: {name}{known.replace(parameters=shown, return_annotation=known.empty)}")
    more = next((SETTINGS[other] for other in SETTINGS if f"'{other}'" in str(error)), "")
    return f"{write}\n{more}".strip()


def _called(name: str, frame: FrameType, line: int) -> Any:
    """The object that a line of code calls by that name, plain or at the end of a dotted one; None if it does not."""
    text = linecache.getline(frame.f_code.co_filename, line)
    found = re.search(rf"(?<![\w.])((?:\w+\.)*){re.escape(name)}\s*\(", text)
    if found is None:
        return None
    first, *rest = f"{found[1]}{name}".split(".")
    value = frame.f_locals.get(first, frame.f_globals.get(first))
    for part in rest:
        value = getattr(value, part, None)
    return value
