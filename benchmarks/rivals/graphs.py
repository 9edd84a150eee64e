"""Graph libraries of others on the same chain of steps, for benchmarks/graph_build.py; missing ones are left out."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

LIMITS = {"pipefunc": 100, "hamilton": 100, "tensordict": 1_000}  # steps: beyond, they take minutes or overflow


def graphs(size: int) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """How to build a chain of `size` steps, and how to run what was built, for each library that can."""
    made = {"pipefunc": _pipefunc, "hamilton": _hamilton, "tensordict": _tensordict}
    return {name: make(size) for name, make in made.items() if find_spec(name) and size <= LIMITS[name]}


def _functions(size: int) -> list[Any]:
    """`def x1(x0): return x0`, and so on: these libraries read names from signatures."""
    text = "\n".join(f"def x{place + 1}(x{place}: int) -> int:\n    return x{place}" for place in range(size))
    names: dict[str, Any] = {"__name__": "chain"}
    exec(text, names)  # noqa: S102  # our own text
    return [names[f"x{place + 1}"] for place in range(size)]


def _pipefunc(size: int) -> Any:
    from pipefunc import PipeFunc, Pipeline

    functions = _functions(size)

    def build() -> Any:
        return Pipeline([PipeFunc(one, output_name=one.__name__) for one in functions])

    return build, lambda pipeline: pipeline(f"x{size}", x0=1)


def _hamilton(size: int) -> Any:
    from hamilton import ad_hoc_utils, driver

    functions = _functions(size)

    def build() -> Any:
        return driver.Builder().with_modules(ad_hoc_utils.create_temporary_module(*functions)).build()

    return build, lambda built: built.execute([f"x{size}"], inputs={"x0": 1})


def _tensordict(size: int) -> Any:
    import torch
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule, TensorDictSequential

    def build() -> Any:
        steps = [TensorDictModule(lambda x: x, [f"x{place}"], [f"x{place + 1}"]) for place in range(size)]
        return TensorDictSequential(*steps)

    return build, lambda module: module(TensorDict({"x0": torch.ones(1)}, batch_size=[]))
