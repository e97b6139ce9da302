"""Mode coverage: how many modes samples fall in, how many samples fall in one, and how evenly.

What is counted differs between papers. Here, as in PacGAN (Lin et al. 2018) and its authors' code: a point of a mixture
belongs to its nearest mode, and is of high quality when it is within three standard deviations of that mode's mean
(Srivastava et al. 2017, VEEGAN). Only points of high quality are counted for modes and for the reverse KL. A stack of
digits belongs to the mode that its channels are classified as, and all stacks are counted.
"""

import numpy as np
import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate

# In a tensor of modes: the sample belongs to none.
NO_MODE = -1


def mixture_modes(points: Tensor, means: Tensor, sigma: float) -> Tensor:
    """The modes of points, int64 `[N]`: the nearest mean's index, or -1 beyond 3 sigma of it or where not finite.

    Args:
        points: `[N, D]`
        means: of the modes, `[M, D]`
        sigma: the standard deviation of each mode in each dimension
    """
    # Exact differences: by matrix multiplication, cdist would lose digits on means far from 0.
    distances = torch.cdist(points.double(), means.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distance, mode = distances.min(dim=1)
    return mode.where(distance <= 3 * sigma, NO_MODE)


def stacked_modes(probabilities: Tensor) -> Tensor:
    """The modes of stacked digits, int64 `[N]`: 100 a + 10 b + c of the likeliest classes, or -1 where not finite.

    Args:
        probabilities: p(y | x) of each channel by itself, `[N, 3, 10]`
    """
    a, b, c = probabilities.argmax(dim=2).unbind(1)
    return (100 * a + 10 * b + c).where(probabilities.isfinite().all(dim=(1, 2)), NO_MODE)


def mode_coverage(modes: Tensor, weights: Tensor) -> dict[str, Estimate]:
    """Three measures of samples that have been assigned to modes, in float64, with bootstrap errors (Efron 1979).

    - `modes`: how many modes have a sample, 0 to M;
    - `high_quality`: the share of samples that belong to a mode, 0 to 1;
    - `reverse_kl`: KL(samples || weights) over the modes, in nats, of the samples that belong to one; infinite where
      there are none. Its bias falls as (M - 1) / 2N: compare at equal N, and with `perfect_sampler_floor`.

    Args:
        modes: of the samples, int64 `[N]`, each in 0..M-1 or -1
        weights: the modes' probabilities under the data, `[M]`

    Raises:
        UserError: there are no samples.
    """
    if len(modes) == 0:
        raise UserError("Mode coverage of no samples is undefined: choose num_samples of 1 or more.")
    # The last count is that of -1.
    counts = np.bincount(modes.cpu().numpy() % (len(weights) + 1), minlength=len(weights) + 1)
    values = _measures(counts, weights)
    # Samples that are drawn anew from themselves have multinomial counts.
    replicates = _measures(_redrawn(len(modes), counts / len(modes), replicates=100), weights)
    with np.errstate(invalid="ignore"):
        errors = replicates.std(axis=0, ddof=1)
    return _by_name(values, errors)


def perfect_sampler_floor(n: int, weights: Tensor, high_quality: float = 1.0) -> dict[str, Estimate]:
    """What `mode_coverage` gives for n samples of the data's own distribution: mean and spread over 200 simulations.

    The weights are taken as exact. Published floors of Stacked MNIST (0.024 at 26,000 samples) are higher, since they
    take them from a finite set of real stacks, whose own noise adds (M - 1) / 2 of its size.

    Args:
        n: the number of samples
        weights: the modes' probabilities, `[M]`
        high_quality: the probability that a sample belongs to a mode
    """
    shares = np.append(weights.cpu().numpy() * high_quality, 1 - high_quality)
    values = _measures(_redrawn(n, shares, replicates=200), weights)
    return _by_name(values.mean(axis=0), values.std(axis=0, ddof=1))


def gaussian_high_quality(dimension: int) -> float:
    """The probability of a point within 3 sigma of the mean of an isotropic Gaussian: 0.9889 in the plane.

    That of a chi-squared variable with as many degrees of freedom to be at most 9; for modes that do not overlap.
    """
    return torch.special.gammainc(torch.tensor(dimension / 2).double(), torch.tensor(4.5).double()).item()


def _redrawn(n: int, shares: np.ndarray, replicates: int) -> np.ndarray:
    """Counts `[replicates, M + 1]` of n samples with the given probabilities, the same each time."""
    return np.random.default_rng(0).multinomial(n, shares / shares.sum(), size=replicates)


def _measures(counts: np.ndarray, weights: Tensor) -> np.ndarray:
    """Modes, high quality and reverse KL, `[..., 3]`, of counts `[..., M + 1]`, those of no mode last."""
    counts, counted = counts[..., :-1], counts.sum(axis=-1)
    within = counts.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts / within[..., None]
        terms = np.where(counts > 0, shares * np.log(shares / weights.cpu().numpy()), 0)
        kl = np.where(within > 0, terms.sum(axis=-1), np.inf)
    return np.stack([(counts > 0).sum(axis=-1), within / counted, kl], axis=-1)


def _by_name(values: np.ndarray, errors: np.ndarray) -> dict[str, Estimate]:
    names = ("modes", "high_quality", "reverse_kl")
    return {name: Estimate(*pair) for name, *pair in zip(names, values.tolist(), errors.tolist(), strict=True)}
