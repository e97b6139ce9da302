"""Means of the values per example that a model's test step returns."""

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from callbacks.sampling import choose_device
from gen_lightning.evaluation import Row, make_row
from gen_lightning.metrics import Estimate


class ExampleMeans(Callback):
    """Averages what `test_step` returns: values per example `[N]` by name, such as a VAE's ELBO.

    The means over the test split, with their standard errors, are in `rows`.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._sums: dict[str, Tensor] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the results of an earlier test."""
        self._sums = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add up the values of a batch."""
        # Lightning allows a tensor as well; the test steps of generative models return values by name, or nothing.
        for name, values in cast(dict[str, Tensor], outputs or {}).items():
            values = values.cpu().double()
            powers = torch.stack([torch.ones_like(values), values, values.square()]).sum(1)
            self._sums[name] = self._sums.get(name, 0) + powers

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the means, over all ranks."""
        self.rows = {}
        for name, sums in self._sums.items():
            sums = trainer.strategy.reduce(sums.to(choose_device(trainer)), reduce_op="sum")
            self.rows[name] = _summarize(name, sums)


def _summarize(name: str, sums: Tensor) -> Row:
    """Return the row of a mean, from the number of values, their sum and the sum of their squares."""
    n, total, squares = sums.tolist()
    variance = max(squares - total**2 / n, 0) / (n - 1)
    return make_row(name, Estimate(total / n, (variance / n) ** 0.5), int(n))
