"""Mode coverage of samples, after each validation and in `test`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.sampling import SampleMeasure, choose_device
from gen_lightning.checks import check_range
from gen_lightning.contracts import (
    GenerativeModel,
    Mixture,
    MixtureData,
    StackedData,
    find_datamodule,
    offers,
    require,
)
from gen_lightning.errors import UserError
from gen_lightning.evaluation import BETTER, Row, extract_features
from gen_lightning.metrics import (
    Estimate,
    FeatureExtractor,
    MNISTFeatures,
    assign_mixture_modes,
    assign_stacked_modes,
    gaussian_high_quality,
    mode_coverage,
    simulate_perfect_sampler,
)


@dataclass
class _Modes:
    """The modes of the data, and how samples are assigned to them.

    Args:
        assign: function of samples `[N, *data_shape]` that returns their modes, int64 `[N]`
        weights: probabilities of the modes, `[M]`
        measures: names of the measures that apply, and their names in the log
        high_quality: probability that a sample of the data is of high quality
    """

    assign: Callable[[Tensor], Tensor]
    weights: Tensor
    measures: dict[str, str]
    high_quality: float


class ModeCoverage(SampleMeasure):
    """Counts the modes that samples cover (see `gen_lightning.metrics.mode_coverage`).

    For a mixture of Gaussians (a data module with `mixture`): the number of modes, the share of high-quality samples
    and the reverse KL. For stacked digits (a data module with `mode_weights`): the number of modes among 1,000 and the
    reverse KL, with a classifier applied to each channel.

    After each validation they are logged as `val/modes/N`, `val/high_quality/N` and `val/reverse_kl/N`, with the name
    of the classifier, if there is one, before N, and as `val/modes` and so on for checkpoints to monitor. In `test`
    they are in `rows`, with standard errors and the floor, a perfect sampler's value at the same N, and are logged as
    `test/...`. Ranks share the sampling; the values do not depend on the number of ranks. A model whose samples are NaN
    covers no mode.

    Args:
        num_samples: number of samples, N; at least 1. The published protocols are 2,500 for mixtures and 26,000 for
            stacked digits.
        classifier: classifier of one channel of stacked digits; the one for MNIST by default
        seed: seed of the samples

    Raises:
        UserError: num_samples is less than 1; in `setup`, the data have no known modes.
    """

    def __init__(self, num_samples: int = 2500, classifier: FeatureExtractor | None = None, seed: int = 0) -> None:
        check_range(self, at_least=1, num_samples=num_samples)
        super().__init__(num_samples, seed)
        self.num_samples: int
        self.classifier = classifier

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the modes of the data; refuse data without known modes before training starts."""
        require(pl_module, GenerativeModel, "ModeCoverage")
        data = find_datamodule(trainer)
        if offers(data, MixtureData):
            self._modes = _define_mixture_modes(data.mixture)
        elif offers(data, StackedData):
            self._modes = _define_stack_modes(self.classifier or MNISTFeatures(), data.mode_weights)
        else:
            found = (
                "there are none" if data is None else f"{type(data).__name__} has no `mixture` and no `mode_weights`"
            )
            raise UserError(
                f"ModeCoverage needs data with known modes, but {found}. Choose GaussianMixtureDataModule or"
                " StackedMNISTDataModule, or do without ModeCoverage."
            )

    @property
    def identifying_row(self) -> str:
        """The name of a row that no other callback writes, known from `setup` on."""
        return self._modes.measures["modes"]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the measures."""
        if trainer.sanity_checking:
            return
        for measure, (value, _) in self._measure(trainer, pl_module).items():
            self.log_validation(pl_module, measure, self._modes.measures[measure], value, self.num_samples)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the measures and their floors."""
        estimates = self._measure(trainer, pl_module)
        floors = simulate_perfect_sampler(self.num_samples, self._modes.weights, self._modes.high_quality)
        rows = {
            self._modes.measures[name]: Row(*estimate, self.num_samples, *floors[name], self.num_samples, BETTER[name])
            for name, estimate in estimates.items()
        }
        self.rows = self.label_latents(rows)
        pl_module.log_dict({f"test/{name}/{row.n}": row.value for name, row in self.rows.items()})

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Estimate]:
        zeros = torch.zeros(self.num_samples, dtype=torch.int64, device=choose_device(trainer))
        modes = self.map_samples(self._modes.assign, zeros, trainer, pl_module)
        coverage = mode_coverage(modes, self._modes.weights)
        return {name: coverage[name] for name in self._modes.measures}


def _define_mixture_modes(mixture: Mixture) -> _Modes:
    def assign(points: Tensor) -> Tensor:
        return assign_mixture_modes(points, mixture.means.to(points.device), mixture.sigma)

    measures = {name: name for name in ("modes", "high_quality", "reverse_kl")}
    return _Modes(assign, mixture.weights, measures, gaussian_high_quality(mixture.means.shape[1]))


def _define_stack_modes(classifier: FeatureExtractor, weights: Tensor) -> _Modes:
    measures = {name: f"{name}/{classifier.name}" for name in ("modes", "reverse_kl")}
    return _Modes(partial(_classify_stacks, classifier), weights, measures, high_quality=1.0)


@torch.no_grad()
def _classify_stacks(classifier: FeatureExtractor, stacks: Tensor) -> Tensor:
    """Return the modes of stacks `[N, 3, H, W]`, int64 `[N]`."""
    classifier.to(stacks.device)
    features = extract_features(classifier, stacks.flatten(0, 1).unsqueeze(1))
    return assign_stacked_modes(classifier.predict_probabilities(features).unflatten(0, (-1, stacks.shape[1])))
