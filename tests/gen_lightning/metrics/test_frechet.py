"""The Fréchet distance: closed forms, agreement with SciPy and torchmetrics, and sensitivity to degraded images."""

import itertools
import math

import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.transforms.functional import gaussian_blur

from datamodules import MNISTDataModule
from gen_lightning.metrics import MNISTFeatures
from gen_lightning.metrics.frechet import estimate_frechet_distance, frechet_distance


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def white(num_rows, dim, seed=0):
    # Up to rounding, the mean is 0 and the covariance is the identity.
    centred = normal(num_rows, dim, seed=seed)
    centred = centred - centred.mean(0)
    return torch.linalg.qr(centred).Q * (num_rows - 1) ** 0.5


def trace_of_root(product):
    return scipy.linalg.sqrtm(product.numpy()).real.trace()


@pytest.fixture(scope="module")
def digits():
    datamodule = MNISTDataModule("digits")
    datamodule.setup("test")
    batches = [datamodule.on_after_batch_transfer(batch, 0) for batch in datamodule.test_dataloader()]
    return tuple(map(torch.cat, zip(*batches, strict=True)))


@pytest.fixture(scope="module")
def extractor():
    return MNISTFeatures()


@pytest.mark.parametrize("dead", [0, 3])
def test_the_distance_of_a_set_to_itself_is_0(dead):
    features = normal(200, 16) * torch.logspace(0, 6, 16)
    features[:, :dead] = 0.3
    assert frechet_distance(features, features).item() <= 1e-10 * features.var(0).sum().item()
    assert frechet_distance(white(200, 16), white(200, 16)).item() <= 1e-10


def test_axis_aligned_gaussians_agree_with_the_closed_form():
    real_scale, fake_scale, shift = torch.rand(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real, fake = white(100, 8) * real_scale, white(50, 8, seed=1) * fake_scale + shift
    exact = shift.square().sum() + (real_scale - fake_scale).square().sum()
    assert frechet_distance(real, fake).item() == pytest.approx(exact.item(), abs=1e-8)


def test_general_gaussians_agree_with_scipys_matrix_square_root():
    first, second, shift = normal(8, 8, seed=2), normal(8, 8, seed=3), normal(8, seed=4)
    real, fake = white(100, 8) @ first, white(50, 8, seed=1) @ second + shift
    real_cov, fake_cov = first.T @ first, second.T @ second
    exact = shift.square().sum() + real_cov.trace() + fake_cov.trace() - 2 * trace_of_root(real_cov @ fake_cov)
    assert frechet_distance(real, fake).item() == pytest.approx(exact.item(), abs=1e-8)


def test_agrees_with_torchmetrics(digits, extractor):
    features = extractor(digits[0])
    real, fake = features[::2], features[1::2] * 1.1
    identity = nn.Identity()
    identity.num_features = features.shape[1]
    metric = FrechetInceptionDistance(identity).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    assert frechet_distance(real, fake).item() == pytest.approx(metric.compute().item(), rel=1e-9)


def test_samples_of_gaussians_have_the_exact_distance_within_the_error():
    scale = torch.tensor([1.0, 2.0, 0.5, 1.0])
    estimate = estimate_frechet_distance(normal(20_000, 4), normal(20_000, 4, seed=1) * scale + 0.5)
    assert abs(estimate.value - (4 * 0.25 + 1 + 0.25)) < 4 * estimate.error < 0.2


def test_the_error_is_the_standard_deviation_over_repeated_experiments():
    estimates = [
        estimate_frechet_distance(normal(300, 3, seed=2 * i), normal(300, 3, seed=2 * i + 1) + 1) for i in range(100)
    ]
    values, errors = torch.tensor(estimates).T
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.25)


def test_at_distance_0_the_error_is_at_most_twice_the_true_one():
    estimates = [
        estimate_frechet_distance(normal(300, 3, seed=2 * i), normal(300, 3, seed=2 * i + 1)) for i in range(100)
    ]
    values, errors = torch.tensor(estimates).T
    assert 1 < errors.mean().item() / values.std().item() < 2.2


def test_the_value_of_the_estimate_is_the_distance():
    real, fake = normal(100, 4), normal(80, 4, seed=1)
    assert estimate_frechet_distance(real, fake).value == frechet_distance(real, fake).item()


def test_the_order_of_rows_and_of_sets_does_not_change_the_distance():
    real, fake = normal(100, 4), normal(80, 4, seed=1) + 1
    expected = frechet_distance(real, fake)
    torch.testing.assert_close(frechet_distance(real.flip(0), fake.flip(0)), expected)
    torch.testing.assert_close(frechet_distance(fake, real), expected)


def increase(distances):
    return all(before < after for before, after in itertools.pairwise(distances))


@pytest.mark.slow
def test_the_distance_increases_with_noise(digits, extractor):
    images, noise = digits[0], normal(*digits[0].shape).float()
    degraded = [(images + scale * noise).clamp(0, 1) for scale in (0, 0.05, 0.1, 0.2, 0.4)]
    assert increase([frechet_distance(extractor(images), extractor(fake)).item() for fake in degraded])


@pytest.mark.slow
def test_the_distance_increases_with_blur(digits, extractor):
    images = digits[0]
    degraded = [images, *(gaussian_blur(images, [13, 13], [sigma, sigma]) for sigma in (0.7, 1.0, 1.5, 2.5))]
    assert increase([frechet_distance(extractor(images), extractor(fake)).item() for fake in degraded])


def test_the_distance_increases_with_the_number_of_dropped_classes(digits, extractor):
    images, labels = digits
    features = extractor(images)
    assert increase([frechet_distance(features, features[labels >= dropped]).item() for dropped in (0, 1, 3, 5, 7)])


@pytest.mark.parametrize(("num_real", "num_fake"), [(8, 100), (100, 8)])
def test_too_few_images_are_refused(num_real, num_fake):
    message = rf"8 features is singular for {num_real} real images and {num_fake} samples\. Use more than 8"
    for metric in (frechet_distance, estimate_frechet_distance):
        with pytest.raises(ValueError, match=message):
            metric(normal(num_real, 8), normal(num_fake, 8, seed=1))


def test_one_more_image_than_features_suffices():
    assert math.isfinite(estimate_frechet_distance(normal(9, 8), normal(9, 8, seed=1)).error)


def test_features_that_are_not_finite_or_are_equal_are_refused():
    with pytest.raises(ValueError, match="samples contain NaN"):
        frechet_distance(normal(9, 2), normal(9, 2) * torch.nan)
    with pytest.raises(ValueError, match="real images are all equal"):
        estimate_frechet_distance(torch.ones(9, 2), normal(9, 2))
