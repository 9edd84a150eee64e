"""What can be wrong with a graph; each error builds its own message: what is wrong, what was seen, what to write.

GraphError(ValueError)
    BrokenGraphError            several of those below, in one report
    DeclarationError            inputs, outputs, mode or after are not what they should be
    UndeclaredProcessorError    the names of an undeclared callable are not known yet
    MissingTensorError          nothing writes or provides a name
    AmbiguousWriteError         several processors below a reader write the name, none above
    CycleError                  processors wait on each other
    UnknownNodeError            `after` names a processor that is not in the list
    UndeclaredReadError         a processor reads a name it does not declare
    UndeclaredWriteError        a processor writes a name it does not declare
    UnwrittenOutputError        a processor leaves a declared output unwritten
    UnknownModeError            not one of TRAIN, EVAL, INFER and their combinations
UnknownNameError(KeyError)      an undeclared callable reads a name that is not there
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any

from experimentator.graph.text import cut

if TYPE_CHECKING:
    from experimentator.graph.mode import Mode

MOST_PROBLEMS = 50  # in one report
MOST_NAMES = 40  # in one list of names
MOST_SEEN = 200  # characters of what was seen
SHORTENED = 3  # letters that tell which name is meant
PREFIX = "batch_"  # of names that hold a value for each item of a batch


class GraphError(ValueError):
    """A graph that cannot be built or run; the message says what to change.

    >>> from experimentator.graph import Graph, Mode, chunk_processor
    >>> @chunk_processor(inputs=["batch_inptu"], outputs=["batch_half"])
    ... def half(x):
    ...     return x / 2
    >>> try:
    ...     Graph([half], provided={"batch_input"}, mode=Mode.TRAIN).select("batch_half")
    ... except GraphError as error:
    ...     print(f"{type(error).__name__}: {error}")
    MissingTensorError: No tensor named 'batch_inptu' for #0 half(batch_inptu) [TRAIN], ...
    Known here: batch_half, batch_input.
    Did you mean 'batch_input'? Else list its writer, or add 'inptu' to the dataset's items.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return sent(self)


class BrokenGraphError(GraphError):
    """Everything that is wrong with a graph, in one report; `problems` holds the errors one by one."""

    def __init__(self, problems: Sequence[GraphError]):
        self.problems = tuple(problems)
        more = "More than " if len(self.problems) > MOST_PROBLEMS else ""
        self.problems = self.problems[:MOST_PROBLEMS]
        lines = [f"{more}{len(self.problems)} problems in this graph:"]
        lines += [f"{n}. {problem}".replace("\n", "\n   ") for n, problem in enumerate(self.problems, start=1)]
        super().__init__("\n".join(lines))


class DeclarationError(GraphError):
    """A processor whose declaration cannot be read."""

    def __init__(self, processor: str, *, seen: str, write: str):
        seen = cut(" ".join(seen.split()), MOST_SEEN)  # an array may be in it
        super().__init__(f"{processor} is not declared properly: {seen}.\n{write}")


class UndeclaredProcessorError(GraphError):
    """Undeclared callables have no place in the dataflow until they are recorded."""

    def __init__(self, nodes: Sequence[Any]):
        do, declare = ("read and write", "they declare") if nodes[1:] else ("reads and writes", "it declares")
        super().__init__(
            f"What {_listed(nodes)} {do} is not known yet: {declare} no inputs and outputs.\n"
            "Call `graph.record(tensors)` with a value for each name of the dataset, "
            "or declare them with @chunk_processor(inputs=[...], outputs=[...])."
        )


class MissingTensorError(GraphError):
    """Nothing writes or provides a name that a processor reads, or that was asked for (`reader=None`).

    >>> from experimentator.graph import Mode
    >>> raise MissingTensorError(name="batch_logit", mode=Mode.TRAIN, known=["batch_logits"])
    Traceback (most recent call last):
    experimentator.graph.errors.MissingTensorError: No tensor named 'batch_logit' to select [TRAIN].
    Known here: batch_logits.
    Did you mean 'batch_logits'? Else list its writer, or add 'logit' to the dataset's items.
    """

    def __init__(
        self,
        *,
        name: str,
        reader: Any = None,
        mode: Mode,
        known: Collection[str],
        elsewhere: Mode | None = None,
        also: Collection[str] = (),
        removed_by: Any = None,
    ):
        self.name, self.reader, self.mode = name, reader, mode
        wanted = "to select" if reader is None else f"for {reader}"
        lines = [f"No tensor named {name!r} {wanted} [{mode}]{_place(reader)}."]
        if removed_by is not None:
            lines.append(f"{removed_by} deletes it above.")
        lines.append(f"Known here: {names_in_short(sorted(known), MOST_NAMES)}.")
        own = repr(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else "it"
        given = "add it to what is given" if str(mode) == "INFER" else f"add {own} to the dataset's items"
        advice = _advice(name, known, also, given) if elsewhere is None else _in_other_mode(name, elsewhere, reader)
        lines.append(advice)
        super().__init__("\n".join(lines))


class AmbiguousWriteError(GraphError):
    """A name is read above its writers, and there are several."""

    def __init__(self, *, name: str, reader: Any, writers: Sequence[Any], mode: Mode):
        self.name, self.reader, self.writers = name, reader, tuple(writers)
        super().__init__(
            f"{reader} reads {name!r} [{mode}], which nothing above it writes or provides, but "
            f"{len(self.writers)} processors write: {_listed(self.writers)}.\n"
            f"List {reader} below the one it should read, or give each write a name of its own."
        )


class CycleError(GraphError):
    """Processors that wait on each other; `path` holds the nodes, `names` what each hop waits for."""

    def __init__(self, *, path: Sequence[Any], names: Sequence[str]):
        self.path, self.names = tuple(path), tuple(names)
        hops = [f"{node} -[{name}]->" for node, name in zip(self.path, self.names, strict=True)]
        if len(hops) > MOST_PROBLEMS:
            hops = [*hops[:3], f"... {len(hops) - 6} more ... ->", *hops[-3:]]
        super().__init__(
            f"{'Processors wait on each other' if self.path[1:] else 'A processor waits on itself'}: "
            f"{' '.join(hops)} {self.path[0]}.\nBreak the loop: let one of them read a name that is written earlier."
        )


class UnknownNodeError(GraphError):
    """`after` names a processor that is not in the list."""

    def __init__(self, reader: Any, *, target: str, known: Sequence[str]):
        super().__init__(
            f"{reader} runs after {target!r}, which is not in the list.\n"
            f"Known here: {names_in_short(known, MOST_NAMES)}.\n"
            f"{_suggestion(target, known)}Write the name or the class of a listed processor."
        )


class UndeclaredReadError(GraphError):
    """A processor asks for a name it does not declare as input."""

    def __init__(self, node: Any, *, name: str, inputs: Collection[str]):
        self.name = name
        super().__init__(
            f"{node} reads {name!r}, which is not among its inputs: {_names(inputs)}.\n"
            f"{_declare('inputs', [*inputs, name])}"
        )


class UndeclaredWriteError(GraphError):
    """A processor writes or deletes a name it does not declare as output."""

    def __init__(self, node: Any, *, name: str, outputs: Collection[str], deletes: Collection[str] | None = None):
        self.name = name
        if deletes is not None:
            super().__init__(
                f"{node} deletes {name!r}, which is neither among its outputs, {_names(outputs)}, nor what it deletes: "
                f"{_names(deletes)}.\nRead it as chunk[{name!r}] and leave it there, or declare it: "
                f"deletes=[{', '.join(map(repr, [*deletes, name]))}]."
            )
            return
        super().__init__(
            f"{node} writes {name!r}, which is not among its outputs: {_names(outputs)}.\n"
            f"{_declare('outputs', [*outputs, name])}"
        )


class UnwrittenOutputError(GraphError):
    """A processor returns without writing what it declares."""

    def __init__(self, node: Any, *, missing: Sequence[str], seen: str = "", write: str = ""):
        super().__init__(
            f"{node} declares {_names(missing)} as output but does not write it{seen}.\n"
            f"{write or f'Write chunk[{missing[0]!r}] = ...'}, or take it off its outputs."
        )


class UnknownModeError(GraphError):
    """Not one of TRAIN, EVAL, INFER or a combination of them."""

    write = "Write 'train', 'eval' or 'infer', or combine Mode members with |."

    def __init__(self, mode: Any):
        self.shown = brief(mode)
        super().__init__(f"{self.shown} is not a mode.\n{self.write}")


class UnknownNameError(KeyError):
    """An undeclared callable reads a name that nothing above it writes or provides."""

    def __init__(self, name: str, *, known: Collection[str]):
        super().__init__(name)
        self.name, self.known = name, tuple(known)

    def __reduce__(self) -> tuple[Any, ...]:
        return sent(self)

    def __str__(self) -> str:
        return f"No tensor named {self.name!r} in this chunk. Known here: {names_in_short(self.known, MOST_NAMES)}."


def sent(error: Exception) -> tuple[Any, ...]:
    """How another process makes an error anew: of its message, names and notes; processors stay where they are."""
    plain = {name: value for name, value in vars(error).items() if name not in ("reader", "writers", "path")}
    return _received, (type(error), error.args), plain


def _received(kind: type[Exception], args: tuple[Any, ...]) -> Exception:
    return kind.__new__(kind, *args)


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be, or begins; that both begin with `batch_` makes none alike.

    >>> near("batch_logit", ["batch_input", "batch_logits"])
    'batch_logits'
    >>> near("batch_prob", ["batch_input", "batch_probabilities"])
    'batch_probabilities'
    >>> near("batch_input", ["batch_output"])
    """
    prefix = PREFIX if name.casefold().startswith(PREFIX) else ""
    folded = {other.casefold().removeprefix(prefix): other for other in sorted(known) if other != name}
    meant = name.casefold().removeprefix(prefix)
    matches = get_close_matches(meant, folded, n=1, cutoff=0.55)
    matches += [other for other in folded if len(meant) >= SHORTENED and other.startswith(meant)]
    return folded[matches[0]] if matches else None


def raise_all(problems: Iterable[GraphError]) -> None:
    """Raise the one problem, or a report of several; returns if there are none."""
    found = list(islice(problems, MOST_PROBLEMS + 1))
    if found:
        raise found[0] if len(found) == 1 else BrokenGraphError(found)


def names_in_short(names: Sequence[str], most: int) -> str:
    """Names separated by commas; beyond `most`, how many more there are.

    >>> names_in_short(["x", "y", "z"], 2)
    'x, y and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "nothing"


def brief(value: Any, most: int = 48) -> str:
    """A value's `repr` in one short line; it cannot fail."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr that fails must not take the message down with it
        text = f"<{type(value).__name__}>"
    return cut(text, most)


def _place(reader: Any) -> str:
    source = getattr(reader, "source", None)
    return f", {source}" if source and source not in str(reader) else ""


def _in_other_mode(name: str, elsewhere: Mode, reader: Any) -> str:
    remedy = "ask for it there only" if reader is None else "narrow the mode of its reader"
    return f"{name!r} is produced only in {elsewhere}: widen its writer's mode, or {remedy}."


def _advice(name: str, known: Collection[str], also: Collection[str], given: str) -> str:
    if (bare := name.removeprefix(PREFIX)) != name and bare in known:
        return f"The prefix {PREFIX!r} is missing from {bare!r}: write {name!r}."
    if bare != name and PREFIX + name in known:
        return f"The prefix {PREFIX!r} is added to the names of an item: call it {bare!r} there."
    if PREFIX + name in known:
        return f"Did you mean {PREFIX + name!r}? The names of an item have {PREFIX!r} before them."
    if guess := near(name, known):
        return f"Did you mean {guess!r}? Else list its writer, or {given}."
    if other := near(name, also):
        return f"Did you mean {other!r}, of another mode? Else list its writer, or {given}."
    return f"List its writer, or {given}."


def _suggestion(name: str, known: Iterable[str]) -> str:
    guess = near(name, known)
    return f"Did you mean {guess!r}? " if guess else ""


def _declare(kind: str, names: Sequence[str]) -> str:
    guess = _suggestion(names[-1], names)
    return f"{guess}{'Else declare' if guess else 'Declare'} it: {kind}=[{', '.join(map(repr, names))}]."


def _names(names: Collection[str]) -> str:
    return names_in_short([*map(repr, names)], MOST_NAMES) if names else "none"


def _listed(nodes: Sequence[Any]) -> str:
    return " and ".join(filter(None, [", ".join(map(str, nodes[:-1])), str(nodes[-1])]))
