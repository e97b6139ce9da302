"""Latents in layers, against torch's own distributions and the models of one layer.

What is known of them exactly is in test_linear_gaussian.py.
"""

from functools import partial

import pytest
import torch
from helpers import vae
from torch.distributions import Bernoulli, Independent, Normal

from gen_lightning.networks import MLPEncoder
from gen_lightning.vae import (
    IWAE,
    STL,
    Beta,
    BetaTC,
    BottomUp,
    Capacity,
    DiagonalGaussian,
    DReG,
    FreeBits,
    StandardNormal,
    TopDown,
    VampPrior,
)

LAYERS = (4, 3, 2)
PIXELS = (1, 2, 2)


def model(**arguments):
    torch.manual_seed(0)
    layers = {"posterior": partial(BottomUp, layer_dims=LAYERS), "prior": partial(TopDown, layer_dims=LAYERS)}
    return vae(**layers | {"data_shape": PIXELS, "latent_dim": sum(LAYERS)} | arguments).double()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.rand(5, *PIXELS, dtype=torch.float64).bernoulli()


def normal(features):
    mean, log_variance = features.tensor_split(2, -1)
    return Independent(Normal(mean, (log_variance / 2).exp()), 1)


@torch.no_grad()
def test_log_weights_are_those_of_the_factors(x):
    """p(z_3) p(z_2 | z_3) p(z_1 | z_2) p(x | z_1) over q(z_1 | x) q(z_2 | z_1) q(z_3 | z_2), by torch."""
    three = model()
    torch.manual_seed(2)
    log_weights = three.log_weights(x, 6)
    torch.manual_seed(2)
    below, above = three._posterior.networks, three._prior.networks
    q1 = normal(three.encoder(x))
    z1 = q1.rsample((6,))
    q2 = normal(torch.stack([below[0](z) for z in z1]))
    z2 = q2.rsample()
    q3 = normal(torch.stack([below[1](z) for z in z2]))
    z3 = q3.rsample()
    p1 = normal(torch.stack([above[0](z) for z in z2]))
    p2 = normal(torch.stack([above[1](z) for z in z3]))
    p3 = Independent(Normal(torch.zeros_like(z3), torch.ones_like(z3)), 1)
    pixels = Independent(Bernoulli(logits=torch.stack([three.decoder(z) for z in z1])), 3)
    log_joint = pixels.log_prob(x) + p1.log_prob(z1) + p2.log_prob(z2) + p3.log_prob(z3)
    expected = log_joint - q1.log_prob(z1) - q2.log_prob(z2) - q3.log_prob(z3)
    torch.testing.assert_close(log_weights, expected)


@torch.no_grad()
def test_one_layer_is_the_diagonal_gaussian_and_the_standard_normal(x):
    one = model(posterior=partial(BottomUp, layer_dims=(8,)), prior=partial(TopDown, layer_dims=(8,)), latent_dim=8)
    plain = model(posterior=DiagonalGaussian, prior=StandardNormal, latent_dim=8)
    plain.load_state_dict(one.state_dict())
    torch.manual_seed(2)
    log_weights = one.log_weights(x, 6)
    torch.manual_seed(2)
    torch.testing.assert_close(plain.log_weights(x, 6), log_weights)


@torch.no_grad()
def test_decoder_sees_the_layer_next_to_the_data(x):
    three = model()
    z = three.posterior(x).sample()
    other = torch.cat([z[:, :4], torch.randn(5, 5, dtype=torch.float64)], 1)
    assert torch.equal(three.likelihood(z).mean, three.likelihood(other).mean)
    assert not torch.equal(three.prior().log_prob(z), three.prior().log_prob(other))


@torch.no_grad()
def test_samples_are_of_the_density(x):
    """By the law of large numbers: E[q / p] under p is 1, for two hierarchies of opposite order."""
    three = model()
    posterior, prior = three.posterior(x[:1]), three.prior()
    z = prior.sample(torch.Size([40_000]))
    assert z.shape == (40_000, 9)
    ratio = (posterior.log_prob(z) - prior.log_prob(z)).exp()
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / 200


@torch.no_grad()
def test_densities_broadcast_over_posteriors(x):
    """As the mutual information has it: each latent under each posterior."""
    posterior = model().posterior(x)
    z = posterior.sample()
    every = posterior.log_prob(z.unsqueeze(1))
    assert every.shape == (5, 5)
    torch.testing.assert_close(every.diagonal(), posterior.log_prob(z))


@pytest.mark.parametrize("objective", [IWAE(3), STL(3), DReG(3), Beta(2.0), Capacity(1.0)])
def test_objectives_train_all_layers(objective, x):
    three = model()
    objective(three.terms(x, objective.num_samples), 0).mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in three.parameters())


@pytest.mark.parametrize("objective", [FreeBits(0.1), BetaTC(5)])
def test_objectives_of_dimensions_refuse_layers_that_are_not_aligned(objective, x):
    with pytest.raises(ValueError, match="Hierarchy does not factorize"):
        objective(model().terms(x), 0)


@torch.no_grad()
def test_other_posteriors_and_priors_go_with_layers(x):
    """Mean-field inference of a hierarchy (Rezende et al. 2014), and a VampPrior of posteriors in layers."""
    for pieces in ({"posterior": DiagonalGaussian}, {"prior": partial(VampPrior, num_components=3)}):
        other = model(**pieces)
        assert other.log_weights(x, 4).shape == (4, 5)
        assert other.draw(3).shape == (3, *PIXELS)


def test_runs_in_bfloat16_with_densities_in_float32(x):
    three = model().float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = three.terms(x.float(), 2)
        assert {terms.z.dtype, terms.log_prior.dtype, terms.log_posterior.dtype} == {torch.float32}


@pytest.mark.parametrize("piece", [BottomUp, TopDown])
def test_refuses_layers_that_are_not_those_of_the_latent(piece):
    with pytest.raises(ValueError, match=r"add up to 9, and latent_dim is 40: set model\.latent_dim to 9"):
        piece(40, layer_dims=LAYERS)
    for layer_dims in ((), (40, 0)):
        with pytest.raises(ValueError, match="choose one or more, each 1 or more"):
            piece(40, layer_dims=layer_dims)


def test_networks_are_those_that_are_given():
    network = partial(MLPEncoder, hidden_dims=(7,), activation=torch.nn.Tanh)
    shapes = {tuple(p.shape) for p in BottomUp(6, (4, 2), network).parameters() if p.ndim == 2}
    assert shapes == {(7, 4), (4, 7)}
    shapes = {tuple(p.shape) for p in TopDown(6, (4, 2), network).parameters() if p.ndim == 2}
    assert shapes == {(7, 2), (8, 7)}
