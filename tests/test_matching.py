"""Which weights of a file go where, and what is said when they do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from experimentator.saving.matching import WeightsError, fitting, match, named_by
from tests.stand_ins import law

SHAPES = {"Trunk/0/kernel": (3, 8), "Trunk/1/bias": (8,), "Head/0/kernel": (8, 2), "Head/1/bias": (2,)}


def weights(shapes=SHAPES, *, fill=0.0, dtype="float32", **changes):
    """Arrays of these shapes; `Body__0=(2,)` changes or adds a key, None takes one out."""
    shapes = {**shapes, **{key.replace("__", "/"): shape for key, shape in changes.items()}}
    return {key: np.full(shape, fill, dtype) for key, shape in shapes.items() if shape is not None}


@law(st.permutations(range(6)))
def test_the_order_in_which_a_file_gives_weights_changes_nothing(order):
    own = {f"Net/{place}/{'kernel' if place % 2 else 'bias'}": np.full(2, place) for place in range(6)}
    keys = list(own)

    chosen, _ = fitting(own, {keys[place]: own[keys[place]] for place in order})

    assert all(np.array_equal(chosen[key], own[key]) for key in own)


KEYS = st.dictionaries(st.sampled_from([f"{n}/{i}/w" for n in "AB" for i in range(3)]), st.sampled_from([(1,), (2, 2)]))


@law(KEYS, KEYS)
def test_every_key_is_told_once_and_only_a_whole_match_is_loaded(own, found):
    mine, theirs = weights(own), weights(found, fill=1.0)
    matching = match(mine, theirs)
    told = [*matching.matched, *matching.missing, *matching.unexpected, *matching.misshapen]

    assert sorted(told) == sorted({*own, *found})
    assert matching.is_whole == (own == found)
    if by_node(own) == by_node(found):  # ordinals may differ: other layers that draw lie between
        chosen, matching = fitting(mine, theirs)
        assert matching.is_whole
        assert list(chosen) == list(own)
        assert all((chosen[key] == 1.0).all() and chosen[key].shape == own[key] for key in own)
    else:
        with pytest.raises(WeightsError):
            fitting(mine, theirs)


def by_node(shapes):
    """Shapes of each node in the order of their ordinals."""
    ordered = sorted(shapes)
    return {node: [shapes[key] for key in ordered if key.startswith(node)] for node in {key[0] for key in ordered}}


def test_a_misfit_tells_what_matched_what_not_and_what_it_may_be_called(snapshot):
    found = weights(Head__0__kernel=(8, 5), Head__1__bias=None, Head__1__bia=(2,), Trunk__1__bias=None)
    with pytest.raises(WeightsError) as caught:
        fitting(weights(), found)

    assert str(caught.value) == (
        "These weights do not fit the experiment; nothing was loaded.\n"
        "  matched  Trunk/0/kernel [3, 8]\n"
        "  missing  Trunk/1/bias [8]\n"
        "  missing  Head/1/bias [2]; the file has Head/1/bia\n"
        "  unexpected  Head/1/bia [2]\n"
        "  wrong shape  Head/0/kernel is [8, 5] in the file, [8, 2] in the experiment\n"
        "To load a part, say which: load_weights(..., only='Trunk/0/kernel'). "
        "Node labels (`node=`) are part of the keys."
    )


@pytest.mark.parametrize("name", ["{}.{}", "layers/{}/{}/value"])
def test_a_modules_own_names_are_told_to_be_loaded_into_it(name):
    found = {name.format(*key.split("/")[::2]): array for key, array in weights().items()}
    with pytest.raises(
        WeightsError, match=r"saved by an experiment\. Load those of a module of PyTorch.*module.load_state_dict\("
    ):
        fitting(weights(), found)


def test_a_node_of_another_name_is_found_by_its_shapes():
    found = {key.replace("Trunk", "Body"): array for key, array in weights().items()}
    with pytest.raises(WeightsError, match=r"load_weights\(..., rename=\{'Body': 'Trunk'\}\)"):
        fitting(weights(), found)

    chosen, matching = fitting(weights(), found, rename={"Body": "Trunk"})
    assert chosen.keys() == SHAPES.keys() == set(matching.matched)


def test_of_many_nodes_of_other_names_a_dozen_are_told():
    own, found = ({f"{name}{place:02}/0/bias": (place % 3,) for place in range(30)} for name in ("Here", "There"))
    with pytest.raises(WeightsError) as caught:
        fitting(weights(own), weights(found))

    said = str(caught.value).splitlines()[-1]
    first = ", ".join(f"'There{place:02}': 'Here{place:02}'" for place in range(12))
    assert said.startswith(f"Name nodes as they are here: load_weights(..., rename={{{first}, ...}}), with 18 more. To")


def test_a_part_is_asked_for_by_pattern_and_must_be_there_whole():
    other_head = weights(fill=1.0, Head__0__kernel=(8, 5), Head__1__bias=(5,))
    chosen, matching = fitting(weights(), other_head, only="Trunk/*")

    assert list(chosen) == ["Trunk/0/kernel", "Trunk/1/bias"]
    assert matching.kept == ("Head/0/kernel", "Head/1/bias")
    for spoilt in ({"Trunk__1__bias": None}, {"Trunk__2__gamma": (8,)}, {"Trunk__1__bias": (9,)}):
        with pytest.raises(WeightsError, match="nothing was loaded"):
            fitting(weights(), weights(**spoilt), only=["Trunk/*"])


def test_weights_that_were_read_in_another_order_are_found_by_name_and_never_by_shape():
    shape = {"kernel": (3, 3), "recurrent_kernel": (3, 3), "bias": (2, 3)}
    listed = [("Net", name, shape[name]) for name in (*shape, *shape)]
    last = {f"Net/{place}/{name}": np.full(shape, place) for place, (_, name, shape) in enumerate(listed)}
    order = [2, 0, 1, 5, 3, 4]  # the bias first, as TensorFlow reads a GRU
    first = {f"Net/{place}/{listed[old][1]}": np.full(listed[old][2], old) for place, old in enumerate(order)}

    chosen, _ = fitting(last, dict(reversed(first.items())))

    assert {key: int(array.flat[0]) for key, array in chosen.items()} == {key: n for n, key in enumerate(last)}
    with pytest.raises(WeightsError):
        fitting(last, {key.replace("bias", "kernel"): array for key, array in first.items()})


def test_what_draws_may_lie_between_weights_but_layers_stand_in_their_order():
    names = ["kernel", "bias", "kernel", "bias", "gamma", "kernel"]
    own = {f"Net/{place}/{name}": np.full(3, place) for place, name in enumerate(names)}
    apart = {f"Net/{place + (place > 1)}/{name}": np.full(3, place) for place, name in enumerate(names)}
    order = ["kernel", "bias", "gamma", "kernel", "bias", "kernel"]
    moved = {f"Net/{place + (place > 2)}/{name}": np.full(3, place) for place, name in enumerate(order)}

    chosen, _ = fitting(own, apart)
    assert {key: int(array[0]) for key, array in chosen.items()} == {key: n for n, key in enumerate(own)}
    with pytest.raises(WeightsError):
        fitting(own, moved)


def test_whole_numbers_are_not_loaded_as_weights_nor_the_other_way():
    with pytest.raises(WeightsError, match=r"wrong shape  Head/1/bias is \[2\] int32 in the file, \[2\] in the"):
        fitting(weights(), {**weights(), "Head/1/bias": np.zeros(2, np.int32)})

    assert fitting(weights(), weights(dtype="float16"))[1].is_whole


@pytest.mark.parametrize(
    "options, said",
    [
        (
            {"only": "Trnk/*"},
            r"'Trnk/\*' names no weights of this experiment.\nKnown here: Trunk, Head.\nDid you mean 'Tr",
        ),
        (
            {"only": ["Trunk", "Neck"]},
            r"'Neck' names(.|\n)*Name one of these, or write node='Neck' into the processor that has them.$",
        ),
        ({"only": "*/neck"}, "names no weights(.|\n)*Name one of these.$"),
        ({"rename": {"Trnk": "Trunk"}}, r"names nothing in the file.\nKnown there: Trunk, Head.\nDid you mean 'Trunk'"),
        ({"only": 3}, 'only=3 names no weights.\nSeen: int.\nWrite only="Trunk'),
        ({"rename": "Trunk"}, "rename='Trunk' renames no nodes.\nSeen: str.\nWrite rename="),
        ({"rename": {"Trunk": "Head"}}, "gives two weights of the file one name"),
    ],
)
def test_a_slip_in_a_pattern_or_a_name_is_refused_with_near_matches(options, said):
    shapes = {"Trunk/0/kernel": (2,), "Head/0/kernel": (2,)}
    with pytest.raises(WeightsError, match=said):
        fitting(weights(shapes), weights(shapes), **options)


def test_a_long_report_is_cut():
    with pytest.raises(WeightsError) as caught:
        fitting(weights({}), weights({f"Node/{n}/w": (1,) for n in range(1000)}))

    assert "unexpected  ... and 988 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 20


def test_patterns_may_be_a_node_a_kind_or_a_key():
    assert named_by("Trunk", SHAPES) == ["Trunk/0/kernel", "Trunk/1/bias"]
    assert named_by(["*/bias", "Head/0/kernel"], SHAPES) == ["Trunk/1/bias", "Head/0/kernel", "Head/1/bias"]


def test_adapters_that_come_between_leave_the_weights_of_a_network_their_places():
    """As with keras.layers.Dense(lora_rank=2), whose adapters are read before its kernel."""
    base = {f"Net/{n}/{name}": np.full((2, 2), float(n)) for n, name in enumerate(["kernel", "bias"] * 3)}
    names = ["lora_kernel_a", "lora_kernel_b", "kernel", "bias"] * 3
    own = {f"Net/{n}/{name}": np.zeros((2, 2)) for n, name in enumerate(names)}

    with pytest.raises(WeightsError, match=r"missing  Net/0/lora_kernel_a(.|\n)*only=\['\*/bias', '\*/kernel'\]"):
        fitting(own, base)
    chosen, _ = fitting(own, base, only=["*/bias", "*/kernel"])

    assert {key: int(values[0, 0]) for key, values in chosen.items()} == {
        "Net/2/kernel": 0, "Net/3/bias": 1, "Net/6/kernel": 2, "Net/7/bias": 3, "Net/10/kernel": 4, "Net/11/bias": 5,
    }  # fmt: skip


def test_a_name_that_is_more_frequent_here_is_matched_with_no_other_layer_s():
    own = {f"Net/{n}/{name}": np.zeros(2) for n, name in enumerate(["kernel", "gain", "kernel", "gain"])}

    with pytest.raises(WeightsError, match="missing  Net/0/kernel"):
        fitting(own, {"Net/0/gain": np.ones(2), "Net/1/kernel": np.ones(2), "Net/2/gain": np.ones(2)})


def test_single_weights_may_be_renamed_and_patterns_that_miss_are_told_the_keys():
    own = {"Net/0/kernel": np.zeros(2), "Net/1/kernel": np.zeros(2)}

    chosen, _ = fitting(own, {"Net/5/kernel": np.ones(2)}, only="Net/1/*", rename={"Net/5": "Net/1"})

    assert list(chosen) == ["Net/1/kernel"]
    chosen, _ = fitting(own, {"Net/5/bias": np.ones(2)}, only="Net/1/*", rename={"Net/5/bias": "Net/1/kernel"})
    assert list(chosen) == ["Net/1/kernel"]
    with pytest.raises(WeightsError, match=r"Known here: Net/0/kernel, Net/1/kernel\."):
        fitting(own, {}, only="Net/*/dense/*")


def test_weights_in_another_order_beside_others_are_not_taken_for_each_other():
    own = {f"Net/{n}/{name}": np.zeros(2) for n, name in enumerate(["kernel", "bias", "kernel", "extra"])}
    found = {f"Net/{n}/{name}": np.ones(2) for n, name in enumerate(["kernel", "kernel", "bias"])}

    with pytest.raises(WeightsError, match="missing  Net/1/bias"):
        fitting(own, found, only=["*/kernel", "*/bias"])


def test_no_pattern_at_all_is_refused():
    with pytest.raises(WeightsError, match=r"only=\[\] names no weights"):
        fitting({"Net/0/kernel": np.zeros(2)}, {}, only=[])


def test_a_file_that_has_more_than_is_asked_for_is_told_what_names_to_take():
    own = {"Net/0/kernel": np.zeros(2), "Head/0/kernel": np.zeros(2)}

    with pytest.raises(WeightsError, match=r"only=\['\*/kernel'\]\)"):
        fitting(own, {**own, "Net/1/lora_a": np.zeros(2)})
    with pytest.raises(WeightsError, match=r"only=\['\*/kernel'\]\)"):
        fitting({**own, "Net/1/lora_a": np.zeros(2)}, own)
    assert list(fitting(own, {**own, "Net/1/lora_a": np.ones(2)}, only=["*/kernel"])[0]) == list(own)


def test_what_is_proposed_where_a_node_of_the_file_has_more_is_not_that_node():
    own = {"A/0/kernel": np.zeros(2), "B/0/kernel": np.zeros(2)}

    with pytest.raises(WeightsError, match=r"only='B/\*'\)"):
        fitting(own, {**own, "A/1/lora": np.zeros(2), "A/2/kernel": np.zeros(2)})


def test_what_is_proposed_of_a_network_with_another_head_fits():
    own = {f"Net/{n}/kernel": np.zeros((3, size)) for n, size in enumerate([3, 3, 4])}
    found = {**own, "Net/2/kernel": np.zeros((3, 2))}

    with pytest.raises(WeightsError, match=r"only=\['Net/0/kernel', 'Net/1/kernel'\]\)"):
        fitting(own, found)
    with pytest.raises(WeightsError, match=r"only=\['A/\*', 'B/\*'\]\)"):
        fitting(
            *(
                {f"{node}/0/bias": np.zeros(size) for node, size in zip("ABC", sizes)}
                for sizes in ([2, 2, 2], [2, 2, 3])
            )
        )


def test_a_name_with_brackets_is_a_name():
    own = {"A[0]/0/kernel": np.zeros(2), "A[1]/0/kernel": np.zeros(2)}

    for pattern in ("A[0]", "A[0]/*", "A[0]/0/*", "A[0]/0/kernel"):
        assert list(fitting(own, own, only=pattern)[0]) == ["A[0]/0/kernel"], pattern
