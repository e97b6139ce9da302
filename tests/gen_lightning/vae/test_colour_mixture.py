"""Mixtures of discretized logistics with dependent channels, with and without autoregression over pixels."""

import itertools
from functools import partial

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.vae import (
    AutoregressiveLogisticMixture,
    ColourLogisticMixture,
    DiscretizedLogisticMixture,
    distributions,
)

FAMILIES = [ColourLogisticMixture, partial(AutoregressiveLogisticMixture, width=4, window=3)]


def draw_parameters(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def compute_reference(x: Tensor, parameters: Tensor, num_components: int) -> Tensor:
    """Return the log-probability `[N]` of RGB images in [-1, 1], as in the code of Salimans et al. (2017).

    Images are `[N, H, W, 3]`. The order of the parameters `[N, H, W, 10 M]` is theirs: the weights, then means, scales
    and coefficients for each channel.
    """
    logits, rest = parameters.tensor_split([num_components], -1)
    means, log_scales, coefficients = rest.unflatten(-1, (3, 3, num_components)).unbind(-2)
    log_scales, coefficients = log_scales.clamp(min=-7), coefficients.tanh()
    x = x.unsqueeze(-1)
    red, green = x[..., 0, :], x[..., 1, :]
    means = torch.stack(
        [
            means[..., 0, :],
            means[..., 1, :] + coefficients[..., 0, :] * red,
            means[..., 2, :] + coefficients[..., 1, :] * red + coefficients[..., 2, :] * green,
        ],
        -2,
    )
    upper = (x - means + 1 / 255) * (-log_scales).exp()
    lower = (x - means - 1 / 255) * (-log_scales).exp()
    within = upper.sigmoid() - lower.sigmoid()
    # Below, their code takes the density at the centre instead.
    assert within.min() > 1e-5
    log_prob = torch.where(x < -0.999, F.logsigmoid(upper), torch.where(x > 0.999, -F.softplus(lower), within.log()))
    return (log_prob.sum(-2) + logits.log_softmax(-1)).logsumexp(-1).sum((1, 2))


def order_as_theirs(parameters: Tensor, num_components: int) -> Tensor:
    """Return our parameters `[N, 10 M, H, W]` in their order, `[N, H, W, 10 M]`."""
    logits, rest = parameters.movedim(1, -1).tensor_split([num_components], -1)
    return torch.cat([logits, rest.unflatten(-1, (3, num_components, 3)).permute(0, 1, 2, 5, 3, 4).flatten(3)], -1)


def test_equals_the_code_of_the_paper_at_inner_and_outer_levels():
    parameters = draw_parameters(5, 40, 4, 3)
    parameters[:, 4:16] *= 0.3
    parameters[:, 16:28] = parameters[:, 16:28].abs() - 0.5
    levels = torch.randint(256, (5, 3, 4, 3), generator=torch.Generator().manual_seed(0)).double()
    levels[0], levels[1], levels[2, :, 0] = 0, 255, torch.tensor([[0, 255, 7]]).T
    expected = compute_reference(levels.movedim(1, -1) / 127.5 - 1, order_as_theirs(parameters, 4), 4)
    actual = ColourLogisticMixture((3, 4, 3), num_components=4)(parameters).log_prob(levels / 255)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sums_to_one_over_all_pixels(channels, monkeypatch):
    monkeypatch.setattr(distributions, "LEVELS", 8)
    pixels = torch.tensor(list(itertools.product(range(8), repeat=channels))).double().view(-1, channels, 1, 1) / 7
    likelihood = ColourLogisticMixture((channels, 1, 1), num_components=3)
    distribution = likelihood(draw_parameters(*likelihood.parameters_shape) * 2)
    assert distribution.log_prob(pixels).exp().sum().item() == pytest.approx(1)


def test_the_sum_over_all_levels_of_blue_is_the_probability_of_red_and_green():
    """A channel changes only its own factor: the marginal of all other channels has the same parameters without it."""
    three, two = (ColourLogisticMixture((channels, 1, 1), num_components=1) for channels in (3, 2))
    parameters = draw_parameters(10, 1, 1)
    first_two = parameters[[0, 1, 2, 4, 5, 7]]
    red_and_green = torch.tensor([[0, 0], [255, 3], [17, 200]]).double().view(3, 1, 2, 1, 1) / 255
    blue = (torch.arange(256).double() / 255).view(256, 1, 1, 1).expand(3, 256, 1, 1, 1)
    pixels = torch.cat([red_and_green.expand(3, 256, 2, 1, 1), blue], 2)
    total = three(parameters).log_prob(pixels).exp().sum(1)
    torch.testing.assert_close(total, two(first_two).log_prob(red_and_green[:, 0]).exp())


def test_equals_the_mixture_of_independent_channels_for_grey_images():
    parameters = draw_parameters(4, 30, 5, 5)
    images = torch.randint(256, (4, 1, 5, 5)).double() / 255
    ours, other = (family((1, 5, 5))(parameters) for family in (ColourLogisticMixture, DiscretizedLogisticMixture))
    torch.testing.assert_close(ours.log_prob(images), other.log_prob(images))
    torch.testing.assert_close(ours.mean, other.mean)


def test_channels_are_independent_if_all_coefficients_are_zero_and_there_is_one_component():
    parameters = draw_parameters(2, 10, 3, 3)
    parameters[:, 7:] = 0
    images = torch.randint(256, (2, 3, 3, 3)).double() / 255
    dependent = ColourLogisticMixture((3, 3, 3), num_components=1)(parameters)
    weights_and_channels = torch.cat([torch.zeros(2, 3, 3, 3), parameters[:, 1:7]], 1)
    independent = DiscretizedLogisticMixture((3, 3, 3), num_components=1)(weights_and_channels)
    torch.testing.assert_close(dependent.log_prob(images), independent.log_prob(images))


def test_samples_follow_the_distribution(monkeypatch):
    monkeypatch.setattr(distributions, "LEVELS", 4)
    torch.manual_seed(0)
    distribution = ColourLogisticMixture((3, 1, 1), num_components=2)(draw_parameters(20, 1, 1) - 0.3)
    pixels = torch.tensor(list(itertools.product(range(4), repeat=3))).double().view(-1, 3, 1, 1) / 3
    expected = distribution.log_prob(pixels).exp()
    samples = distribution.sample(torch.Size([20_000])).view(-1, 3).mul(3).round().long()
    counts = torch.bincount(samples @ torch.tensor([16, 4, 1]), minlength=64).double()
    assert expected.min() > 5 / 20_000
    assert scipy.stats.chisquare(counts, expected / expected.sum() * 20_000).pvalue > 0.001


def test_the_mean_follows_the_linear_dependence_inside_the_range():
    parameters = draw_parameters(20, 2, 2) * 0.2
    parameters[8:14] = -4  # all scales are 2.3 levels
    weights = parameters[:2].softmax(0)
    loc, coefficients = (parameters[first : first + 6].view(2, 3, 2, 2) for first in (2, 14))
    slopes = coefficients.tanh()
    red = loc[:, 0]
    green = loc[:, 1] + slopes[:, 0] * red
    blue = loc[:, 2] + slopes[:, 1] * red + slopes[:, 2] * green
    expected = (weights[:, None] * (torch.stack([red, green, blue], 1) + 1) / 2).sum(0)
    mean = ColourLogisticMixture((3, 2, 2), num_components=2)(parameters).mean
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-6)


def test_the_mean_of_the_first_channel_is_exact(monkeypatch):
    monkeypatch.setattr(distributions, "LEVELS", 4)
    distribution = ColourLogisticMixture((2, 1, 1), num_components=2)(draw_parameters(12, 1, 1) * 2)
    pixels = torch.tensor(list(itertools.product(range(4), repeat=2))).double().view(-1, 2, 1, 1) / 3
    expected = (distribution.log_prob(pixels).exp()[:, None, None, None] * pixels).sum(0)
    torch.testing.assert_close(distribution.mean[0], expected[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_broadcasts_over_samples_and_draws_images_of_256_levels(family):
    torch.manual_seed(0)
    likelihood = family((3, 4, 4), num_components=2).double()
    parameters = draw_parameters(5, 2, *likelihood.parameters_shape)
    images = torch.randint(256, (2, 3, 4, 4)).double() / 255
    several = likelihood(parameters)
    assert (several.batch_shape, several.event_shape) == ((5, 2), (3, 4, 4))
    torch.testing.assert_close(
        several.log_prob(images), torch.stack([likelihood(p).log_prob(images) for p in parameters])
    )
    assert several.mean.shape == (5, 2, 3, 4, 4)
    assert (several.mean.min() >= 0) & (several.mean.max() <= 1)
    samples = several.sample(torch.Size([6]))
    assert samples.shape == (6, 5, 2, 3, 4, 4)
    assert likelihood.supports(samples)
    assert (several.log_prob(samples) > -torch.inf).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_finite_at_extreme_outputs(family):
    likelihood = family((3, 2, 2), num_components=2)
    parameters = (torch.randn(8, *likelihood.parameters_shape) * 1000).requires_grad_()
    log_prob = likelihood(parameters).log_prob(torch.randint(256, (8, 3, 2, 2)) / 255)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert parameters.grad.isfinite().all()


class TestAutoregression:
    def likelihood(self, shape: tuple[int, int, int], num_components: int = 2) -> AutoregressiveLogisticMixture:
        torch.manual_seed(0)
        likelihood = AutoregressiveLogisticMixture(shape, num_components, width=4, window=3).double()
        for parameter in likelihood.parameters():
            nn.init.normal_(parameter)
        return likelihood

    def test_sums_to_one_over_all_images(self, monkeypatch):
        monkeypatch.setattr(distributions, "LEVELS", 3)
        likelihood = self.likelihood((2, 2, 2))
        images = torch.tensor(list(itertools.product(range(3), repeat=8))).double().view(-1, 2, 2, 2) / 2
        probabilities = likelihood(draw_parameters(*likelihood.parameters_shape)).log_prob(images).exp()
        assert probabilities.sum().item() == pytest.approx(1)

    def test_equals_the_colour_mixture_at_initialization(self):
        likelihood = AutoregressiveLogisticMixture((3, 4, 4), num_components=2, width=4).double()
        parameters = draw_parameters(2, *likelihood.parameters_shape)
        images = torch.randint(256, (2, 3, 4, 4)).double() / 255
        expected = ColourLogisticMixture((3, 4, 4), num_components=2)(parameters[:, :20]).log_prob(images)
        torch.testing.assert_close(likelihood(parameters).log_prob(images), expected)

    def test_samples_are_drawn_from_the_parameters_of_log_prob(self):
        likelihood = self.likelihood((3, 4, 5))
        distribution = likelihood(draw_parameters(6, *likelihood.parameters_shape))
        images, corrected = distribution._draw(torch.Size())
        assert likelihood.supports(images)
        expected = likelihood.network(images, distribution.parameters, distribution.context)
        torch.testing.assert_close(corrected, expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ColourLogisticMixture((4,)),
            r"ColourLogisticMixture is a likelihood of images .* \(4,\)\. Choose Disc",
        ),
        (
            lambda: ColourLogisticMixture((3, 4, 4), 0),
            r"`ColourLogisticMixture\.num_components` is 0\. Choose at least 1",
        ),
        (lambda: AutoregressiveLogisticMixture((3, 4, 4), window=4), r"`AutoregressiveLogisticMixture\.window` is 4\."),
        (lambda: AutoregressiveLogisticMixture((3, 4, 4), width=0), r"`AutoregressiveLogisticMixture\.width` is 0\."),
    ],
)
def test_refuses_arguments_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("family", FAMILIES)
def test_refuses_data_of_other_values(family):
    likelihood = family((3, 2, 2))
    with pytest.raises(ValueError, match=r"--data\.dequantize=false"):
        likelihood.check_data(torch.full((1, 3, 2, 2), 0.123))
    with pytest.raises(ValueError, match="the data are binary"):
        likelihood.check_data(torch.zeros(1, 3, 2, 2))
