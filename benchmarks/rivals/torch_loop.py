"""PyTorch, a training loop over tensors on the device.

Variants: eager, fused Adam, compiled, reduce-overhead (compiled, in CUDA graphs), graph (the whole step, Adam too, in
one CUDA graph), compiled graph. On a GPU all but eager have the fused Adam; on a CPU nothing is captured.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from _serve import Case, Epoch, serve
from torch import nn
from torch.nn import functional

torch.set_flush_denormal(True)  # as TensorFlow and XLA do; without, steps take twice as long once the loss is near 0
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODES = {"compiled": "default", "reduce-overhead": "reduce-overhead", "compiled graph": "default"}
GRAPHS = ("graph", "compiled graph")
BLOCKS = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))  # filters and stride


class Residual(nn.Module):
    """A block of ResNet-18: [B, before, H, W] -> [B, filters, H / stride, W / stride]."""

    def __init__(self, before: int, filters: int, stride: int):
        super().__init__()
        first, second = _convolved(before, filters, stride), _convolved(filters, filters)
        self.other = nn.Sequential(*first, nn.ReLU(inplace=True), *second)
        self.same = nn.Sequential(*(_convolved(before, filters, stride, size=1) if before != filters else ()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.other(x) + self.same(x), inplace=True)


def network(case: Case) -> nn.Module:
    """The network of a case, on float images; channels come first."""
    if case.network == "resnet":
        return resnet()
    if case.network == "mlp":
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    blocks: list[nn.Module] = []
    for before, filters in ((1, 4), (4, 8), (8, 16)):
        blocks += [nn.Conv2d(before, filters, 3), nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16, 100), nn.ReLU(), nn.Linear(100, 10))


def resnet() -> nn.Module:
    """ResNet-18 for 32x32 images, in the layout that is quickest in bfloat16."""
    blocks: list[nn.Module] = []
    before = 64
    for filters, stride in BLOCKS:
        blocks.append(Residual(before, filters, stride))
        before = filters
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    model = nn.Sequential(*_convolved(3, 64), nn.ReLU(inplace=True), *blocks, *head)
    return model.to(memory_format=torch.channels_last)


def _convolved(before: int, filters: int, stride: int = 1, size: int = 3) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, filters, size, stride, size // 2, bias=False), nn.BatchNorm2d(filters)


def tensors(case: Case, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The data of a case on the device; channels come first, but for the resnet, whose layout they have already."""
    x, y = case.data(steps)
    if case.network == "cnn":
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return torch.from_numpy(x).to(DEVICE), torch.from_numpy(y.astype(np.int64)).to(DEVICE)


def build(case: Case, variant: str, steps: int) -> Epoch:
    torch.set_num_threads(torch.get_num_threads())
    if DEVICE == "cuda":  # what TensorFlow does by itself
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    (x, y), model = tensors(case, steps), network(case).to(DEVICE)
    fused = variant != "eager" if DEVICE == "cuda" else variant == "fused Adam"
    capturable = DEVICE == "cuda" and variant in GRAPHS
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=fused or None, capturable=capturable)

    def objective(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        images = images.permute(0, 3, 1, 2) if case.network == "resnet" else images
        with _precision(case):
            logits = model(images.float() / case.scale)
        return functional.cross_entropy(logits.float(), target)

    step = torch.compile(objective, mode=MODES[variant]) if variant in MODES else objective
    if variant in GRAPHS:
        return _replaying(step, optimizer, x, y, case.batch)

    def one_epoch() -> float:
        losses = []
        for rows in torch.randperm(len(x), device=DEVICE).view(-1, case.batch):
            optimizer.zero_grad(set_to_none=True)
            if variant == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            loss = step(x[rows], y[rows])
            loss.backward()
            optimizer.step()  # the memory of a loss that a CUDA graph gave is written again by the next step
            losses.append(loss.detach().clone() if variant == "reduce-overhead" else loss.detach())
        return float(torch.stack(losses).mean())

    return one_epoch


def _precision(case: Case) -> AbstractContextManager[Any]:
    return torch.autocast(DEVICE, getattr(torch, case.precision)) if case.precision else nullcontext()


def _replaying(step: Any, optimizer: Any, x: torch.Tensor, y: torch.Tensor, batch: int) -> Epoch:
    """Epochs of one call for each step: rows, forward, backward, Adam and the loss that is kept are in its graph."""
    order = torch.zeros(len(x) // batch, batch, dtype=torch.int64, device=DEVICE)
    place, losses = torch.zeros(1, dtype=torch.int64, device=DEVICE), torch.zeros(len(order), device=DEVICE)

    def whole_step() -> None:
        rows = order.index_select(0, place)[0]
        loss = step(x.index_select(0, rows), y.index_select(0, rows))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.index_copy_(0, place, loss.detach()[None])
        place.add_(1)

    run = _captured(whole_step, before=place.zero_)

    def one_epoch() -> float:
        order.view(-1).copy_(torch.randperm(len(x), device=DEVICE))
        place.zero_()
        for _ in range(len(order)):
            run()
        return float(losses.mean())

    return one_epoch


def _captured(run: Callable[[], None], before: Callable[[], object]) -> Callable[[], None]:
    """What replays `run` as one CUDA graph; on a CPU, `run` itself."""
    if DEVICE == "cpu":
        return run
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(4):  # so that everything is compiled, chosen and allocated
            before()
            run()
    torch.cuda.current_stream().wait_stream(aside)
    before()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


if __name__ == "__main__":
    serve(build)
