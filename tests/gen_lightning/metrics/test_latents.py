"""Metrics of latents that carry no information, all information, or a known amount."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from gen_lightning.metrics.latents import active_units, mutual_information, probe_accuracies


def gaussian(mean, scale):
    return Independent(Normal(mean, torch.as_tensor(scale).expand_as(mean)), 1)


def estimate_information(*posteriors, **arguments):
    torch.manual_seed(1)
    return mutual_information(posteriors, [posterior.sample() for posterior in posteriors], **arguments)


def test_two_of_five_dimensions_with_varying_means_are_active():
    torch.manual_seed(0)
    means = torch.randn(1000, 5) * torch.tensor([1.0, 0.2, 0.05, 0.01, 0.0]) + 3
    assert active_units(means) == (2, 0)


def test_a_unit_at_the_threshold_has_an_uncertain_count():
    torch.manual_seed(0)
    means = torch.randn(1000, 1)
    assert active_units(means * 0.1 / means.std()).error > 0.3


def test_a_collapsed_posterior_has_no_information():
    value, error = estimate_information(gaussian(torch.zeros(50, 3), 1.0))
    assert (value, error) == pytest.approx((0, 0), abs=1e-6)


def test_separate_posteriors_carry_log_n_nats():
    means = 100 * torch.arange(50.0).unsqueeze(1)
    value, error = estimate_information(gaussian(means[:20], 1.0), gaussian(means[20:], 1.0))
    assert value == pytest.approx(math.log(50), rel=1e-6)
    assert error == pytest.approx(0, abs=1e-6)


def test_information_is_relative_to_the_mixture_of_all_posteriors():
    torch.manual_seed(0)
    posterior = gaussian(torch.randn(7, 2), 0.6)
    value, _ = estimate_information(posterior)
    torch.manual_seed(1)
    z = posterior.sample()
    mixture = MixtureSameFamily(Categorical(torch.ones(7)), posterior)
    assert value == pytest.approx((posterior.log_prob(z) - mixture.log_prob(z)).mean().item(), rel=1e-5)


def test_information_of_a_gaussian_channel_has_shannons_value():
    """It is log(1 + signal / noise) / 2 nats per dimension (Shannon 1948), far below log N."""
    torch.manual_seed(0)
    value, error = estimate_information(gaussian(torch.randn(3000, 2), 0.5), num_latents=3000)
    assert value == pytest.approx(math.log(1 + 1 / 0.25), abs=4 * error)
    assert error < 0.03


def test_fewer_latents_give_the_same_estimate_with_a_larger_error():
    torch.manual_seed(0)
    posterior = gaussian(torch.randn(3000, 2), 0.5)
    few, all_of_them = (
        estimate_information(posterior, num_latents=300),
        estimate_information(posterior, num_latents=3000),
    )
    assert few.value == pytest.approx(all_of_them.value, abs=4 * few.error)
    assert few.error == pytest.approx(all_of_them.error * 10**0.5, rel=0.2)


def test_posterior_means_that_encode_the_label_are_classified_without_mistake():
    labels = torch.arange(200) % 10
    means = torch.eye(10)[labels]
    assert set(probe_accuracies(means, labels, means, labels).values()) == {(1, 0)}


def test_noise_is_classified_at_chance_level():
    torch.manual_seed(0)
    labels = torch.arange(2000) % 10
    accuracies = probe_accuracies(torch.randn(2000, 5), labels, torch.randn(2000, 5), labels)
    for name, (value, error) in accuracies.items():
        assert value == pytest.approx(0.1, abs=4 * error), name
        assert error == pytest.approx((0.1 * 0.9 / 2000) ** 0.5, rel=0.2)
