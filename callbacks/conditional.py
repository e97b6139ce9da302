"""Accuracy of a class-conditional model: whether its samples are of the requested classes."""

from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.sampling import SampleMeasure, choose_device, find_extractor
from gen_lightning.checks import check_range
from gen_lightning.contracts import (
    ExampleData,
    GenerativeModel,
    ImageData,
    find_datamodule,
    require,
)
from gen_lightning.errors import UserError
from gen_lightning.evaluation import (
    BETTER,
    Row,
    extract_features,
    extract_real_features,
    probe_extractor,
)
from gen_lightning.metrics import Estimate, FeatureExtractor, MNISTFeatures
from gen_lightning.metrics.estimates import estimate_mean

_METRIC = "conditional_accuracy"


class ConditionalAccuracy(SampleMeasure):
    """The share of samples that a classifier assigns to the class that was requested.

    After each validation it is logged as `val/conditional_accuracy/EXTRACTOR/N`, and as `val/conditional_accuracy` for
    checkpoints to monitor. In `test` it is in `rows`, with its standard error and its floor, the classifier's accuracy
    on the test images, and is logged as `test/conditional_accuracy/EXTRACTOR/N`. Ranks share the sampling; the values
    do not depend on the number of ranks.

    Needs a data module with `images(split)`, and with `examples(split)` for the labels of the images.

    Args:
        num_samples: number of samples, N, as equally divided among the classes as possible; at least 2
        extractor: frozen network that classifies the samples; default: as for `Evaluation`
        seed: seed of the samples

    Raises:
        UserError: num_samples is less than 2; in `setup`, the model is not class-conditional, the extractor does not
            know its images or classes, or the data module has no images or labels.
    """

    def __init__(self, num_samples: int = 10_000, extractor: FeatureExtractor | None = None, seed: int = 0) -> None:
        check_range(self, at_least=2, num_samples=num_samples)
        super().__init__(num_samples, seed)
        self.num_samples: int
        self.extractor = extractor or MNISTFeatures()
        self._finds_extractor = extractor is None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse, before training starts, what could not be classified after it."""
        model = require(pl_module, GenerativeModel, "ConditionalAccuracy")
        if model.num_classes is None:
            raise UserError(
                f"{type(pl_module).__name__} is not class-conditional. Choose conditional networks, or do without"
                " ConditionalAccuracy."
            )
        data = require(find_datamodule(trainer), ImageData, "ConditionalAccuracy")
        require(data, ExampleData, "ConditionalAccuracy")
        if self._finds_extractor:
            self.extractor = find_extractor(data, self.extractor)
        if not getattr(self.extractor, "classifies", True):
            raise UserError(
                f"The extractor {self.extractor.name} tells rotations, not classes. Choose another"
                " `ConditionalAccuracy.extractor`."
            )
        self.extractor.eval().requires_grad_(False).to(choose_device(trainer))
        features = probe_extractor(self.extractor, model.data_shape, choose_device(trainer))
        known = self.extractor.predict_probabilities(features).shape[1]
        if known != model.num_classes:
            raise UserError(
                f"The extractor {self.extractor.name} knows {known} classes, and the model {model.num_classes}."
                " Choose another `ConditionalAccuracy.extractor`."
            )

    @property
    def identifying_row(self) -> str:
        """The name of the row, which no other callback writes."""
        return f"{_METRIC}/{self.extractor.name}"

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracy."""
        if trainer.sanity_checking:
            return
        value = self._estimate(trainer, pl_module).value
        self.log_validation(pl_module, _METRIC, self.identifying_row, value, self.num_samples)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the accuracy and its floor, and log the accuracy."""
        floor, floor_n = self._estimate_floor(trainer)
        row = Row(*self._estimate(trainer, pl_module), self.num_samples, *floor, floor_n, BETTER[_METRIC])
        self.rows = self.label_latents({f"{_METRIC}/{self.extractor.name}": row})
        pl_module.log_dict({f"test/{name}/{row.n}": row.value for name, row in self.rows.items()})

    def _estimate_floor(self, trainer: Trainer) -> tuple[Estimate, int]:
        """Return the classifier's accuracy on the test images, and their number."""
        data = require(find_datamodule(trainer), ImageData, "ConditionalAccuracy")
        labelled = require(find_datamodule(trainer), ExampleData, "ConditionalAccuracy")
        features = extract_real_features(self.extractor, partial(data.images, "test"), choose_device(trainer)).features
        labels = torch.cat([labels for _, labels in labelled.examples("test")]).to(features.device)
        return estimate_mean(self._classify(features) == labels), len(labels)

    def _estimate(self, trainer: Trainer, pl_module: LightningModule) -> Estimate:
        """Return the accuracy on samples."""
        num_classes = require(pl_module, GenerativeModel, "ConditionalAccuracy").num_classes
        assert num_classes is not None, "setup has refused unconditional models"
        requested = torch.arange(self.num_samples) % num_classes
        zeros = torch.zeros_like(requested, device=choose_device(trainer))
        classes = self.map_samples(self._classify_images, zeros, trainer, pl_module, requested)
        return estimate_mean(classes.cpu() == requested)

    def _classify_images(self, images: Tensor) -> Tensor:
        return self._classify(extract_features(self.extractor, images))

    def _classify(self, features: Tensor) -> Tensor:
        """Return the likeliest classes, int64 `[N]`; -1 for images that are not finite, as of a diverged model."""
        probabilities = self.extractor.predict_probabilities(features)
        return probabilities.argmax(1).where(probabilities.isfinite().all(1), -1)
