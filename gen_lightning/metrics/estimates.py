"""A value with its standard error, and what every metric asks of its features."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gen_lightning.errors import UserError


class Estimate(NamedTuple):
    """What a metric reports.

    Args:
        value: the metric of the sets themselves
        error: its standard error
    """

    value: float
    error: float


def mean_estimate(values: Tensor) -> Estimate:
    """The mean of independent values `[N]`, N >= 2, and its standard error: their standard deviation over sqrt(N)."""
    values = values.double()
    return Estimate(values.mean().item(), values.std().item() / len(values) ** 0.5)


def bootstrap(statistic: Callable[..., Tensor], *samples: Tensor, replicates: int = 20, seed: int = 0) -> Estimate:
    """A statistic of whole sets, and its standard error by the bootstrap (Efron 1979).

    Args:
        statistic: a function of the sets that returns a scalar
        samples: sets `[N_i, ...]` of independent examples
        replicates: how often every set is drawn anew from itself, with replacement; 2 or more
        seed: of the draws, which touch no global random state
    """
    # On the CPU, so that the draws are the same on every device.
    generator = torch.Generator().manual_seed(seed)

    def resample(sample: Tensor) -> Tensor:
        return sample[torch.randint(len(sample), (len(sample),), generator=generator).to(sample.device)]

    values = torch.stack([statistic(*map(resample, samples)) for _ in range(replicates)])
    return Estimate(statistic(*samples).item(), values.double().std().item())


def check_finite(features: Tensor, name: str) -> None:
    """Refuses what is not a finite `[N, D]`, N >= 1.

    Args:
        features: of any metric
        name: what they are features of, for the sentence: samples, or test images

    Raises:
        UserError: the shape is another, or there is NaN or Inf.
    """
    if features.ndim != 2 or len(features) == 0:
        raise UserError(f"The features of the {name} are {list(features.shape)}: give [N, D], a row for each image.")
    if not features.isfinite().all():
        raise UserError(
            f"The features of the {name} contain NaN or Inf: the model has diverged, or the images are damaged;"
            " test an earlier checkpoint, or check the images."
        )


def check_features(features: Tensor, name: str) -> None:
    """Refuses features that are not a finite `[N, D]`, or whose rows are all equal.

    Raises:
        UserError: as `check_finite`, or the features are constant.
    """
    check_finite(features, name)
    if (features == features[0]).all():
        raise UserError(
            f"The features of the {name} are all equal: the model has collapsed to one image, or the images are one;"
            " test an earlier checkpoint, or check the images."
        )


def format_with_error(value: float, error: float | None) -> str:
    """`value ± error`, to two significant digits of the error; without an error, four of the value."""
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    decimals = max(0, 1 - int(f"{error:.1e}".partition("e")[2]))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
