"""Datasets over datasets follow the protocol of mlworkflow's; keys of every kind have digests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import PurePosixPath
from uuid import UUID

import mlworkflow
import numpy as np
import pytest

from experimentator import DataAugmentationDataset, DatasetError, DiskCachedDataset, PairedDataset, collate_fn
from experimentator.data.datasets import WrappedDataset
from experimentator.data.keys import key_digest

ITEMS = {f"k{n}": {"n": n, "path": f"/{n}"} for n in range(5)}


class Side(Enum):
    """An answer."""

    LEFT = 1
    RIGHT = 2


@dataclass(frozen=True)
class Shot:
    """A key of somebody's."""

    camera: str
    number: int


def odd(key, item):
    return item if item["n"] % 2 else None


@pytest.fixture(params=["augmented", "cached", "paired"])
def dataset(request, tmp_path):
    kinds = {
        "augmented": lambda: DataAugmentationDataset(ITEMS, [odd]),
        "cached": lambda: DiskCachedDataset(DataAugmentationDataset(mlworkflow.DictDataset(ITEMS), [odd]), tmp_path),
        "paired": lambda: PairedDataset(DataAugmentationDataset(ITEMS, [odd]), shared=["n", "path"]),
    }
    return kinds[request.param]()


def test_the_protocol_of_mlworkflow_is_followed(dataset):
    assert tuple(dataset.keys) == dataset.keys.all() == tuple(dataset.yield_keys()) == tuple(ITEMS)
    assert len(dataset) == 5
    assert dataset.query_item("k1") == {"n": 1, "path": "/1"}
    assert dataset.query_item("k2") is None


def test_queries_stack_what_is_kept(dataset):
    batch = dataset.query(["k0", "k1", "k3"])

    assert (batch["n"].tolist(), batch["path"]) == ([1, 3], ["/1", "/3"])
    assert dataset.query(["k0"]) == {}
    assert dataset.query(["k3", "k1"], collate_fn=lambda items: [item["n"] for item in items]) == [3, 1]


def test_batches_come_with_their_keys_and_may_be_collated(dataset):
    batches = list(dataset.batches(2, collate_fn=collate_fn))

    assert [keys for keys, _ in batches] == [("k0", "k1"), ("k2", "k3"), ("k4",)]
    assert [batch["batch_n"].tolist() for _, batch in batches[:2]] == [[1], [3]]
    assert batches[2][1] == {}
    assert [keys for keys, _ in dataset.batches(2, keys=["k3"])] == [("k3",)]
    assert list(dataset.batches(2, keys=[])) == []


def test_mlworkflow_collates_our_items_and_we_theirs():
    ours, theirs = DataAugmentationDataset(ITEMS), mlworkflow.DictDataset(ITEMS)

    assert theirs.query(["k1", "k3"], collate_fn=collate_fn)["batch_n"].tolist() == [1, 3]
    assert mlworkflow.TransformedDataset(ours).query(["k1", "k3"])["n"].tolist() == [1, 3]


def test_a_collation_of_items_that_do_not_fit_is_refused():
    with pytest.raises(DatasetError, match="Key 1 of subset 'a query' has other names than key 0: m, n"):
        collate_fn([{"n": 1}, {"m": 1}])
    assert collate_fn([None, None]) == {}


def test_a_pair_needs_the_names_it_shares():
    with pytest.raises(DatasetError, match=r"There is no 'label' that a pair could share.\nSeen: n, path in the item"):
        PairedDataset(ITEMS, shared="label").query_item("k1")
    assert PairedDataset(ITEMS).deterministic
    assert not PairedDataset(DataAugmentationDataset(ITEMS, [odd])).deterministic


def test_a_wrapper_says_what_its_items_are():
    with pytest.raises(NotImplementedError):
        WrappedDataset(ITEMS).query_item("k1")


def test_pairs_of_items_that_never_change_never_change():
    kept = mlworkflow.DictDataset(ITEMS)

    assert PairedDataset(kept).deterministic
    assert not PairedDataset(DataAugmentationDataset(kept)).deterministic


def test_keys_of_every_kind_have_a_digest_of_their_own():
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    keys = [
        None, 0, 1, -1, 0.5, "a", "1", b"a", b"1", (), ("a",), (1,), ((1,),), ("a", 1), frozenset([1]), Side.LEFT,
        Side.RIGHT, PurePosixPath("a"), Shot("a", 1), Shot("a", 2), noon, noon.date(), date(2020, 1, 2), UUID(int=1),
        np.datetime64("2020-01-01"), np.timedelta64(1, "s"), float("inf"), float("nan"), "\udc80",
    ]  # fmt: skip

    assert len({key_digest(key) for key in keys}) == len(keys)


def test_equal_numbers_have_equal_digests_whatever_their_type():
    assert (
        len({key_digest(one) for one in (1, True, 1.0, np.int64(1), np.uint8(1), np.float32(1), np.bool_(True))}) == 1
    )
    assert key_digest(np.str_("a")) == key_digest("a")


@pytest.mark.parametrize(
    "key", [object(), len, (1, object()), Shot("a", object())], ids=["object", "len", "in", "deep"]
)
def test_a_key_of_which_nothing_stays_the_same_is_refused(key):
    with pytest.raises(DatasetError, match=r"a number that is the same in every run.\nSeen: a \w+.\nMake it"):
        key_digest(key)


class Tensor(list):
    """Stands for one of PyTorch, which is not installed everywhere."""

    __module__ = "torch"

    def clone(self):
        return Tensor(self)


def test_lists_and_tensors_that_a_transform_changes_are_copies():
    def longer(key, item):
        item["list"].append(0)
        item["tensor"].append(0)
        item["dict"]["n"] += 1
        return item

    given = {"list": [1], "tensor": Tensor([1]), "dict": {"n": 1}, "shared": object()}
    dataset = DataAugmentationDataset([given], [longer])

    longest = {**given, "list": [1, 0], "tensor": [1, 0], "dict": {"n": 2}}
    assert [dataset.query_item(0) for _ in range(2)] == [longest] * 2
