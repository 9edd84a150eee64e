"""Which write a read takes, what a mode and a selection keep, and what is taken as given."""

from dataclasses import dataclass

import pytest

from experimentator.graph import (
    AmbiguousWriteError,
    ChunkProcessor,
    ExperimentMode,
    Graph,
    GraphError,
    MissingTensorError,
    Mode,
    Ref,
    Stage,
    describe_graph,
)
from tests.stubs import mix


def reads(graph):
    return [[str(ref) for ref in node.reads] for node in graph.nodes]


def writes(graph):
    return [[str(ref) for ref in node.writes] for node in graph.nodes]


def listed(graph):
    return [node.index for node in graph.order]


def test_an_overwrite_reads_the_old_version_and_writes_the_next():
    graph = Graph([mix("x -> x"), mix("x -> x"), mix("x -> x"), mix("x -> y")], provided={"x"})

    assert reads(graph) == [["x@0"], ["x@1"], ["x@2"], ["x@3"]]
    assert writes(graph) == [["x@1"], ["x@2"], ["x@3"], ["y@1"]]


def test_the_nearest_write_above_wins_over_the_dataset():
    assert reads(Graph([mix("-> x"), mix("x ->")], provided={"x"})) == [[], ["x@1"]]


def test_the_dataset_wins_over_a_write_below():
    assert reads(Graph([mix("x ->"), mix("-> x")], provided={"x"})) == [["x@0"], []]


def test_the_only_write_below_is_found():
    graph = Graph([mix("x -> y"), mix("-> x")], provided=())

    assert reads(graph) == [["x@1"], []]
    assert listed(graph) == [1, 0]


def test_ones_own_write_is_not_below():
    with pytest.raises(MissingTensorError, match="No tensor named 'x' for #0"):
        Graph([mix("x -> x")], provided=()).select("x")


def test_writes_that_build_on_what_is_read_cannot_provide_it():
    with pytest.raises(MissingTensorError, match="No tensor named 'x' for #0"):
        Graph([mix("x -> x"), mix("x -> x"), mix("x -> y")], provided=()).select("y")


def test_two_writers_below_and_none_above_are_ambiguous():
    with pytest.raises(AmbiguousWriteError, match=r"#1 Mix.* and #2 Mix"):
        Graph([mix("x -> y"), mix("-> x"), mix("-> x", salt=1)], provided=()).select("y")


def test_an_ambiguity_nobody_asks_for_is_no_error():
    assert Graph([mix("x -> y"), mix("-> x"), mix("-> x", salt=1)], provided=()).select("x").outputs == {"x"}


def test_a_processor_may_read_an_older_version():
    older = mix("x@0 x -> y")
    graph = Graph([mix("x -> x"), older], provided={"x"}).select("y")

    assert reads(graph) == [["x@0"], ["x@0", "x@1"]]
    assert graph.inputs == {"x"}


def test_the_chunk_key_of_an_older_version_is_its_text():
    seen = {}
    processor = mix("x@0 -> y")
    Graph([mix("-> x"), processor], provided={"x"}).run({"x": 5}, call=lambda node, chunk: (
        seen.update({node.index: dict(chunk)}), node.processor(chunk)))  # fmt: skip

    assert seen[1] == {"x@0": 5}


def test_two_texts_for_one_version_are_one_edge():
    graph = Graph([mix("x -> x"), mix("x x@1 -> y")], provided={"x"})

    assert list(graph.dag.edges(data="refs")) == [(*graph.nodes, (Ref("x", 1),))]


def test_a_later_version_may_be_read_from_above():
    graph = Graph([mix("x@2 -> y"), mix("x -> x"), mix("x -> x")], provided={"x"}).select("y")

    assert listed(graph) == [1, 2, 0]


def test_a_name_that_looks_like_a_version_is_a_name_where_it_is_written():
    graph = Graph([mix("x@1 -> y"), mix("-> x@1")], provided={"x"}).select("y")

    assert reads(graph) == [[str(Ref("x@1", 1))], []]


@pytest.mark.parametrize("text", ["x", "@1", "x@", "x@y", "x@" + "9" * 5000])
def test_other_texts_are_no_version(text):
    assert Ref.of(text) is None


def test_selecting_gives_older_versions_under_their_own_text():
    graph = Graph([mix("-> x"), mix("-> x", salt=1)], provided={"x"}).select("x", "x@1", "x@0")

    assert list(graph.run({"x": 3})) == ["x", "x@1", "x@0"]
    assert graph.run({"x": 3})["x@0"] == 3


def test_a_provided_name_passes_through():
    assert Graph([], provided={"x"}).select("x").run({"x": 1, "unused": 2}) == {"x": 1}


def test_select_leaves_out_what_nobody_reads():
    graph = Graph([mix("x -> y"), mix("x -> z"), mix("y -> w")], provided={"x", "t"}).select("w")

    assert listed(graph) == [0, 2]
    assert (graph.inputs, graph.outputs) == ({"x"}, {"w"})


def test_selecting_nothing_keeps_nothing():
    graph = Graph([mix("x -> y"), mix("->")], provided={"x"}).select()

    assert (graph.nodes, graph.run({})) == ((), {})


def test_a_selected_graph_may_be_selected_anew():
    graph = Graph([mix("x -> y"), mix("y -> z")], provided={"x"})

    assert listed(graph.select("y").select("z")) == [0, 1]


def test_a_watcher_stays_where_all_it_reads_is_computed_anyway():
    graph = Graph([mix("x -> y"), mix("y ->"), mix("z ->"), mix("x -> z")], provided={"x"}).select("y")

    assert listed(graph) == [0, 1]


def test_infer_does_not_need_the_target():
    processors = [mix("t -> onehot"), mix("x -> logits"), mix("logits onehot -> loss")]

    graph = Graph(processors, provided={"x"}, mode=Mode.INFER).select("logits")

    assert graph.inputs == {"x"}


def test_a_train_only_overwrite_shifts_later_versions():
    processors = [mix("x -> x", mode=Mode.TRAIN), mix("x -> y")]

    graphs = [Graph(processors, provided={"x"}, mode=mode) for mode in (Mode.TRAIN, Mode.EVAL)]

    assert [reads(graph) for graph in graphs] == [[["x@0"], ["x@1"]], [["x@0"]]]


def test_the_older_words_for_modes_are_the_mode():
    assert Stage is ExperimentMode is Mode


def test_given_values_win_over_writers_that_cannot_run():
    graph = Graph([mix("x -> logits"), mix("logits -> label")], provided={"logits"}, mode=Mode.INFER)

    assert graph.select("label").inputs == {"logits"}
    assert graph.computable == ("label",)


def test_writers_that_can_run_win_over_given_values():
    graph = Graph([mix("x -> logits"), mix("logits -> label")], provided={"x", "logits"}, mode=Mode.INFER)

    assert graph.select("label").inputs == {"x"}
    assert graph.computable == ("logits", "label")


@pytest.mark.parametrize("mode", [Mode.TRAIN, Mode.EVAL])
def test_training_never_takes_a_written_name_as_given(mode):
    with pytest.raises(MissingTensorError, match="No tensor named 'x'"):
        Graph([mix("x -> logits"), mix("logits -> loss")], provided={"logits"}, mode=mode).select("loss")


def test_a_writer_that_builds_on_the_given_name_is_not_skipped():
    processors = [mix("x -> x"), mix("x -> h"), mix("h t -> x")]

    with pytest.raises(MissingTensorError, match="No tensor named 't'"):
        Graph(processors, provided={"x"}, mode=Mode.INFER).select("x")


def test_skipping_one_writer_may_show_the_next():
    processors = [mix("u -> x"), mix("x v -> y"), mix("y -> z")]

    assert Graph(processors, provided={"x", "y"}, mode=Mode.INFER).select("z").inputs == {"y"}


def test_what_can_be_computed_is_told():
    processors = [mix("x -> a"), mix("t -> b"), mix("a b -> c"), mix("a a@1 -> d"), mix("-> e"), mix("d e -> f")]

    assert Graph(processors, provided={"x"}, mode=Mode.INFER).computable == ("a", "d", "e", "f")


def test_none_entries_keep_their_place():
    graph = Graph([None, mix("x -> y"), None, mix("y -> z")], provided={"x"})

    assert listed(graph) == [1, 3]


def test_two_equal_dataclasses_are_two_nodes():
    graph = Graph([mix("x -> x"), mix("x -> x")], provided={"x"})

    assert graph.processors[0] == graph.processors[1]
    assert [node.name for node in graph.nodes] == ["Mix", "Mix#2"]
    assert len(graph.dag) == 2


def test_node_names_are_unique_and_readable():
    labels = ["Mix#2", None, None, "Dense head", "Dense head", ""]
    graph = Graph([mix("x -> x", node=label) for label in labels], provided={"x"})

    assert [node.name for node in graph.nodes] == ["Mix#2", "Mix", "Mix#3", "Dense head", "Dense head#2", "Mix#4"]


def test_list_order_breaks_ties():
    assert listed(Graph([mix(f"x -> y{i}") for i in range(30)], provided={"x"})) == list(range(30))


def test_a_single_name_stands_for_itself():
    class Copy(ChunkProcessor):
        inputs, outputs = "batch_input", "copy"

    graph = Graph([Copy()], provided="batch_input")

    assert (graph.inputs, graph.outputs) == ({"batch_input"}, {"copy"})


@dataclass(frozen=True)
class Scale(ChunkProcessor):
    """A frozen dataclass that derives its names."""

    name: str
    scale: float = 255.0

    @property
    def inputs(self):
        return (self.name,)

    outputs = inputs

    def __call__(self, chunk):
        chunk[self.name] = chunk[self.name] / self.scale


class Shift(ChunkProcessor):
    """Attributes set in `__init__`."""

    def __init__(self, name, by):
        self.inputs = self.outputs = [name]
        self.by = by

    def __call__(self, chunk):
        chunk[self.inputs[0]] += self.by


class Plain:
    """Not a ChunkProcessor at all."""

    inputs = ("x",)
    outputs = ("y",)
    deletes = ("x",)

    def __call__(self, chunk):
        chunk["y"] = chunk.pop("x")


@pytest.mark.parametrize("processor", [Scale("x", 2), Shift("x", -1)])
def test_names_may_come_from_properties_and_attributes(processor):
    assert Graph([processor], provided={"x"}).run({"x": 2}) == {"x": 1}


def test_a_processor_needs_no_base_class():
    assert Graph([Plain()], provided={"x"}).run({"x": 2}) == {"y": 2}


def test_a_deleted_name_is_gone_for_those_below():
    graph = Graph([mix("x -> z"), Plain(), mix("x -> w")], provided={"x"})

    assert graph.select("z").inputs == {"x"}
    with pytest.raises(GraphError, match=r"#1 Plain\(\) deletes it above"):
        graph.select("w")


def test_a_deleted_name_cannot_be_selected():
    with pytest.raises(MissingTensorError, match="'x' to select"):
        Graph([Plain()], provided={"x"}).select("x")


def test_a_deleted_name_may_be_written_again():
    assert writes(Graph([Plain(), mix("y -> x")], provided={"x"}).select("x")) == [["y@1"], ["x@2"]]


AUGMENT = mix("-> a", node="augment")


@pytest.mark.parametrize("after", ["augment", "Mix#2", AUGMENT, ("augment",), [AUGMENT], type(AUGMENT), "Mix"])
def test_after_orders_without_data(after):
    late = mix("-> b", after=after, node="late")
    graph = Graph([late, AUGMENT, mix("-> c", node="Mix#2")], provided=())

    waited = graph.waits(graph.nodes[0])
    assert waited
    assert {listed(graph).index(node.index) for node in waited} < set(range(listed(graph).index(0) + 1))


def test_after_may_point_at_a_function():
    def twice(chunk): ...

    wrapped = mix("-> b", after=[twice])

    assert listed(Graph([wrapped, twice], provided=()).record({})) == [1, 0]


def test_after_ignores_objects_that_are_not_listed():
    assert listed(Graph([mix("-> b", after=[AUGMENT, int])], provided=())) == [0]


def test_a_processor_may_keep_another_in_an_attribute_called_processor():
    """As recording does with the callables it wraps."""

    @dataclass
    class Wrap(ChunkProcessor):
        processor: ChunkProcessor
        inputs, outputs = (), ("a",)

        def __call__(self, chunk):
            self.processor(chunk)

    wrap = Wrap(mix("-> a"))
    for target in (Wrap, wrap, "Wrap"):
        graph = Graph([mix("-> b", after=[target]), wrap], provided=())
        assert listed(graph) == [1, 0]
    assert [box.kind for box in describe_graph(graph).boxes] == ["Wrap", "Mix"]


def test_after_does_not_keep_what_nobody_reads():
    graph = Graph([AUGMENT, mix("-> b", after=["augment"])], provided=()).select("b")

    assert listed(graph) == [1]


def test_after_may_name_a_processor_of_another_mode():
    train = mix("-> a", mode=Mode.TRAIN, node="augment")

    assert listed(Graph([train, mix("-> b", after="augment")], provided=(), mode=Mode.EVAL).select("b")) == [1]


def test_one_of_a_class_may_run_after_the_others():
    assert listed(Graph([mix("-> a", after="Mix"), AUGMENT], provided=())) == [1, 0]


def test_after_beside_data_is_one_edge():
    graph = Graph([AUGMENT, mix("a -> b", after="augment")], provided=())

    assert len(graph.dag.edges) == 1
    assert graph.waits(graph.nodes[1]) == ()


def test_a_provided_name_may_look_like_a_version():
    graph = Graph([mix("mail@1 -> y")], provided={"mail@1"})

    assert graph.select("mail@1").results == {"mail@1": Ref("mail@1", 0)}
