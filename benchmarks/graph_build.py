"""Milliseconds to build, order, check and select a graph, and microseconds a node to run it eagerly.

Command:  python benchmarks/graph_build.py [--quick]

A chain of processors that only pass a number on, beside raw networkx building and sorting the same chain, and beside
pipefunc, Hamilton and tensordict.nn where these are installed, in the same process, in turn. Medians over the rounds.
Unless it is quick, it writes to benchmarks/results/ and history.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import networkx as nx
from _report import publish, table
from rivals.graphs import LIMITS, graphs

from experimentator.graph import ChunkProcessor, Graph


class Pass(ChunkProcessor):
    """Writes what it reads."""

    def __init__(self, place: int):
        self.source, self.target = f"x{place}", f"x{place + 1}"
        self.inputs, self.outputs = (self.source,), (self.target,)

    def __call__(self, chunk: Any) -> None:
        chunk[self.target] = chunk[self.source]


def build(chain: list[Pass]) -> Graph:
    graph = Graph(chain, provided={"x0"}).select(f"x{len(chain)}")
    assert len(graph.order) == len(chain)
    return graph


def raw(chain: list[Pass]) -> list[int]:
    dag: nx.DiGraph = nx.DiGraph()
    dag.add_nodes_from(range(len(chain)))
    dag.add_edges_from((place - 1, place, {"name": one.source}) for place, one in enumerate(chain) if place)
    return list(nx.lexicographical_topological_sort(dag))


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(size: int, rounds: int) -> dict[str, float]:
    chain = [Pass(place) for place in range(size)]
    graph = build(chain)
    graph.run({"x0": 1})
    times: dict[str, list[float]] = {"build": [], "networkx": [], "run": []}
    rivals = graphs(size)
    built = {name: build_it() for name, (build_it, _) in rivals.items()}
    for _ in range(rounds):
        times["build"].append(seconds(lambda: build(chain)))
        times["networkx"].append(seconds(lambda: raw(chain)))
        times["run"].append(seconds(lambda: graph.run({"x0": 1})))
        for name, (build_it, run_it) in rivals.items():
            times.setdefault(f"{name}_build", []).append(seconds(build_it))
            times.setdefault(f"{name}_run", []).append(seconds(partial(run_it, built[name])))
    build_s, raw_s, run_s = (statistics.median(times[name]) for name in ("build", "networkx", "run"))
    return {
        "build_ms": round(build_s * 1e3, 2),
        "networkx_ms": round(raw_s * 1e3, 2),
        "run_us_per_node": round(run_s / size * 1e6, 2),
        **{f"{name}_build_ms": round(statistics.median(times[f"{name}_build"]) * 1e3, 1) for name in rivals},
        **{f"{name}_run_us": round(statistics.median(times[f"{name}_run"]) / size * 1e6, 1) for name in rivals},
    }


def _row(name: str, results: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What one library takes for each size; empty where it cannot, or would take minutes."""
    own = {"experimentator": ("build_ms", "run_us_per_node"), "networkx": ("networkx_ms", "")}
    build, run = own.get(name, (f"{name}_build_ms", f"{name}_run_us"))
    sizes = {f"{int(size):,} nodes": row.get(build, "") for size, row in results.items()}
    return {"library": name, **sizes, "us a node": results["100"].get(run, "")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of fifteen")
    options = parser.parse_args()
    results = {str(size): measure(size, 3 if options.quick else 15) for size in (100, 1_000, 10_000)}
    text = table([_row(name, results) for name in ("experimentator", "networkx", *LIMITS)])
    few = results["100"]
    built = {name: few[f"{name}_build_ms"] for name in LIMITS if f"{name}_build_ms" in few}
    bars = {
        "Graphs of 100 nodes: milliseconds to build": {
            "experimentator": few["build_ms"],
            "raw networkx": few["networkx_ms"],
            **built,
        }
    }
    head = "## Graphs: milliseconds to build, order, check and select a chain; microseconds a node to run it"
    publish("graphs", results, f"{head}\n\n{text}\n", bars=bars, quick=options.quick)


if __name__ == "__main__":
    main()
