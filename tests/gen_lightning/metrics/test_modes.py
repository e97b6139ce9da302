"""Mode coverage: counts by hand, closed forms and published floors."""

import math

import pytest
import torch
from scipy.stats import chi2, entropy

from gen_lightning.metrics import (
    assign_mixture_modes,
    assign_stacked_modes,
    gaussian_high_quality,
    mode_coverage,
    simulate_perfect_sampler,
)

UNIFORM = torch.full((1000,), 1e-3, dtype=torch.float64)


def draw_uniform_modes(n, seed):
    return torch.randint(1000, (n,), generator=torch.Generator().manual_seed(seed))


def test_a_point_belongs_to_its_nearest_mode_within_three_sigma():
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    points = torch.tensor([[0.0, 2.99], [0.0, 3.01], [7.01, 0.0], [6.99, 0.0], [2.0, 2.0], [2.2, 2.2]])
    assert assign_mixture_modes(points, means, sigma=1.0).tolist() == [0, -1, 1, -1, 0, -1]


def test_distances_to_a_mode_far_from_0_are_exact():
    means = torch.tensor([[4096.0, 4096.0]])
    assert assign_mixture_modes(means + torch.tensor([[0.0, 0.0], [0.0, 0.0625]]), means, sigma=0.01).tolist() == [
        0,
        -1,
    ]


@pytest.mark.parametrize("damage", [math.nan, math.inf])
def test_samples_that_are_not_finite_belong_to_no_mode(damage):
    assert assign_mixture_modes(torch.tensor([[damage, 0.0]]), torch.zeros(1, 2), 1.0).tolist() == [-1]
    probabilities = torch.full((2, 3, 10), 0.1)
    probabilities[1, 2, 3] = damage
    assert assign_stacked_modes(probabilities).tolist() == [0, -1]


def test_the_mode_of_a_stack_is_the_number_of_its_digits():
    digits = torch.tensor([[0, 0, 0], [1, 2, 3], [9, 9, 9], [0, 4, 0]])
    assert assign_stacked_modes(torch.nn.functional.one_hot(digits, 10).float()).tolist() == [0, 123, 999, 40]


def test_the_measures_agree_with_counts_by_hand():
    weights = torch.tensor([0.5, 0.25, 0.125, 0.125])
    coverage = mode_coverage(torch.tensor([0, 0, 0, 2, -1]), weights)
    assert coverage["modes"].value == 2
    assert coverage["high_quality"].value == 0.8
    assert coverage["reverse_kl"].value == pytest.approx(entropy([3, 0, 1, 0], weights))


def test_a_collapsed_model_has_one_mode_and_a_reverse_kl_of_log_m_nats():
    coverage = mode_coverage(torch.full((500,), 3), torch.full((25,), 0.04))
    assert coverage["modes"] == (1, 0)
    assert coverage["reverse_kl"] == pytest.approx((math.log(25), 0))


def test_a_diverged_model_has_no_modes_and_an_infinite_reverse_kl():
    coverage = mode_coverage(torch.full((500,), -1), torch.full((25,), 0.04))
    assert [estimate.value for estimate in coverage.values()] == [0, 0, math.inf]


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="Choose num_samples of at least 1"):
        mode_coverage(torch.empty(0, dtype=torch.int64), UNIFORM)


def test_errors_are_standard_deviations_over_repeated_experiments():
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1])
    collapsed = torch.tensor([0.7, 0.1, 0.1, 0.0, 0.1])  # the last belongs to no mode

    def experiment(seed):
        drawn = torch.multinomial(collapsed, 2000, replacement=True, generator=torch.Generator().manual_seed(seed))
        return mode_coverage(drawn.where(drawn < 4, -1), weights)

    experiments = [experiment(seed) for seed in range(200)]
    for name in ("high_quality", "reverse_kl"):
        values, errors = torch.tensor([coverage[name] for coverage in experiments]).T
        assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.15)


@pytest.mark.parametrize("n", [26_000, 100_000])
def test_the_floor_of_the_reverse_kl_is_the_bias_of_the_plug_in_estimate(n):
    """The bias is (M - 1) / 2N plus the next term of the expansion in 1/N (Harris 1975)."""
    expected = 999 / (2 * n) + (1e6 - 1) / (12 * n**2)
    value, spread = simulate_perfect_sampler(n, UNIFORM)["reverse_kl"]
    assert value == pytest.approx(expected, abs=5 * spread / 200**0.5)
    assert spread == pytest.approx((999 / 2) ** 0.5 / n, rel=0.2)  # 2 N KL is chi-squared with M - 1 degrees


@pytest.mark.parametrize(("n", "published"), [(26_000, 0.024), (100_000, 0.009)])
def test_weights_from_128000_real_stacks_give_the_published_floor(n, published):
    real = draw_uniform_modes(128_000, seed=1).bincount(minlength=1000) / 128_000
    values = [mode_coverage(draw_uniform_modes(n, seed), real)["reverse_kl"].value for seed in range(2, 7)]
    assert sum(values) / 5 == pytest.approx(published, abs=0.001)


def test_the_floor_of_the_number_of_modes_is_that_of_a_perfect_sampler():
    value, _ = simulate_perfect_sampler(2000, UNIFORM)["modes"]
    assert value == pytest.approx(1000 * (1 - 0.999**2000), abs=3)


def test_the_floor_of_high_quality_is_the_given_probability():
    floor = simulate_perfect_sampler(2500, torch.full((8,), 1 / 8), high_quality=0.9889)
    assert floor["high_quality"].value == pytest.approx(0.9889, abs=0.001)
    assert floor["high_quality"].error == pytest.approx((0.9889 * 0.0111 / 2500) ** 0.5, rel=0.2)
    assert floor["modes"] == (8, 0)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_probability_of_three_sigma_is_that_of_a_chi_squared_variable(dimension):
    assert gaussian_high_quality(dimension) == pytest.approx(chi2.cdf(9, dimension))
    assert gaussian_high_quality(2) == pytest.approx(1 - math.exp(-4.5))
