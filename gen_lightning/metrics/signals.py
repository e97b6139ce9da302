"""Metrics of one-dimensional series `[N, C, T]`: distances of spectra, of summary features and of values.

Every distance is between two sets of series. It is 0 for equal distributions as N grows, and above 0 for two finite
sets of one distribution. Standard errors are by the bootstrap over the series of both sets.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gen_lightning.metrics.estimates import Estimate, bootstrap

_SERIES_PER_BLOCK = 1024
_MAX_TIMES = 64
_MAX_LAG = 64
_MAX_SEGMENTS = 32
# Power that is 80 decibels below the strongest frequency, as in librosa's `power_to_db`, is the lowest level.
_DYNAMIC_RANGE = 1e-8
# A feature that varies by less than this, in units of a series' standard deviation, counts as constant.
_CONSTANT = 1e-3


class SignalFeatures(NamedTuple):
    """Features of each of N series, in float64.

    Args:
        summary: mean, standard deviation, skewness, excess kurtosis, spectral centroid and autocorrelation at the lags
            1, 2, 4, ... of each channel, and correlations between channels, `[N, D]`
        spectra: power spectra, `[N, C, K]`
        autocorrelations: autocorrelations at the lags from 1 to half of the length, at most 64, `[N, C, L]`
        correlations: correlations between channels, `[N, C (C - 1) / 2]`
        values: values at equally spaced times, at most 64, `[N, C * S]`
        segments: means of equal segments of time, at most 32 (Keogh et al. 2001), `[N, C * S]`
    """

    summary: Tensor
    spectra: Tensor
    autocorrelations: Tensor
    correlations: Tensor
    values: Tensor
    segments: Tensor


def extract_signal_features(signals: Tensor, reference: Tensor) -> SignalFeatures:
    """Return the features of series, whose channels are first standardized by those of other series.

    Args:
        signals: series, `[N, C, T]` with T of at least 2
        reference: real series whose mean and standard deviation per channel are the units, `[M, C, T]`
    """
    reference = reference.double()
    mean, scale = reference.mean((0, 2), keepdim=True), reference.std((0, 2), keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    # In blocks, since float64 spectra take many times the memory of the series.
    blocks = [_extract_features((block.double() - mean) / scale) for block in signals.split(_SERIES_PER_BLOCK)]
    return SignalFeatures(*map(torch.cat, zip(*blocks, strict=True)))


def compute_power_spectra(signals: Tensor) -> Tensor:
    """Return the one-sided power spectra of series `[N, C, T]` at the frequencies 1 / T, 2 / T, ..., K / T.

    K is T / 2, rounded down.

    These are periodograms of the series minus its mean with a Hann window, in squared units per cycle and sample, so
    that the mean over the series is Welch's estimate (1967) with segments of length T.
    """
    length = signals.shape[-1]
    window = torch.hann_window(length, dtype=signals.dtype, device=signals.device)
    centred = signals - signals.mean(-1, keepdim=True)
    power = torch.fft.rfft(centred * window).abs().square() / window.square().sum()
    # All frequencies but 0 and 1/2 stand for two.
    factors = torch.full(power.shape[-1:], 2.0, dtype=power.dtype, device=power.device)
    if length % 2 == 0:
        factors[-1] = 1
    return (power * factors)[..., 1:]


def compute_autocorrelations(signals: Tensor) -> Tensor:
    """Return the autocorrelations of each series `[N, C, T]` at the lags 1 to T / 2, at most 64: `[N, C, L]`.

    It is the biased estimate: the covariance at a lag, divided by T and by the variance. That of a constant series is
    0.
    """
    length = signals.shape[-1]
    centred = signals - signals.mean(-1, keepdim=True)
    covariances = torch.fft.irfft(torch.fft.rfft(centred, 2 * length).abs().square())
    variance = covariances[..., :1]
    lags = covariances[..., 1 : 1 + min(length // 2, _MAX_LAG)]
    return torch.where(variance > _CONSTANT**2 * length, lags / variance, 0.0)


def compute_correlations(signals: Tensor) -> Tensor:
    """Return the correlations over time between the channels of each series `[N, C, T]`: `[N, C (C - 1) / 2]`."""
    centred = signals - signals.mean(-1, keepdim=True)
    normalized = F.normalize(centred, dim=-1)
    rows, columns = torch.triu_indices(signals.shape[1], signals.shape[1], 1)
    return (normalized @ normalized.mT)[:, rows, columns]


def log_spectral_distance(held_out: Tensor, samples: Tensor) -> Estimate:
    """Return the log-spectral distance of two mean power spectra, in decibels (Gray & Markel 1976).

    It is the root mean square over the frequencies of 10 log10 of the ratio, averaged over the channels. Power more
    than 80 decibels below the strongest real frequency of a channel is raised to that level.

    Args:
        held_out: power spectra of real series, `[M, C, K]`
        samples: power spectra of generated series, `[N, C, K]`
    """

    def compute(real: Tensor, generated: Tensor) -> Tensor:
        real, generated = real.mean(0), generated.mean(0)
        decibels = _to_decibels(generated, real) - _to_decibels(real, real)
        return decibels.square().mean(-1).sqrt().mean()

    return bootstrap(compute, held_out, samples)


def spectral_wasserstein(held_out: Tensor, samples: Tensor, length: int) -> Estimate:
    """Return the Wasserstein-1 distance of two normalized mean power spectra, in cycles per sample.

    Cazelles, Robert & Tobar (2021) define the Wasserstein-Fourier distance of such spectra, with the exponent 2. The
    value is at most 0.5, and averaged over the channels.

    Args:
        held_out: power spectra of real series, `[M, C, K]`
        samples: power spectra of generated series, `[N, C, K]`
        length: number of times of a series, T
    """

    def compute(real: Tensor, generated: Tensor) -> Tensor:
        cumulative = [F.normalize(spectra.mean(0), p=1, dim=-1).cumsum(-1) for spectra in (real, generated)]
        return (cumulative[0] - cumulative[1]).abs().sum(-1).mean() / length

    return bootstrap(compute, held_out, samples)


def mean_difference(held_out: Tensor, samples: Tensor) -> Estimate:
    """Return the absolute difference of the means of features `[M, ...]` and `[N, ...]`, averaged over the features.

    Of autocorrelations and of correlations between channels, it is a usual distance of series (Wiese et al. 2020;
    Ni et al. 2020).
    """
    return bootstrap(lambda real, generated: (real.mean(0) - generated.mean(0)).abs().mean(), held_out, samples)


def wasserstein_distance(held_out: Tensor, samples: Tensor) -> Estimate:
    """Return the Wasserstein-1 distance of each feature in units of its real standard deviation, averaged.

    A feature that is constant in the real data has no such unit, and is left out: the mean and the standard deviation
    of series that are normalized one by one, as in the UCR archive, are constant.

    Args:
        held_out: features of real series, `[M, D]`
        samples: features of generated series, `[N, D]`
    """
    scale = held_out.std(0)
    kept = scale > _CONSTANT
    if not kept.any():
        return Estimate(0.0, 0.0)
    return bootstrap(
        lambda real, generated: _compute_wasserstein(real, generated).mean(),
        held_out[:, kept] / scale[kept],
        samples[:, kept] / scale[kept],
    )


def join_signal_features(features: SignalFeatures, reference: SignalFeatures) -> Tensor:
    """Return features for a classifier, `[N, D]`: the summary, the spectra in decibels, and the segments.

    Summaries that are constant in the real data are left out, as by `wasserstein_distance`.

    Args:
        features: features of N series
        reference: features of real series, which decide what is constant and which power is 0
    """
    kept = reference.summary.std(0) > _CONSTANT
    decibels = _to_decibels(features.spectra, reference.spectra.mean(0))
    bands = F.adaptive_avg_pool1d(decibels, min(decibels.shape[-1], _MAX_SEGMENTS))
    return torch.cat([features.summary[:, kept], bands.flatten(1), features.segments], 1)


def _extract_features(signals: Tensor) -> SignalFeatures:
    spectra, autocorrelations = compute_power_spectra(signals), compute_autocorrelations(signals)
    correlations = compute_correlations(signals)
    lags = [2**power - 1 for power in range(autocorrelations.shape[-1].bit_length())]
    channels = [_compute_moments(signals), _compute_centroids(spectra), autocorrelations[..., lags]]
    times = signals[..., :: -(-signals.shape[-1] // _MAX_TIMES)]
    segments = F.adaptive_avg_pool1d(signals, min(signals.shape[-1], _MAX_SEGMENTS))
    summary = torch.cat([torch.cat(channels, -1).flatten(1), correlations], 1)
    return SignalFeatures(summary, spectra, autocorrelations, correlations, times.flatten(1), segments.flatten(1))


def _compute_moments(signals: Tensor) -> Tensor:
    """Return the mean, the standard deviation, the skewness and the excess kurtosis over time, `[N, C, 4]`."""
    mean, stddev = signals.mean(-1, keepdim=True), signals.std(-1, keepdim=True, correction=0)
    normalized = (signals - mean) / stddev.clamp(min=_CONSTANT)
    skewness, kurtosis = normalized.pow(3).mean(-1, keepdim=True), normalized.pow(4).mean(-1, keepdim=True) - 3
    return torch.cat([mean, stddev, skewness, kurtosis], -1)


def _compute_centroids(spectra: Tensor) -> Tensor:
    """Return the mean frequency of power spectra `[N, C, K]` in units of the largest, `[N, C, 1]`."""
    frequencies = torch.arange(1, spectra.shape[-1] + 1, dtype=spectra.dtype, device=spectra.device)
    shares = F.normalize(spectra, p=1, dim=-1)
    return (shares * frequencies).sum(-1, keepdim=True) / spectra.shape[-1]


def _to_decibels(spectra: Tensor, reference: Tensor) -> Tensor:
    """Return spectra `[..., C, K]` in decibels, at least 80 below the strongest frequency of a reference `[C, K]`."""
    strongest = reference.amax(-1, keepdim=True).clamp(min=torch.finfo(reference.dtype).tiny / _DYNAMIC_RANGE)
    return 10 * spectra.maximum(_DYNAMIC_RANGE * strongest).log10()


def _compute_wasserstein(one: Tensor, other: Tensor) -> Tensor:
    """Return the Wasserstein-1 distance of each feature of two sets, `[M, D]` and `[N, D]`: `[D]`.

    It is the area between the two empirical distribution functions.
    """
    columns = [features.T.contiguous().sort(-1).values for features in (one, other)]
    values = torch.cat(columns, -1).sort(-1).values
    shares = [torch.searchsorted(column, values, right=True) / column.shape[-1] for column in columns]
    return ((shares[0] - shares[1]).abs()[:, :-1] * values.diff()).sum(-1)
