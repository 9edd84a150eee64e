"""Lightning's `Trainer.fit`. Variants: default (progress bar, checkpoints, logger), quiet."""

from __future__ import annotations

import logging
import tempfile
import warnings
from typing import Any

import lightning
import torch
from _serve import Case, Epoch, serve
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torch_loop import network, tensors

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
QUIET = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False, "enable_model_summary": False}


class Module(lightning.LightningModule):
    """The network of a case, its loss and its optimizer."""

    def __init__(self, case: Case):
        super().__init__()
        self.case, self.model = case, network(case)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        images, target = batch
        loss = functional.cross_entropy(self.model(images.float() / self.case.scale), target)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


def build(case: Case, variant: str, steps: int) -> Epoch:
    x, y = tensors(case, steps)
    loader = DataLoader(TensorDataset(x, y), case.batch, shuffle=True)
    module, options = Module(case), QUIET if variant == "quiet" else {}
    folder = tempfile.mkdtemp()

    def one_epoch() -> None:
        trainer = lightning.Trainer(max_epochs=1, default_root_dir=folder, log_every_n_steps=50, **options)
        trainer.fit(module, loader)

    return one_epoch


if __name__ == "__main__":
    serve(build)
