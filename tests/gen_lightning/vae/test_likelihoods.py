"""Likelihoods are normalized on the data that they accept, and refuse other data."""

import itertools
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
import torch.nn.functional as F
from torch import nn

from gen_lightning.vae import (
    Bernoulli,
    CenteredBernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    LearnedScaleGaussian,
    OptimalScaleGaussian,
    bits_per_dimension,
    distributions,
)

IMAGE = (2, 4, 4)
ALL = [
    Bernoulli,
    CenteredBernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    LearnedScaleGaussian,
    OptimalScaleGaussian,
]
DENSITIES = [ContinuousBernoulli, Gaussian, LearnedScaleGaussian, OptimalScaleGaussian]
PROBABILITIES_OF_LEVELS = [DiscretizedLogistic, DiscretizedLogisticMixture]
LEVELS = torch.arange(256, dtype=torch.float64) / 255


def test_bernoulli_sums_to_one_over_all_images():
    likelihood = Bernoulli((1, 2, 2))
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64).view(16, 1, 2, 2)
    distribution = likelihood(torch.randn(1, 2, 2, dtype=torch.float64) * 3)
    assert distribution.log_prob(images).exp().sum().item() == pytest.approx(1)


def test_bernoulli_sums_over_dimensions_and_broadcasts_over_samples():
    likelihood = Bernoulli((1, 4, 4))
    logits, images = torch.randn(5, 3, 1, 4, 4), torch.rand(3, 1, 4, 4).bernoulli()
    probabilities = logits.double().sigmoid()
    expected = torch.where(images == 1, probabilities, 1 - probabilities).log().sum((2, 3, 4))
    torch.testing.assert_close(likelihood(logits).log_prob(images).double(), expected, rtol=1e-5, atol=1e-5)


def test_bernoulli_has_the_values_and_gradients_of_torch_at_any_logit():
    logits = torch.tensor([-200.0, -20.0, -1.5, 0.0, 1e-4, 3.0, 18.0, 200.0]).repeat(2, 1).requires_grad_()
    values = torch.tensor([[0.0], [1.0]]).expand_as(logits)
    reference = logits.detach().double().requires_grad_()
    expected = -F.binary_cross_entropy_with_logits(reference, values.double(), reduction="none")
    actual = Bernoulli((8,))(logits).base_dist.log_prob(values)
    torch.testing.assert_close(actual.double(), expected, atol=1.2e-7, rtol=1e-6)
    (gradient,) = torch.autograd.grad(actual.sum(), logits)
    (exact,) = torch.autograd.grad(expected.sum(), reference)
    torch.testing.assert_close(gradient.double(), exact, atol=1.2e-7, rtol=1e-6)


def test_the_gradient_of_bernoulli_is_differentiable():
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    values = torch.tensor([0.0, 1.0, 1.0]).repeat(3).double()
    assert torch.autograd.gradgradcheck(lambda logits: Bernoulli((9,))(logits).log_prob(values), logits)


def test_centered_bernoulli_starts_from_the_mean_image():
    """The mean is clamped to 0.001 to 0.999, and the batches may have different sizes."""
    likelihood = CenteredBernoulli((1, 1, 4))
    data = torch.tensor([[0.0, 1.0, 0.2, 1.0], [0.0, 1.0, 0.6, 0.0], [0.0, 1.0, 0.1, 0.5]]).view(3, 1, 1, 4)
    likelihood.initialize(SimpleNamespace(images=lambda split: iter(data.split(2))))
    torch.testing.assert_close(likelihood(torch.zeros(1, 1, 4)).mean, torch.tensor([[[0.001, 0.999, 0.3, 0.5]]]))


def test_bernoulli_refuses_grey_pixels():
    likelihood = Bernoulli((1, 2, 2))
    likelihood.check_data(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"--data\.binarization=dynamic"):
        likelihood.check_data(torch.tensor([0.0, 0.5]))


@pytest.mark.parametrize("family", ALL)
def test_sums_over_dimensions_and_its_mean_is_an_image(family):
    torch.manual_seed(0)
    likelihood = family(IMAGE)
    distribution = likelihood(torch.randn(5, 3, *likelihood.parameters_shape) * 10)
    assert (distribution.batch_shape, distribution.event_shape) == ((5, 3), IMAGE)
    images = torch.randint(2, (3, *IMAGE)).float()
    log_prob = distribution.log_prob(images)
    assert log_prob.shape == (5, 3)
    torch.testing.assert_close(log_prob, distribution.base_dist.log_prob(images).sum((2, 3, 4)))
    assert distribution.mean.shape == (5, 3, *IMAGE)
    assert (distribution.mean >= 0).all()
    assert (distribution.mean <= 1).all()


@pytest.mark.parametrize("logit", [0.0, 1e-3, -0.49, 0.51, -3.0, 16.0, 30.0, -200.0])
def test_continuous_bernoulli_is_normalized_in_float32(logit):
    """Its mean equals the mean by quadrature too."""
    x, weights = np.polynomial.legendre.leggauss(400)
    x, weights = torch.tensor((x + 1) / 2), torch.tensor(weights / 2)
    pixel = distributions.ContinuousBernoulli(logits=torch.tensor(logit))
    density = pixel.log_prob(x.float()).double().exp()
    assert (density * weights).sum().item() == pytest.approx(1, abs=3e-5)
    assert pixel.mean.item() == pytest.approx((x * density * weights).sum().item(), abs=2e-5)


@pytest.mark.parametrize("logit", [-30.0, -1.0, -0.02, -0.005, 0.0, 0.005, 0.02, 1.0, 30.0])
def test_quantiles_of_a_continuous_bernoulli_invert_its_distribution_function(logit):
    probability = torch.linspace(0, 1, 101)
    quantile = distributions.ContinuousBernoulli(logits=torch.tensor(logit)).icdf(probability).double().numpy()
    expected = np.expm1(logit * quantile) / np.expm1(logit) if logit else quantile
    np.testing.assert_allclose(expected, probability, atol=1e-5)


def test_quantiles_of_a_continuous_bernoulli_are_in_its_support_at_any_logit():
    pixel = distributions.ContinuousBernoulli(logits=torch.tensor([-1e3, -200.0, 200.0, 1e3]))
    assert pixel.icdf(torch.tensor([[0.0]])).tolist() == [[0.0] * 4]
    assert pixel.icdf(torch.tensor([[1.0]])).tolist() == [[1.0] * 4]


def test_samples_of_a_continuous_bernoulli_have_its_mean():
    torch.manual_seed(0)
    pixel = distributions.ContinuousBernoulli(logits=torch.tensor([-30.0, 0.0, 30.0]))
    samples = pixel.sample(torch.Size([100_000]))
    assert ((samples.mean(0) - pixel.mean).abs() < 4 * samples.std(0) / 100_000**0.5).all()


def test_continuous_bernoulli_equals_that_of_torch_at_logits_where_torch_is_exact():
    logits = torch.linspace(-8, 8, 65, dtype=torch.float64, requires_grad=True)
    x = torch.rand(65, dtype=torch.float64)
    ours = distributions.ContinuousBernoulli(logits=logits)
    theirs = torch.distributions.ContinuousBernoulli(logits=logits, lims=(0.4999, 0.5001))
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=0, atol=1e-7)
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=0, atol=1e-7)
    (gradient,) = torch.autograd.grad(ours.log_prob(x).sum(), logits)
    torch.testing.assert_close(gradient, x - ours.mean, rtol=0, atol=1e-7)


def test_gaussian_is_the_normal_density():
    outputs, x = torch.randn(3, *IMAGE, dtype=torch.float64), torch.rand(3, *IMAGE, dtype=torch.float64)
    expected = scipy.stats.norm(outputs.sigmoid(), 0.3).logpdf(x).sum((1, 2, 3))
    torch.testing.assert_close(
        Gaussian(IMAGE, scale=0.3)(outputs).log_prob(x), torch.tensor(expected), rtol=1e-6, atol=0
    )


def test_learned_scale_gaussian_uses_the_decoders_mean_and_scale():
    likelihood = LearnedScaleGaussian(IMAGE, min_scale=0.05, squash=nn.Identity)
    outputs, x = torch.randn(3, 4, 4, 4, dtype=torch.float64), torch.rand(3, *IMAGE, dtype=torch.float64)
    scale = 0.05 + np.log1p(np.exp(outputs[:, 2:].numpy()))
    expected = scipy.stats.norm(outputs[:, :2], scale).logpdf(x).sum((1, 2, 3))
    torch.testing.assert_close(likelihood(outputs).log_prob(x), torch.tensor(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", [Gaussian, LearnedScaleGaussian, OptimalScaleGaussian])
def test_gaussians_integrate_to_one(family):
    likelihood = family((1,)).double()
    distribution = likelihood(torch.randn(likelihood.parameters_shape, dtype=torch.float64))
    density = lambda x: distribution.log_prob(torch.tensor([x], dtype=torch.float64)).exp().item()  # noqa: E731
    assert scipy.integrate.quad(density, -30, 30, points=[0.5])[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("family", [Gaussian, LearnedScaleGaussian, OptimalScaleGaussian])
def test_gaussians_generate_means_or_noisy_samples(family):
    """Noisy samples are normal around the mean, by the scale of the distribution."""
    torch.manual_seed(0)
    outputs = torch.randn(family((2,)).parameters_shape)
    plain, noisy = (family((2,), noisy_samples=noise) for noise in (False, True))
    distribution = noisy(outputs.expand(20_000, -1))
    assert torch.equal(plain.generate(distribution), distribution.mean)
    deviations = ((noisy.generate(distribution) - distribution.mean) / distribution.stddev)[:, 0]
    assert scipy.stats.kstest(deviations.numpy(), "norm").pvalue > 0.01


def test_optimal_scale_maximizes_the_likelihood_of_the_batch():
    """The maximum is -D / 2 (1 + log(2 pi MSE)) (Rybkin et al. 2021)."""
    torch.manual_seed(0)
    likelihood = OptimalScaleGaussian(IMAGE).double()
    outputs, x = torch.randn(2, 3, *IMAGE, dtype=torch.float64), torch.rand(3, *IMAGE, dtype=torch.float64)
    likelihood.fit(outputs, x)
    log_likelihood = likelihood(outputs).log_prob(x)
    mse = (outputs.sigmoid() - x).square().mean()
    assert log_likelihood.mean().item() == pytest.approx(-16 * (1 + np.log(2 * np.pi * mse.item())))
    for factor in (0.99, 1.01):
        other = Gaussian(IMAGE, scale=factor * mse.item() ** 0.5).double()
        assert other(outputs).log_prob(x).sum() < log_likelihood.sum()


def test_a_constant_optimal_scale_gives_the_gradient_of_the_maximized_likelihood():
    """The gradient with respect to the scale is 0 at the optimum, so the scale can be treated as a constant."""
    torch.manual_seed(0)
    likelihood = OptimalScaleGaussian(IMAGE).double()
    outputs, x = torch.randn(1, 3, *IMAGE, dtype=torch.float64), torch.rand(3, *IMAGE, dtype=torch.float64)
    outputs.requires_grad_()
    likelihood.fit(outputs.detach(), x)
    (gradient,) = torch.autograd.grad(likelihood(outputs).log_prob(x).mean(), outputs)
    (expected,) = torch.autograd.grad(-16 * (outputs.sigmoid() - x).square().mean().log(), outputs)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_optimal_scale_is_positive_without_an_error():
    likelihood = OptimalScaleGaussian((2,))
    likelihood.fit(torch.zeros(1, 1, 2), torch.full((1, 2), 0.5))
    assert likelihood(torch.zeros(1, 1, 2)).log_prob(torch.full((1, 2), 0.5)).isfinite()


def test_optimal_scale_may_be_fitted_again_before_the_gradient():
    likelihood = OptimalScaleGaussian((2,))
    outputs = torch.zeros(1, 1, 2, requires_grad=True)
    likelihood.fit(outputs.detach(), torch.ones(1, 2))
    value = likelihood(outputs).log_prob(torch.ones(1, 2))
    likelihood.fit(outputs.detach(), torch.full((1, 2), 0.9))
    value.sum().backward()
    # The derivative of -(1 - sigmoid)^2 / (2 * 0.25) with respect to the output.
    torch.testing.assert_close(outputs.grad, torch.full((1, 1, 2), 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", [DiscretizedLogistic, partial(DiscretizedLogisticMixture, num_components=3)])
def test_probabilities_of_the_levels_sum_to_one(family, dtype):
    torch.manual_seed(0)
    likelihood = family((50,))
    outputs = torch.randn(likelihood.parameters_shape, dtype=dtype) * torch.linspace(0, 20, 50, dtype=dtype).repeat(
        likelihood.parameters_shape[0] // 50
    )
    pixels = likelihood(outputs).base_dist
    levels = LEVELS.to(dtype).unsqueeze(1).expand(256, 50)
    total = pixels.log_prob(levels).double().exp().sum(0)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(total, torch.ones(50, dtype=torch.float64), rtol=0, atol=tolerance)
    mean = (pixels.log_prob(levels).exp() * levels).sum(0)
    torch.testing.assert_close(pixels.mean, mean, rtol=0, atol=10 * tolerance)


def test_discretized_logistic_is_the_difference_of_two_cdfs():
    loc, scale = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.02, dtype=torch.float64)
    pixel = distributions.DiscretizedLogistic(loc, scale)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    expected = np.diff(scipy.stats.logistic(0.3, 0.02).cdf(edges))
    for rounding in (-1e-6, 0, 1e-6):
        torch.testing.assert_close(
            pixel.log_prob(LEVELS + rounding).exp(), torch.tensor(expected), rtol=0, atol=1e-6 + 20 * abs(rounding)
        )


@pytest.mark.parametrize("family", PROBABILITIES_OF_LEVELS)
def test_discretized_logistics_have_finite_values_and_gradients_at_any_output(family):
    likelihood = family((1, 2, 2))
    for value, log_scale in itertools.product((-1e3, 1e3), (-50.0, 100.0)):
        outputs = torch.full(likelihood.parameters_shape, value)
        outputs[len(outputs) // 2 :] = log_scale
        outputs.requires_grad_()
        log_prob = likelihood(outputs).log_prob(torch.tensor([[[0.0, 1.0], [3 / 255, 0.6]]]))
        log_prob.backward()
        assert log_prob.isfinite()
        assert outputs.grad.isfinite().all()


def test_samples_of_a_discretized_logistic_follow_its_probabilities():
    torch.manual_seed(0)
    pixel = distributions.DiscretizedLogistic(torch.tensor(0.99), torch.tensor(0.01))
    counts = (pixel.sample(torch.Size([100_000])) * 255).round().long().bincount(minlength=256)
    expected = pixel.log_prob(LEVELS).exp() * 100_000
    often = expected > 20
    observed = [*counts[often].tolist(), counts[~often].sum().item()]
    expected = [*expected[often].tolist(), expected[~often].sum().item()]
    assert scipy.stats.chisquare(observed, np.array(expected) / sum(expected) * 100_000).pvalue > 1e-3


def test_mixture_is_the_weighted_sum_of_its_logistics():
    likelihood = DiscretizedLogisticMixture(IMAGE, num_components=3)
    outputs = torch.randn(likelihood.parameters_shape, dtype=torch.float64)
    x = LEVELS[torch.randint(256, IMAGE)]
    logits, loc, scale = outputs.reshape(3, 3, *IMAGE)
    single = DiscretizedLogistic(IMAGE)
    probabilities = sum(
        logits.softmax(0)[m] * single(torch.cat([loc[m], scale[m]])).base_dist.log_prob(x).exp() for m in range(3)
    )
    torch.testing.assert_close(likelihood(outputs).log_prob(x), probabilities.log().sum())


@pytest.mark.parametrize("family", DENSITIES)
def test_densities_refuse_binary_data(family):
    family(IMAGE).check_data(torch.tensor([0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match=r"--data\.binarization=none"):
        family(IMAGE).check_data(torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("family", DENSITIES)
def test_densities_warn_about_data_of_256_levels(family):
    with pytest.warns(UserWarning, match=r"Set --data\.dequantize=true"):
        family(IMAGE).check_data(torch.arange(256) / 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        family(IMAGE).check_data((torch.arange(256) + 0.3) / 256)


@pytest.mark.parametrize("family", DENSITIES)
def test_densities_of_images_refuse_data_outside_0_to_1(family):
    with pytest.raises(ValueError, match=r"from -1 to 0\.5.*for data from 0 to 1"):
        family(IMAGE).check_data(torch.tensor([-1.0, 0.5]))


def test_gaussian_with_unbounded_means_accepts_unbounded_data():
    Gaussian((2,), squash=nn.Identity).check_data(torch.tensor([-100.0, 0.5]))


@pytest.mark.parametrize("family", PROBABILITIES_OF_LEVELS)
def test_probabilities_of_levels_refuse_other_values_and_binary_data(family):
    family(IMAGE).check_data(LEVELS.float())
    binary = torch.tensor([0.0, 1.0])
    for data in (torch.rand(10), torch.tensor([-1 / 255, 0.0]), torch.tensor([256 / 255]), binary):
        with pytest.raises(ValueError, match="256 levels"):
            family(IMAGE).check_data(data)


@pytest.mark.parametrize("family", [Gaussian, LearnedScaleGaussian])
def test_refuses_a_scale_of_0(family):
    with pytest.raises(ValueError, match=rf"`{family.__name__}\.\w*scale` is 0\.0\. Choose above 0 and finite\."):
        family(IMAGE, 0.0)


def test_refuses_a_mixture_of_0_components():
    with pytest.raises(ValueError, match=r"`DiscretizedLogisticMixture\.num_components` is 0\. Choose at least 1\."):
        DiscretizedLogisticMixture(IMAGE, num_components=0)


def test_equal_probabilities_of_256_levels_cost_8_bits_per_dimension():
    nats = torch.full((3,), 784 * np.log(256))
    torch.testing.assert_close(bits_per_dimension(nats, (1, 28, 28)), torch.full((3,), 8.0))
