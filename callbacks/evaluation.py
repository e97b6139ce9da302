"""Evaluation of samples against held-out images: the FID after each validation, all metrics in `test`."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from callbacks.example_means import ExampleMeans
from callbacks.sampling import SampleMeasure, choose_device, find_extractor
from gen_lightning.checks import check_range
from gen_lightning.contracts import (
    GenerativeModel,
    ImageData,
    SplitName,
    find_datamodule,
    require,
)
from gen_lightning.errors import UserError
from gen_lightning.evaluation import (
    RealFeatures,
    extract_features,
    extract_real_features,
    make_sample_rows,
    probe_extractor,
)
from gen_lightning.metrics import FeatureExtractor, MNISTFeatures
from gen_lightning.metrics.frechet import frechet_distance

# The features of so many samples, and the distances between blocks of them, fit in the memory of any machine.
_MAX_SAMPLES = 100_000

# Tolerance for resized or normalized images outside [0, 1].
_ROUNDING = 1e-3


class Evaluation(SampleMeasure):
    """Compares the features of samples with those of real images, which are never binarized.

    After each validation it logs the FID (Heusel et al. 2017) as `val/fid/EXTRACTOR/N`, and as `val/fid` for
    checkpoints to monitor. If the samples have no FID, because they are not finite or are all equal, it warns.

    In `test` it computes every metric of `gen_lightning.evaluation`, with its standard error, its floor and its N, and
    logs them as `test/METRIC/EXTRACTOR/N`; they are in `rows`. The FID is left out, with a warning, if there are not
    more samples and images than features. What `test_step` returns, values per example `[N]` by
    name, is averaged and added to the rows with its standard error. Ranks share the sampling; the values do not depend
    on the number of ranks.

    Needs a data module with `images(split)`.

    Args:
        extractor: frozen network whose features are compared; by default the one that `train.py train_extractor` has
            trained on the same data, or else the one for MNIST
        num_samples: number of samples, N; 1 to 100,000, by default as many as the split has images
        seed: seed of the samples

    Raises:
        UserError: num_samples is less than 1.
    """

    def __init__(
        self, extractor: FeatureExtractor | None = None, num_samples: int | None = None, seed: int = 0
    ) -> None:
        check_range(self, at_least=1, num_samples=num_samples)
        super().__init__(num_samples, seed)
        self.extractor = extractor or MNISTFeatures()
        self._finds_extractor = extractor is None
        self._real: dict[str, RealFeatures] = {}
        self._means = ExampleMeans()

    def set_extractor(self, extractor: FeatureExtractor) -> None:
        """Replace the extractor before a test."""
        self.extractor, self._finds_extractor = extractor, False

    @property
    def identifying_row(self) -> str:
        """The name of a row that no other callback writes."""
        return f"kid/{self.extractor.name}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse, before training or test starts, what could not be evaluated after it.

        Raises:
            UserError: as for `check_data`; the images of a split are no images in [0, 1], or fewer than a covariance of
                the features needs; num_samples is too large.
        """
        # `test --num_samples` sets the attribute after the constructor has checked its argument.
        check_range(self, at_least=1, at_most=_MAX_SAMPLES, num_samples=self.num_samples)
        self._real = {}
        data_shape = require(pl_module, GenerativeModel, "Evaluation").data_shape
        data = self.check_data(trainer, data_shape, find_datamodule(trainer))
        if stage == "fit":
            self._check_covariance(_count_images(data, "val", data_shape))
        if stage == "test":
            counts = [_count_images(data, split, data_shape) for split in ("test", "train")]
            # The floors compare one half of the training images with the test images.
            n, dimension = min(counts[0], counts[1] // 2), self.extractor.num_features
            if min(n, self.num_samples or n) <= dimension:
                rank_zero_warn(
                    f"There is no FID, since {dimension} features need more than {dimension} samples, test images and"
                    " images in one half of the training split. Compare the KID instead."
                )

    def check_data(
        self, trainer: Trainer, data_shape: tuple[int, ...], datamodule: LightningDataModule | None
    ) -> ImageData:
        """Return the data module; refuse one whose data cannot be evaluated.

        Raises:
            UserError: the data are not images, there is no data module, or it has no images, or the extractor does not
                take images of their shape.
        """
        if len(data_shape) != 3:
            raise UserError(
                f"Evaluation compares images, and the data have shape {data_shape}. Measure samples by another callback"
                " such as callbacks.ModeCoverage, or do without Evaluation."
            )
        data = require(datamodule, ImageData, "Evaluation")
        if self._finds_extractor:
            self.extractor = find_extractor(data, self.extractor)
        # A user's extractor may be in training mode.
        self.extractor.eval().requires_grad_(False)
        probe_extractor(self.extractor, data_shape, self._move_extractor(trainer))
        return data

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the FID with respect to the validation split."""
        if trainer.sanity_checking:
            return
        real = self._extract_split(trainer, "val").features
        samples = self._extract_samples(trainer, pl_module, self.num_samples or len(real))
        try:
            value = frechet_distance(real, samples).float()
        except UserError as error:
            rank_zero_warn(f"There is no FID at iteration {trainer.global_step}: {error}")
            value = torch.tensor(torch.nan)
        self.log_validation(pl_module, "fid", f"fid/{self.extractor.name}", value, len(samples), prog_bar=True)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the results of an earlier test."""
        self._means.on_test_epoch_start(trainer, pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add up the values per example that `test_step` has returned."""
        self._means.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log all metrics."""
        held_out, training = self._extract_split(trainer, "test"), self._extract_split(trainer, "train")
        samples = self._extract_samples(trainer, pl_module, self.num_samples or len(held_out.features))
        # Every rank computes the metrics, so that an error stops all ranks.
        rows = self.label_latents(make_sample_rows(self.extractor, samples, held_out, training))
        pl_module.log_dict({f"test/{name}/{row.n}": row.value for name, row in rows.items()})
        self._means.on_test_epoch_end(trainer, pl_module)
        self.rows = rows | self._means.rows

    def provenance(self) -> dict[str, Any]:
        """Return the extractor, a digest of the test images and the seed of the last test, in JSON types."""
        return {
            "extractor": {"name": self.extractor.name, "sha256": self.extractor.sha256},
            "images": self._real["test"].fingerprint.rpartition(" ")[2],
            "sample_seed": self.seed,
        }

    def _check_covariance(self, available: int) -> None:
        n, dimension = min(available, self.num_samples or available), self.extractor.num_features
        if n <= dimension:
            raise UserError(
                f"The FID of {n} images with {dimension} features has a singular covariance. Use more than {dimension}"
                " validation images and samples, or do without Evaluation."
            )

    def _extract_split(self, trainer: Trainer, split: SplitName) -> RealFeatures:
        if split not in self._real:
            data = require(find_datamodule(trainer), ImageData, "Evaluation")
            device = self._move_extractor(trainer)
            self._real[split] = extract_real_features(self.extractor, partial(data.images, split), device)
        return self._real[split]

    def _extract_samples(self, trainer: Trainer, pl_module: LightningModule, n: int) -> Tensor:
        """Return features `[n, D]` of n samples, the same on all ranks."""
        zeros = torch.zeros(n, self.extractor.num_features, device=self._move_extractor(trainer))
        return self.map_samples(partial(extract_features, self.extractor), zeros, trainer, pl_module)

    def _move_extractor(self, trainer: Trainer) -> torch.device:
        """Move the extractor to the device of the metrics, and return that device."""
        device = choose_device(trainer)
        self.extractor.to(device)
        return device


def _count_images(data: ImageData, split: SplitName, data_shape: tuple[int, ...]) -> int:
    """Return the number of images of a split; refuse batches of other data."""
    n = 0
    for images in data.images(split):
        lowest, highest = (value.item() for value in images.aminmax())
        if (
            images.shape[1:] != data_shape
            or not images.is_floating_point()
            or lowest < -_ROUNDING
            or highest > 1 + _ROUNDING
        ):
            raise UserError(
                f"`images` of {type(data).__name__} yields {images.dtype} {list(images.shape)} from {lowest:.4g} to"
                f" {highest:.4g}. Yield batches of float32 [N, {', '.join(map(str, data_shape))}] in [0, 1]."
            )
        n += len(images)
    return n
