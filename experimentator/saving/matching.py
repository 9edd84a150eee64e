"""Matches the weights of a file with those of an experiment: which fit, which are missing, and near names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

SHOWN = 12  # keys of each kind in a message


class WeightsError(ValueError):
    """Weights that do not fit the experiment; nothing was assigned.

    >>> from tempfile import TemporaryDirectory
    >>> import keras
    >>> from experimentator import Mode, Subset, build_experiment, ops
    >>> def classifier(classes):
    ...     head = ops.Model(keras.layers.Dense(classes), inputs="batch_x", outputs="batch_logits", node="Head")
    ...     subset = Subset("all", Mode.INFER, {"x": np.zeros([1, 3])})
    ...     return build_experiment({"subsets": [subset], "chunk_processors": [head]})
    >>> with TemporaryDirectory() as folder:
    ...     classifier(2).save_weights(f"{folder}/two.safetensors")
    ...     classifier(5).load_weights(f"{folder}/two.safetensors")
    Traceback (most recent call last):
    experimentator.saving.matching.WeightsError: The weights of ...two.safetensors' do not fit the experiment; ...
      wrong shape  Head/0/kernel is [3, 2] in the file, [3, 5] in the experiment
      wrong shape  Head/1/bias is [2] in the file, [5] in the experiment
    To load a part, say which: load_weights(..., only="Node/*"). Node labels (`node=`) are part of the keys.
    """


@dataclass(frozen=True, repr=False)
class Matching:
    """Keys (`node/ordinal/name`) of weights, by how the file's fit the experiment's.

    `kept` are keys of the experiment that were not asked for.

    >>> own, found = {"Dense/0/kernel": np.zeros((3, 2))}, {"Dense/0/kernel": np.ones((3, 2))}
    >>> match(own, found)
    matched  Dense/0/kernel [3, 2]
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    kept: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether everything that was asked for is there, and nothing else."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __repr__(self) -> str:
        return "\n".join(self.lines)


def match(own: Mapping[str, Any], found: Mapping[str, Any], *, only: str | Iterable[str] | None = None) -> Matching:
    """Compare weights by key, shape and kind of dtype; `only` has patterns of the keys that are asked for."""
    patterns = _patterns(only, own)
    mine, theirs = (dict.fromkeys(_asked(keys, patterns)) for keys in (own, found))
    fits = {key: _fits(own[key], found[key]) for key in mine if key in theirs}
    misshapen = tuple(key for key in fits if not fits[key])
    matched = tuple(key for key in fits if fits[key])
    missing = tuple(key for key in mine if key not in theirs)
    unexpected = tuple(key for key in theirs if key not in mine)
    kept = tuple(key for key in own if key not in mine)

    def differing(key: str) -> str:
        return f"is {_form(found[key])} in the file, {_form(own[key])} in the experiment"

    lines = (
        *_lines("matched", matched, lambda key: _form(own[key])),
        *_lines("missing", missing, lambda key: f"{_form(own[key])}{_near(key, own[key], unexpected, found)}"),
        *_lines("unexpected", unexpected, lambda key: _form(found[key])),
        *_lines("wrong shape", misshapen, differing),
        *_lines("kept", kept, lambda key: _form(own[key])),
    )
    return Matching(matched, missing, unexpected, misshapen, kept, lines)


def aligned(own: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The weights found, under the ordinals of the experiment where only ordinals differ within a node.

    Ordinals count weights in the order in which a framework read them. They differ between frameworks (the bias of a
    GRU is first or last), with the number of seeds in between, and if there are other weights, such as adapters'.

    >>> aligned({"Net/0/kernel": 1, "Net/1/bias": 2}, {"Net/0/bias": 3, "Net/1/kernel": 4})
    {'Net/1/bias': 3, 'Net/0/kernel': 4}
    >>> aligned({"Net/0/lora_a": 1, "Net/1/lora_b": 2, "Net/2/kernel": 3}, {"Net/0/kernel": 4})
    {'Net/2/kernel': 4}
    """
    mine, theirs = _by_occurrence(own), _by_occurrence(found)
    names: dict[str, str] = {}
    for node in mine.keys() & theirs.keys():
        here, there = _of_both(mine[node], theirs[node])
        is_all = len(here) == len(mine[node]) and len(there) == len(theirs[node])
        fits = _alike(here, there) if is_all else list(here) == list(there)
        if fits and set(here.values()) != set(there.values()):
            names |= {key: here[place] for place, key in there.items()}
    return {names.get(key, key): array for key, array in found.items()}


def _by_occurrence(keys: Iterable[str]) -> dict[str, dict[tuple[str, int], str]]:
    """Keys by node, and within a node by (name of the variable, how often the name came before)."""
    nodes: dict[str, dict[tuple[str, int], str]] = {}
    seen = Counter[tuple[str, str]]()
    for key in sorted(keys, key=_ordinal):  # a file has them in any order
        node, name = node_of(key), _variable(key)
        nodes.setdefault(node, {})[name, seen[node, name]] = key
        seen[node, name] += 1
    return nodes


def _of_both(
    mine: Mapping[tuple[str, int], str], theirs: Mapping[tuple[str, int], str]
) -> tuple[dict[Any, str], dict[Any, str]]:
    """The entries of two nodes, limited to names that occur equally often in both."""
    counts, others = (Counter(name for name, _ in one) for one in (mine, theirs))
    here = {place: key for place, key in mine.items() if counts[place[0]] == others[place[0]]}
    return here, {place: key for place, key in theirs.items() if place in here}


def _alike(mine: Mapping[Any, str], theirs: Mapping[Any, str]) -> bool:
    """Whether two nodes have the same ordinals in another order, or the same order with other ordinals."""
    ordinals = [set(map(_ordinal, keys.values())) for keys in (mine, theirs)]
    return ordinals[0] == ordinals[1] or list(mine) == list(theirs)


def _ordinal(key: str) -> int:
    number = key.rsplit("/", 2)[-2] if "/" in key else ""
    return int(number) if number.isdecimal() else -1


def fitting(
    own: Mapping[str, Any],
    found: Mapping[str, Any],
    *,
    only: str | Iterable[str] | None = None,
    rename: Mapping[str, str] | None = None,
    name: Any = None,
) -> tuple[dict[str, Any], Matching]:
    """The weights of a file that an experiment asks for, under its own keys; refused if any does not fit.

    `only` limits what is asked for to patterns of keys (`"Trunk/*"`, `"*/kernel"`); `rename` maps names of nodes in
    the file, or of single weights, to their names here. `name` is that of the file, for messages.

    >>> own, found = {"Trunk/0/bias": np.zeros(2), "Head/0/bias": np.zeros(3)}, {"Body/0/bias": np.ones(2)}
    >>> fitting(own, found, only="Trunk/*", rename={"Body": "Trunk"})[0]
    {'Trunk/0/bias': array([1., 1.])}

    Raises:
        WeightsError: listing matched, missing, unexpected and misshapen weights, and near matches.
    """
    found = aligned(own, _renamed(found, rename or {}))
    matching = match(own, found, only=only)
    if not matching.is_whole:
        raise refusal(matching, own, found, name=name)
    return {key: found[key] for key in matching.matched}, matching


def refusal(matching: Matching, own: Mapping[str, Any], found: Mapping[str, Any], *, name: Any = None) -> WeightsError:
    """The error for weights that do not fit."""
    report = "\n".join(f"  {line}" for line in matching.lines if not line.startswith("kept"))
    moved, more = _moved(matching, own, found)
    named = ", ".join([f"{old!r}: {new!r}" for old, new in moved.items()] + ["..."] * bool(more))
    rest = f", with {more} more" if more else ""
    write = f"Name nodes as they are here: load_weights(..., rename={{{named}}}){rest}. " if moved else ""
    write += f"To load a part, say which: load_weights(..., only={_a_part(matching)}). "
    write += "Node labels (`node=`) are part of the keys."
    if found and all(_ordinal(key) < 0 for key in found):  # keys of a PyTorch module or another library
        write = (
            "They were not saved by an experiment. Load those of a module of PyTorch into it: "
            "module.load_state_dict(safetensors.torch.load_file(...))."
        )
    these = "These weights" if name is None else f"The weights of {str(name)!r}"
    return WeightsError(f"{these} do not fit the experiment; nothing was loaded.\n{report}\n{write}")


def _a_part(matching: Matching) -> str:
    """Code for `only=` of weights that fit: patterns of names, if names tell them apart, else of nodes, or keys."""
    odd = (*matching.missing, *matching.misshapen, *matching.unexpected)
    nodes = sorted({node_of(key) for key in matching.matched} - {node_of(key) for key in odd})
    others = {_variable(key) for key in odd}
    names = sorted({_variable(key) for key in matching.matched})
    if names and others.isdisjoint(names):
        return repr([f"*/{name}" for name in names])
    patterns = [f"{node}/*" for node in nodes] or list(matching.matched)
    if not 0 < len(patterns) <= SHOWN:
        return '"Node/*"'
    return repr(patterns if len(patterns) > 1 else patterns[0])


def named_by(patterns: str | Iterable[str], known: Iterable[str]) -> list[str]:
    """The keys that match patterns: `Trunk/*`, `*/kernel`, or a node's name for all of its weights.

    >>> named_by("Trunk", ["Trunk/0/kernel", "Head/0/kernel"])
    ['Trunk/0/kernel']
    """
    known = list(known)
    return _asked(known, _patterns(patterns, known))


def _patterns(only: str | Iterable[str] | None, known: Iterable[str]) -> list[str]:
    """The patterns as a list; one that matches nothing is refused."""
    if only is not None and not isinstance(only, Iterable):
        raise WeightsError(f'only={only!r} names no weights.\nSeen: {type(only).__name__}.\nWrite only="Trunk/*".')
    patterns = ["*"] if only is None else [only] if isinstance(only, str) else list(only)
    if not patterns:
        raise WeightsError('only=[] names no weights.\nSeen: no pattern.\nWrite only="Trunk/*", or leave it out.')
    for pattern in patterns if only is not None else ():
        if not any(_names(pattern, key) for key in known):
            nodes = list(dict.fromkeys(node_of(key) for key in known))
            near = get_close_matches(pattern.removesuffix("/*"), nodes, n=2)
            guess = f"Did you mean {' or '.join(repr(f'{node}/*') for node in near)}?" if near else "Name one of these."
            if not near and pattern.replace(" ", "").replace("_", "").isalnum():
                guess = f"{guess[:-1]}, or write node={pattern!r} into the processor that has them."
            within = [key for key in known if pattern.startswith((f"{node_of(key)}/", "*/"))]  # no layers: keys
            listed = [*within[:SHOWN], *["..."] * (len(within) > SHOWN)] or nodes
            raise WeightsError(
                f"{pattern!r} names no weights of this experiment.\nKnown here: {', '.join(listed) or 'none'}.\n{guess}"
            )
    return patterns


def _asked(keys: Iterable[str], patterns: Iterable[str]) -> list[str]:
    patterns = list(patterns)
    return [key for key in keys if any(_names(pattern, key) for pattern in patterns)]


def _names(pattern: str, key: str) -> bool:
    node = pattern.removesuffix("/*")  # as it stands, too: its name may hold brackets
    return key == pattern or fnmatchcase(key, pattern) or key.startswith(f"{node}/")


def _renamed(found: Mapping[str, Any], rename: Any) -> dict[str, Any]:
    if not isinstance(rename, Mapping):
        wrong = f"rename={rename!r:.60} renames no nodes.\nSeen: {type(rename).__name__}."
        raise WeightsError(f'{wrong}\nWrite rename={{"name in the file": "name here"}}.')
    used: set[str] = set()
    result: dict[str, Any] = {}
    for key, array in found.items():
        old = max((old for old in rename if f"{key}/".startswith(f"{old}/")), key=len, default=None)
        used |= {old} if old is not None else set()
        result[key if old is None else rename[old] + key.removeprefix(old)] = array
    nodes = list(dict.fromkeys(node_of(key) for key in found))
    for old in rename.keys() - used:
        near = get_close_matches(old, nodes, n=1)
        guess = f"Did you mean {near[0]!r}?" if near else "Name one of these."
        raise WeightsError(
            f"rename={{{old!r}: ...}} names nothing in the file.\nKnown there: {', '.join(nodes) or 'none'}.\n{guess}"
        )
    if len(result) < len(found):
        raise WeightsError(
            f"rename={dict(rename)!r} gives two weights of the file one name.\nKnown there: {', '.join(nodes)}.\n"
            "Let each have its own."
        )
    return result


def node_of(key: str) -> str:
    """The node that owns a weight, by its key `node/ordinal/name`."""
    return key.rsplit("/", 2)[0]


def _variable(key: str) -> str:
    return key.rsplit("/", 1)[-1]


def _fits(own: Any, found: Any) -> bool:
    kinds = {_dtype(own).kind, _dtype(found).kind}
    same = len(kinds) == 1 or bool(kinds & {"V"}) or kinds <= {"i", "u"}  # V: bfloat16 and similar
    return tuple(own.shape) == tuple(found.shape) and same


def _dtype(array: Any) -> Any:
    return np.dtype(getattr(array.dtype, "as_numpy_dtype", array.dtype))  # TensorFlow's variables have no numpy dtype


def _form(array: Any) -> str:
    kind = _dtype(array)
    return f"{list(array.shape)}" + ("" if kind.kind in "fV" else f" {kind.name}")


def _near(key: str, array: Any, unexpected: Iterable[str], found: Mapping[str, Any]) -> str:
    alike = [other for other in unexpected if _fits(array, found[other])]
    near = get_close_matches(key, alike, n=1, cutoff=0.4)
    return f"; the file has {near[0]}" if near else ""


def _moved(matching: Matching, own: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[dict[str, str], int]:
    """Nodes of the file that hold just the weights that a node here misses, and how many more than SHOWN there are.

    They are given as {name in the file: name here}.
    """
    spare: dict[frozenset[str], list[str]] = {}
    for node, content in _by_node(matching.unexpected, found).items():
        spare.setdefault(content, []).append(node)
    moved: dict[str, str] = {}
    more = 0
    for node, content in _by_node(matching.missing, own).items():
        same = spare.get(content, [])
        if same and len(moved) < SHOWN:
            near = (get_close_matches(node, same, n=1, cutoff=0.0) or same)[0]
            same.remove(near)
            moved[near] = node
        elif same:  # names of some hundred nodes would take long to compare
            same.pop()
            more += 1
    return moved, more


def _by_node(keys: Iterable[str], arrays: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """What each node holds: the rest of each key, with the form of its weight."""
    nodes: dict[str, set[str]] = {}
    for key in keys:
        nodes.setdefault(node_of(key), set()).add(f"{key.removeprefix(node_of(key))} {_form(arrays[key])}")
    return {node: frozenset(content) for node, content in nodes.items()}


def _lines(what: str, keys: Sequence[str], told: Callable[[str], str]) -> list[str]:
    """A line for each of the first keys, with what is told of it, and one for the rest."""
    more = [f"{what}  ... and {len(keys) - SHOWN} more"] if len(keys) > SHOWN else []
    return [f"{what}  {key} {told(key)}" for key in keys[:SHOWN]] + more
