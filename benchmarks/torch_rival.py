"""Steps per second of PyTorch on the networks of throughput.py, on a GPU: eager, compiled, whole-step CUDA graph.

Command:  python benchmarks/torch_rival.py [--only cnn|resnet18]

A rival, for the figures only: needs torch with CUDA, in a process of its own. Data lies on the device, every step takes
the rows that a permutation of the epoch says, forward, backward, fused Adam. Appends to history.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _report import append, table
from sklearn.datasets import load_digits
from torch import nn


class Residual(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        self.way = nn.Identity() if stride == 1 and channels == filters else _conv(channels, filters, 1, stride)
        self.body = nn.Sequential(_conv(channels, filters, 3, stride), nn.ReLU(), _conv(filters, filters, 3, 1))

    def forward(self, x: Any) -> Any:
        return torch.relu(self.way(x) + self.body(x))


def _conv(channels: int, filters: int, size: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(channels, filters, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(filters))


def resnet18() -> nn.Module:
    blocks: list[nn.Module] = [_conv(3, 64, 3, 1), nn.ReLU()]
    channels = 64
    for filters, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Residual(channels, filters, first), Residual(filters, filters, 1)]
        channels = filters
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def cnn() -> nn.Module:
    blocks: list[nn.Module] = []
    for channels, filters in ((1, 4), (4, 8), (8, 16)):
        blocks += [nn.Conv2d(channels, filters, 3), nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16, 100), nn.ReLU(), nn.Linear(100, 10))


CASES: dict[str, dict[str, Any]] = {
    "cnn": {"network": cnn, "batch": 64, "steps": 1000, "size": 28, "channels": 1, "bf16": False},
    "resnet18": {"network": resnet18, "batch": 512, "steps": 100, "size": 32, "channels": 3, "bf16": True},
}


def data(case: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    images = np.kron(digits.images.astype(np.uint8) * 15, np.ones((1, 4, 4), np.uint8))[
        :, : case["size"], : case["size"]
    ]
    rows = np.resize(np.arange(len(digits.target)), case["steps"] * case["batch"])
    x = torch.from_numpy(np.repeat(images[:, None], case["channels"], axis=1)[rows]).cuda()
    return x.contiguous(memory_format=torch.channels_last), torch.from_numpy(digits.target[rows]).cuda()


def contender(case: dict[str, Any], way: str) -> Callable[[], None]:
    """One epoch of one way to run the step."""
    x, y = data(case)
    network = case["network"]().cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True, capturable=way == "whole-step CUDA graph")

    def step(rows: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=case["bf16"]):
            logits = network(x[rows].float() / 255)
        loss = nn.functional.cross_entropy(logits.float(), y[rows])
        loss.backward()
        optimizer.step()
        return loss.detach()

    if way.startswith("compiled"):
        mode = {"compiled": "default", "compiled, reduce-overhead": "reduce-overhead"}[way]
        network = torch.compile(network, mode=mode)
    run = _captured(step, case["batch"]) if way == "whole-step CUDA graph" else step

    def epoch() -> None:
        order = torch.randperm(len(x), device="cuda").reshape(-1, case["batch"])
        losses = [run(rows).clone() for rows in order]
        torch.stack(losses).mean().item()

    return epoch


def _captured(step: Callable[[torch.Tensor], torch.Tensor], batch: int) -> Callable[[torch.Tensor], torch.Tensor]:
    rows = torch.zeros(batch, dtype=torch.int64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(rows)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(rows)

    def replay(now: torch.Tensor) -> torch.Tensor:
        rows.copy_(now)
        graph.replay()
        return loss

    return replay


def measure(name: str) -> dict[str, float]:
    case = CASES[name]
    results = {}
    for way in ("eager", "compiled", "compiled, reduce-overhead", "whole-step CUDA graph"):
        try:
            epoch = contender(case, way)
            epoch()
            times = []
            for _ in range(3):
                start = time.perf_counter()
                epoch()
                times.append(time.perf_counter() - start)
            results[way] = round(case["steps"] / statistics.median(times), 1)
        except Exception as error:  # a rival that fails is reported as such, and the others go on
            print(f"{name}, {way}: {type(error).__name__}: {error}")
    print(f"\n### torch {torch.__version__}, {name}, batch {case['batch']}\n")
    print(table([{"way": way, "steps/s": f"{rate:,.0f}"} for way, rate in results.items()]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    results = {name: measure(name) for name in ([options.only] if options.only else CASES)}
    append("torch", {"version": torch.__version__, **results}, device=torch.cuda.get_device_name(0))


if __name__ == "__main__":
    main()
