"""FID as a callback: torchmetrics' computation on this project's extractors."""

from collections.abc import Iterator

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from gen_lightning.metrics import FeatureExtractor, MNISTFeatures


class FID(Callback):
    """Frechet distance between samples and held-out images (Heusel et al. 2017), after each validation and in `test`.

    Logged as `val/fid/EXTRACTOR/N` (`test/...`), N generated images against the whole split, never binarized. `test`
    also logs the floor, the same distance for N training images. Checkpoints monitor `val/fid`, which is the same value
    under a key that depends on neither. Samples and sums are shared between ranks; the value does not depend on them.

    Needs a data module with `images(split, first)`, this rank's share of a split (or of its first images) in batches of
    float32 `[N, C, H, W]`.

    Args:
        extractor: the frozen network whose features are compared; by default the one for MNIST
        num_samples: generated images, N; no more than the split has
        batch_size: images generated at a time
        seed: of the samples
    """

    def __init__(
        self,
        extractor: FeatureExtractor | None = None,
        num_samples: int = 10_000,
        batch_size: int = 500,
        seed: int = 0,
    ) -> None:
        self.extractor = extractor or MNISTFeatures()
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self._metrics: dict[str, FrechetInceptionDistance] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the FID against the validation split."""
        if trainer.sanity_checking:
            return
        value, n = self._fid_of_samples(trainer, pl_module, "val")
        pl_module.log(f"val/fid/{self.extractor.name}/{n}", value)
        pl_module.log("val/fid", value, logger=False, prog_bar=True)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the FID against the test split, and its floor."""
        value, n = self._fid_of_samples(trainer, pl_module, "test")
        pl_module.log(f"test/fid/{self.extractor.name}/{n}", value)
        pl_module.log(f"test/fid_floor/{self.extractor.name}/{n}", self._floor(trainer, n))

    def _fid_of_samples(self, trainer: Trainer, pl_module: LightningModule, split: str) -> tuple[Tensor, int]:
        metric = self._metric_with_real_images(trainer, split)
        n = min(self.num_samples, self._total(trainer, metric.real_features_num_samples))
        if n <= self.extractor.num_features:
            raise ValueError(
                f"FID of {n} images with {self.extractor.num_features} features has a singular covariance:"
                " use more validation images and samples, or leave FID out of trainer.callbacks."
            )
        metric.reset()
        for images in self._samples(trainer, pl_module, n):
            metric.update(images.to(metric.device), real=False)
        return metric.compute(), n

    def _metric_with_real_images(self, trainer: Trainer, split: str) -> FrechetInceptionDistance:
        """The metric that has seen the split's real images, which reset() leaves in it."""
        if split not in self._metrics:
            metric = FrechetInceptionDistance(self.extractor, reset_real_features=False)
            self._metrics[split] = metric.to(trainer.strategy.root_device)
            for images in trainer.datamodule.images(split):
                self._metrics[split].update(images.to(metric.device), real=True)
        return self._metrics[split]

    def _samples(self, trainer: Trainer, pl_module: LightningModule, n: int) -> Iterator[Tensor]:
        """This rank's share of n samples, in batches; each batch has a seed of its own."""
        sizes = [min(self.batch_size, n - start) for start in range(0, n, self.batch_size)]
        seeds = torch.randint(2**62, (len(sizes),), generator=torch.Generator().manual_seed(self.seed)).tolist()
        for batch in range(trainer.global_rank, len(sizes), trainer.world_size):
            yield pl_module.sample(sizes[batch], generator=torch.Generator().manual_seed(seeds[batch]))

    def _floor(self, trainer: Trainer, n: int) -> Tensor:
        """The metric's value for training images in place of samples."""
        metric = self._metric_with_real_images(trainer, "test")
        metric.reset()
        for images in trainer.datamodule.images("train", first=n):
            metric.update(images.to(metric.device), real=False)
        return metric.compute()

    @staticmethod
    def _total(trainer: Trainer, count: Tensor) -> int:
        return int(trainer.strategy.reduce(count.clone(), reduce_op="sum"))
