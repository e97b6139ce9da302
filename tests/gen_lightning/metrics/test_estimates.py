"""Standard errors compared with theory, and the features that metrics refuse."""

import pytest
import torch

from gen_lightning.metrics.estimates import Estimate, bootstrap, check_features, check_finite, estimate_mean


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_mean_has_the_standard_error_of_theory():
    value, error = estimate_mean(torch.tensor([1, 2, 3, 6]))
    assert value == 3
    assert error == pytest.approx((14 / 3) ** 0.5 / 2)


def test_a_mean_is_computed_in_double_precision():
    values = torch.full((10_000,), 0.1)
    assert estimate_mean(values).value == pytest.approx(values[0].item(), rel=1e-14)


def test_the_bootstrap_of_a_mean_has_the_standard_error_of_the_mean():
    values = normal(1000)
    estimate, exact = bootstrap(torch.mean, values, replicates=2000), estimate_mean(values)
    assert estimate.value == pytest.approx(exact.value)
    assert estimate.error == pytest.approx(exact.error, rel=0.05)


def test_the_bootstrap_resamples_each_set_independently():
    first, second = normal(500), normal(2000, seed=1)
    estimate = bootstrap(lambda a, b: a.mean() - b.mean(), first, second, replicates=2000)
    exact = (estimate_mean(first).error ** 2 + estimate_mean(second).error ** 2) ** 0.5
    assert estimate.error == pytest.approx(exact, rel=0.05)
    # If both sets were resampled alike, the differences would cancel.
    assert bootstrap(lambda a, b: (a - b).mean(), first, first).error > 0.5 * estimate_mean(first).error


def test_the_bootstrap_is_deterministic_and_leaves_the_global_random_state_unchanged():
    state = torch.get_rng_state()
    values = normal(50)
    assert bootstrap(torch.mean, values) == bootstrap(torch.mean, values)
    assert bootstrap(torch.mean, values).error != bootstrap(torch.mean, values, seed=1).error
    assert torch.equal(state, torch.get_rng_state())


def test_an_estimate_is_a_value_and_an_error():
    assert Estimate(1.0, 0.5)._asdict() == {"value": 1.0, "error": 0.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_sentence_for_features_that_are_not_finite_names_a_diverged_model(value):
    features = normal(5, 3)
    features[4, 2] = value
    with pytest.raises(ValueError, match=r"features of the samples contain NaN or Inf: the model has diverged"):
        check_features(features, "samples")


def test_the_sentence_for_equal_features_names_a_collapsed_model():
    with pytest.raises(ValueError, match=r"features of the samples are all equal: the model has collapsed"):
        check_features(torch.ones(5, 3), "samples")


@pytest.mark.parametrize("shape", [(5,), (5, 3, 1), (0, 3)])
def test_features_that_are_not_rows_are_refused(shape):
    with pytest.raises(ValueError, match=r"features of the test images have shape \[.*\]\. Give \[N, D\]"):
        check_features(torch.rand(shape), "test images")


def test_features_with_one_different_row_pass():
    features = torch.zeros(5, 3)
    features[3, 1] = 1
    check_features(features, "samples")
    check_finite(torch.ones(1, 3), "samples")
