"""Estimates with standard errors, and the checks that all metrics make of their features."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gen_lightning.errors import UserError


class Estimate(NamedTuple):
    """A value with its standard error.

    Args:
        value: the metric
        error: standard error of the metric
    """

    value: float
    error: float


def estimate_mean(values: Tensor) -> Estimate:
    """Return the mean of independent values `[N]`, N >= 2, with the standard error: standard deviation / sqrt(N)."""
    values = values.double()
    return Estimate(values.mean().item(), values.std().item() / len(values) ** 0.5)


def estimate_ratio(numerators: Tensor, denominators: Tensor) -> Estimate:
    """Return the ratio of the sums of two values of independent examples, `[N]` each, N >= 2.

    The standard error is that of the delta method (Cochran 1977, equation 2.46), such as for nats per token.
    """
    numerators, denominators = numerators.double(), denominators.double()
    ratio = numerators.sum() / denominators.sum()
    deviations = estimate_mean(numerators - ratio * denominators)
    return Estimate(ratio.item(), deviations.error / denominators.mean().item())


def bootstrap(statistic: Callable[..., Tensor], *samples: Tensor, replicates: int = 20, seed: int = 0) -> Estimate:
    """Return a statistic of whole sets with its standard error by the bootstrap (Efron 1979).

    Args:
        statistic: function of the sets that returns a scalar
        samples: sets `[N_i, ...]` of independent examples
        replicates: number of times that each set is resampled with replacement; at least 2
        seed: seed of the resampling, which leaves the global random state unchanged
    """
    (estimate,) = bootstrap_each(lambda *sets: statistic(*sets)[None], *samples, replicates=replicates, seed=seed)
    return estimate


def bootstrap_each(
    statistics: Callable[..., Tensor], *samples: Tensor, replicates: int = 20, seed: int = 0
) -> list[Estimate]:
    """Return several statistics of whole sets, each with its standard error by the bootstrap.

    Args:
        statistics: function of the sets that returns a vector
        samples: as for `bootstrap`
        replicates: as for `bootstrap`
        seed: as for `bootstrap`
    """
    # On the CPU, so that the resampling is the same on every device.
    generator = torch.Generator().manual_seed(seed)

    def resample(sample: Tensor) -> Tensor:
        return sample[torch.randint(len(sample), (len(sample),), generator=generator).to(sample.device)]

    errors = torch.stack([statistics(*map(resample, samples)) for _ in range(replicates)]).double().std(0)
    return [Estimate(*pair) for pair in zip(statistics(*samples).tolist(), errors.tolist(), strict=True)]


def check_finite(features: Tensor, name: str) -> None:
    """Refuse features that are not a finite `[N, D]` with N >= 1.

    Args:
        features: features of N images
        name: name of the images in the sentence, such as "samples" or "test images"

    Raises:
        UserError: the features have another shape, or contain NaN or Inf.
    """
    if features.ndim != 2 or len(features) == 0:
        raise UserError(f"The features of the {name} have shape {list(features.shape)}. Give [N, D], a row per image.")
    if not features.isfinite().all():
        raise UserError(
            f"The features of the {name} contain NaN or Inf: the model has diverged, or the images are damaged."
            " Test an earlier checkpoint, or check the images."
        )


def check_features(features: Tensor, name: str) -> None:
    """Refuse features that are not a finite `[N, D]`, or whose rows are all equal.

    Args:
        features: features of N images
        name: name of the images in the sentence, such as "samples" or "test images"

    Raises:
        UserError: the features have another shape, contain NaN or Inf, or are all equal.
    """
    check_finite(features, name)
    if (features == features[0]).all():
        raise UserError(
            f"The features of the {name} are all equal: the model has collapsed to one image, or the images are equal."
            " Test an earlier checkpoint, or check the images."
        )


def format_with_error(value: float, error: float | None) -> str:
    """Return "value ± error" to two significant digits of the error; without an error, four digits of the value."""
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    decimals = max(0, 1 - int(f"{error:.1e}".partition("e")[2]))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
