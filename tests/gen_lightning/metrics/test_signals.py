"""Metrics of series: independent references, invariances and extremes."""

from functools import partial

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import scipy.stats
import torch

from gen_lightning.metrics import (
    compute_autocorrelations,
    compute_correlations,
    compute_power_spectra,
    extract_signal_features,
    join_signal_features,
    log_spectral_distance,
    mean_difference,
    spectral_wasserstein,
    wasserstein_distance,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("length", [2, 25, 64])
def test_power_spectra_are_scipys_periodograms(length):
    signals = draw(3, 2, length) + 5
    expected = scipy.signal.periodogram(signals.numpy(), window="hann", detrend="constant")[1][..., 1:]
    torch.testing.assert_close(compute_power_spectra(signals), torch.from_numpy(expected))


def test_autocorrelations_are_those_of_the_definition():
    signals = draw(2, 2, 21)
    for one, found in zip(signals.flatten(0, 1), compute_autocorrelations(signals).flatten(0, 1), strict=True):
        centred = one - one.mean()
        expected = [float(centred[lag:] @ centred[:-lag] / (centred @ centred)) for lag in range(1, 11)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert compute_autocorrelations(torch.full((1, 1, 300), 0.3)).tolist() == [[[0.0] * 64]]


def test_correlations_are_numpys():
    signals = draw(4, 3, 50)
    expected = [np.corrcoef(one)[np.triu_indices(3, 1)] for one in signals.numpy()]
    np.testing.assert_allclose(compute_correlations(signals), expected)


def test_summary_features_are_scipys():
    signals = draw(6, 1, 40).exp()
    scaled = ((signals - signals.mean()) / signals.std())[:, 0].numpy()
    summary = extract_signal_features(signals.float(), signals).summary
    spectra = scipy.signal.periodogram(scaled, window="hann", detrend="constant")[1][:, 1:]
    expected = [
        scaled.mean(1),
        scaled.std(1),
        scipy.stats.skew(scaled, axis=1),
        scipy.stats.kurtosis(scaled, axis=1),
        (spectra * np.arange(1, 21)).sum(1) / spectra.sum(1) / 20,
    ]
    np.testing.assert_allclose(summary[:, :5].T, expected, rtol=1e-4, atol=1e-5)
    # Autocorrelations at the lags 1, 2, 4, 8 and 16.
    lags = compute_autocorrelations(torch.from_numpy(scaled)[:, None])[:, 0, [0, 1, 3, 7, 15]]
    np.testing.assert_allclose(summary[:, 5:], lags, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_units_of_the_channels():
    signals, units = draw(9, 2, 30), torch.tensor([[1000.0], [1e-3]], dtype=torch.float64)
    plain, scaled = (extract_signal_features(one, one) for one in (signals, signals * units - 7 * units))
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(one, other)


def test_features_of_blocks_are_those_of_the_whole():
    signals = draw(1500, 1, 10)
    whole = extract_signal_features(signals, signals)
    alone = extract_signal_features(signals[1200:1201], signals)
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one[1200:1201], other)


def test_wasserstein_distance_is_scipys():
    held_out, samples = draw(30, 4), 2 * draw(50, 4, seed=1) + 1
    expected = np.mean(
        [scipy.stats.wasserstein_distance(a, b) / a.std(ddof=1) for a, b in zip(held_out.numpy().T, samples.numpy().T)]  # noqa: B905
    )
    assert wasserstein_distance(held_out, samples).value == pytest.approx(expected)


@pytest.mark.parametrize("length", [24, 25])
def test_spectral_wasserstein_is_scipys(length):
    spectra = [compute_power_spectra(draw(5, 1, length, seed=seed)) for seed in (0, 1)]
    means = [one.mean((0, 1)).numpy() for one in spectra]
    frequencies = scipy.fft.rfftfreq(length)[1:]
    expected = scipy.stats.wasserstein_distance(frequencies, frequencies, *means)
    assert spectral_wasserstein(*spectra, length).value == pytest.approx(expected)


def test_a_gain_of_10_is_20_decibels_and_moves_no_power():
    spectra = draw(5, 2, 12).square()
    assert log_spectral_distance(spectra, 100 * spectra).value == pytest.approx(20)
    assert spectral_wasserstein(spectra, 100 * spectra, 24).value == pytest.approx(0, abs=1e-12)


def test_power_below_80_decibels_is_not_compared():
    real = torch.tensor([1.0, 1e-12, 1e-10, 1e-4]).double().expand(3, 1, 4)
    quiet = torch.tensor([1.0, 0.0, 1e-9, 1e-4]).double().expand(3, 1, 4)
    assert log_spectral_distance(real, quiet).value == 0
    # Four frequencies, of which one differs by 40 decibels.
    louder = torch.tensor([1.0, 1e-4, 1e-9, 1e-4]).double().expand(3, 1, 4)
    assert log_spectral_distance(real, louder).value == pytest.approx(20)


def test_moving_a_tone_moves_its_power_by_the_difference_in_frequency():
    times = torch.arange(200, dtype=torch.float64)
    tones = [(2 * torch.pi * frequency * times).cos().expand(4, 1, -1) for frequency in (0.1, 0.3)]
    assert spectral_wasserstein(*map(compute_power_spectra, tones), 200).value == pytest.approx(0.2, rel=1e-2)


def test_equal_sets_have_distance_0_and_samples_of_one_distribution_a_small_one():
    signals, others = draw(400, 2, 32), draw(400, 2, 32, seed=1)
    one, other = (extract_signal_features(part, signals) for part in (signals, others))
    for metric, name, limit in (
        (log_spectral_distance, "spectra", 0.5),
        (partial(spectral_wasserstein, length=32), "spectra", 0.02),
        (wasserstein_distance, "summary", 0.1),
        (wasserstein_distance, "values", 0.1),
        (mean_difference, "autocorrelations", 0.02),
        (mean_difference, "correlations", 0.03),
    ):
        assert metric(getattr(one, name), getattr(one, name)).value == 0
        distance = metric(getattr(one, name), getattr(other, name))
        assert 0 < distance.value < limit
        assert 0 < distance.error < limit


def test_features_that_are_constant_in_the_real_series_are_not_compared():
    """Series of the UCR archive have mean 0 and variance 1 each, up to rounding."""
    signals = draw(60, 1, 24)
    normalized = (signals - signals.mean(-1, keepdim=True)) / signals.std(-1, keepdim=True)
    real, samples = (extract_signal_features(one, normalized) for one in (normalized, normalized + 0.2))
    assert wasserstein_distance(real.summary, samples.summary).value == pytest.approx(0, abs=1e-6)
    assert join_signal_features(real, real).shape == (60, real.summary.shape[1] - 2 + 12 + 24)
    assert wasserstein_distance(torch.zeros(5, 2), torch.ones(5, 2)) == (0, 0)
