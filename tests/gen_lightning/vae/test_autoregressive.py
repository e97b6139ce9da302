"""Autoregressive pixels: the probability is normalized, samples follow it, and the mean's estimate is unbiased."""

import itertools
from types import SimpleNamespace

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from gen_lightning.vae import AutoregressiveBernoulli, CenteredBernoulli

SHAPE = (2, 2, 2)
IMAGES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8)), dtype=torch.float64).view(-1, *SHAPE)


@pytest.fixture
def likelihood() -> AutoregressiveBernoulli:
    """Return a likelihood with weights that make pixels depend on each other."""
    torch.manual_seed(0)
    likelihood = AutoregressiveBernoulli(SHAPE, width=4, window=3).double()
    for parameter in likelihood.parameters():
        nn.init.normal_(parameter)
    return likelihood


def parameters(*batch_shape: int, width: int = 4) -> Tensor:
    """Return outputs of a decoder: logits and `width` maps of context."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*batch_shape, SHAPE[0] + width, *SHAPE[1:], dtype=torch.float64, generator=generator)


def test_sums_to_one_over_all_images(likelihood):
    probabilities = likelihood(parameters()).log_prob(IMAGES).exp()
    assert probabilities.sum().item() == pytest.approx(1)
    independent = CenteredBernoulli(SHAPE).double()(parameters()[:2]).log_prob(IMAGES).exp()
    assert not torch.allclose(probabilities, independent, atol=1e-3)


def test_sums_to_one_in_mixed_precision(likelihood):
    """Rounding may move probability from one image to another, but the sum stays 1."""
    with torch.autocast("cpu", torch.bfloat16):
        probabilities = likelihood.float()(parameters().float()).log_prob(IMAGES.float()).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)


def test_a_pixel_depends_on_the_pixels_before_it_in_its_window():
    torch.manual_seed(0)
    network = AutoregressiveBernoulli((1, 6, 7), width=4, window=3).double().network
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    image = torch.rand(1, 6, 7, dtype=torch.float64)
    context = torch.zeros(4, 6, 7, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, torch.zeros_like(x), context), image)
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij")
    positions = torch.stack([rows.flatten(), columns.flatten()], 1)
    offset = positions[None] - positions[:, None]
    above = (offset[..., 0] == -1) & (offset[..., 1].abs() <= 1)
    left = (offset[..., 0] == 0) & (offset[..., 1] == -1)
    assert torch.equal(jacobian.view(42, 42) != 0, above | left)


def test_pixels_are_independent_at_initialization():
    likelihood = AutoregressiveBernoulli(SHAPE).double()
    data = SimpleNamespace(images=lambda split: iter([IMAGES[:100]]))
    likelihood.initialize(data)
    independent = CenteredBernoulli(SHAPE).double()
    independent.initialize(data)
    outputs = parameters(3, len(IMAGES), width=16)
    expected = independent(outputs[..., :2, :, :]).log_prob(IMAGES)
    torch.testing.assert_close(likelihood(outputs).log_prob(IMAGES), expected)


def test_samples_are_drawn_from_the_logits_of_log_prob(likelihood):
    logits, context = parameters(50).tensor_split([2], -3)
    images, corrected = likelihood.network.draw(logits, context, lambda pixel: pixel.sigmoid().bernoulli())
    assert ((images == 0) | (images == 1)).all()
    torch.testing.assert_close(corrected, likelihood.network(images, logits, context))


def test_a_pixel_depends_on_the_context_at_its_own_place_only(likelihood):
    context = torch.zeros(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    likelihood.network(IMAGES[:1], torch.zeros(1, *SHAPE, dtype=torch.float64), context)[..., 1, 0].sum().backward()
    at_its_own_place = torch.tensor([[False, False], [True, False]]).expand(1, 4, 2, 2)
    assert torch.equal(context.grad != 0, at_its_own_place)


def test_samples_follow_the_distribution(likelihood):
    torch.manual_seed(0)
    distribution = likelihood(parameters())
    expected = distribution.log_prob(IMAGES).exp().detach()
    weights = 2 ** torch.arange(7, -1, -1)
    counts = torch.bincount((distribution.sample((20_000,)).flatten(1) @ weights.double()).long(), minlength=256)
    often = expected > 5 / 20_000
    observed = torch.cat([counts[often], counts[~often].sum()[None]]).double()
    frequencies = torch.cat([expected[often], expected[~often].sum()[None]])
    assert scipy.stats.chisquare(observed, frequencies / frequencies.sum() * 20_000).pvalue > 0.001


def test_the_mean_is_estimated_without_bias(likelihood):
    torch.manual_seed(0)
    exact = (likelihood(parameters()).log_prob(IMAGES).exp().view(-1, 1, 1, 1) * IMAGES).sum(0).detach()
    estimates = likelihood(parameters().expand(20_000, -1, -1, -1)).mean
    standard_error = estimates.std(0) / 20_000**0.5
    # No pixel comes before the first one, so its estimate is exact.
    torch.testing.assert_close(estimates[:, :, 0, 0], exact[:, 0, 0].expand(20_000, 2))
    assert ((estimates.mean(0) - exact).abs() <= 4 * standard_error + 1e-12).all()


def test_broadcasts_over_samples(likelihood):
    several = likelihood(parameters(3, 5))
    assert (several.batch_shape, several.event_shape) == ((3, 5), SHAPE)
    images = IMAGES[:5]
    one_by_one = [likelihood(each).log_prob(images) for each in parameters(3, 5)]
    torch.testing.assert_close(several.log_prob(images), torch.stack(one_by_one))
    assert several.sample((2,)).shape == (2, 3, 5, *SHAPE)
    assert several.mean.shape == (3, 5, *SHAPE)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4,), {}, "is a likelihood of images"),
        (SHAPE, {"width": 0}, r"`AutoregressiveBernoulli\.width` is 0\. Choose at least 1"),
        (SHAPE, {"window": 4}, r"`AutoregressiveBernoulli\.window` is 4\. Choose an odd number"),
        (SHAPE, {"window": 1}, r"`AutoregressiveBernoulli\.window` is 1\. Choose at least 3"),
    ],
)
def test_refuses_arguments_out_of_range(shape, options, message):
    with pytest.raises(ValueError, match=message):
        AutoregressiveBernoulli(shape, **options)


def test_refuses_grey_pixels(likelihood):
    with pytest.raises(ValueError, match=r"--data\.binarization=dynamic"):
        likelihood.check_data(torch.tensor([0.0, 0.5]))
