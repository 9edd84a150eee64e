"""A full `exp.train`, with an observing callback, history and progress on. Variants: see VARIANTS."""

from __future__ import annotations

import keras
from _serve import Case, Epoch, serve
from networks import network

from experimentator import Callback, Mode, Subset, build_experiment, ops

VARIANTS = {
    "default": {},
    "host": {"residency": "host"},
    "host, 1": {"residency": "host", "steps_per_call": 1},
    "host, 8": {"residency": "host", "steps_per_call": 8},
    "host, 32": {"residency": "host", "steps_per_call": 32},
    "host, 128": {"residency": "host", "steps_per_call": 128},
    "XLA": {"jit_compile": True},  # on PyTorch, Inductor
    "XLA for each step": {"jit_compile": "step"},
    "no XLA": {"jit_compile": False},
}
SETTLED = {"mlp": 60, "cnn": 20}  # epochs until the compiler, and the number of batches a call runs, have settled


class Observe(Callback):
    """Looks at what every epoch gives."""

    def on_epoch_end(self, training_loss: float, **_: object) -> None:
        self.seen = training_loss


if keras.backend.backend() == "torch":
    import torch

    torch.set_flush_denormal(True)  # as in torch_loop.py


def build(case: Case, variant: str, steps: int) -> Epoch:
    x, y = case.data(steps)
    exp = build_experiment(
        {
            "subsets": [Subset("training", Mode.TRAIN, {"input": x, "target": y})],
            "batch_size": case.batch,
            "precision": case.precision,
            "chunk_processors": [
                ops.Cast("batch_input", "float32"),
                ops.Scale("batch_input", case.scale),
                ops.Model(network(case), inputs="batch_input", outputs="batch_logits"),
                ops.SoftmaxCrossEntropy("batch_logits", "batch_target"),
            ],
            "optimizer": keras.optimizers.Adam(1e-3),
            "callbacks": [Observe()],
            **VARIANTS[variant],
        }
    )
    exp.train(SETTLED.get(case.name, 3))
    return lambda: exp.train(exp.epoch + 1)


if __name__ == "__main__":
    serve(build)
