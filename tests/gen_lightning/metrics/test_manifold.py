"""Metrics of nearest neighbours: agreement with prdc and scikit-learn, and extreme cases."""

import pytest
import torch
from prdc import compute_prdc
from sklearn.neighbors import NearestNeighbors

from gen_lightning.metrics import manifold
from gen_lightning.metrics.manifold import manifold_metrics, memorization


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values(metrics):
    return {name: estimate.value for name, estimate in metrics.items()}


@pytest.mark.parametrize("neighbours", [1, 5])
def test_all_four_metrics_agree_with_prdc(neighbours):
    real, fake = normal(700, 8), normal(600, 8, seed=1) * 0.8 + 0.2
    expected = compute_prdc(real.numpy(), fake.numpy(), neighbours)
    assert values(manifold_metrics(real, fake, neighbours)) == pytest.approx(expected, abs=1e-12)


def test_single_precision_far_from_the_origin_agrees_with_prdc():
    real, fake = (normal(300, 8, seed=seed).float() + 1000 for seed in (0, 1))
    expected = compute_prdc(real.double().numpy(), fake.double().numpy(), 5)
    assert values(manifold_metrics(real, fake)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_the_block_size_and_the_order_of_rows_do_not_change_the_metrics(block, monkeypatch):
    real, fake, training = normal(100, 3), normal(80, 3, seed=1), normal(90, 3, seed=2)
    expected = values(manifold_metrics(real, fake)), memorization(fake, real, training, 0.1).value
    monkeypatch.setattr(manifold, "_BLOCK", block)
    monkeypatch.setattr(manifold, "_PAIRS", block)
    real, fake, training = real.flip(0), fake.roll(5, 0), training.roll(7, 0)
    found = values(manifold_metrics(real, fake)), memorization(fake, real, training, 0.1).value
    assert found[1] == expected[1]
    assert found[0] == pytest.approx(expected[0])


def find_members(real, fake, neighbours=5):
    """Return which real images are recalled and covered, from all distances at once."""
    radii = [torch.cdist(points, points).kthvalue(neighbours + 1).values for points in (real, fake)]
    distances = torch.cdist(real, fake)
    return (distances <= radii[1]).any(1), (distances <= radii[0][:, None]).any(1)


def test_errors_of_precision_and_density_are_standard_errors_of_means_over_samples():
    metrics = manifold_metrics(normal(100, 3), normal(400, 3, seed=1) + 1)
    value, error = metrics["precision"]
    assert error == pytest.approx((value * (1 - value) / 399) ** 0.5)
    assert metrics["density"].error > 0


def test_errors_of_recall_and_coverage_are_of_a_jackknife_over_groups_of_samples_and_of_the_real_images():
    real, fake = normal(100, 3), normal(90, 3, seed=1) + 1
    metrics = manifold_metrics(real, fake)
    groups = torch.randperm(90, generator=torch.Generator().manual_seed(0)) % 20
    without = [find_members(real, fake[groups != group]) for group in range(20)]
    for name, members in zip(("recall", "coverage"), zip(*without, strict=True), strict=True):
        deviations = torch.stack(members).double()
        deviations = deviations - deviations.mean(0)
        # The covariance of the terms of two different real images, by the samples that both depend on.
        covariance = (deviations.sum(1).square() - deviations.square().sum(1)).sum() / 100**2 * 19 / 20
        value, error = metrics[name]
        assert error**2 == pytest.approx(value * (1 - value) / 99 + max(covariance.item(), 0))


def draw_shifted(n, generator):
    return torch.randn(n, 16, generator=generator) + 0.5


def draw_with_outliers(n, generator):
    outlying = torch.rand(n, 1, generator=generator) < 5 / n
    return torch.randn(n, 16, generator=generator) * (0.6 + 3.4 * outlying)


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [150, 500])
@pytest.mark.parametrize("draw", [draw_shifted, draw_with_outliers])
def test_errors_are_standard_deviations_over_sets_of_samples(draw, num_samples):
    generator = torch.Generator().manual_seed(0)
    real = normal(500, 16)
    sets = [manifold_metrics(real, draw(num_samples, generator)) for _ in range(40)]
    for name in ("precision", "recall", "density", "coverage"):
        values, errors = torch.tensor([metrics[name] for metrics in sets]).T
        assert 0.6 < (errors.mean() / values.std()).item() < 1.7, name


@pytest.mark.parametrize("num_samples", [2, 3, 21])
def test_a_few_samples_have_errors(num_samples):
    for estimate in manifold_metrics(normal(30, 2), normal(num_samples, 2, seed=1), 1).values():
        assert 0 <= estimate.error < 2


def test_a_set_compared_with_itself_is_perfect():
    features = normal(100, 3)
    found = values(manifold_metrics(features, features))
    assert found["precision"] == found["recall"] == found["coverage"] == 1


def test_duplicates_have_distance_0():
    features = normal(500, 64).repeat(2, 1)
    assert manifold._compute_squared_radii(features, 1).sqrt().max() <= 1e-6


def test_a_collapsed_model_has_precision_1_and_no_recall():
    real = normal(500, 4)
    found = values(manifold_metrics(real, real[:1] + 1e-3 * normal(500, 4, seed=1)))
    assert found["precision"] == 1
    assert found["recall"] <= 0.01
    assert found["coverage"] <= 0.05


def test_on_a_collapsed_data_set_a_wide_model_has_recall_1_and_no_precision():
    wide = normal(500, 4)
    found = values(manifold_metrics(wide[:1] + 1e-3 * normal(500, 4, seed=1), wide))
    assert found["precision"] <= 0.01
    assert found["recall"] == 1


def test_noise_far_from_the_data_scores_0():
    found = values(manifold_metrics(normal(200, 4), 100 + normal(200, 4, seed=1)))
    assert found == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_samples_of_half_of_the_classes_have_a_coverage_of_one_half():
    labels = 100 * torch.arange(1000).remainder(10)[:, None]
    real, fake = normal(1000, 4) + labels, normal(2000, 4, seed=1) + (labels % 500).repeat(2, 1)
    found = values(manifold_metrics(real, fake))
    assert found["coverage"] == pytest.approx(0.5, abs=0.02)
    assert found["recall"] == pytest.approx(0.5, abs=0.05)
    assert found["precision"] > 0.9


def test_one_real_outlier_raises_precision_but_not_density_or_coverage():
    # The case that density and coverage are designed for (Naeem et al. 2020, section 3).
    real = torch.cat([normal(500, 4), torch.full((1, 4), 10.0)])
    fake = 10 + normal(500, 4, seed=1)
    found = values(manifold_metrics(real, fake))
    assert found["precision"] == 1
    assert found["density"] <= 0.25
    assert found["coverage"] <= 0.01


@pytest.mark.parametrize("neighbours", [0, 20])
def test_too_few_images_for_the_neighbours_are_refused(neighbours):
    with pytest.raises(ValueError, match=f"neighbours` is {neighbours} for 20 real images and 30 samples"):
        manifold_metrics(normal(20, 2), normal(30, 2, seed=1), neighbours)


def test_features_that_are_not_finite_or_are_equal_are_refused():
    with pytest.raises(ValueError, match="samples contain NaN"):
        manifold_metrics(normal(20, 2), normal(20, 2) * torch.nan)
    with pytest.raises(ValueError, match="samples are all equal"):
        manifold_metrics(normal(20, 2), torch.ones(20, 2))
    with pytest.raises(ValueError, match="training images contain NaN"):
        memorization(normal(20, 2), normal(20, 2), normal(20, 2) * torch.inf, 0.1)


def test_copies_of_training_images_are_detected():
    training, held_out = normal(2000, 8), normal(1000, 8, seed=1)
    assert memorization(training[:500], held_out, training) == (1, 0)
    assert memorization(training[:500] + 1e-4 * normal(500, 8, seed=2), held_out, training).value == 1


def test_copies_in_single_precision_have_distance_0():
    training = (normal(2000, 64) + 100).float()
    assert manifold._compute_nearest_distances(training[:500].double(), training.double()).max() == 0


@pytest.mark.parametrize("quantile", [0.01, 0.1])
def test_the_memorization_of_a_perfect_model_is_the_quantile(quantile):
    samples, held_out, training = (normal(num, 4, seed=seed) for seed, num in enumerate((4000, 4000, 3000)))
    estimate = memorization(samples, held_out, training, quantile)
    assert abs(estimate.value - quantile) < 3 * estimate.error < quantile


def test_the_memorization_of_a_share_of_copies_is_that_share():
    samples, held_out, training = (normal(2000, 8, seed=seed) for seed in range(3))
    samples[:600] = training[:600]
    assert memorization(samples, held_out, training).value == pytest.approx(0.3 + 0.7 * 0.01, abs=0.01)


def test_the_memorization_of_samples_far_from_the_data_is_0():
    assert memorization(10 + normal(200, 8), normal(200, 8, seed=1), normal(200, 8, seed=2)).value == 0


def test_memorization_agrees_with_scikit_learn():
    samples, held_out, training = normal(300, 8), normal(200, 8, seed=1), normal(500, 8, seed=2)
    search = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(training)
    ours, theirs = (torch.from_numpy(search.kneighbors(features)[0][:, 0]) for features in (samples, held_out))
    torch.testing.assert_close(manifold._compute_nearest_distances(samples, training), ours, atol=1e-12, rtol=0)
    expected = (ours < theirs.quantile(0.2)).double().mean().item()
    assert memorization(samples, held_out, training, 0.2).value == expected


@pytest.mark.slow
def test_the_error_of_memorization_is_its_standard_deviation_over_repeated_experiments():
    # The sampling error of the held-out images is as large as that of the samples, and the error must include it.
    training = normal(200, 2)
    sets = ((normal(500, 2, seed=2 * i + 1), normal(500, 2, seed=2 * i + 2)) for i in range(200))
    values, errors = torch.tensor([memorization(*pair, training, 0.1) for pair in sets]).T
    assert errors.square().mean().sqrt().item() == pytest.approx(values.std().item(), rel=0.2)


def test_samples_at_the_threshold_do_not_count_but_copies_do():
    training = torch.tensor([[0.0], [100.0]])
    held_out = torch.tensor([[1.0], [1.0], [2.0], [2.0]])
    assert memorization(torch.tensor([[1.0], [3.0]]), held_out, training, 0.25).value == 0
    assert memorization(torch.tensor([[0.9], [3.0]]), held_out, training, 0.25).value == 0.5
    repeated = torch.tensor([[0.0], [0.0], [2.0], [2.0]])
    assert memorization(torch.tensor([[0.0], [3.0]]), repeated, training, 0.25).value == 0.5


@pytest.mark.parametrize("quantile", [0.001, 1.0])
def test_quantiles_below_one_image_or_of_all_images_are_refused(quantile):
    with pytest.raises(ValueError, match=f"quantile` is {quantile} for 20 held-out images"):
        memorization(normal(20, 2), normal(20, 2), normal(20, 2), quantile)
