"""Samples for metrics, the same for any number of ranks."""

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gen_lightning.contracts import GenerativeModel, IdentifiedData, offers, require
from gen_lightning.evaluation import Row, load_trained_extractor
from gen_lightning.metrics import FeatureExtractor
from gen_lightning.stopping import check_stop

# Samples are drawn in blocks of this size, each from its own seed, so that they do not depend on the number of ranks.
_BLOCK = 500


class SampleMeasure(Callback):
    """A callback that computes metrics of samples. Its `rows` are part of the report of `test`.

    The options `--num_samples` and `--latents` of `test` set the attributes `num_samples` and `latents`. If the latents
    were not drawn from the prior, their source is appended to the name of each row.

    Args:
        num_samples: number of samples; None if a subclass takes it from the data
        seed: seed of the samples
    """

    def __init__(self, num_samples: int | None, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.latents = "prior"
        self.rows: dict[str, Row] = {}

    def label_latents(self, rows: dict[str, Row]) -> dict[str, Row]:
        """Return rows with the source of the latents appended to their names, unless it is the prior."""
        suffix = "" if self.latents == "prior" else f"/{self.latents}"
        return {name + suffix: row for name, row in rows.items()}

    def log_validation(
        self, pl_module: LightningModule, metric: str, row: str, value: Tensor | float, n: int, prog_bar: bool = False
    ) -> None:
        """Log a metric of n samples as `val/ROW/N`, and as `val/METRIC` for checkpoints to monitor."""
        pl_module.log(f"val/{row}/{n}", value)
        pl_module.log(f"val/{metric}", value, logger=False, prog_bar=prog_bar)

    def map_samples(
        self,
        describe: Callable[[Tensor], Tensor],
        zeros: Tensor,
        trainer: Trainer,
        pl_module: LightningModule,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Return a function's results for n samples, `[n, ...]`, the same on all ranks.

        Each of R ranks draws every R-th block of samples.

        Args:
            describe: function of samples `[N, *data_shape]` that returns `[N, ...]`
            zeros: zeros `[n, ...]` on the device of the results; they are overwritten
            trainer: Trainer whose ranks share the work
            pl_module: generative model
            labels: classes of the samples, int64 `[n]`; by default a conditional model draws them
        """
        model = require(pl_module, GenerativeModel, type(self).__name__)
        blocks = zeros.split(_BLOCK)
        classes: Sequence[Tensor | None] = [None] * len(blocks) if labels is None else labels.split(_BLOCK)
        seeds = torch.randint(2**62, (len(blocks),), generator=torch.Generator().manual_seed(self.seed)).tolist()
        for first in range(0, len(blocks), trainer.world_size):
            # Every rank checks equally often, a rank without a last block too.
            check_stop()
            block = first + trainer.global_rank
            if block >= len(blocks):
                break
            generator = torch.Generator().manual_seed(seeds[block])
            samples = model.sample(len(blocks[block]), generator=generator, labels=classes[block])
            blocks[block].copy_(describe(samples.to(zeros.device)))
        return trainer.strategy.reduce(zeros, reduce_op="sum")


def choose_device(trainer: Trainer) -> torch.device:
    """Return the device on which metrics are computed: the Trainer's, or the CPU for Apple's GPUs."""
    device = trainer.strategy.root_device
    # Apple's GPUs have no float64, in which metrics are computed.
    return torch.device("cpu") if device.type == "mps" else device


def find_extractor(data: object, otherwise: FeatureExtractor) -> FeatureExtractor:
    """Return the extractor that is trained on the data of a data module, if there is one, or another."""
    trained = load_trained_extractor(data.identity) if offers(data, IdentifiedData) else None
    return trained or otherwise
