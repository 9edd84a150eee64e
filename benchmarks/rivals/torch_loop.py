"""PyTorch, a training loop over tensors in memory. Variants: eager, fused Adam, compiled, CUDA graphs."""

from __future__ import annotations

import numpy as np
import torch
from _serve import Case, Epoch, serve
from torch import nn
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(case: Case) -> nn.Module:
    """The network of a case, on float images; channels come first."""
    if case.name == "mlp":
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    blocks: list[nn.Module] = []
    for before, filters in ((1, 4), (4, 8), (8, 16)):
        blocks += [nn.Conv2d(before, filters, 3), nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16, 100), nn.ReLU(), nn.Linear(100, 10))


def tensors(case: Case, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The data of a case on the device."""
    x, y = case.data(steps)
    if case.name == "cnn":
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return torch.from_numpy(x).to(DEVICE), torch.from_numpy(y.astype(np.int64)).to(DEVICE)


def build(case: Case, variant: str, steps: int) -> Epoch:
    torch.set_num_threads(torch.get_num_threads())
    (x, y), model = tensors(case, steps), network(case).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=variant == "fused Adam" or None)

    def objective(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model(images.float() / case.scale), target)

    modes = {"compiled": "default", "CUDA graphs": "reduce-overhead"}
    step = torch.compile(objective, mode=modes[variant]) if variant in modes else objective

    def one_epoch() -> float:
        losses = []
        for rows in torch.randperm(len(x), device=DEVICE).view(-1, case.batch):
            optimizer.zero_grad(set_to_none=True)
            loss = step(x[rows], y[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    return one_epoch


if __name__ == "__main__":
    serve(build)
