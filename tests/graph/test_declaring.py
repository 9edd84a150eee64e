"""The ways to declare a chunk processor, and how one shows itself."""

from dataclasses import dataclass, field
from enum import Flag, IntEnum
from functools import partial, wraps

import numpy as np
import pytest

from experimentator.graph import (
    Chunk,
    ChunkProcessor,
    DeclarationError,
    Graph,
    GraphError,
    MissingTensorError,
    Mode,
    UndeclaredReadError,
    UndeclaredWriteError,
    UnknownModeError,
    UnwrittenOutputError,
    chunk_processor,
)
from tests.stubs import Mix, mix


def run(function, tensors, mode=Mode.ALL, **declared):
    return Graph([chunk_processor(**declared)(function)], provided=tensors, mode=mode).run(tensors)


def label(processor):
    (node,) = Graph([processor], provided=()).nodes
    return node.name, str(node)


class Theirs(Flag):
    TRAINING = 1
    TESTING = 2


class Numbers(IntEnum):
    INFER = 4


@pytest.mark.parametrize(
    "value, mode",
    [("train", 1), (" Eval ", 2), (6, 6), (Mode.ALL, 7), (Theirs.TRAINING | Theirs.TESTING, 3), (Numbers.INFER, 4)],
)
def test_modes_are_read_from_names_numbers_and_foreign_flags(value, mode):
    assert Mode.of(value) is Mode(mode)
    assert Graph([mix("-> x", mode=value)], provided=()).nodes[0].mode is Mode(mode)


@pytest.mark.parametrize("value", [0, 8, -1, "test", None, 1.5, Mode(0), Mode(8)])
def test_other_values_are_no_modes(value):
    with pytest.raises(UnknownModeError, match=r"is not a mode\.\nWrite 'train', 'eval' or 'infer'"):
        Graph([], provided=(), mode=value)


@pytest.mark.parametrize("args, named", [((3.0,), {}), ((), {"by": 3.0})])
def test_arguments_that_no_init_takes_are_refused(args, named):
    class Forgot(ChunkProcessor):
        by: float = 1.0

    told = r"Forgot .* it is made with 3.0, .*nothing\.\nWrite @dataclass\(eq=False\)"
    with pytest.raises(DeclarationError, match=told):
        Forgot(*args, **named)

    assert dataclass(eq=False)(Forgot)(*args, **named).by == 3.0


def test_a_new_of_ones_own_may_take_arguments():
    class Own(ChunkProcessor):
        def __new__(cls, by):
            own = super().__new__(cls, by)
            own.by = by
            return own

    assert Own(3.0).by == 3.0


def test_functions_take_tensors_by_name():
    assert run(lambda b, a: b - a, {"a": 1, "b": 3}, inputs=["a", "b"], outputs=["c"]) == {"c": 2}


def test_functions_with_other_parameter_names_take_tensors_in_order():
    assert run(lambda x, y: x - y, {"a": 1, "b": 3}, inputs=["b", "a"], outputs=["c"]) == {"c": 2}


def test_functions_without_a_signature_take_tensors_in_order():
    assert run(max, {"a": 1, "b": 3}, inputs=["a", "b"], outputs=["c"]) == {"c": 3}


def test_functions_of_any_names_take_all():
    assert run(lambda **named: sum(named.values()), {"a": 1, "b@0": 3}, inputs=["a", "b@0"], outputs="c") == {"c": 4}


def test_inputs_are_the_parameters_without_a_default():
    assert run(lambda a, b, scale=10: (a + b) * scale, {"a": 1, "b": 3, "scale": 0}, outputs=["c"]) == {"c": 40}


def test_functions_without_a_signature_or_inputs_take_nothing():
    assert run(dict, {"a": 1}, outputs=()) == {}


@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.EVAL])
@pytest.mark.parametrize("inputs", [None, ["x"], ["a"]])
def test_a_parameter_called_training_tells_whether_this_call_trains(mode, inputs):
    def train(x, training):
        return training

    assert run(train, {"x": 1, "a": 2}, mode, inputs=inputs, outputs=["t"]) == {"t": mode is Mode.TRAIN}


def test_an_input_called_training_is_a_tensor():
    assert run(lambda training: training + 1, {"training": 1}, inputs=["training"], outputs=["t"]) == {"t": 2}


@pytest.mark.parametrize("result", [(1, 2), [1, 2], {"b": 2, "a": 1}])
def test_functions_return_a_tuple_in_order_or_a_dictionary(result):
    assert run(lambda: result, {}, inputs=(), outputs=["a", "b"]) == {"a": 1, "b": 2}


def test_a_tuple_may_be_the_one_thing_that_is_written():
    assert run(lambda x: x.shape, {"x": np.ones((2, 3))}, outputs=["shape"]) == {"shape": (2, 3)}


def test_functions_that_write_nothing_return_none():
    assert run(lambda x: None, {"x": 1}, inputs=["x"]) == {}


def test_a_name_that_is_twice_among_outputs_is_refused():
    with pytest.raises(DeclarationError, match=r"its outputs are \['y', 'z', 'y'\]"):
        chunk_processor(inputs=["x"], outputs=["y", "z", "y"])


def test_a_declared_function_called_with_a_tensor_says_where_the_function_is():
    double = chunk_processor(inputs=["x"], outputs=["y"])(lambda x: 2 * x)

    with pytest.raises(TypeError, match=r"takes a chunk, and its `.function` the tensors.\nSeen: ndarray."):
        double(np.ones(3))
    assert double.function(3) == 6


@pytest.mark.parametrize(
    "result, outputs, message",
    [
        (
            (1, 2, 3),
            ["a", "b"],
            "one() declares 'a', 'b' as output but does not write it: it returned 3 values for 2 outputs.\n"
            "Return a value for each, name what else it returns, or take it off its outputs.",
        ),
        (
            5,
            ["a", "b"],
            "one() declares 'a', 'b' as output but does not write it: it returned one int for 2 outputs.\n"
            "Return a value for each, name what else it returns, or take it off its outputs.",
        ),
        (
            None,
            ["a"],
            "one() declares 'a' as output but does not write it: it returned None for 1 output.\n"
            "Return its value, or take it off its outputs.",
        ),
        (
            {"a": 1},
            ["a", "b"],
            "#0 one() declares 'b' as output but does not write it.\n"
            "Write chunk['b'] = ..., or take it off its outputs.",
        ),
    ],
)
def test_a_wrong_number_of_results_is_told(result, outputs, message):
    def one():
        return result

    with pytest.raises(UnwrittenOutputError) as error:
        run(one, {}, inputs=(), outputs=outputs)

    assert str(error.value) == message


def test_a_result_without_outputs_is_told():
    with pytest.raises(DeclarationError) as error:
        run(lambda x: (x,), {"x": 1}, inputs=["x"])

    assert str(error.value) == (
        "<lambda>(x) is not declared properly: it returned 1 value for 0 outputs.\n"
        'Name what it returns: outputs=["..."].'
    )


def test_a_result_under_another_name_is_told():
    with pytest.raises(UndeclaredWriteError) as error:
        run(lambda: {"logits": 1}, {}, inputs=(), outputs=["logit"])

    assert str(error.value) == (
        "<lambda>() writes 'logits', which is not among its outputs: 'logit'.\n"
        "Did you mean 'logit'? Else declare it: outputs=['logit', 'logits']."
    )


@pytest.mark.parametrize("function", [lambda other, a: 0, lambda: 0, lambda a, b, c: 0])
def test_parameters_that_do_not_fit_the_inputs_are_told_at_once(function):
    with pytest.raises(DeclarationError, match=r"its parameters are .* and its inputs a, b"):
        chunk_processor(inputs=["a", "b"], outputs=["c"])(function)


def test_only_functions_can_be_declared():
    with pytest.raises(DeclarationError) as error:
        chunk_processor(inputs=["a"])(5)

    assert str(error.value) == (
        "5 is not declared properly: it is not callable.\n"
        "Write `chunk_processor(...)(function)`, or decorate a function."
    )


def test_a_function_of_the_chunk_may_have_a_mode_and_a_label():
    @chunk_processor(mode="train", node="Dense head")
    def head(chunk):
        chunk["y"] = chunk.training

    graph = Graph([head], provided=(), mode=Mode.TRAIN)

    assert not graph.nodes[0].declared
    assert graph.run({}) == {"y": True}
    assert (graph.nodes[0].name, head.__name__) == ("Dense head", "head")
    assert Graph([head], provided=(), mode=Mode.EVAL).nodes == ()


def test_sets_of_names_are_read_in_one_order():
    (node,) = Graph([mix("->"), None, chunk_processor(inputs=set("dcba"))(print)][2:], provided=()).nodes

    assert node.inputs == ("a", "b", "c", "d")


class Layer:
    """Looks as Keras models do: callable, with tensors for inputs."""

    inputs = outputs = [np.ones(3)]

    def __call__(self, tensor): ...


class Answering:
    """Answers to any attribute, as mocks do."""

    inputs, outputs = "x", "y"

    def __getattr__(self, name):
        return Answering()

    def __call__(self, chunk): ...


class Halve(ChunkProcessor):
    inputs = outputs = ["x"]


NAMES = 'Give lists of names: inputs=["batch_input"].'
JUNK = {
    "text": ("cast", "'cast' at chunk_processors[0]", "it is not callable.\nList functions of the chunk, or None."),
    "number": (5, "5 at chunk_processors[0]", "it is not callable.\nList functions of the chunk, or None."),
    "class": (Halve, "Halve at chunk_processors[0]", "it is a class.\nList an object of it: Halve(...)."),
    "layer": (
        Layer(),
        "Layer() at chunk_processors[0]",
        "its inputs and outputs are ndarray, not names.\nGive lists of names. "
        "A layer or model becomes a processor as ops.Model(model, inputs=[...], outputs=[...]).",
    ),
    "iterator": (Mix(iter("ab")), "Mix() at chunk_processors[0]", f"its names come as str_ascii_iterator.\n{NAMES}"),
    "number of names": (Mix(5), "Mix() at chunk_processors[0]", f"its names come as int.\n{NAMES}"),
    "mode": (
        mix("->", mode="test"),
        "Mix() at chunk_processors[0]",
        "its mode is 'test'.\nWrite 'train', 'eval' or 'infer', or combine Mode members with |.",
    ),
    "after": (
        mix("->", after=5),
        "Mix() at chunk_processors[0]",
        'its `after` is int.\nGive names, classes or processors of the list: after = ["Cast"].',
    ),
    "after list": (
        mix("->", after=[5]),
        "Mix() at chunk_processors[0]",
        'its `after` is list.\nGive names, classes or processors of the list: after = ["Cast"].',
    ),
    "mock": (
        Answering(),
        "Answering() at chunk_processors[0]",
        f"its names come as Answering.\n{NAMES}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", JUNK)
def test_an_entry_that_cannot_be_read_is_told(case):
    entry, place, rest = JUNK[case]

    with pytest.raises(DeclarationError) as error:
        Graph([entry], provided=())

    assert str(error.value) == f"{place} is not declared properly: {rest}"


@pytest.mark.parametrize("processors, shown", [(5, "5"), ("abc", "'abc'"), (mix("->"), "Mix()")])
def test_what_is_no_list_is_told(processors, shown):
    with pytest.raises(DeclarationError) as error:
        Graph(processors, provided=())

    assert str(error.value) == f"{shown} is not declared properly: it is not a list.\nList the chunk processors."


@pytest.mark.parametrize(
    "provided, seen",
    [
        (5, "its names come as int"),
        ([5], "its inputs and outputs are int, not"),
        (None, r"it is None\.\nGive the names that the dataset has: provided={\"batch_input\"}; \(\)"),
    ],
)
def test_what_is_no_name_is_told(provided, seen):
    with pytest.raises(DeclarationError, match=f"'provided' is not declared properly: {seen}"):
        Graph([], provided=provided)


@pytest.mark.parametrize("given", [(3,), ({"y"},), (None,), (["y"], "x"), ([3],)], ids=str)
def test_names_to_select_are_taken_one_by_one_or_in_a_list_and_nothing_else_is(given):
    graph = Graph([mix("x -> y"), mix("x -> z")], provided={"x"})

    assert graph.select(["y"]).outputs == graph.select(("y",)).outputs == graph.select("y").outputs == {"y"}
    with pytest.raises(
        GraphError, match=r'^select takes names.*\nSeen: .*\.\nWrite select\("loss"\), or several: select'
    ):
        graph.select(*given)


def test_an_error_while_reading_a_declaration_is_the_users_with_a_note():
    class Broken(ChunkProcessor):
        @property
        def inputs(self):
            raise RuntimeError("not built yet")

    with pytest.raises(RuntimeError, match="not built yet") as error:
        Graph([None, Broken()], provided=())

    assert error.value.__notes__ == ["While reading what Broken() at chunk_processors[1] declares."]


def test_a_processor_without_call_is_told_to_write_one():
    with pytest.raises(DeclarationError) as error:
        Graph([Halve()], provided={"x"}).run({"x": 1})

    assert (
        str(error.value)
        == "Halve is not declared properly: it has no __call__.\nWrite `def __call__(self, chunk): ...`."
    )


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")

    @property
    def shape(self):
        raise RuntimeError("no")


@dataclass
class Show(ChunkProcessor):
    value: object = 1
    mode: Mode = Mode.EVAL
    _hidden: int = field(default=2, repr=False)


@dataclass(slots=True)
class Slotted(ChunkProcessor):
    name: str


def function(): ...


@pytest.mark.parametrize(
    "value, shown",
    [
        (1, ""),
        (2, "value=2"),
        ("a\n  b", r"value='a\n b'"),
        (np.ones(3), "value=ndarray"),
        (function, "value=function"),
        (Unprintable(), "value=<Unprintable>"),
        ("x" * 100, "value='" + "x" * 44 + "..."),
        ([Unprintable()], "value=<list>"),
    ],
)
def test_a_processor_shows_what_differs_from_its_defaults(value, shown):
    assert repr(Show(value)) == f"Show({shown})".replace(r"\n b", r"\n b")


def test_a_processor_with_slots_shows_them():
    assert repr(Slotted("x")) == "Slotted(name='x')"


def test_a_repr_is_inherited():
    class Parent(ChunkProcessor):
        def __repr__(self):
            return "mine"

    @dataclass
    class Child(Parent):
        value: int

    assert repr(Child(1)) == "mine"


@pytest.mark.parametrize(
    "shown, expected", [("long " * 99, ("long " * 99)[:197] + "..."), (None, "Odd()"), ("a\nb", "a b")]
)
def test_a_repr_of_ones_own_cannot_break_a_message(shown, expected):
    class Odd(ChunkProcessor):
        inputs = outputs = ()

        def __repr__(self):
            return shown

    assert label(Odd()) == ("Odd", f"#0 {expected}")


def test_callables_are_named_after_their_function_or_class():
    @wraps(function)
    def wrapped(): ...

    assert label(function) == ("function", "#0 function")
    assert label(wrapped) == ("function", "#0 function")
    assert label(partial(function, 1)) == ("function", "#0 function")
    assert label(Layer.__call__) == ("__call__", "#0 __call__")
    assert label(chunk_processor(inputs=["a"])(partial(print))) == ("print", "#0 print(a)")
    assert label(lambda chunk: None)[0] == "lambda"
    assert label(lambda chunk: None)[1].startswith("#0 lambda (test_declaring.py:")


def test_lambdas_without_a_file_are_lambdas():
    assert label(np.vectorize(lambda x: x)) == ("lambda", "#0 <lambda>")


def test_the_source_of_a_processor_is_the_line_that_lists_it():
    processors = [mix("->"), function, chunk_processor(inputs=())(function), print]

    sources = [node.source for node in Graph(processors, provided=()).nodes]

    line = function.__code__.co_firstlineno
    assert sources[0].startswith("stubs.py:")
    assert sources[1:] == [f"test_declaring.py:{line}", f"test_declaring.py:{line}", None]


def test_the_functions_of_a_processor_keep_their_own_attributes_apart():
    def odd(chunk):
        chunk["y"] = 1

    odd.inputs = [1, 2]

    assert Graph([chunk_processor(mode="train")(odd)], provided=()).run({}) == {"y": 1}


def test_processors_of_plain_chunks_can_be_called_by_hand():
    chunk = Chunk({"x": 3}, mode=Mode.EVAL)

    chunk_processor(outputs=["y"])(lambda x: x + 1)(chunk)

    assert chunk == {"x": 3, "y": 4}


def test_graph_errors_are_value_errors():
    assert issubclass(GraphError, ValueError)


def test_parameters_in_order_may_have_a_name_of_the_inputs_at_its_own_place():
    @chunk_processor(inputs=["batch_mean", "batch_spread", "reconstruction"], outputs=["loss"])
    def bound(mean, spread, reconstruction):
        return mean + 10 * spread + 100 * reconstruction

    graph = Graph([bound], provided={"batch_mean", "batch_spread", "reconstruction"}).select("loss")
    assert graph.run({"batch_mean": 1, "batch_spread": 2, "reconstruction": 3}) == {"loss": 321}


def test_parameters_in_order_with_a_name_of_the_inputs_at_another_place_are_refused():
    def swapped(reconstruction, mean):
        return mean

    with pytest.raises(DeclarationError, match="Name the parameters after the inputs"):
        chunk_processor(inputs=["batch_mean", "reconstruction"], outputs=["loss"])(swapped)


def test_a_name_that_is_twice_among_inputs_is_passed_twice():
    def added(*tensors):
        return sum(tensors)

    for function in (added, lambda left, right: left + right):
        graph = Graph([chunk_processor(inputs=["x", "x"], outputs=["y"])(function)], provided={"x"}).select("y")
        assert graph.run({"x": 3}) == {"y": 6}
    assert graph.nodes[0].inputs == ("x",)


def test_who_asks_for_the_mode_as_a_parameter_is_told_where_it_is():
    with pytest.raises(DeclarationError, match=r"`chunk` alone has chunk\.mode"):
        chunk_processor(inputs=["batch_mean"], outputs=["loss"])(lambda mean, mode: mean)
    seen = chunk_processor(inputs=["x"], outputs=["y"])(lambda chunk: chunk.update(y=chunk.mode.name))
    assert Graph([seen], provided={"x"}, mode=Mode.EVAL).select("y").run({"x": 1}) == {"y": "EVAL"}


def test_a_declared_function_of_the_chunk_is_given_what_it_declares():
    def writes(chunk):
        chunk["y"] = 2 * chunk["x"]

    def returns(chunk):
        return {"y": 2 * chunk["x"]}

    def strays(chunk):
        chunk["y"] = chunk["z"]

    for double in (writes, returns):
        graph = Graph([chunk_processor(inputs=["x"], outputs=["y"])(double)], provided={"x", "z"}).select("y")
        assert graph.run({"x": 3}) == {"y": 6}
    with pytest.raises(UndeclaredReadError, match="'z'"):
        Graph([chunk_processor(inputs=["x"], outputs=["y"])(strays)], provided={"x", "z"}).run({"x": 1, "z": 2})


@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.EVAL])
def test_a_declared_function_of_the_chunk_is_told_whether_it_trains(mode):
    behind, before = (lambda chunk, training: training), (lambda training, chunk: training)
    for function in (behind, before, lambda chunk, *, training=None: training):
        graph = Graph([chunk_processor(inputs=["x"], outputs=["y"])(function)], provided={"x"}, mode=mode).select("y")
        assert graph.run({"x": 1}) == {"y": mode == Mode.TRAIN}


def test_names_are_fields_of_a_dataclass_without_a_default():
    @dataclass(eq=False)
    class Mix(ChunkProcessor):
        inputs: tuple
        outputs: tuple
        by: int

        def __call__(self, chunk):
            chunk[self.outputs[0]] = self.by * chunk[self.inputs[0]]

    assert Graph([Mix(["x"], ["y"], 3)], provided={"x"}).run({"x": 2}) == {"y": 6}
    with pytest.raises(TypeError, match="'inputs', 'outputs', and 'by'"):
        Mix()


def test_a_decorator_without_parentheses_is_told():
    def double(x):
        return 2 * x

    with pytest.raises(DeclarationError, match=r"Write @chunk_processor\(inputs=\[...\], outputs=\[...\]\)"):
        chunk_processor(double)


def test_a_name_that_inference_lacks_may_be_given_to_it():
    double = chunk_processor(inputs=["x"], outputs=["y"])(lambda x: 2 * x)

    with pytest.raises(MissingTensorError, match="List its writer, or add it to what is given"):
        Graph([double], provided=(), mode=Mode.INFER).select("y")


@pytest.mark.parametrize("mode, expected", [(Mode.TRAIN, [True, True]), (Mode.EVAL, [False, False])])
def test_a_class_that_asks_whether_it_trains_is_told_as_a_function_is(mode, expected):
    class Asks(ChunkProcessor):
        inputs, outputs = ["x"], ["of_class"]

        def __call__(self, chunk, training=None):
            chunk["of_class"] = training

    class AsksToo(Asks):
        def __call__(self, chunk, *, training):
            super().__call__(chunk, training=training)

    for kind in (Asks, AsksToo):
        function = chunk_processor(inputs=["x"], outputs=["of_function"])(lambda x, training: training)
        graph = Graph([kind(), function], provided={"x"}, mode=mode).select("of_class", "of_function")
        assert list(graph.run({"x": 1}).values()) == expected
    chunk = Chunk({"x": 1}, mode=Mode.TRAIN)
    Asks()(chunk, False)
    assert chunk["of_class"] is False


def test_it_is_told_through_decorators_mixins_and_calls_of_its_base():
    def knows(call):
        @wraps(call)
        def knowing(self, chunk):
            return call(self, chunk, chunk.training)

        return knowing

    def passes_on(call):
        @wraps(call)
        def passing(*args, **options):
            return call(*args, **options)

        return passing

    class Mixin:
        def __call__(self, chunk, training):
            chunk["y"] = training

    class Mixed(Mixin, ChunkProcessor):
        inputs, outputs = ["x"], ["y"]

    class Factor(ChunkProcessor):
        inputs, outputs = ["x"], ["y"]

        def __call__(self, chunk, factor=2, training=None):
            chunk["y"] = training and factor

    class Three(Factor):
        def __call__(self, chunk):
            super().__call__(chunk, 3)

    class Knows(ChunkProcessor):
        inputs, outputs = ["x"], ["y"]

        @knows
        def __call__(self, chunk, training):
            chunk["y"] = training

    class Passes(ChunkProcessor):
        inputs, outputs = ["x"], ["y"]

        @passes_on
        def __call__(self, chunk, training):
            chunk["y"] = training

    for kind, expected in ((Mixed, True), (Factor, 2), (Three, 3), (Knows, True), (Passes, True)):
        graph = Graph([kind()], provided={"x"}, mode=Mode.TRAIN).select("y")
        assert graph.run({"x": 1}) == {"y": expected}, kind


def test_what_an_output_weighs_is_another_output():
    counted = chunk_processor(inputs=["x"], outputs=["loss", "count"], weights={"loss": "count"})(lambda x: (x, 1))

    assert counted.weights_of == {"loss": "count"}
    for wrong, name in (({"los": "count"}, "'los'"), ({"loss": "n"}, "'n'"), (["loss"], r"\['loss'\]")):
        with pytest.raises(DeclarationError, match=rf"its weights name {name}.*\n.*Name outputs of it"):
            chunk_processor(inputs=["x"], outputs=["loss", "count"], weights=wrong)
