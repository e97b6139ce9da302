"""Mode coverage: the number of modes that samples cover, the share of high-quality samples, and the reverse KL.

Papers count differently. This module counts as PacGAN does (Lin et al. 2018, and its authors' code). A point of a
mixture belongs to its nearest mode. It is of high quality if it is within three standard deviations of that mode's mean
(Srivastava et al. 2017, VEEGAN). Only points of high quality count for the modes and the reverse KL. A stack of digits
belongs to the mode that its channels are classified as, and all stacks count.
"""

import numpy as np
import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate

# In a tensor of modes, the value of samples that belong to no mode.
NO_MODE = -1


def assign_mixture_modes(points: Tensor, means: Tensor, sigma: float) -> Tensor:
    """Return the mode of each point, int64 `[N]`: the index of the nearest mean, or -1.

    A point gets -1 if it is farther than 3 sigma from the nearest mean, or not finite.

    Args:
        points: points to assign, `[N, D]`
        means: means of the modes, `[M, D]`
        sigma: standard deviation of every mode in each dimension
    """
    # From exact differences: with matrix multiplication, cdist would lose digits for means far from 0.
    distances = torch.cdist(points.double(), means.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distance, mode = distances.min(dim=1)
    return mode.where(distance <= 3 * sigma, NO_MODE)


def assign_stacked_modes(probabilities: Tensor) -> Tensor:
    """Return the mode of each stack of digits, int64 `[N]`: 100 a + 10 b + c of the likeliest classes a, b and c.

    A stack gets -1 if its probabilities are not finite.

    Args:
        probabilities: p(y | x) of each channel, `[N, 3, 10]`
    """
    a, b, c = probabilities.argmax(dim=2).unbind(1)
    return (100 * a + 10 * b + c).where(probabilities.isfinite().all(dim=(1, 2)), NO_MODE)


def mode_coverage(modes: Tensor, weights: Tensor) -> dict[str, Estimate]:
    """Return three measures of samples that are assigned to modes, in float64, with bootstrap errors (Efron 1979).

    - `modes`: number of modes with at least one sample; 0 to M
    - `high_quality`: share of the samples that belong to a mode; 0 to 1
    - `reverse_kl`: KL(samples || weights) over the modes, in nats, for the samples that belong to a mode; infinite if
      no sample does. Its bias decreases as (M - 1) / 2N, so compare values at equal N, and with
      `simulate_perfect_sampler`.

    Args:
        modes: modes of the samples, int64 `[N]`, each in 0..M-1 or -1
        weights: probabilities of the modes under the data, `[M]`

    Raises:
        UserError: there are no samples.
    """
    if len(modes) == 0:
        raise UserError("There are no samples, so mode coverage is undefined. Choose num_samples of at least 1.")
    # The last count is the number of samples without a mode, -1.
    counts = np.bincount(modes.cpu().numpy() % (len(weights) + 1), minlength=len(weights) + 1)
    values = _compute_measures(counts, weights)
    # The counts of resampled samples are multinomial.
    replicates = _compute_measures(_draw_counts(len(modes), counts / len(modes), replicates=100), weights)
    with np.errstate(invalid="ignore"):
        errors = replicates.std(axis=0, ddof=1)
    return _make_estimates(values, errors)


def simulate_perfect_sampler(n: int, weights: Tensor, high_quality: float = 1.0) -> dict[str, Estimate]:
    """Return the floor of `mode_coverage`: its mean and standard deviation for n samples of the data's distribution.

    They are taken over 200 simulations, with exact weights. Published floors of Stacked MNIST (0.024 at 26,000 samples)
    are higher, because their weights are frequencies in a finite set of S real stacks, whose sampling error adds about
    (M - 1) / 2S.

    Args:
        n: number of samples
        weights: probabilities of the modes, `[M]`
        high_quality: probability that a sample belongs to a mode
    """
    shares = np.append(weights.cpu().numpy() * high_quality, 1 - high_quality)
    values = _compute_measures(_draw_counts(n, shares, replicates=200), weights)
    return _make_estimates(values.mean(axis=0), values.std(axis=0, ddof=1))


def gaussian_high_quality(dimension: int) -> float:
    """Return the probability that a point of an isotropic Gaussian is within 3 sigma of its mean: 0.9889 in 2-D.

    It is the probability that a chi-squared variable with `dimension` degrees of freedom is at most 9. For a mixture,
    it holds if the modes do not overlap.

    Args:
        dimension: number of dimensions
    """
    return torch.special.gammainc(torch.tensor(dimension / 2).double(), torch.tensor(4.5).double()).item()


def _draw_counts(n: int, shares: np.ndarray, replicates: int) -> np.ndarray:
    """Return multinomial counts `[replicates, M + 1]` of n samples; the same counts at each call."""
    return np.random.default_rng(0).multinomial(n, shares / shares.sum(), size=replicates)


def _compute_measures(counts: np.ndarray, weights: Tensor) -> np.ndarray:
    """Return modes, high quality and reverse KL, `[..., 3]`, of counts `[..., M + 1]`; the last count is of no mode."""
    counts, counted = counts[..., :-1], counts.sum(axis=-1)
    within = counts.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts / within[..., None]
        terms = np.where(counts > 0, shares * np.log(shares / weights.cpu().numpy()), 0)
        kl = np.where(within > 0, terms.sum(axis=-1), np.inf)
    return np.stack([(counts > 0).sum(axis=-1), within / counted, kl], axis=-1)


def _make_estimates(values: np.ndarray, errors: np.ndarray) -> dict[str, Estimate]:
    names = ("modes", "high_quality", "reverse_kl")
    return {name: Estimate(*pair) for name, *pair in zip(names, values.tolist(), errors.tolist(), strict=True)}
