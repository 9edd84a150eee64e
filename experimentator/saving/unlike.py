"""Values that differ from what was saved: which, where inside, and how a message shows both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Pair = tuple[Any, Any]  # a value as it was, and as it is
LONGEST, BEFORE = 120, 40  # characters shown of a value, and of those before the difference


def unlike(old: Mapping[str, Any], new: Mapping[str, Any], usual: Mapping[str, Any] = {}) -> dict[str, Pair]:
    """Both values of each name that has not the same in both; `usual` are values of names that one lacks."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {name: (old.get(name, usual.get(name)), new.get(name, usual.get(name))) for name in names}


def shown(name: str, pair: Pair) -> str:
    """The line of a message: the name, the first place where both differ, and what stands there.

    >>> shown("sizes", ([1, 2], [1, 3]))
    'sizes[1]: was 2, is 3'
    """
    place, old, new = _where(*pair)
    return f"{name}{place}: {_differ(repr(old), repr(new))}"


def _where(old: Any, new: Any, place: str = "") -> tuple[str, Any, Any]:
    """The first place inside two values where they differ, and both parts there."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"[{number}]", *both) for number, both in enumerate(zip(old, new, strict=True))]
    elif isinstance(old, dict) and isinstance(new, dict) and old.get("class") == new.get("class"):
        prefix = f"{old['class']}." if "class" in old else "."
        pairs = [(f", {prefix}{name}", old.get(name), new.get(name)) for name in {**old, **new}]
    else:
        pairs = []
    for inner, one, other in pairs:
        if one != other:
            return _where(one, other, place + inner)
    return place, old, new


def _differ(old: str, new: str) -> str:
    """Both texts, cut; long ones begin a little before the first character that differs."""
    pairs = enumerate(zip(old, new, strict=False))
    first = next((place for place, (one, other) in pairs if one != other), min(len(old), len(new)))
    start = first - BEFORE if max(len(old), len(new)) > LONGEST and first > LONGEST - BEFORE else 0
    return f"was {_cut(old, start)}, is {_cut(new, start)}"


def _cut(text: str, start: int) -> str:
    more = f"{text[start : start + LONGEST - 3]}..." if len(text) - start > LONGEST else text[start:]
    return f"...{more}" if start else more
