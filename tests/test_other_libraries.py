"""Habits from Keras, PyTorch and Lightning: each is answered with what to write here."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

import experimentator
from experimentator import (
    BaseExperiment,
    CallbackError,
    ConfigError,
    GraphError,
    Track,
    build_experiment,
    ops,
)
from experimentator.callbacks.order import in_order
from experimentator.other_libraries import ATTRIBUTES, CALLBACKS, SETTINGS
from tests.stand_ins import subsets


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_name_of_other_libraries_is_answered_with_what_an_experiment_has(name):
    exp = build_experiment({})
    with pytest.raises(AttributeError, match=f"no attribute '{name}', nor a setting of that name.\n") as caught:
        getattr(exp, name)

    assert all(hasattr(exp, told) for told in re.findall(r"exp\.(\w+)", str(caught.value)))


def test_a_setting_may_have_a_name_of_other_libraries():
    exp = build_experiment({"model": "small"})

    assert exp.model == "small"


def test_a_name_that_nobody_knows_leaves_python_to_find_one_alike():
    exp = build_experiment({"width": 4})
    with pytest.raises(AttributeError, match=r"nor a setting of that name$") as caught:
        exp.widht  # noqa: B018  # the access is the test

    assert (caught.value.name, caught.value.obj) == ("widht", exp)


def test_a_name_in_a_mapping_that_others_would_act_on_is_told_to_do_nothing(caplog):
    build_experiment({"max_epochs": 3, "width": 4}, gradient_clip_val=1.0, clipnorm=1.0)

    assert caplog.messages == [
        "clipnorm is no setting of this library. Write optimizer = keras.optimizers.Adam(1e-3, clipnorm=1.0).",
        "gradient_clip_val is no setting of this library. Write optimizer = keras.optimizers.Adam(1e-3, "
        "global_clipnorm=1.0).",
        "max_epochs is no setting of this library. Write epochs = 10, or exp.train(10).",
    ]


def test_an_array_under_a_name_of_others_is_told(caplog):
    build_experiment(class_weight=np.ones(2))

    assert caplog.messages[0].startswith("class_weight is no setting of this library. Give it to the loss")


def test_a_name_of_others_that_asks_for_nothing_or_is_the_optimizers_own_is_not_told(caplog):
    build_experiment(mixed_precision=False, clipnorm=1.0, shuffle=True, optimizer=keras.optimizers.Adam(clipnorm=1.0))

    assert not caplog.messages


@pytest.mark.parametrize(
    "optimizer, is_lost",
    [("adam", True), (keras.optimizers.Adam(0.1), False), (keras.optimizers.Adam(0.2), False), (None, False)],
    ids=["usual", "it", "another", "none"],
)
def test_a_rate_by_its_name_elsewhere_is_told_where_it_is_lost(optimizer, is_lost, caplog):
    build_experiment({"optimizer": optimizer}, lr=0.1)

    assert caplog.messages == ["lr is no setting of this library. Write learning_rate = 0.1."] * is_lost


def test_an_attribute_that_others_act_on_is_told_when_it_is_assigned(caplog):
    exp = build_experiment({})
    exp.lr, exp.stop_training, exp.mine = 0.1, True, 3

    assert caplog.messages == [
        "lr is nothing that an experiment acts on. Write exp.learning_rate, or exp.get_learning_rate() for the one in "
        "force.",
        'stop_training is nothing that an experiment acts on. Write state["stop"] = "the reason" in a method of a '
        "callback that takes `state`.",
    ]


def test_a_class_of_ones_own_may_have_an_attribute_of_any_name(caplog):
    class Own(BaseExperiment):
        pass

    build_experiment({"experiment_type": [Own]}).lr = 0.1

    assert caplog.messages == []


def test_in_a_file_every_name_may_be_ones_own(caplog):
    build_experiment("max_epochs = 3\nepochs = 2 * max_epochs")

    assert caplog.messages == []


# Callbacks


class OfFit(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.seen = logs


class Stopping(keras.callbacks.EarlyStopping):
    pass


def of_lightning(name):
    return type(name, (), {"__module__": "lightning.pytorch.callbacks", "on_fit_end": lambda self: None})()


@pytest.mark.parametrize(
    "callback, what, write",
    [
        (
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
            "a callback of Keras, for its fit",
            r"init\(self, exp\).* on_epoch_begin\(.*exp.set_learning_rate.* epochs count from 1 here, from 0 in Keras",
        ),
        (
            keras.callbacks.CSVLogger("x.csv"),
            "a callback of Keras",
            r"history.jsonl .* pandas.DataFrame\(exp.history\)",
        ),
        (keras.callbacks.ReduceLROnPlateau(), "a callback of Keras", r"experimentator.ReduceLROnPlateau\(...\)"),
        (Stopping(), "a callback of Keras", r"Write experimentator.EarlyStopping\(...\)"),
        (OfFit(), "a callback of Keras", r"Leave Callback out of its bases.* by name.* init\(self, exp\)"),
        (
            keras.optimizers.schedules.CosineDecay(0.1, 9),
            "a schedule of Keras, for its optimizers",
            "Give the optimizer",
        ),
        (of_lightning("ModelCheckpoint"), "of Lightning, for its Trainer", "Write experimentator.SaveWeights"),
        (of_lightning("DeviceStatsMonitor"), "of Lightning, for its Trainer", "Write a class of your own"),
        (
            type("StepLR", (), {"__module__": "torch.optim.lr_scheduler"})(),
            "of PyTorch",
            "Give the optimizer a schedule",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_callback_made_for_another_loop_is_answered_with_ours(callback, what, write):
    with pytest.raises(CallbackError, match=rf"{type(callback).__name__} is {what}(.|\n)*\n.*{write}"):
        in_order([callback])


def test_callbacks_that_are_named_are_there():
    told = {name for write in CALLBACKS.values() for name in re.findall(r"experimentator\.(\w+)", write)}

    assert told <= {*experimentator.__all__}


@pytest.mark.parametrize("given", ["tb", keras.callbacks.TensorBoard("tb")], ids=["folder", "callback of Keras"])
def test_what_is_tracked_elsewhere_is_answered_with_the_trackers(given):
    with pytest.raises(CallbackError, match=r"is no tracker(.|\n)*TensorBoardTracker"):
        Track(given)


# Processors and metrics


@pytest.mark.parametrize(
    "listed, what, write",
    [
        (keras.losses.MeanSquaredError(), "a loss", r"ops.Apply\(loss, .*outputs=\"loss\"\), or a ready op"),
        (keras.metrics.AUC(), "a metric", r"ops.KerasMetric\(metric,"),
        (keras.layers.Dense(2), "a layer", r"ops.Model\(layer,"),
    ],
    ids=["loss", "metric", "layer"],
)
def test_what_takes_tensors_is_answered_with_the_op_around_it(listed, what, write):
    exp = build_experiment({"subsets": subsets(), "chunk_processors": [listed]})

    with pytest.raises(GraphError, match=rf"it is {what}, which takes tensors and not the chunk.\nWrite {write}"):
        exp.evaluate()


def test_a_loss_whose_call_takes_a_chunk_is_a_processor():
    class Square(keras.losses.Loss):
        def __call__(self, chunk):
            chunk["loss"] = keras.ops.mean(keras.ops.square(chunk["batch_input"]))

    exp = build_experiment({"subsets": subsets(), "chunk_processors": [Square()]})
    assert exp.evaluate()["validation_loss"] > 0


def test_a_metric_among_names_is_answered_with_its_op():
    with pytest.raises(ConfigError, match=r"Write a list of names of tensors; a metric goes .* as ops.KerasMetric"):
        build_experiment({"metrics": [keras.metrics.AUC()]})


@pytest.mark.parametrize(
    "line, write",
    [
        ("subsets = [Subset]", "Add a line above: from experimentator import Subset"),
        ("x = ops.Scale", "Add a line above: from experimentator import ops"),
        ("from experimentator import Scale", "Write: from experimentator.ops import Scale"),
        ("from experimentator import BalancedSubsets", "Write: from experimentator import BalancedSubset"),
        (
            "from experimentator.ops import SoftMaxCrossEntropy",
            "Write: from experimentator.ops import SoftmaxCrossEntropy",
        ),
        ("from experimentator import ModelCheckpoint", "Write experimentator.SaveWeights(...)."),
        (
            "from experimentator.ops import WeightedSum",
            'Write ops.CombineLosses({"one_loss": 1.0, "other_loss": 0.5}).',
        ),
        (
            "from experimentator import EarlyStopping; EarlyStopping(monitor='x')",
            "Write: EarlyStopping(metric=None, patience=10, *, min_delta=0.0, mode=None)",
        ),
        (
            "from experimentator import EarlyStopping\nEarlyStopping(restore_best_weights=True)",
            SETTINGS["restore_best_weights"],
        ),
        ("from experimentator import nothing_like_it", "Correct this line, or override a name that it uses."),
        ("x = nothing_like_it", "Correct this line, or override a name that it uses."),
        (
            "from experimentator.ops import Scale; x = Scale('a', b=3)",
            "Write: Scale(name, scale=255.0, *, mode=Mode.ALL, node=None, after=(), output=None)",
        ),
        (
            "from experimentator import split; split()",
            "Write: split(dataset, shares, *, keys=None, stratify=None, group=None, seed=0)",
        ),
        ("from experimentator import Subset, Mode; Subset('a', Mode.EVAL, {}, shuffle=True)", SETTINGS["shuffle"]),
        ("import keras\nx = keras.layers.Softmax(1, 2, 3, 4)", "Correct this line, or override a name that it uses."),
        ("x = 'a b'.split(1, 2, 3)", "Correct this line, or override a name that it uses."),
        ("from experimentator.graph import CheckpointError", "Correct this line, or override a name that it uses."),
        ("from experimentator import Acuracy", "Write: from experimentator.ops import Accuracy"),
        ("def model(units): ...\nx = model()", "Correct this line, or override a name that it uses."),
        ("def split(x): ...\nsplit()", "Correct this line, or override a name that it uses."),
        ("from experimentator import ops\nx = ops.SquaredError", "Did you mean MeanSquaredError or SignatureError?"),
        ("import math\nx = math.squirt(2)", "Did you mean sqrt or isqrt?"),
        ("import math\nx = math.nothing", "Correct this line, or override a name that it uses."),
        ("from json import Subset", "Correct this line, or override a name that it uses."),
    ],
)
def test_what_is_called_or_imported_otherwise_than_it_is_here_is_answered_with_the_line_to_write(line, write):
    with pytest.raises(ConfigError) as told:
        build_experiment(f"{line}\nchunk_processors = []\n")

    assert str(told.value).splitlines()[-1] == write


# Names in a script, where no configuration is read


@pytest.mark.parametrize(
    "look, write",
    [
        (lambda: ops.BinaryCrossentropy, 'Write ops.SigmoidCrossEntropy("batch_logits", "batch_target")'),
        (lambda: ops.AUC, "Write ops.KerasMetric(keras.metrics.AUC(...),"),
        (lambda: ops.Dense, "Write ops.Model(keras.layers.Dense(...),"),
        (lambda: ops.Poisson, "Write ops.Apply(keras.losses.Poisson(...),"),
        (lambda: ops.CTC, "Write ops.Apply(keras.losses.CTC(...),"),
    ],
)
def test_an_op_of_other_libraries_is_answered_where_it_is_written(look, write):
    with pytest.raises(AttributeError) as told:
        look()

    assert told.value.__notes__[0].startswith(write)


@pytest.mark.parametrize(
    "line, write",
    [
        ("from experimentator import Experiment", "Write: from experimentator import build_experiment; build_experi"),
        ("from experimentator import Mode, train_test_split", "Write: from experimentator import split; split(dataset"),
        ("from experimentator import SaveBestWeights", "Write: from experimentator import SaveWeights"),
        ("from experimentator import Model", "Write: from experimentator.ops import Model"),
        ("from experimentator.ops import MSE", "Write ops.MeanSquaredError("),
    ],
)
def test_an_import_of_what_has_another_name_here_says_which(line, write):
    with pytest.raises(ImportError, match="cannot import name") as told:
        exec(line)

    assert told.value.__notes__[0].startswith(write)


def test_names_that_nobody_has_are_absent():
    assert not hasattr(ops, "nothing_like_it")
    assert not hasattr(experimentator, "Experiment")
    with pytest.raises(ImportError, match="cannot import name 'zorglub'") as told:
        exec("from experimentator import zorglub")
    assert not hasattr(told.value, "__notes__")
    from experimentator import subset  # a module, which is called nearly as a class

    assert subset.Subset is experimentator.Subset


def test_a_step_that_nothing_calls_is_told(caplog):
    class Own(BaseExperiment):
        def training_step(self, chunk): ...

    class Calling(BaseExperiment):
        def train_step(self, chunk): ...

        def train(self, epochs):
            return self.train_step(epochs)

    assert [message.partition(" is never called here. ")[0] for message in caplog.messages] == ["Own.training_step"]


def test_settings_alone_are_a_configuration():
    exp = build_experiment(batch_size=8, width=3)

    assert (exp.batch_size, exp.width) == (8, 3)
    assert BaseExperiment(batch_size=8).batch_size == 8


def test_a_list_for_a_configuration_is_told_that_settings_have_names():
    with pytest.raises(ConfigError, match=r"build_experiment\(subsets=\[...\], chunk_processors=\[...\], ...\)\.$"):
        build_experiment(subsets())
