"""Overrides: replaces assigned values in a configuration's syntax tree, and finds which names are computed from which.

Only module level counts: bodies of functions, lambdas and classes have names of their own.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

log = logging.getLogger(__name__)
HIDDEN = "__overrides__"
_Statement = TypeVar("_Statement", ast.Assign, ast.AnnAssign)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (*_FUNCTIONS, ast.ClassDef)
PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set)
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


class ConfigError(ValueError):
    """A configuration, an override or a grid that cannot be used: what is wrong, what was seen, what to write.

    >>> print(ConfigError("No such name.", "The file sets a, b.", "Write 'a'."))
    No such name.
    The file sets a, b.
    Write 'a'.
    """

    def __init__(self, wrong: str, seen: str = "", write: str = "") -> None:
        super().__init__("\n".join(part for part in (wrong, seen, write) if part))


class Binding(NamedTuple):
    """One assignment to a name, with the names that its right-hand side (and its `if` or `for`) reads."""

    name: str
    reads: frozenset[str]
    is_whole: bool = True  # False for `name[0] = ...` and `name.field = ...`
    is_value: bool = True  # False for imports, functions and classes


def assigned(tree: ast.Module, *, values_only: bool = False) -> tuple[str, ...]:
    """The names assigned at module level, in the order of their first assignment.

    With `values_only`, imported names, functions and classes are left out.

    >>> assigned(ast.parse("a, (b, *c) = f()\\nfor d in c:\\n    e: int\\nx[0] = 1"))
    ('a', 'b', 'c', 'd', 'e')
    """
    return tuple({b.name: 0 for b in _bindings(tree.body) if b.is_whole and (b.is_value or not values_only)})


def derived(tree: ast.Module, overridden: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """For each assigned name, the names computed from it; an overridden name is computed from nothing.

    >>> derived(ast.parse("a = 1\\nb = a + 1\\nc = lambda x: x * b"))
    {'a': ('b', 'c'), 'b': ('c',), 'c': ()}
    """
    names = assigned(tree)
    sources: dict[str, set[str]] = {name: set() for name in names}
    for name, reads, *_ in _bindings(tree.body):
        if name in sources and name not in overridden:
            sources[name] |= reads.union(*(sources.get(read, ()) for read in reads))
    return {a: tuple(b for b in names if a in sources[b] and a != b) for a in names}


def literal_seed(tree: ast.Module) -> int | None:
    """The number that the file assigns to `seed` as a literal; None if it does not."""
    constants = [one.value for one in values_of(tree, "seed") if isinstance(one, ast.Constant)]
    return constants[-1] if constants and isinstance(constants[-1], int) else None


def values_of(tree: ast.Module, name: str) -> list[ast.expr]:
    """The expressions that a file assigns to a name at top level, outside of blocks, in order.

    >>> [ast.unparse(value) for value in values_of(ast.parse("a = b = 1; a: int = 1 + 1"), "a")]
    ['1', '1 + 1']
    """
    found = []
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [node.value for target in targets if isinstance(target, ast.Name) and target.id == name]
    return found


def replace_values(tree: ast.Module, overridden: Collection[str]) -> ast.Module:
    """Replace the right-hand sides of overridden names, in place; lines stay where they were.

    >>> tree = replace_values(ast.parse("a = slow()\\nb = (c := 1) + a"), {"a", "c"})
    >>> print(ast.unparse(tree))
    a = __overrides__['a']
    b = (c := __overrides__['c']) + a
    """
    _Replace(overridden).visit(tree)
    return ast.fix_missing_locations(tree)


def copied(value: Any) -> Any:
    """The value with lists, dictionaries and sets of its own, so that a file may change its overrides in place.

    >>> sizes = [64]
    >>> copied({"sizes": sizes})["sizes"].append(10)
    >>> sizes
    [64]
    """
    kind = type(value)
    if kind is dict:
        return {key: copied(one) for key, one in value.items()}
    return kind(map(copied, value)) if kind in (list, tuple, set) else value


def tell_lost(overrides: Mapping[str, object], values: Mapping[str, object]) -> None:
    """Warn of overrides that code within functions wrote over, which nothing replaces."""
    for name, value in overrides.items():
        if values.get(name, value) is not value:
            said = "%s is overridden, but a function of the configuration sets it anew (global %s), to %.80r."
            log.warning(said, name, name, values[name])


class Door(MutableMapping[str, object]):
    """The namespace that module-level code writes to: whatever is assigned to an overridden name, it gets its override.

    Needed for `a, b = f()`, `for a in ...`, `import x as a` and the like, which have no right-hand side to replace.
    Reads go to the plain dictionary `names`, which functions and lambdas see as well.

    >>> names = {}
    >>> exec("a, b = 1, 2\\nfor c in 'xyz': pass", names, Door(names, {"a": 5, "c": "w"}))
    >>> names["a"], names["b"], names["c"]
    (5, 2, 'w')

    `written(name, value)` is called for every assignment.
    """

    def __init__(
        self,
        names: dict[str, object],
        overrides: dict[str, object],
        written: Callable[[str, object], None] = lambda name, value: None,
    ) -> None:
        self.names, self.overrides, self.written = names, overrides, written

    def __setitem__(self, name: str, value: object) -> None:
        override = self.overrides.get(name, value)
        if isinstance(value, ModuleType) and (override is None or isinstance(override, PLAIN)):
            raise ConfigError(
                f"{name!r} is the module {value.__name__} here and cannot be overridden with {override!r}.",
                write="Override another name, or import the module under another one.",
            )
        self.names[name] = override
        self.written(name, override)

    def __getitem__(self, name: str) -> object:
        return self.names[name]

    def __delitem__(self, name: str) -> None:
        del self.names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class _Replace(ast.NodeTransformer):
    def __init__(self, overridden: Collection[str]) -> None:
        self.overridden = overridden

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, _SCOPES):
            return node
        visited: ast.AST = super().visit(node)
        return visited

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        return self._with_value(node, node.targets, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return self._with_value(node, [node.target], node.value or node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if not self._covers([node.target]):
            return self.generic_visit(node)
        return self.visit(ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.AST:
        self.generic_visit(node)
        if self._covers([node.target]):
            node.value = _hidden(node.target, node.value)
        return node

    def _with_value(self, node: _Statement, targets: list[ast.expr], place: ast.AST) -> ast.AST:
        self.generic_visit(node)
        # a walrus inside must still bind its name: evaluate, and let the Door put the override in
        if self._covers(targets) and not any(isinstance(n, ast.NamedExpr) for n in ast.walk(node)):
            node.value = _hidden(targets[0], place)
        return node

    def _covers(self, targets: Iterable[ast.expr]) -> bool:
        return all(isinstance(t, ast.Name) and t.id in self.overridden for t in targets)


def _hidden(target: ast.expr, place: ast.AST) -> ast.expr:
    """The expression that fetches an override: by reference, so that any object can be one."""
    assert isinstance(target, ast.Name)
    name = ast.Name(HIDDEN, ast.Load())
    value = ast.Subscript(name, ast.Constant(target.id), ast.Load())
    for part in ast.walk(value):
        if isinstance(part, ast.expr):
            ast.copy_location(part, place)
    return value


def _bindings(body: Iterable[ast.AST], given: frozenset[str] = frozenset()) -> Iterator[Binding]:
    """Every assignment in file order; `given` are the names that enclosing `if`, `for`, ... read."""
    for node in body:
        yield from (own._replace(reads=own.reads | given) for own in _own_bindings(node))
        if not isinstance(node, _SCOPES):
            inner = given | _control(node)
            for block in _BLOCKS:
                yield from _bindings(getattr(node, block, ()), inner)


def _own_bindings(node: ast.AST) -> Iterator[Binding]:
    """The bindings of the statement itself, without the blocks in it."""
    for part in _headers(node):
        yield from (Binding(w.target.id, _reads(w.value)) for w in _walruses(part))
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from _unpacked(target, value)
        case ast.AugAssign(target=target, value=value) | ast.AnnAssign(target=target, value=value):
            yield from _stored(target, _reads(value))
        case ast.For(target=target, iter=value) | ast.AsyncFor(target=target, iter=value):
            yield from _stored(target, _reads(value))
        case ast.With(items=items) | ast.AsyncWith(items=items):
            for item in items:
                yield from _stored(item.optional_vars, _reads(item.context_expr))
        case ast.Match(subject=subject, cases=cases):
            for case in cases:
                yield from _captured(case.pattern, _reads(subject))
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            bound = (alias.asname or alias.name.partition(".")[0] for alias in aliases)
            yield from (Binding(name, frozenset(), is_value=False) for name in bound if name != "*")
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield Binding(name, _reads(node), is_value=False)


def _unpacked(target: ast.expr, value: ast.expr) -> Iterator[Binding]:
    """`a, b = c, d` reads `c` for `a` only; where the two sides do not line up, everything for all."""
    match target, value:
        case ((ast.Tuple() | ast.List()), (ast.Tuple() | ast.List())):
            both = [*target.elts, *value.elts]
            if len(target.elts) == len(value.elts) and not any(isinstance(e, ast.Starred) for e in both):
                for one, its_value in zip(target.elts, value.elts, strict=True):
                    yield from _unpacked(one, its_value)
                return
    yield from _stored(target, _reads(value))


def _stored(target: ast.expr | None, reads: frozenset[str]) -> Iterator[Binding]:
    match target:
        case ast.Name(id=name):
            yield Binding(name, reads)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from _stored(part, reads)
        case ast.Starred(value=part):
            yield from _stored(part, reads)
        case ast.Attribute(value=ast.Name(id=name)) | ast.Subscript(value=ast.Name(id=name)):
            yield Binding(name, reads | _reads(target), is_whole=False)


def _captured(pattern: ast.pattern, reads: frozenset[str]) -> Iterator[Binding]:
    for part in ast.walk(pattern):
        match part:
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield Binding(name, reads)


def _control(node: ast.AST) -> frozenset[str]:
    """The names that decide whether the statement's blocks run."""
    match node:
        case ast.If(test=test) | ast.While(test=test):
            return _reads(test)
        case ast.For(iter=values) | ast.AsyncFor(iter=values):
            return _reads(values)
        case ast.Match(subject=subject, cases=cases):
            return _reads(subject).union(*(_reads(c.pattern) | _reads(c.guard) for c in cases))
    return frozenset()


def _headers(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a statement that are evaluated at module level before its blocks."""
    if isinstance(node, ast.Match):
        yield from (case.guard for case in node.cases if case.guard)
    if not isinstance(node, _SCOPES):
        yield from (c for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr | ast.withitem))


def _walruses(node: ast.AST) -> Iterator[ast.NamedExpr]:
    """A walrus in a comprehension binds at module level too; one in a lambda does not."""
    if isinstance(node, _SCOPES):
        return
    for child in ast.iter_child_nodes(node):
        yield from _walruses(child)
    if isinstance(node, ast.NamedExpr):
        yield node


def _reads(node: ast.AST | None) -> frozenset[str]:
    """The outer names an expression reads, those inside its lambdas and comprehensions included."""
    if node is None:
        return frozenset()
    if isinstance(node, ast.Name):
        return frozenset({node.id}) if isinstance(node.ctx, ast.Load) else frozenset()
    found = frozenset[str]().union(*(_reads(child) for child in ast.iter_child_nodes(node)))
    if isinstance(node, _FUNCTIONS):
        defaults = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d]
        return (found - _local(node)).union(*map(_reads, defaults))
    if isinstance(node, _COMPREHENSIONS):
        return (found - _local(node)) | _reads(node.generators[0].iter)
    return found


def _local(scope: ast.AST) -> frozenset[str]:
    inside = list(ast.walk(scope))
    arguments = {n.arg for n in inside if isinstance(n, ast.arg)}
    return frozenset(arguments | {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)})
