"""Whether a conditional model draws the classes that it is asked for."""

from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.counts import check_counts
from callbacks.sampling import SampleMeasure, fill_from_samples, measuring_device
from gen_lightning.errors import UserError
from gen_lightning.evaluation import BETTER, Row, extract_features, real_features
from gen_lightning.metrics import Estimate, FeatureExtractor, MNISTFeatures
from gen_lightning.metrics.estimates import mean_estimate

_METRIC = "conditional_accuracy"


class ConditionalAccuracy(SampleMeasure):
    """The share of samples that a classifier takes for the class that the model was asked for.

    After each validation it is logged as `val/conditional_accuracy/EXTRACTOR/N`, and as `val/conditional_accuracy` for
    checkpoints to monitor. In `test` it is one of `rows`, with its standard error, beside the floor, which is the
    classifier's accuracy on the test images, and logged likewise. Ranks share the drawing of samples, whatever their
    number, without an effect on any value.

    Needs a data module with `images(split)`, and with `examples(split)` for the images' labels.

    Args:
        num_samples: N, 2 or more; each class has the same part of them, as far as it divides
        extractor: the frozen network whose classes they are; by default the one for MNIST
        seed: of the samples

    Raises:
        UserError: num_samples is less than 2; the model is not conditional, the extractor does not know its images or
            classes, or the data module has no labels (in `setup`).
    """

    def __init__(self, num_samples: int = 10_000, extractor: FeatureExtractor | None = None, seed: int = 0) -> None:
        check_counts(self, 2, num_samples=num_samples)
        super().__init__(num_samples, seed)
        self.num_samples: int
        self.extractor = extractor or MNISTFeatures()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses, before training starts, what could not be classified after it."""
        if pl_module.num_classes is None:
            raise UserError(
                f"{type(pl_module).__name__} is not class-conditional: leave ConditionalAccuracy out of"
                " trainer.callbacks."
            )
        if not (hasattr(trainer.datamodule, "images") and hasattr(trainer.datamodule, "examples")):
            raise UserError(
                "ConditionalAccuracy needs a data module with images(split) and examples(split), such as"
                " MNISTDataModule."
            )
        self.extractor.eval().requires_grad_(False).to(measuring_device(trainer))
        image = torch.zeros(1, *pl_module.data_shape, device=measuring_device(trainer))
        known = self.extractor.probabilities(extract_features(self.extractor, image)).shape[1]
        if known != pl_module.num_classes:
            raise UserError(
                f"The extractor {self.extractor.name} knows {known} classes, and the model {pl_module.num_classes}:"
                " give ConditionalAccuracy another extractor."
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the accuracy."""
        if trainer.sanity_checking:
            return
        value = self._measure(trainer, pl_module).value
        pl_module.log(f"val/{_METRIC}/{self.extractor.name}/{self.num_samples}", value)
        pl_module.log(f"val/{_METRIC}", value, logger=False)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the accuracy and its floor, and logs the accuracy."""
        images = real_features(self.extractor, partial(trainer.datamodule.images, "test"), measuring_device(trainer))
        labels = torch.cat([labels for _, labels in trainer.datamodule.examples("test")]).to(images.features.device)
        floor = mean_estimate(self._classes(images.features) == labels)
        estimate = self._measure(trainer, pl_module)
        row = Row(*estimate, self.num_samples, *floor, len(labels), BETTER[_METRIC])
        self.rows = self.label_latents({f"{_METRIC}/{self.extractor.name}": row})
        pl_module.log_dict({f"test/{name}/{row.n}": row.value for name, row in self.rows.items()})

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> Estimate:
        asked = torch.arange(self.num_samples) % pl_module.num_classes
        zeros = torch.zeros_like(asked, device=measuring_device(trainer))
        classes = fill_from_samples(zeros, self._classified, trainer, pl_module, self.seed, asked)
        return mean_estimate(classes.cpu() == asked)

    def _classified(self, images: Tensor) -> Tensor:
        return self._classes(extract_features(self.extractor, images))

    def _classes(self, features: Tensor) -> Tensor:
        """The likeliest classes, int64 `[N]`, or -1 where a model has diverged."""
        probabilities = self.extractor.probabilities(features)
        return probabilities.argmax(1).where(probabilities.isfinite().all(1), -1)
