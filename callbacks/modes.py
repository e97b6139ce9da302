"""Mode coverage of samples: collapse is counted, after each validation and in `test`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.counts import check_counts
from callbacks.sampling import SampleMeasure, fill_from_samples, measuring_device
from gen_lightning.errors import UserError
from gen_lightning.evaluation import BETTER, Row, extract_features
from gen_lightning.metrics import (
    Estimate,
    FeatureExtractor,
    MNISTFeatures,
    gaussian_high_quality,
    mixture_modes,
    mode_coverage,
    perfect_sampler_floor,
    stacked_modes,
)


@dataclass
class _Modes:
    """How the samples of a kind of data are counted.

    Args:
        assign: samples `[N, *data_shape]` -> their modes, int64 `[N]`
        weights: the modes' probabilities under the data, `[M]`
        measures: the names of those that say something, and how a logger has them
        high_quality: the probability that a sample of the data belongs to a mode
    """

    assign: Callable[[Tensor], Tensor]
    weights: Tensor
    measures: dict[str, str]
    high_quality: float


class ModeCoverage(SampleMeasure):
    """Counts the modes that samples cover (see `gen_lightning.metrics.mode_coverage`).

    Of a mixture (a data module with `mixture`): modes, share of high quality and reverse KL. Of stacked digits (a data
    module with `mode_weights`): modes of 1,000 and reverse KL, by a classifier of each channel.

    After each validation they are logged as `val/modes/N`, `val/high_quality/N` and `val/reverse_kl/N`, with the
    classifier's name before N where there is one, and as `val/modes` and so on for checkpoints to monitor. In `test`
    they are `rows` with standard errors, beside the floor, which is a perfect sampler's at the same N, and logged
    likewise. Ranks share the drawing of samples, whatever their number, without an effect on any value. A model that
    gives NaN covers no mode.

    Args:
        num_samples: N; 2,500 is the published protocol of mixtures, 26,000 that of stacked digits
        classifier: of one channel of stacked digits; by default the one for MNIST
        seed: of the samples

    Raises:
        UserError: num_samples is less than 1; the data have no modes that are known (in `setup`).
    """

    def __init__(self, num_samples: int = 2500, classifier: FeatureExtractor | None = None, seed: int = 0) -> None:
        check_counts(self, num_samples=num_samples)
        super().__init__(num_samples, seed)
        self.num_samples: int
        self.classifier = classifier

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Learns of the data's modes, and refuses, before training starts, data that have none."""
        data = trainer.datamodule
        if hasattr(data, "mixture"):
            self._modes = _define_mixture_modes(data.mixture)
        elif hasattr(data, "mode_weights"):
            self._modes = _define_stack_modes(self.classifier or MNISTFeatures(), data.mode_weights)
        else:
            raise UserError(
                "ModeCoverage needs data whose modes are known, of GaussianMixtureDataModule or StackedMNISTDataModule:"
                " leave it out of trainer.callbacks."
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the measures."""
        if trainer.sanity_checking:
            return
        for measure, (value, _) in self._measure(trainer, pl_module).items():
            pl_module.log(f"val/{self._modes.measures[measure]}/{self.num_samples}", value)
            pl_module.log(f"val/{measure}", value, logger=False)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, and logs what was measured."""
        estimates = self._measure(trainer, pl_module)
        floors = perfect_sampler_floor(self.num_samples, self._modes.weights, self._modes.high_quality)
        rows = {
            self._modes.measures[name]: Row(*estimate, self.num_samples, *floors[name], self.num_samples, BETTER[name])
            for name, estimate in estimates.items()
        }
        self.rows = self.label_latents(rows)
        pl_module.log_dict({f"test/{name}/{row.n}": row.value for name, row in self.rows.items()})

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Estimate]:
        zeros = torch.zeros(self.num_samples, dtype=torch.int64, device=measuring_device(trainer))
        modes = fill_from_samples(zeros, self._modes.assign, trainer, pl_module, self.seed)
        coverage = mode_coverage(modes, self._modes.weights)
        return {name: coverage[name] for name in self._modes.measures}


def _define_mixture_modes(mixture: Any) -> _Modes:
    def assign(points: Tensor) -> Tensor:
        return mixture_modes(points, mixture.means.to(points.device), mixture.sigma)

    measures = {name: name for name in ("modes", "high_quality", "reverse_kl")}
    return _Modes(assign, mixture.weights, measures, gaussian_high_quality(mixture.means.shape[1]))


def _define_stack_modes(classifier: FeatureExtractor, weights: Tensor) -> _Modes:
    measures = {name: f"{name}/{classifier.name}" for name in ("modes", "reverse_kl")}
    return _Modes(partial(_classified, classifier), weights, measures, high_quality=1.0)


@torch.no_grad()
def _classified(classifier: FeatureExtractor, stacks: Tensor) -> Tensor:
    classifier.to(stacks.device)
    features = extract_features(classifier, stacks.flatten(0, 1).unsqueeze(1))
    return stacked_modes(classifier.probabilities(features).unflatten(0, (-1, stacks.shape[1])))
