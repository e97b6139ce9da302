"""Samples to be measured, which no number of ranks changes."""

from collections.abc import Callable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gen_lightning.evaluation import Row

# Samples are drawn in blocks of this size, each from a seed of its own, so that neither the ranks nor anything else
# changes them.
_BLOCK = 500


class SampleMeasure(Callback):
    """Measures samples: `rows` join the report of `test`, whose `--num_samples` and `--latents` are set here.

    Where `latents` names others than the prior's, they stand behind the name of each row.

    Args:
        num_samples: how many
        seed: of the samples
    """

    def __init__(self, num_samples: int | None, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.latents = "prior"
        self.rows: dict[str, Row] = {}

    def label_latents(self, rows: dict[str, Row]) -> dict[str, Row]:
        """Rows of samples under names that say which latents the samples are of."""
        suffix = "" if self.latents == "prior" else f"/{self.latents}"
        return {name + suffix: row for name, row in rows.items()}


def fill_from_samples(
    zeros: Tensor,
    describe: Callable[[Tensor], Tensor],
    trainer: Trainer,
    pl_module: LightningModule,
    seed: int,
    labels: Tensor | None = None,
) -> Tensor:
    """What `describe` says of n samples, `[n, ...]`, the same on all ranks: each draws every R-th block.

    Args:
        zeros: `[n, ...]` on the device to measure on, which is written to
        describe: samples `[N, *data_shape]` -> `[N, ...]`
        trainer: whose ranks share the work
        pl_module: the model
        seed: of the samples
        labels: the classes that a conditional model is asked for, int64 `[n]`; by default it draws them
    """
    blocks = zeros.split(_BLOCK)
    classes = [None] * len(blocks) if labels is None else labels.split(_BLOCK)
    seeds = torch.randint(2**62, (len(blocks),), generator=torch.Generator().manual_seed(seed)).tolist()
    for block in range(trainer.global_rank, len(blocks), trainer.world_size):
        generator = torch.Generator().manual_seed(seeds[block])
        samples = pl_module.sample(len(blocks[block]), generator=generator, labels=classes[block])
        blocks[block].copy_(describe(samples.to(zeros.device)))
    return trainer.strategy.reduce(zeros, reduce_op="sum")


def measuring_device(trainer: Trainer) -> torch.device:
    """The trainer's device, or the CPU in place of Apple's GPUs."""
    device = trainer.strategy.root_device
    # Apple's have no float64, in which metrics are computed.
    return torch.device("cpu") if device.type == "mps" else device
