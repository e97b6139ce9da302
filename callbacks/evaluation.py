"""Samples judged beside held-out images: FID after each validation, the whole report in `test`."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.counts import check_counts
from callbacks.sampling import SampleMeasure, fill_from_samples, measuring_device
from gen_lightning.errors import UserError
from gen_lightning.evaluation import RealFeatures, Row, extract_features, make_row, real_features, sample_rows
from gen_lightning.metrics import Estimate, FeatureExtractor, MNISTFeatures
from gen_lightning.metrics.frechet import frechet_distance

# Features of so many, and distances between blocks of them, fit in any memory.
_MOST_SAMPLES = 100_000


class Evaluation(SampleMeasure):
    """Compares features of samples with those of real images, which are never binarized.

    After each validation: the FID (Heusel et al. 2017), logged as `val/fid/EXTRACTOR/N`, and as `val/fid` for
    checkpoints to monitor. A model whose samples have no FID, because they are not finite or all equal, is warned of.

    In `test`: every metric of `gen_lightning.evaluation`, with its standard error, its floor and its N, as `rows`;
    logged as `test/METRIC/EXTRACTOR/N`. Ranks share the drawing of samples, whatever their number, without an effect on
    any of these. What `test_step` returns, values per example `[N]` by name, joins them with its standard error.

    Needs a data module with `images(split)`: all of a split, in batches of float32 `[N, C, H, W]` in [0, 1].

    Args:
        extractor: the frozen network whose features are compared; by default the one for MNIST
        num_samples: generated images, N, at most 100,000; by default as many as the split has images
        seed: of the samples
    """

    def __init__(
        self, extractor: FeatureExtractor | None = None, num_samples: int | None = None, seed: int = 0
    ) -> None:
        check_counts(self, num_samples=num_samples)
        super().__init__(num_samples, seed)
        self.extractor = extractor or MNISTFeatures()
        self._real: dict[str, RealFeatures] = {}
        self._sums: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses, before training starts, what could not be evaluated after it.

        Raises:
            UserError: the data are no images, or of no data module, or fewer than a covariance of the features needs;
                num_samples is too large.
        """
        if (self.num_samples or 0) > _MOST_SAMPLES:
            raise UserError(f"Evaluation's num_samples is {self.num_samples:,}: choose {_MOST_SAMPLES:,} or fewer.")
        # An extractor of one's own may have been made in training mode.
        self.extractor.eval().requires_grad_(False)
        self._real = {}
        if len(pl_module.data_shape) != 3:
            raise UserError(
                f"Evaluation judges images, not data of shape {pl_module.data_shape}: leave it out of"
                " trainer.callbacks."
            )
        if not hasattr(trainer.datamodule, "images"):
            raise UserError("Evaluation needs a data module with images(split), such as MNISTDataModule.")
        if stage == "fit":
            available = sum(len(images) for images in trainer.datamodule.images("val"))
            n, dimension = min(available, self.num_samples or available), self.extractor.num_features
            if n <= dimension:
                raise UserError(
                    f"FID of {n} images with {dimension} features has a singular covariance: use more validation images"
                    " and samples, or leave Evaluation out of trainer.callbacks."
                )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the FID against the validation split."""
        if trainer.sanity_checking:
            return
        real = self._extract_split(trainer, "val").features
        samples = self._extract_samples(trainer, pl_module, self.num_samples or len(real))
        try:
            value = frechet_distance(real, samples).float()
        except ValueError as error:
            rank_zero_warn(f"There is no FID at iteration {trainer.global_step}: {error}")
            value = torch.tensor(torch.nan)
        pl_module.log(f"val/fid/{self.extractor.name}/{len(samples)}", value)
        pl_module.log("val/fid", value, logger=False, prog_bar=True)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier test."""
        self._sums = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds up the values per example that the model measures itself."""
        for name, values in (outputs or {}).items():
            values = values.cpu().double()
            powers = torch.stack([torch.ones_like(values), values, values.square()]).sum(1)
            self._sums[name] = self._sums.get(name, 0) + powers

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, and logs what was measured."""
        held_out, training = (self._extract_split(trainer, split) for split in ("test", "train"))
        samples = self._extract_samples(trainer, pl_module, self.num_samples or len(held_out.features))
        # On every rank, so that what cannot be measured stops them all.
        rows = self.label_latents(sample_rows(self.extractor, samples, held_out, training))
        pl_module.log_dict({f"test/{name}/{row.n}": row.value for name, row in rows.items()})
        for name, sums in self._sums.items():
            sums = trainer.strategy.reduce(sums.to(self._to_device(trainer)), reduce_op="sum")
            rows[name] = _summarize(name, sums)
        self.rows = rows

    def provenance(self) -> dict[str, Any]:
        """With what `test` has measured, in JSON's types."""
        return {
            "extractor": {"name": self.extractor.name, "sha256": self.extractor.sha256},
            "data": self._real["test"].fingerprint.rpartition(" ")[2],
            "sample_seed": self.seed,
        }

    def _extract_split(self, trainer: Trainer, split: str) -> RealFeatures:
        if split not in self._real:
            device = self._to_device(trainer)
            self._real[split] = real_features(self.extractor, partial(trainer.datamodule.images, split), device)
        return self._real[split]

    def _extract_samples(self, trainer: Trainer, pl_module: LightningModule, n: int) -> Tensor:
        """Features `[n, D]` of n samples, the same on all ranks."""
        device = self._to_device(trainer)
        features = torch.zeros(n, self.extractor.num_features, device=device)
        return fill_from_samples(features, partial(extract_features, self.extractor), trainer, pl_module, self.seed)

    def _to_device(self, trainer: Trainer) -> torch.device:
        device = measuring_device(trainer)
        self.extractor.to(device)
        return device


def _summarize(name: str, sums: Tensor) -> Row:
    """The mean and its standard error, from the number of values, their sum and the sum of their squares."""
    n, total, squares = sums.tolist()
    variance = max(squares - total**2 / n, 0) / (n - 1)
    return make_row(name, Estimate(total / n, (variance / n) ** 0.5), int(n))
