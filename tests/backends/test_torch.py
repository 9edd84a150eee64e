"""What PyTorch alone has: modules of its own, programs, computed draws, and what cannot be recorded."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from functools import partial
from typing import Any

import keras
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from keras import layers
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode

from experimentator import Callback, CheckpointEvery, Mode, Subset, build_experiment, ops
from experimentator.backends import get_backend
from experimentator.backends.places import part_of_keras
from experimentator.backends.torch import TorchBackend, draws
from experimentator.backends.torch.draws import computed
from experimentator.backends.torch.modules import Modules
from experimentator.backends.torch.program import OPTIONS, Program, compiled_loop
from experimentator.callbacks.freezing import Freeze
from experimentator.graph import ChunkProcessor, Graph, GraphError, chunk_processor

IMAGES = np.random.default_rng(0).normal(size=(32, 3, 8, 8)).astype(np.float32)
TARGETS = IMAGES.mean((1, 2, 3)).astype(np.float32)
RATE = 0.05
WAYS = [{"jit_compile": False}, {"jit_compile": True}, {"eager": True}]
in_every_way = pytest.mark.parametrize("way", WAYS, ids=["program", "inductor", "eager"])


@chunk_processor(inputs=["batch_prediction", "batch_target"], outputs=["loss"])
def squares(prediction, target):
    return ((prediction[:, 0] - target) ** 2).mean()


def model(network: Any) -> Any:
    return ops.Model(network, inputs="batch_input", outputs="batch_prediction")


def convolutional() -> torch.nn.Module:
    torch.manual_seed(0)
    of_images = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
    return torch.nn.Sequential(*of_images, torch.nn.Flatten(), torch.nn.Linear(144, 1))


class Recurrent(torch.nn.Module):
    """Rows of an image one after the other, through what keeps its weights in a list."""

    def __init__(self):
        super().__init__()
        self.memory, self.head = torch.nn.LSTM(24, 5, batch_first=True), torch.nn.Linear(5, 1)

    def forward(self, images):
        return self.head(self.memory(images.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


class Attending(torch.nn.Module):
    """A layer that reads weights of others without calling them, when it infers."""

    def __init__(self):
        super().__init__()
        self.mixing = torch.nn.TransformerEncoderLayer(24, 2, 16, dropout=0.0, batch_first=True)
        self.head = torch.nn.Linear(24, 1)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.head(self.scale * self.mixing(images.permute(0, 2, 1, 3).flatten(2)).mean(1))


class Keys(Callback):
    """Notes which rows each batch of training had."""

    def __init__(self):
        self.seen: list[list[int]] = []

    def on_batch_end(self, keys, mode, **_):
        if mode == Mode.TRAIN:
            self.seen.append(list(map(int, keys)))


class Kept(Callback):
    """Notes the share of values that each batch kept."""

    def __init__(self):
        self.seen: dict[Mode, list[float]] = {}

    def on_batch_end(self, kept, mode, **_):
        self.seen.setdefault(mode, []).append(float(kept))


def experiment(*processors: Any, **settings: Any) -> Any:
    data = {"input": IMAGES, "target": TARGETS}
    subsets = [Subset("training", Mode.TRAIN, data), Subset("validation", Mode.EVAL, data)]
    settings = {"optimizer": keras.optimizers.SGD(RATE), "jit_compile": False, "callbacks": [Keys()], **settings}
    whole = {"subsets": subsets, "batch_size": 8, "chunk_processors": [*processors, squares], "hide_progress": True}
    return build_experiment({**whole, **settings})


def alone() -> dict[str, Any]:
    """A setting: nothing is evaluated, which would be another program."""
    return {"subsets": [Subset("training", Mode.TRAIN, {"input": IMAGES, "target": TARGETS})]}


def by_hand(network: torch.nn.Module, batches: list[list[int]]) -> None:
    """The training that PyTorch's users write."""
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], RATE)
    for rows in batches:
        optimizer.zero_grad()
        predicted = network(torch.tensor(IMAGES[rows]))[:, 0]
        ((predicted - torch.tensor(TARGETS[rows])) ** 2).mean().backward()
        optimizer.step()


def assert_same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


# Modules


@in_every_way
@pytest.mark.parametrize("make", [convolutional, Recurrent, Attending])
def test_a_module_is_trained_as_by_hand(make, way):
    ours = make()
    theirs = copy.deepcopy(ours)
    exp = experiment(model(ours), **way, **alone())
    if make is Recurrent and way == WAYS[1]:  # PyTorch 2.13: the compiled program lacks what oneDNN's LSTM keeps
        with pytest.raises(ValueError, match=r"Inductor cannot compile this graph(?s:.*)Write jit_compile='auto'"):
            exp.train(1)
        return
    exp.train(2)

    by_hand(theirs, exp.callbacks[0].seen)
    assert_same(ours, theirs)
    predicted = exp.predict({"batch_input": IMAGES})["batch_prediction"]
    with torch.no_grad():
        np.testing.assert_allclose(predicted, theirs.eval()(torch.tensor(IMAGES)), rtol=1e-3, atol=1e-5)


def test_evaluation_reads_the_weights_as_they_are_now():
    exp = experiment(model(Attending()))
    before = exp.evaluate()["validation_loss"]
    exp.train(3)

    assert exp.evaluate()["validation_loss"] == exp.history[-1]["validation_loss"] != before


def test_a_part_that_is_kept_in_eval_keeps_its_statistics():
    network = convolutional()
    network[1].eval()
    exp = experiment(model(network))
    exp.train(1)

    assert torch.equal(network[1].running_mean, torch.zeros(4))
    assert network[0].training
    assert not network[1].training


def test_weights_have_the_names_that_the_module_gives_them():
    exp = experiment(model(convolutional()))
    exp.train(1)

    names = [key.rpartition("/")[2] for key in exp.backend.weights()]
    assert sorted(names) == sorted(convolutional().state_dict())
    assert all(key.startswith("Model/") for key in exp.backend.weights())


def test_weights_that_need_no_gradient_stay():
    network = convolutional()
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    exp = experiment(model(network))
    exp.train(1)

    assert torch.equal(network[0].weight, before)
    assert exp.backend.sizes()["Model"][0] == sum(one.numel() for one in network.parameters() if one.requires_grad)


def test_a_parameter_of_a_processor_is_trained():
    class Scaled(ChunkProcessor):
        inputs, outputs = ["batch_input"], ["batch_prediction"]

        def __init__(self):
            self.factor = torch.nn.Parameter(torch.zeros(1))

        def __call__(self, chunk):
            chunk["batch_prediction"] = chunk["batch_input"].mean((1, 2, 3))[:, None] * self.factor

    scaled = Scaled()
    exp = experiment(scaled)
    exp.train(3)

    assert list(exp.backend.weights()) == ["Scaled/0/parameter"]
    assert scaled.factor.item() > 0


@pytest.mark.parametrize("show", [lambda shown: None, print], ids=["in messages", "by the processor"])
def test_a_variable_that_is_shown_is_one_weight(show, caplog):
    class Scaled(ChunkProcessor):
        inputs, outputs = ["batch_input"], ["batch_prediction"]

        def __init__(self):
            self.factors = [keras.Variable(np.ones(1, np.float32), name="factor")]

        def __call__(self, chunk):
            show(self.factors)
            factor = keras.ops.convert_to_tensor(self.factors[0])
            chunk["batch_prediction"] = chunk["batch_input"].mean((1, 2, 3))[:, None] * factor

    exp = experiment(Scaled())
    exp.train(1)

    assert list(exp.backend.weights()) == ["Scaled/0/factor"]
    assert "No gradient" not in caplog.text


def test_a_module_belongs_to_who_calls_it_not_to_who_averages_its_weights():
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))
    teacher = copy.deepcopy(student).requires_grad_(False)

    @chunk_processor(inputs=[], outputs=["gap"], node="Teacher", mode=Mode.TRAIN)
    def follow():
        with torch.no_grad():
            for own, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                own.lerp_(theirs, 0.5)
            return sum((own - theirs).abs().sum() for own, theirs in zip(teacher.parameters(), student.parameters()))

    before = teacher[1].weight.clone()
    exp = experiment(follow, model(student), metrics=["gap"])
    exp.train(2)

    assert {key.partition("/")[0] for key in exp.backend.weights()} == {"Teacher", "Model"}
    assert sum(key.startswith("Model/") for key in exp.backend.weights()) == 2
    assert not torch.equal(teacher[1].weight, before)


def test_modules_and_layers_stand_side_by_side():
    torch_part, keras_part = torch.nn.Flatten(), layers.Dense(1)
    wrapped = layers.TorchModuleWrapper(torch.nn.Linear(192, 4))
    exp = experiment(model(lambda images: keras_part(wrapped(torch_part(images)))))
    before = wrapped.module.weight.detach().clone()
    exp.train(1)

    assert len(exp.backend.weights()) == 4
    assert not torch.equal(wrapped.module.weight, before)


def test_weights_of_a_layer_before_a_module_are_kept_once():
    layer, module = layers.Dense(4), torch.nn.Linear(4, 1)
    exp = experiment(model(lambda images: module(layer(images.flatten(1)))))
    exp.train(1)

    names = [key.rpartition("/")[2] for key in exp.backend.weights()]
    assert names == ["kernel", "bias", "weight", "bias"]


class Mixed(layers.Layer):
    """Keras builds its layers by calling it, which fails on tensors without values: a module's statistics have some."""

    def __init__(self):
        super().__init__()
        self.parts = [layers.Flatten(), layers.Dense(6), layers.Dropout(0.5, seed=3)]
        self.parts[1].build((None, 192))
        self.statistics, self.head = torch.nn.BatchNorm1d(6), layers.Dense(1)
        self.own = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def call(self, tensor, training=False):
        with torch.no_grad():
            self.own.add_(float(training))
        for part in (*self.parts, self.statistics, self.head):
            tensor = part(tensor)
        return tensor + 0.0 * self.own


@pytest.mark.parametrize("way", WAYS[::2], ids=["program", "eager"])
@pytest.mark.parametrize("around", [lambda layer: layer, lambda layer: keras.Sequential([layer])], ids=["", "within"])
def test_what_a_layer_mixes_that_its_call_builds_is_met_once(around, way, caplog):
    exp = experiment(model(around(mixed := Mixed())), **way)
    exp.describe("train")
    assert mixed.own.item() == 0.0
    exp.train(1)

    assert len(exp.backend.weights()) == 11  # 2 of each Dense, 5 of the statistics, a seed and its own
    assert [*exp.backend.seeds().values()] == [[3, 4]]
    assert mixed.own.item() == mixed.statistics.module.num_batches_tracked.item() == 4
    assert "no checkpoint holds" not in caplog.text


def test_what_is_computed_anew_on_the_way_back_reads_the_weights_of_its_batch():
    def checkpointed(network: Any) -> Any:
        return lambda images: torch.utils.checkpoint.checkpoint(network, images, use_reentrant=False)

    plain, anew = Attending(), Attending()
    anew.load_state_dict(plain.state_dict())
    for network in (model(plain), model(checkpointed(anew))):
        experiment(network, **alone()).train(2)

    for name, value in plain.state_dict().items():
        np.testing.assert_allclose(anew.state_dict()[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


class Drawing(torch.nn.Module):
    """Parts that draw, one within the other, with statistics; each is computed again where `remat` says how."""

    def __init__(self, remat: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.remat, self.weight = remat, torch.nn.Parameter(torch.ones(192))
        self.drop, self.norm, self.head = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(192), torch.nn.Linear(192, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.remat(self.outer)(images.flatten(1)))

    def outer(self, rows: torch.Tensor) -> torch.Tensor:
        drawn = rows + torch.rand_like(rows) + torch.empty_like(rows).uniform_()
        return self.norm(torch.sin(self.remat(self.inner)(drawn)))

    def inner(self, rows: torch.Tensor) -> torch.Tensor:
        heads = torch.tanh(self.drop(rows) * self.weight).view(-1, 4, 6, 8)
        mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.3)
        return mixed.reshape(rows.shape) * self.weight


@pytest.mark.parametrize("way", WAYS, ids=["program", "inductor", "eager"])
def test_what_is_computed_anew_draws_what_it_drew_and_keeps_statistics_once(way):
    def anew(function: Any, *, is_reentrant: bool = False) -> Any:
        return lambda rows: torch.utils.checkpoint.checkpoint(function, rows, use_reentrant=is_reentrant)

    reentrant = partial(anew, is_reentrant=True)  # as PyTorch has it, it would train nothing here
    ways = [lambda function: function, anew, reentrant, keras.remat]
    networks = [Drawing(remat) for remat in (ways[:2] if way == WAYS[1] else ways)]  # Inductor gets one program of all
    for network in networks:
        torch.manual_seed(4)
        experiment(model(network), **way, **alone()).train(2)

    plain, *others = (network.state_dict() for network in networks)
    for name, value in plain.items():
        for other in others:
            np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


class Parted(torch.nn.Module):
    """A hidden layer and what is made of it, with a weight of its own."""

    def __init__(self, outputs: Any):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.weight = torch.nn.Linear(192, 8), torch.nn.Parameter(torch.ones(4, 8))
        self.outputs, self.deep = outputs, torch.nn.Linear(8, 8).requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.outputs(self, self.hidden(images.flatten(1))).flatten(1).mean(1, keepdim=True))


def slopes(network: Any, hidden: torch.Tensor) -> torch.Tensor:
    own = dict(network.deep.named_parameters())
    slope = torch.func.grad(lambda row: torch.func.functional_call(network.deep, own, row).sin().sum())
    return torch.func.vmap(slope)(hidden) * network.weight[0]


def waves(network: Any, hidden: torch.Tensor) -> torch.Tensor:
    return torch.exp(1j * torch.fft.rfft(hidden * network.weight[0])).real


def parts(network: Any, hidden: torch.Tensor) -> torch.Tensor:
    return hidden.unfold(1, 4, 2).clone().view(len(hidden), -1) ** 2 * network.weight.sum()


def product(tensor: torch.Tensor, weight: torch.Tensor):
    return tensor * weight


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchScript is deprecated
    scripted = torch.jit.script(product)

PARTED = {
    "torch.vmap": lambda network, hidden: torch.vmap(lambda weight: hidden * weight, out_dims=1)(network.weight),
    "torch.func": slopes,
    "TorchScript": lambda network, hidden: scripted(hidden[:, None], network.weight),
    "complex": waves,
    "clone": parts,
}


@pytest.mark.parametrize("way", WAYS[::2], ids=["program", "eager"])
@pytest.mark.parametrize("name", PARTED)
def test_parameters_are_trained_wherever_they_are_handed(name, way):
    ours = Parted(PARTED[name])
    theirs = copy.deepcopy(ours)
    exp = experiment(model(ours), **way)
    exp.train(1)

    by_hand(theirs, exp.callbacks[0].seen)
    assert_same(ours, theirs)
    assert not torch.equal(ours.weight, torch.ones(4, 8))


@pytest.mark.parametrize("way", WAYS[::2], ids=["program", "eager"])
def test_hooks_of_parameters_change_their_gradients(way):
    ours, theirs = convolutional(), convolutional()
    for network in (ours, theirs):
        network[0].weight.register_hook(lambda slope: slope * 0.0)
        network[4].bias.register_hook(lambda slope: slope.clamp(-0.01, 0.01))
    exp = experiment(model(ours), **way)
    exp.train(1)

    by_hand(theirs, exp.callbacks[0].seen)
    assert_same(ours, theirs)
    assert torch.equal(ours[0].weight, convolutional()[0].weight)


def test_a_hook_that_waits_for_what_training_does_not_keep_is_refused():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))
    network[1].weight.register_post_accumulate_grad_hook(lambda parameter: parameter.grad.zero_())
    with pytest.raises(GraphError, match=r"hook of '1\.weight'\.\nWrite parameter\.register_hook"):
        experiment(model(network)).train(1)


def test_members_of_an_ensemble_are_trained_with_statistics_that_stay():
    def member(number: int) -> torch.nn.Module:
        torch.manual_seed(number)
        norm = torch.nn.BatchNorm1d(2)
        norm.running_mean += number
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2), norm).eval()

    members = [member(number) for number in range(3)]
    base, (weights, buffers) = copy.deepcopy(members[0]).to("meta"), torch.func.stack_module_state(members)
    weights = {name: torch.nn.Parameter(weight.detach().clone()) for name, weight in weights.items()}

    def together(images: torch.Tensor) -> torch.Tensor:
        call = lambda own, kept: torch.func.functional_call(base, (own, kept), images)
        return torch.vmap(call)(weights, buffers).mean((0, 2))[:, None]

    exp = experiment(model(together), optimizer=keras.optimizers.SGD(RATE, momentum=0.9))
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    exp.train(2)

    assert exp.history[1]["training_loss"] < exp.history[0]["training_loss"]
    assert all(not torch.equal(weight, before[name]) for name, weight in weights.items())


def test_a_lazy_module_is_refused_with_what_to_do():
    with pytest.raises(GraphError, match=r"no weights yet(?s:.*)Call it once"):
        experiment(model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(1)))).train(1)


def test_a_complex_parameter_is_refused_by_name_unless_it_is_not_trained():
    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.turn, self.head = torch.nn.Parameter(torch.ones(97, dtype=torch.complex64)), torch.nn.Linear(97, 1)

        def forward(self, images):
            return self.head((torch.fft.rfft(images.flatten(1)) * self.turn).abs())

    exp = experiment(model(network := Turned()))
    exp.evaluate()
    with pytest.raises(GraphError, match=r"trains the weight 'turn'\.\nSeen: complex64 \[97\]\.\nMake two float"):
        exp.train(1)
    network.turn.requires_grad_(False)
    exp.train(1)
    assert torch.equal(network.turn, torch.ones(97, dtype=torch.complex64))


def test_a_sparse_buffer_is_refused_with_where_to_keep_it():
    class Mixed(torch.nn.Module):
        def __init__(self, keep):
            super().__init__()
            keep(self, "mixing", torch.eye(192).to_sparse())
            self.head = torch.nn.Linear(192, 1)

        def forward(self, images):
            return self.head(torch.sparse.mm(self.mixing, images.flatten(1).T).T)

    with pytest.raises(GraphError, match=r"Seen: torch\.sparse_coo \[192, 192\]\.\nLet the module keep it as a plain"):
        experiment(model(Mixed(torch.nn.Module.register_buffer))).train(1)
    experiment(model(Mixed(setattr))).train(1)


def test_a_module_that_is_made_in_every_call_is_refused():
    with pytest.raises(GraphError, match=r"makes a module(?s:.*)Seen: a parameter \[1, 192\](?s:.*)Make it outside"):
        experiment(model(lambda images: torch.nn.Linear(192, 1)(images.flatten(1)))).train(1)


def test_a_shared_buffer_is_one():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = (
                torch.nn.BatchNorm2d(3),
                torch.nn.BatchNorm2d(3),
                torch.nn.Linear(192, 1),
            )
            self.second.running_mean = self.first.running_mean

        def forward(self, images):
            return self.head((self.first(images) + self.second(2 * images + 1)).flatten(1))

    ours = Shared()
    theirs = copy.deepcopy(ours)
    exp = experiment(model(ours))
    exp.train(1)

    by_hand(theirs, exp.callbacks[0].seen)
    assert_same(ours, theirs)


@pytest.mark.parametrize("is_assigned", [False, True])
def test_a_buffer_that_is_saved_nowhere_is_kept_too(is_assigned):
    class Following(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 1)
            self.register_buffer("mean", torch.zeros(3), persistent=False)

        def forward(self, images):
            means = images.mean((2, 3))
            if self.training and is_assigned:
                self.mean = 0.5 * self.mean + 0.5 * means.mean(0).detach()
            elif self.training:
                self.mean.mul_(0.5).add_(0.5 * means.mean(0).detach())
            return self.head(means - self.mean)

    ours = Following()
    theirs = copy.deepcopy(ours)
    exp = experiment(model(ours))
    exp.train(1)

    by_hand(theirs, exp.callbacks[0].seen)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-5)
    assert_same(ours, theirs)


IN_PLACE = {
    "add_": lambda weight: weight.add_(1.0),
    "mul_ and add_": lambda weight: weight.mul_(1.0).add_(torch.ones(1)),
    "data": lambda weight: setattr(weight, "data", weight.data + 1.0),
}


@pytest.mark.parametrize(
    "change, way", [*((change, way) for change in IN_PLACE for way in WAYS[::2]), ("mul_ and add_", WAYS[1])], ids=str
)
def test_a_weight_that_a_processor_changes_is_changed_once_a_batch(change, way):
    counter = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    @chunk_processor(inputs=["batch_prediction"], outputs=["batch_prediction"], mode=Mode.TRAIN)
    def count(prediction):
        with torch.no_grad():
            IN_PLACE[change](counter)
        return prediction + 0.0 * counter

    exp = experiment(model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))), count, **way, **alone())
    exp.describe("train")
    assert counter.item() == 0.0
    exp.train(1)
    assert counter.item() == 4.0


def test_a_weight_that_goes_through_a_function_of_ones_own_is_trained():
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(context, weight):
            return torch.round(weight * 8) / 8

        @staticmethod
        def backward(context, gradient):
            return gradient

    class Quantized(torch.nn.Linear):
        def forward(self, images):
            return torch.nn.functional.linear(images.flatten(1), Rounded.apply(self.weight), self.bias)

    ours = Quantized(192, 1)
    theirs = copy.deepcopy(ours)
    usual = torch.autograd.Function.__dict__["apply"]
    exp = experiment(model(ours))
    exp.train(1)

    by_hand(theirs, exp.callbacks[0].seen)
    assert_same(ours, theirs)
    assert torch.autograd.Function.__dict__["apply"] is usual


def test_what_is_changed_of_modules_is_told_and_acts(caplog):
    network = convolutional()
    exp = experiment(model(network))
    exp.train(1)
    network[1].eval()
    network[0].requires_grad_(False)
    assert exp.backend.settings(exp.optimizer)["Model/3/0.weight: trainable"] == "False"  # though it was not told yet
    mean, weight = network[1].running_mean.clone(), network[0].weight.clone()
    exp.train(2)

    assert "BatchNorm2d: training was True, is False; 0.weight: requires_grad is False" in caplog.text
    assert torch.equal(network[1].running_mean, mean)
    assert torch.equal(network[0].weight, weight)
    network[4] = torch.nn.Linear(144, 1)
    exp.optimizer = keras.optimizers.SGD(RATE)
    before = network[4].weight.clone()
    exp.train(3)
    assert "Sequential has other weights or layers" in caplog.text
    assert not torch.equal(network[4].weight, before)


def test_many_changes_of_modules_are_told_in_short(caplog):
    network = convolutional()
    exp = experiment(model(network))
    exp.train(1)
    for parameter in list(network.parameters())[:5]:
        parameter.requires_grad_(False)
    exp.train(2)

    assert "1.weight: requires_grad is False; and so of 2 more. Compiled again" in caplog.text


def test_frozen_modules_keep_their_statistics():
    body = convolutional()[:3]
    mean = body[1].running_mean.clone()
    exp = experiment(
        ops.Model(body, inputs="batch_input", outputs="features", node="Body"),
        ops.Model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 1)), inputs="features",
                  outputs="batch_prediction"),
        callbacks=[Freeze("Body/*", epochs=1)],
    )  # fmt: skip
    exp.train(1)
    assert torch.equal(body[1].running_mean, mean)
    exp.train(2)
    assert not torch.equal(body[1].running_mean, mean)


def test_modules_compute_in_the_precision_of_the_experiment():
    seen, network = set(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 1))
    network.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    exp = experiment(model(lambda images: network(layers.Dense(8)(layers.Flatten()(images)))), precision="bfloat16")
    exp.train(1)

    assert seen == {torch.bfloat16}
    assert network[1].weight.dtype == torch.float32


@pytest.mark.parametrize("way", WAYS[:2], ids=["program", "inductor"])
def test_autocast_around_a_call_holds_for_that_call_alone(way):
    exp = experiment(model(network := convolutional()), **way)
    with torch.autocast("cpu", torch.bfloat16):
        within = exp.evaluate()["validation_loss"]

    assert exp.evaluate() == experiment(model(network), **way).evaluate() != {"validation_loss": within}


def test_gradients_within_an_evaluation_reach_weights():
    network = torch.nn.Linear(192, 1)

    def adapted(chunk):
        with torch.enable_grad():
            images = chunk["batch_input"].flatten(1)
            slopes = torch.autograd.grad((network(images) ** 2).mean(), list(network.parameters()), create_graph=True)
            weight, bias = (one - RATE * slope for one, slope in zip(network.parameters(), slopes, strict=True))
            chunk["batch_prediction"] = torch.nn.functional.linear(images, weight, bias)

    exp = experiment(adapted)
    exp.train(1)
    images, weight = torch.tensor(IMAGES).flatten(1), [one.detach().requires_grad_() for one in network.parameters()]
    expected = []
    for rows in range(0, 32, 8):
        loss = (torch.nn.functional.linear(images[rows : rows + 8], *weight) ** 2).mean()
        slopes = torch.autograd.grad(loss, weight)
        adapted_by_hand = [one - RATE * slope for one, slope in zip(weight, slopes, strict=True)]
        found = torch.nn.functional.linear(images[rows : rows + 8], *adapted_by_hand)[:, 0]
        expected.append(((found - torch.tensor(TARGETS[rows : rows + 8])) ** 2).mean().item())

    assert exp.evaluate()["validation_loss"] == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("compiled", [torch.jit.script, lambda module: torch.compile(module, backend="eager")])
@pytest.mark.filterwarnings("ignore")
def test_a_module_that_is_compiled_already_is_refused(compiled):
    with pytest.raises(GraphError, match=r"was compiled cannot be recorded(?s:.*)Give the module itself"):
        experiment(model(compiled(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))))).train(1)


# Programs


def test_an_array_of_numpy_from_a_tensor_is_made_in_python_and_told(caplog):
    weight = torch.nn.Parameter(torch.ones(1))
    mean = chunk_processor(inputs=["batch_input"], outputs=["batch_prediction"])(
        lambda images: weight * (1 + float(images.numpy().mean())) + 0 * images[:, :1, 0, 0]
    )
    exp = experiment(mean)
    exp.train(1)

    assert exp.compilers["training"] == "eager"
    assert "looks at values of tensors, through numpy, `" in caplog.text
    assert weight.item() != 1.0


MEAN = IMAGES.mean(0)  # float32; what is drawn next is float64, as numpy makes it unasked
SHIFT = np.random.default_rng(1).normal(size=(8, 8))
OPERANDS: dict[str, Any] = {
    "behind": lambda images: (images - MEAN) / (1 + SHIFT**2),
    "before": lambda images: -MEAN + SHIFT * images,
    "compared": lambda images: (images > MEAN) * images,
    "a matrix": lambda images: SHIFT @ (images @ SHIFT),
    "a number": lambda images: np.float64(2.0) * images + np.float32(1.0),
    "a function": lambda images: np.maximum(np.tanh(images), MEAN),
    "a remainder": lambda images: SHIFT % images,
}


@pytest.mark.parametrize("way", WAYS[::2], ids=["program", "eager"])
@pytest.mark.parametrize("name", OPERANDS)
def test_arrays_of_numpy_are_operands(name, way):
    taken = chunk_processor(inputs=["batch_input"], outputs=["batch_input"])(OPERANDS[name])
    exp = experiment(taken, model(convolutional()), **way)
    exp.train(1)

    found = exp.predict({"batch_input": IMAGES}, outputs=["batch_input"])["batch_input"]
    assert exp.compilers["training"] == ("eager" if "eager" in way else "program")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, OPERANDS[name](IMAGES), rtol=1e-3, atol=1e-4)


def test_gradients_go_through_what_meets_arrays():
    weight = torch.nn.Parameter(torch.ones(8))
    scaled = chunk_processor(inputs=["batch_input"], outputs=["batch_prediction"])(
        lambda images: np.sqrt(SHIFT[:1] ** 2 * weight**2 + MEAN[0, 0] ** 2) + 0 * images[:, 0, 0]
    )
    experiment(scaled).train(1)

    assert weight[0] != 1


def test_what_knows_no_array_is_told_what_to_write():
    with pytest.raises(TypeError, match=r"not numpy\.ndarray") as raised:
        experiment(of_images(lambda images: torch.add(images, MEAN)), model(convolutional())).train(1)
    assert "or keras.ops.convert_to_tensor(array)" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    "product",
    [
        lambda rows, weight: rows @ weight,
        lambda rows, weight: torch.nn.functional.linear(rows, weight, weight[0]),
        lambda rows, weight: torch.bmm(rows[None], weight[None]),
    ],
)
def test_a_product_of_two_dtypes_is_told_what_to_write(product):
    half = torch.eye(192, dtype=torch.bfloat16)
    mixed = of_images(lambda images: product(images.reshape(-1, 192), half).reshape(images.shape))

    with pytest.raises(RuntimeError) as raised:
        experiment(mixed, model(convolutional())).train(1)
    assert "write keras.ops.cast(one, other.dtype)" in "\n".join(raised.value.__notes__)


@pytest.mark.parametrize("way", WAYS[::2], ids=["program", "eager"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_what_fails_on_values_is_told_by_processor(dtype, way):
    """Classes of 32 bits; and a class that there is not."""
    classes = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    data = {"input": IMAGES, "target": np.full(32, 7, dtype)}
    loss = ops.Apply(torch.nn.functional.cross_entropy, inputs=["batch_prediction", "batch_target"], outputs="loss")
    exp = experiment(
        chunk_processors=[model(classes), loss], subsets=[Subset("training", Mode.TRAIN, data)], callbacks=[], **way
    )

    with pytest.raises((RuntimeError, IndexError)) as raised:
        exp.train(1)
    notes = "\n".join(raised.value.__notes__)
    assert "In chunk processor #1 Apply(fn=cross_entropy)" in notes
    assert ('list ops.Cast(NAME, "int64") before it' in notes) == (dtype == "int32")


def test_what_looks_at_values_runs_in_python_and_is_told(caplog):
    def halved(chunk):
        factor = 0.5 if chunk["batch_input"].abs().max() > 3 else 1.0
        chunk["batch_input"] = chunk["batch_input"] * factor

    exp = experiment(halved, model(convolutional()), jit_compile="auto")
    exp.train(1)

    assert exp.compilers == {"training": "eager", "validation": "eager"}
    assert "#0 halved" in caplog.text
    assert '`factor = 0.5 if chunk["batch_input"].abs().max() > 3 else 1.0` (test_torch.py:' in caplog.text
    with pytest.raises(ValueError, match=r"#0 halved.* looks at values(?s:.*)Seen: jit_compile=True"):
        experiment(halved, model(convolutional()), jit_compile=True).train(1)


def of_images(part: Any) -> Any:
    return lambda chunk: chunk.update(batch_input=part(chunk["batch_input"]))


def looking(images: Any) -> Any:
    return images * (0.5 if float(images.detach().sum()) > 0 else 1.0)


class Looks(layers.Layer):
    def __init__(self):
        super().__init__()
        self.parts = [layers.Flatten(), layers.Dropout(0.5, seed=3), layers.Dense(6), layers.BatchNormalization()]
        self.head = layers.Dense(1)

    def call(self, tensor):
        for part in self.parts:
            tensor = part(tensor)
        return self.head(looking(tensor))


class HighestIfPositive(keras.metrics.Mean):
    def update_state(self, values, sample_weight=None):
        highest = float(values.detach().max())
        super().update_state(max(highest, 0.0), sample_weight)


ASSIGNING: dict[str, Any] = {
    "an op that draws": lambda: ops.Noise("batch_input", 0.1),
    "a layer that draws": lambda: of_images(layers.Dropout(0.5, seed=3)),
    "statistics": lambda: of_images(torch.nn.BatchNorm2d(3)),
}
LOOKING: dict[str, Any] = {
    "a sum": lambda: [of_images(looking), model(convolutional())],
    "a metric": lambda: [model(convolutional()), ops.KerasMetric(HighestIfPositive(), "batch_prediction", None)],
    "a layer that its call builds": lambda: [model(Looks())],
}


def test_weights_that_one_batch_does_not_reach_are_not_told_where_batches_take_ways_of_their_own(caplog):
    low, high = layers.Dense(1), layers.Dense(1)

    def parted(chunk):
        images = chunk["batch_input"].flatten(1)
        sides = [low(images), high(images)]
        chunk["batch_prediction"] = sides[int(images.mean() > 0)]

    experiment(parted, jit_compile="auto").train(2)

    assert "looks at values of tensors" in caplog.text
    assert "No gradient reaches" not in caplog.text


@pytest.mark.parametrize("way", [{"jit_compile": "auto"}, {"eager": True}], ids=["recorded", "eager"])
@pytest.mark.parametrize("looks", LOOKING)
@pytest.mark.parametrize("before", ASSIGNING)
def test_what_looks_at_values_may_follow_what_assigns(before, looks, way, caplog):
    exp = experiment(ASSIGNING[before](), *LOOKING[looks](), **way)
    exp.train(2)

    assert exp.compilers["validation"] == "eager"
    assert ("looks at values of tensors" in caplog.text) != ("eager" in way)
    assert {count for _, count in exp.backend.seeds().values()} <= {8}


class Packed(torch.nn.Module):
    """Reads sequences of many lengths, which are known by value only; none may be 0."""

    def __init__(self):
        super().__init__()
        self.memory, self.head = torch.nn.LSTM(24, 5, batch_first=True), torch.nn.Linear(5, 1)

    def forward(self, images, lengths):
        rows = images.permute(0, 2, 1, 3).flatten(2)
        packed = torch.nn.utils.rnn.pack_padded_sequence(rows, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.head(self.memory(packed)[1][0][-1])


@pytest.mark.parametrize("way", [{"jit_compile": "auto"}, {"eager": True}], ids=["recorded", "eager"])
def test_what_looks_at_values_is_tried_on_those_of_an_item(way):
    data = {"input": IMAGES, "length": np.arange(32) % 8 + 1, "target": TARGETS}
    subsets = [Subset(mode.name, mode, data) for mode in (Mode.TRAIN, Mode.EVAL)]
    reader = ops.Model(Packed(), inputs=["batch_input", "batch_length"], outputs="batch_prediction")
    exp = experiment(reader, subsets=subsets, **way)
    exp.train(3)

    losses = [row["EVAL_loss"] for row in exp.history]
    assert losses == sorted(losses, reverse=True)
    for dtype in (np.int64, np.int32):
        given = {"batch_input": IMAGES, "batch_length": data["length"].astype(dtype)}
        assert exp.predict(given)["batch_prediction"].shape == (32, 1)


def test_the_rest_of_an_evaluation_is_not_compiled_for_itself():
    data = {"input": IMAGES[:20], "target": TARGETS[:20]}
    subsets = [Subset("training", Mode.TRAIN, data), Subset("validation", Mode.EVAL, data)]
    exp = experiment(model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))), subsets=subsets,
                     jit_compile=True)  # fmt: skip
    exp.train(2)

    (step,) = (runner.step for runner in exp.program.runners.values() if runner.name == "validation")
    assert (len(step._programs), len(step._loops)) == (2, 1)


def test_a_call_that_is_interrupted_changes_nothing():
    network = convolutional()
    exp = experiment(model(network), optimizer=keras.optimizers.Adam(RATE), steps_per_call=4)
    exp.train(1)
    (step,) = (runner.step for runner in exp.program.runners.values() if runner.name == "training")
    before, calls, one = copy.deepcopy(exp.backend.weights()), [], step._one

    def interrupted(*arguments: Any, own: bool) -> Any:
        calls.append(own)
        if len(calls) == 4:  # two of which wrote into the state that those before them made
            raise KeyboardInterrupt
        return one(*arguments, own=own)

    step._one = interrupted
    with pytest.raises(KeyboardInterrupt):
        exp.train(2)

    assert calls == [False, True, True, True]
    assert all(np.array_equal(value, before[key]) for key, value in exp.backend.weights().items())


OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda: keras.optimizers.SGD(RATE, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True, weight_decay=0.1),
    "clipped": lambda: keras.optimizers.AdamW(RATE, global_clipnorm=0.1, use_ema=True),
    "gathered": lambda: keras.optimizers.Adam(RATE, amsgrad=True, gradient_accumulation_steps=2),
    "RMSprop": lambda: keras.optimizers.RMSprop(RATE, momentum=0.9, centered=True),
    "Lion": lambda: keras.optimizers.Lion(RATE),
}


@pytest.mark.parametrize("name, way", [*((name, WAYS[0]) for name in OPTIMIZERS), ("momentum", WAYS[1])])
def test_updates_that_use_memory_again_are_those_of_python(name, way):
    networks = convolutional(), convolutional()
    for network, settings in zip(networks, (way, {"eager": True}), strict=True):
        exp = experiment(model(network), optimizer=OPTIMIZERS[name](), seed=1, **settings, **alone())
        exp.train(2)

    assert_same(*networks)


def test_an_optimizer_that_looks_at_values_runs_in_python(caplog):
    exp = experiment(model(convolutional()), optimizer=keras.optimizers.Nadam(RATE))
    exp.train(1)

    assert "something outside of processors looks at values of tensors" in caplog.text
    assert exp.program.compilers()["training"] == "eager"


def test_an_update_uses_memory_again():
    exp = experiment(model(convolutional()), optimizer=keras.optimizers.Adam(RATE))
    exp.train(1)
    (step,) = (runner.step for runner in exp.program.runners.values() if runner.name == "training")
    (program,) = step._programs.values()

    assert "_foreach_add_.List" in program.reusing.code
    assert "_foreach_mul_.Scalar([arg" in program.writing.code
    assert "_foreach_mul_.Scalar([arg" not in program.reusing.code


ONES = torch.ones(3, 3)
# Of a state [w, m] and a batch x, all of them [3, 3]: the next state, and what else comes out.
UPDATES: dict[str, Any] = {
    "decay": lambda w, m, x: ([w - x, m * 0.5], [w.sum()]),
    "before": lambda w, m, x: ([w - x, m * 0.5], [w]),
    "view before": lambda w, m, x: ([w - x, m * 0.5], [w.t()]),
    "after": lambda w, m, x: ([w := w - x, m * 0.5], [w.reshape(9)]),
    "swapped": lambda w, m, x: ([m, w * 0.5], [x.sum()]),
    "moved": lambda w, m, x: ([w - x, w.t()], [m.sum()]),
    "one value": lambda w, m, x: ([w := w - x, w], [m.sum()]),
    "spread": lambda w, m, x: ([w - x, w.mean().expand(3, 3)], [(m * 0.5).sum()]),
    "column": lambda w, m, x: ([w - x, (w + x)[:, 1:2].expand(3, 3)], [(m * 0.5).sum()]),
    "constant": lambda w, m, x: ([ONES, w - x], [m.sum()]),
    "kept": lambda w, m, x: ([w, w.view(3, 3) + m], [x.sum()]),
    "kept view": lambda w, m, x: ([w, w.t()], [x.sum() + m.sum()]),
    "read later": lambda w, m, x: ([late := w - x, m * 0.5 + w], [late.sum()]),
    "view read later": lambda w, m, x: (lambda turned: ([w * 0.5, m - x], [turned @ x]))(w.t()),
    "itself": lambda w, m, x: ([w * w, m + m.t()], [x.sum()]),
    "lists": lambda w, m, x: (torch._foreach_add(torch._foreach_mul([w, m], 0.5), [x, x]), [w.sum()]),
    "lists, crossed": lambda w, m, x: (torch._foreach_add(torch._foreach_mul([w, m], 0.5), [m, w]), [w.sum()]),
    "lists, twice": lambda w, m, x: (torch._foreach_add([w, w], [m, x]), [x.sum()]),
    "parts": lambda w, m, x: ([torch.cat([one * 0.5 for one in w.split([1, 2])]), m - w[1]], [w.sum()]),
    "type": lambda w, m, x: ([w - x, x * 0.5], [m > 0.5]),
    "shape": lambda w, m, x: ([w - x, x * 0.5], [m + x.expand(2, 3, 3)]),
    "turned": lambda w, m, x: ([w.t() + 0.0, m.t()], [w.contiguous().as_strided((3,), (1,)), m.contiguous().view(9)]),
    "clone of a view": lambda w, m, x: ([w - x, m * 0.5], [w.unfold(1, 2, 1).clone().view(12)]),
}


@pytest.mark.parametrize("name", UPDATES)
def test_a_state_of_a_programs_own_is_written_into_only_where_nobody_reads_it(name):
    def update(state, others):
        return UPDATES[name](*state, *others)

    first, batches = list(torch.rand(2, 3, 3)), torch.rand(5, 3, 3)
    expected, state = ([one.clone() for one in first] for _ in range(2))
    program = Program(update, state, [batches[0]])
    wanted, seen = [], []
    for place, batch in enumerate(batches):
        (expected, outputs), (state, results) = update(expected, [batch]), program(state, [batch], own=place > 0)
        wanted.append([one.clone() for one in (*expected, *outputs)])
        seen.append(results)

    assert all(torch.equal(*pair) for pair in zip(state, wanted[-1], strict=False))
    for results, whole in zip(seen, wanted, strict=True):
        torch.testing.assert_close(results, whole[2:])  # sums of what is laid out otherwise have other last bits


def test_a_compiled_loop_carries_what_changes_its_place():
    def update(state, others):
        return [state[1], others[0], state[2], state[2] + state[0]], [(state[0].t() * others[0]).t()]

    state, batches = [torch.rand(1, 3) for _ in range(4)], torch.rand(3, 1, 3)
    expected, tables = state, []
    for batch in batches:
        expected, (table,) = update(expected, [batch])
        tables.append(table)
    program = Program(update, state, [batches[0]])
    index, limit = torch.arange(3)[:, None], torch.tensor(3)
    after, (found,) = compiled_loop(program, ["x"])(state, {"x": batches[:, 0]}, index, limit)

    assert program.kept == [2]
    torch.testing.assert_close(found, torch.stack(tables))
    torch.testing.assert_close([*after], [*expected])


def test_views_may_be_of_what_a_compiler_lays_out_otherwise():
    def update(state, others):
        weight = state[0].detach().requires_grad_()
        with torch.enable_grad():
            slopes = torch.func.jacrev(lambda rows: torch.tanh(rows @ weight).sum(0))(others[0])
            loss = torch.tanh(slopes.transpose(0, 1).flatten(1).mean(1)).square().mean()
        return [state[0] - torch.autograd.grad(loss, weight)[0]], []

    state, batch = [torch.rand(8, 8)], torch.rand(8, 8)
    run = compiled_loop(Program(update, state, [batch]), ["x"])

    torch.testing.assert_close(run(state, {"x": batch}, torch.arange(8)[None], torch.tensor(1)), update(state, [batch]))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_inductor_reads_a_sum_when_it_is_complete():
    def sums(rows, wanted, others):
        rows, places = rows * 2, (torch.arange(8)[:, None], torch.arange(24))
        masked = torch.ops.aten.index_put(rows[:, 44:], [wanted], torch.zeros([]))
        return masked + torch.zeros(8, 24).index_put(places, rows[:, :24] * others, accumulate=True)

    given = torch.randn(8, 68), torch.rand(8, 24) > 0.5, torch.randn(8, 24)
    with torch._inductor.config.patch(force_disable_caches=True):
        torch.testing.assert_close(torch.compile(sums, options=OPTIONS)(*given), sums(*given))


def test_numbers_that_are_viewed_are_no_arguments():
    def update(state, others):
        weight = state[0].detach().requires_grad_()
        with torch.enable_grad():
            number = torch.exp(1j * torch.complex(weight, others[0])).real.sum()
        return [state[0] - torch.autograd.grad(number, weight)[0]], []

    state, others = [torch.rand(3)], [torch.rand(3)]
    torch.testing.assert_close(Program(update, state, others)(state, others), update(state, others))


def test_integers_between_two_are_drawn_in_a_program():
    program = Program(lambda state, others: ([], [torch.empty(99).random_(3, 5)]), [], [])

    assert set(program([], [])[1][0].tolist()) == {3.0, 4.0}


def test_a_call_takes_memory_for_its_state_once():
    program = Program(lambda state, others: ([state[0] - others[0]], []), [torch.zeros(9)], [torch.ones(9)])
    first = torch.zeros(9)
    second, _ = program([first], [torch.ones(9)])
    third, _ = program(second, [torch.ones(9)], own=True)

    assert first.tolist() == [0.0] * 9
    assert third[0].data_ptr() == second[0].data_ptr() != first.data_ptr()
    assert third[0].tolist() == [-2.0] * 9


class Counting:
    """Counts in a tensor that no module holds, and draws from a generator of its own."""

    def __init__(self):
        self.calls, self.draws = torch.zeros(()), torch.Generator().manual_seed(1)

    def __call__(self, chunk):
        self.calls += 1
        shape = chunk["batch_input"].shape
        chunk["batch_input"] = chunk["batch_input"] + 0 * torch.randn(shape, generator=self.draws)


@pytest.mark.parametrize("eager", [False, True])
def test_what_a_processor_goes_on_from_and_no_checkpoint_holds_is_told_once(eager, caplog):
    experiment(Counting(), model(convolutional()), eager=eager).train(1)

    told = ["changes a tensor in place", "draws from a torch.Generator"]
    assert [caplog.text.count(f"#0 Counting() {one}") for one in told] == ([0, 0] if eager else [1, 1])


def test_a_batch_written_into_a_tensor_that_the_graph_does_not_know_is_refused_by_name():
    bank = torch.zeros(IMAGES.shape[1:])
    remember = lambda chunk: bank.copy_(chunk["batch_input"][0])

    with pytest.raises(GraphError, match=r"(?s)#0 .*changes a tensor.*\[3, 8, 8\] float32.*register_buffer"):
        experiment(remember, model(convolutional())).train(1)


def test_a_graph_that_runs_in_python_may_write_a_batch_into_any_tensor():
    bank = torch.zeros(IMAGES.shape[1:])

    def double(chunk):
        if float(chunk["batch_input"].abs().mean()) > 0:
            chunk["batch_input"] = 2 * chunk["batch_input"]

    experiment(lambda chunk: bank.copy_(chunk["batch_input"][0]), double, model(convolutional())).train(1)

    assert bank.tolist() in IMAGES.tolist()


def test_lists_of_tensors_that_are_changed_in_place_are_told_of(caplog):
    counts = [torch.zeros(()), torch.zeros(())]
    experiment(lambda chunk: torch._foreach_add_(counts, 1.0), model(convolutional())).train(1)

    assert caplog.text.count("changes a tensor in place") == 1


def test_operations_that_take_functions_are_recorded():
    turned = lambda chunk: torch.cond(chunk["batch_input"].sum() > 0, torch.neg, torch.clone, (chunk["batch_input"],))
    exp = experiment(lambda chunk: chunk.update(batch_input=turned(chunk)), model(convolutional()))

    assert "loss" in str(exp.graph("train"))


def test_what_checkpoints_hold_is_not_told(caplog):
    class Buffered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images):
            self.calls += 1
            return torch.nn.functional.dropout(images, 0.1).add_(0.0)

    buffered = ops.Model(Buffered(), inputs="batch_input", outputs="batch_input")
    experiment(buffered, model(torch.nn.Sequential(torch.nn.BatchNorm2d(3), convolutional()))).train(1)

    assert "no checkpoint holds" not in caplog.text


def test_an_input_that_is_changed_in_place_is_changed_for_those_below():
    def doubled(chunk):
        chunk["batch_input"].mul_(2.0)

    losses = []
    for processor in (doubled, lambda chunk: chunk.update(batch_input=chunk["batch_input"] * 2.0)):
        exp = experiment(processor, model(convolutional()))
        exp.train(2)
        losses.append(exp.history[-1]["training_loss"])

    assert losses[0] == losses[1]


# Draws


def drawn(draw: Any, **seed: Any) -> np.ndarray:
    with computed():
        return np.asarray(draw(seed=keras.random.SeedGenerator(3)))


@pytest.mark.parametrize(
    "draw, law",
    [
        (lambda **s: keras.random.uniform((20000,), -1.0, 3.0, **s), stats.uniform(-1, 4)),
        (lambda **s: keras.random.normal((20000,), 1.0, 2.0, **s), stats.norm(1, 2)),
        (lambda **s: keras.random.truncated_normal((20000,), 1.0, 0.5, **s), stats.truncnorm(-2, 2, 1, 0.5)),
    ],
    ids=["uniform", "normal", "truncated"],
)
def test_computed_draws_follow_their_law(draw, law):
    values = drawn(draw)

    assert stats.kstest(values, law.cdf).pvalue > 0.01
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02


def test_computed_integers_and_classes_have_their_shares():
    numbers = np.bincount(drawn(lambda **s: keras.random.randint((20000,), 2, 7, **s)), minlength=8)
    logits = np.log([[0.1, 0.2, 0.7]]).astype("float32")
    classes = drawn(lambda **s: keras.random.categorical(logits, 20000, **s))
    kept = drawn(lambda **s: keras.random.dropout(np.ones((200, 100), "float32"), 0.25, **s))
    order = drawn(lambda **s: keras.random.shuffle(np.arange(100), **s))

    assert numbers[[0, 1, 7]].sum() == 0
    assert stats.chisquare(numbers[2:7]).pvalue > 0.01
    np.testing.assert_allclose(np.bincount(classes[0]) / 20000, [0.1, 0.2, 0.7], atol=0.02)
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)}
    assert abs(np.mean(kept == 0) - 0.25) < 0.02
    assert sorted(order) == list(range(100))
    assert not np.array_equal(order, np.arange(100))


def test_classes_that_are_ruled_out_are_never_drawn(monkeypatch):
    """Whatever the bits: nothing that is drawn outweighs a logit of -1e9."""
    for bits in (0, -1):
        monkeypatch.setattr(draws, "_bits", lambda shape, seed, bits=bits: torch.full(shape, bits))
        assert draws.categorical([[-1e9, 0.0, -1e9]], 4).tolist() == [[1] * 4]


@pytest.mark.parametrize("limit", [10.0, np.float32(10), torch.tensor(10.0)])
def test_integers_below_a_float_are_those_below_its_integer(limit):
    """Keras documents floats there; a remainder in floats has even numbers alone."""
    ours, theirs = (drawn(lambda one=one, **s: keras.random.randint((99,), 0, one, **s)) for one in (limit, 10))

    assert np.array_equal(ours, theirs)


def test_the_last_axis_is_shuffled_by_its_negative_number_too():
    rows = np.arange(20).reshape(2, 10)

    assert np.array_equal(*(drawn(lambda axis=axis, **s: keras.random.shuffle(rows, axis, **s)) for axis in (1, -1)))


def test_draws_are_the_same_in_every_way():
    losses = {}
    for way in WAYS:
        noise = layers.GaussianNoise(0.5, seed=4)
        exp = experiment(lambda chunk, noise=noise: chunk.update(batch_input=noise(chunk["batch_input"])),
                         model(convolutional()), **way, **alone())  # fmt: skip
        exp.train(1)
        losses[str(way)] = exp.history[-1]["training_loss"]

    assert np.allclose([*losses.values()], losses[str(WAYS[0])], rtol=1e-5)
    assert "eager" in str(WAYS[2])


SEEDED = """
import numpy as np
from experimentator import Mode, Subset, ops

seed = 1
import keras, torch

network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
subsets = [Subset("training", Mode.TRAIN, {"input": np.ones((8, 4), np.float32), "target": np.ones(8, np.float32)})]
batch_size, hide_progress = 4, True
chunk_processors = [
    ops.Model(network, inputs="batch_input", outputs="batch_prediction"),
    ops.MeanSquaredError("batch_prediction", "batch_target"),
]
optimizer = keras.optimizers.SGD(0.1)
"""
RUN = """
import sys
from experimentator import build_experiment
print([row["training_loss"] for row in build_experiment(sys.argv[1], seed=1).train(2)])
"""


@pytest.mark.parametrize("way", WAYS[:2], ids=["program", "inductor"])
def test_draws_of_pytorch_itself_are_other_ones_in_each_batch(way):
    drop = torch.nn.Dropout(0.5)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))
    exp = experiment(lambda chunk: chunk.update(kept=drop(torch.ones_like(chunk["batch_input"])).mean()),
                     model(network), **way, outputs=["kept"], metrics=["kept"])  # fmt: skip
    exp.callbacks.append(kept := Kept())
    exp.train(1)

    training = kept.seen[Mode.TRAIN]
    assert len(set(training)) == len(training) == 4
    assert set(kept.seen[Mode.EVAL]) == {1.0}


@in_every_way
def test_draws_of_pytorch_itself_go_on_where_they_were_when_a_training_is_resumed(way, tmp_path):
    def dropping(*callbacks):
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.Dropout(0.5),
                                      torch.nn.Linear(8, 1))  # fmt: skip
        return experiment(model(network), **way, **alone(), steps_per_call=1, callbacks=[*callbacks])

    whole = dropping(CheckpointEvery(steps=3, keep=9, folder=tmp_path))
    whole.train(2)
    first = min(path for path in tmp_path.iterdir() if path.is_dir())
    torch.manual_seed(5)
    again = dropping(CheckpointEvery(steps=3, folder=tmp_path / "again"))
    again.resume(first)
    again.train(2)

    assert again.history[-1]["training_loss"] == whole.history[-1]["training_loss"]
    for key, value in whole.backend.weights().items():
        np.testing.assert_array_equal(value, again.backend.weights()[key])


def test_to_record_on_items_changes_nothing_of_what_is_drawn():
    losses = []
    for way in WAYS[:1] + WAYS[2:]:
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(192, 1))
        losses.append(experiment(model(network), **way).train(2)[-1]["training_loss"])

    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_to_time_a_program_changes_nothing_of_what_is_drawn():
    losses = []
    for way in (False, "auto"):
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(192, 1))
        exp = experiment(model(network), jit_compile=way)
        losses.append(exp.train(2)[-1]["training_loss"])

    assert exp.compilers["training"] == "program"
    assert losses[0] == losses[1]


@pytest.mark.parametrize("seconds, compiler", [(1.0, "inductor"), (2.9, "program")])
def test_inductor_is_chosen_where_it_is_clearly_quicker_and_pays(seconds, compiler, monkeypatch):
    exp = experiment(model(convolutional()), jit_compile="auto")
    exp.train(1)
    step = next(runner.step for runner in exp.program.runners.values() if runner.name == "training")
    monkeypatch.setattr(step, "_timed", lambda one, *_: {"program": 3.0, "inductor": seconds}[one])
    step.timings.clear()
    columns, index = {"batch_input": IMAGES, "batch_target": TARGETS}, np.arange(32).reshape(4, 8)

    step.choose(columns, index, remaining=1)
    assert not step.is_settled

    step.choose(columns, index, remaining=10**9)
    assert (step.is_settled, step.compiler) == (True, compiler)


def test_a_seed_rules_the_first_weights_of_modules_and_what_they_drop(tmp_path):
    (tmp_path / "task.py").write_text(SEEDED, "utf-8")

    command = [sys.executable, "-c", RUN, str(tmp_path / "task.py")]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]

    other, again = (build_experiment(tmp_path / "task.py", seed=seed).train(2) for seed in (2, 1))
    other, again = (str([row["training_loss"] for row in rows]) for rows in (other, again))
    assert first == again != other


@pytest.mark.parametrize("way", WAYS[::2], ids=["program", "eager"])
def test_a_module_infers_within_another_experiment_and_is_not_trained_there(way):
    network = convolutional()
    teacher = experiment(model(network))
    teacher.train(1)
    before, wanted = copy.deepcopy(network), teacher.predict({"batch_input": IMAGES})["batch_prediction"]

    def distance(chunk: Any) -> None:
        chunk["loss"] = ((chunk["batch_learned"] - chunk["batch_wanted"]) ** 2).mean()

    learner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))
    learning = ops.Model(learner, inputs="batch_input", outputs="batch_learned")
    taught = teacher.as_processor({"batch_prediction": "batch_wanted"}, node="Teacher")
    student = build_experiment(
        {
            "subsets": [Subset("training", Mode.TRAIN, {"input": IMAGES, "target": TARGETS})],
            "chunk_processors": [taught, learning, distance],
            "optimizer": keras.optimizers.SGD(0.01),
            "outputs": ["batch_wanted"],
            "hide_progress": True,
            **way,
        }
    )
    rows = student.train(4)

    assert rows[-1]["training_loss"] < rows[0]["training_loss"]
    assert np.allclose(student.predict({"batch_input": IMAGES})["batch_wanted"], wanted, atol=1e-5)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_modules_are_exported_with_each_weight_once(suffix, tmp_path):
    """Two of one kind, whose parameters have the same names; statistics of both are read and not changed."""
    first, second = convolutional(), convolutional()
    second[1].running_mean += 1.0
    processors = [model(first), ops.Model(second, inputs="batch_input", outputs="batch_other")]
    subsets = [Subset("all", Mode.INFER, {"input": IMAGES})]
    exp = build_experiment({"subsets": subsets, "chunk_processors": processors, "hide_progress": True})
    path = exp.export(tmp_path / f"program{suffix}")
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        found = dict(zip([one.name for one in session.get_outputs()], session.run(None, {"batch_input": IMAGES[:5]})))
        numbers = sum(np.prod(one.dims) for one in onnx.load(path).graph.initializer)
    else:
        program = torch.export.load(path)
        found = {
            name: value.numpy() for name, value in program.module()({"batch_input": torch.tensor(IMAGES[:5])}).items()
        }
        numbers = sum(value.numel() for value in program.state_dict.values())
    own = sum(value.numel() for network in (first, second) for value in network.state_dict().values())

    expected = exp.predict({"batch_input": IMAGES[:5]})
    assert found.keys() == expected.keys() == {"batch_prediction", "batch_other"}
    assert not np.allclose(found["batch_prediction"], found["batch_other"])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)
    assert numbers <= own + 16  # ONNX has sizes among its constants
    assert sum(np.prod(one.shape) for one in exp.as_model().weights) == own


def exported(function, path):
    subsets = [Subset("all", Mode.INFER, {"x": np.ones((8, 4), "float32")})]
    processor = chunk_processor(inputs=["batch_x"], outputs=["batch_y"], node="Step")(function)
    return build_experiment({"subsets": subsets, "chunk_processors": [processor]}).export(path)


def test_the_rows_of_an_onnx_file_are_called_batch(tmp_path):
    session = onnxruntime.InferenceSession(exported(lambda x: 2 * x, tmp_path / "program.onnx"))

    assert [one.shape for one in (*session.get_inputs(), *session.get_outputs())] == 2 * [["batch", 4]]


@pytest.mark.parametrize(
    "function, said",
    [
        (lambda x: keras.ops.cumprod(x, axis=1), "ONNX cannot express all .*\nSeen: No ONNX function found for .*prod"),
        (
            lambda x: x if len(x[x > 0]) > 2 else 2 * x,
            "PyTorch cannot write a graph that looks at values of tensors.\nSeen: .*decided by a tensor.\n",
        ),
    ],
    ids=["not in ONNX", "of values"],
)
def test_what_cannot_be_written_is_told_in_plain_words(function, said, tmp_path, capfd):
    with pytest.raises(ValueError, match=said):
        exported(function, tmp_path / "program.onnx")

    assert "def forward" not in capfd.readouterr().err


class OfAChunk(torch.nn.Module):
    def forward(self, chunk):
        chunk["batch_half"] = chunk["batch_input"] / 2


@pytest.mark.parametrize(
    "listed, what, write",
    [(torch.nn.MSELoss(), "loss", r"ops.Apply\(loss,"), (convolutional(), "module", r"ops.Model\(module,")],
    ids=["loss", "module"],
)
def test_what_takes_tensors_is_answered_with_the_op_around_it(listed, what, write):
    with pytest.raises(GraphError, match=rf"it is a {what}, which takes tensors and not the chunk.\nWrite {write}"):
        Graph([listed], provided={"batch_input"})


def test_a_module_that_takes_a_chunk_is_a_processor():
    exp = build_experiment({"subsets": [Subset("all", Mode.EVAL, {"input": IMAGES})], "chunk_processors": [OfAChunk()]})

    np.testing.assert_array_equal(exp.predict({"batch_input": IMAGES})["batch_half"], IMAGES / 2)


class Remembering(keras.optimizers.Optimizer):
    """An optimizer that keeps the weights of the batch before."""

    def build(self, variables: Any) -> None:
        if not self.built:
            super().build(variables)
            self.before = self.add_optimizer_variables(variables, "before")

    def update_step(self, gradient: Any, variable: Any, rate: Any) -> None:
        self.assign(self.before[self._get_variable_index(variable)], variable.value)
        self.assign(variable, variable - rate * gradient)


@pytest.mark.parametrize("batches", [1, 4])
def test_what_held_a_weight_before_is_kept_apart_from_what_it_becomes(batches):
    kept = []
    for way in (WAYS[0], WAYS[2]):
        optimizer = Remembering(0.1)
        exp = experiment(model(convolutional()), optimizer=optimizer, steps_per_call=batches, **way)
        exp.train(1)
        kept.append([keras.ops.convert_to_numpy(one) for one in optimizer.before])

    for one, other in zip(*kept, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_that_a_graph_runs_in_python_is_told_once_for_all_buckets(caplog):
    @chunk_processor(inputs=["batch_x"], outputs=["largest"])
    def largest(x):
        return x.sum() if float(x.max()) > 0 else x.mean()

    items = [{"x": np.ones(length, np.float32)} for length in (2, 2, 4, 4)]
    subset = Subset("all", Mode.EVAL, items, buckets={"x": [2, 4]})
    exp = build_experiment(
        {"subsets": [subset], "chunk_processors": [largest], "metrics": ["largest"], "batch_size": 2}
    )

    assert exp.evaluate()["all_largest"] == 6.0
    assert caplog.text.count("The graph cannot be recorded") == 1


@in_every_way
def test_a_module_may_be_laid_out_otherwise_between_trainings(way):
    ours, theirs = convolutional(), convolutional()
    exp = experiment(model(ours), **way, **alone())
    exp.train(1)
    ours.to(memory_format=torch.channels_last)
    exp.train(2)

    by_hand(theirs, exp.callbacks[0].seen)
    assert_same(ours, theirs)


def test_a_module_made_on_another_device_is_moved_with_its_values_while_it_is_recorded():
    """The place has another name than what the module lies on, as with a GPU; what is recorded has no values."""
    module = torch.nn.Linear(3, 2)
    before = module.weight.detach().clone()
    modules = Modules(torch.device("cpu", 0), TorchBackend().leaks)
    with FakeTensorMode(allow_non_fake_inputs=True):
        modules.variable(module.weight)

    assert torch.equal(module.weight, before)


def test_all_lies_on_the_gpu_that_was_chosen_whichever_thread_places_it(monkeypatch):
    monkeypatch.setattr(part_of_keras("core"), "DEFAULT_DEVICE", "cuda")
    for name, given in {"current_device": lambda: 1, "get_device_name": str}.items():
        monkeypatch.setattr(torch.cuda, name, given)
    assert TorchBackend().device == "cuda:1"


def test_memory_of_a_gpu_that_pytorch_keeps_for_later_is_room(monkeypatch):
    backend = get_backend("torch")
    sizes = {"mem_get_info": (100, 1000), "memory_reserved": 500, "memory_allocated": 200}
    for name, size in sizes.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, size=size: size)
    monkeypatch.setattr(backend, "place", torch.device("cuda"))

    assert backend.room() == 400


def test_columns_of_bfloat16_are_placed_bit_for_bit():
    """What an experiment in bfloat16 predicts may be the data of another."""
    values = IMAGES[:2].astype(ml_dtypes.bfloat16)

    assert np.array_equal(keras.ops.convert_to_numpy(get_backend("torch").put({"x": values})["x"]), values)
