"""Flows, against autograd, quadrature and a model whose posterior is known exactly."""

from functools import partial

import pytest
import torch
from helpers import compute_exact_log_likelihood, compute_posterior_gradients, standardize_differences, vae
from torch import nn

from gen_lightning.networks import MLPEncoder
from gen_lightning.vae import IWAE, STL, BetaTC, CouplingFlow, DiagonalGaussian, DReG, FreeBits, Gaussian

small = partial(CouplingFlow, num_layers=3, context_dim=4, network=partial(MLPEncoder, hidden_dims=(16,)))


def posterior(latent_dim, n):
    """Return a flow far from the Gaussian that it starts as."""
    torch.manual_seed(0)
    flow = small(latent_dim).double()
    for layer in flow.layers:
        nn.init.normal_(layer.gain, std=3)
    return flow(torch.randn(n, flow.num_features, dtype=torch.float64))


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_log_determinants_equal_those_of_the_jacobian(latent_dim):
    distribution = posterior(latent_dim, 1)
    for layer in distribution.layers:
        z, context = torch.randn(1, latent_dim, dtype=torch.float64), distribution.context
        before, log_determinant = layer.inverse(z, context)
        torch.testing.assert_close(layer(before, context), z)
        jacobian = torch.autograd.functional.jacobian(lambda z: layer(z, context), before)[0, :, 0]  # noqa: B023
        torch.testing.assert_close(jacobian.slogdet().logabsdet, log_determinant[0])
        assert log_determinant.abs() > 0.1


@torch.no_grad()
def test_every_dimension_is_transformed():
    distribution = posterior(5, 3)
    assert (distribution.mean != distribution.base.mean).all()


@torch.no_grad()
def test_density_integrates_to_one():
    distribution = posterior(2, 1)
    axis = torch.linspace(-30, 30, 601, dtype=torch.float64)
    density = distribution.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert density.sum().item() * (60 / 600) ** 2 == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_the_inverse_recovers_the_noise_of_samples():
    """The inverse of the layers maps a sample to the base's noise."""
    distribution = posterior(5, 3)
    torch.manual_seed(1)
    z = distribution.rsample((4,))
    torch.manual_seed(1)
    noise = distribution.base.rsample((4,))
    for layer in reversed(distribution.layers):
        z, _ = layer.inverse(z, distribution.context)
    torch.testing.assert_close(z, noise)


@torch.no_grad()
def test_densities_broadcast_over_posteriors():
    distribution = posterior(5, 3)
    z = distribution.sample()
    every = distribution.log_prob(z.unsqueeze(1))
    assert every.shape == (3, 3)
    torch.testing.assert_close(every.diagonal(), distribution.log_prob(z))


@torch.no_grad()
def test_starts_as_the_diagonal_gaussian():
    torch.manual_seed(0)
    flow = small(5)
    features = torch.randn(3, flow.num_features)
    transformed, plain = flow(features), DiagonalGaussian(5)(features[:, :10])
    z = torch.randn(7, 3, 5)
    torch.testing.assert_close(transformed.log_prob(z), plain.log_prob(z))
    torch.testing.assert_close(transformed.mean, plain.mean)


def correlated_model():
    """Return a linear Gaussian model whose exact posterior is correlated, with a flow that equals this posterior."""
    torch.manual_seed(0)
    model = vae(
        encoder=lambda shape, num_features: nn.Linear(*shape, num_features),
        decoder=lambda latent_dim, shape: nn.Linear(latent_dim, *shape),
        likelihood=partial(Gaussian, scale=0.5, squash=nn.Identity),
        posterior=partial(
            CouplingFlow, num_layers=1, context_dim=1, network=lambda shape, outputs: nn.Linear(*shape, outputs)
        ),
        data_shape=(4,),
        latent_dim=2,
    ).double()
    weight = model.decoder.weight.data.normal_()
    weight[:, 1] += weight[:, 0]
    covariance = (torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.25).inverse()
    mean = covariance @ weight.T / 0.25
    # z_2 given z_1 is normal with mean E[z_2] + slope (z_1 - E[z_1]). The context is E[z_1].
    slope = covariance[0, 1] / covariance[0, 0]
    model.encoder.weight.data.zero_()
    model.encoder.weight.data[[0, 1, 4]] = mean[[0, 1, 0]]
    model.encoder.bias.data = -model.encoder.weight.data @ model.decoder.bias.data
    model.encoder.bias.data[2:4] = torch.stack([covariance[0, 0], covariance[1, 1] - slope * covariance[0, 1]]).log()
    (layer,) = model.posterior.layers
    layer.network.weight.data = torch.stack([torch.stack([slope, -slope]), torch.zeros_like(mean[0, :2])])
    layer.network.bias.data.zero_()
    layer.gain.data.fill_(1)
    assert slope.abs() > 0.1
    return model


@torch.no_grad()
def test_with_the_exact_correlated_posterior_every_log_weight_is_the_log_likelihood():
    model = correlated_model()
    x = torch.randn(8, 4, dtype=torch.float64)
    torch.testing.assert_close(model.log_weights(x, 3), compute_exact_log_likelihood(model, x).expand(3, 8))


@pytest.mark.parametrize("objective", [STL(num_samples=1), STL(num_samples=8), DReG(num_samples=8)])
def test_path_gradients_vanish_at_the_exact_posterior(objective):
    """The gradients reach the flow only through z, and no cached value of the sampling bypasses it."""
    x = torch.randn(8, 4, dtype=torch.float64)
    greatest = []
    for estimator in (objective, IWAE(objective.num_samples)):
        model = correlated_model()
        estimator(model.terms(x, estimator.num_samples), 0).mean().backward()
        parameters = [*model.encoder.parameters(), *model.posterior.parameters()]
        greatest.append(max(parameter.grad.abs().max() for parameter in parameters))
    assert greatest[0] < 1e-12
    assert greatest[1] > 1e-2


@pytest.mark.slow
def test_dreg_is_unbiased_for_a_flow_and_stl_is_not():
    """For k = 8, away from the exact posterior, and for the flow's own parameters too (Tucker et al. 2019)."""
    model = correlated_model()
    x = torch.randn(4, 4, dtype=torch.float64)
    with torch.no_grad():
        for parameter in (*model.encoder.parameters(), *model.posterior.parameters()):
            parameter += 0.15 * torch.randn_like(parameter)
    iwae, dreg, stl = (
        compute_posterior_gradients(model, objective(num_samples=8), x, seed)
        for objective, seed in ((IWAE, 0), (DReG, 1000), (STL, 2000))
    )
    assert standardize_differences(iwae, dreg).abs().max() < 4
    assert standardize_differences(iwae, stl).abs().max() > 8


@pytest.mark.parametrize("objective", [FreeBits(0.1), BetaTC(5)])
def test_objectives_with_a_kl_per_dimension_refuse_a_flow(objective):
    model = vae(data_shape=(3,), posterior=small)
    with pytest.raises(ValueError, match="Flow does not factorize"):
        objective(model.terms(torch.rand(5, 3).bernoulli()), 0)


@pytest.mark.parametrize("arguments", [{"num_layers": 0}, {"context_dim": 0}, {"latent_dim": 1}])
def test_refuses_arguments_out_of_range(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=rf"`CouplingFlow\.{name}` is {value}\. Choose at least {value + 1}\."):
        CouplingFlow(**{"latent_dim": 4} | arguments)


def test_runs_in_bfloat16_with_densities_in_float32():
    model = vae(data_shape=(3,), posterior=small)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.terms(torch.rand(5, 3).bernoulli(), 2)
        assert {terms.z.dtype, terms.log_posterior.dtype} == {torch.float32}
