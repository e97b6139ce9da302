"""Objectives of the aggregate posterior, against exact values: one batch that is the dataset, or all its batches."""

import itertools
from functools import partial

import pytest
import torch
from helpers import vae
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from gen_lightning.vae import MMD, BetaTC, MixtureOfGaussians, Terms, TopDown
from gen_lightning.vae.aggregate import decompose_kl, squared_mmd


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def standard_normal(dimension):
    zeros = torch.zeros(dimension, dtype=torch.float64)
    return Independent(Normal(zeros, zeros + 1), 1)


@pytest.fixture
def terms():
    torch.manual_seed(0)
    posterior = Independent(Normal(double(5, 3), double(5, 3).exp()), 1)
    return Terms(posterior, standard_normal(3), posterior.sample(torch.Size([2])), double(2, 5))


def mixture_density(posterior, z):
    """Return the aggregate posterior's log-density, from torch's mixture."""
    equal = Categorical(torch.ones(posterior.batch_shape, dtype=torch.float64))
    return MixtureSameFamily(equal, posterior).log_prob(z)


def test_parts_equal_those_of_the_exact_aggregate_posterior(terms):
    parts = decompose_kl(terms, dataset_size=5)
    log_aggregate = mixture_density(terms.posterior, terms.z)
    mean, scale = terms.posterior.base_dist.loc, terms.posterior.base_dist.scale
    log_marginals = sum(
        mixture_density(Independent(Normal(mean[:, [j]], scale[:, [j]]), 1), terms.z[..., [j]]) for j in range(3)
    )
    torch.testing.assert_close(parts.mutual_information, (terms.log_posterior - log_aggregate).mean(0))
    torch.testing.assert_close(parts.total_correlation, (log_aggregate - log_marginals).mean(0))
    torch.testing.assert_close(parts.dimension_wise_kl, (log_marginals - terms.log_prior).mean(0))


def test_parts_sum_to_the_kl(terms):
    """Chen et al. 2018, equation 2, against the closed-form KL: within the error of 20,000 samples."""
    z = terms.posterior.sample(torch.Size([20_000]))
    many = Terms(terms.posterior, terms.prior, z, double(20_000, 5))
    error = (many.log_posterior - many.log_prior).std(0) / 20_000**0.5
    assert ((sum(decompose_kl(many, 100)) - terms.kl).abs() < 4 * error).all()
    assert (error < 0.05 * terms.kl).all()


def test_batches_estimate_the_density_of_the_dataset_without_bias(terms):
    """The mean over all batches of 3 of the 5 examples that contain the first example."""
    densities = []
    for others in itertools.combinations(range(1, 5), 2):
        index = [0, *others]
        base = terms.posterior.base_dist
        posterior = Independent(Normal(base.loc[index], base.scale[index]), 1)
        batch = Terms(posterior, terms.prior, terms.z[:1, index], terms.log_likelihood[:1, index])
        log_aggregate = batch.log_posterior.mean(0) - decompose_kl(batch, dataset_size=5).mutual_information
        densities.append(log_aggregate[0].exp())
    exact = mixture_density(terms.posterior, terms.z[0, 0]).exp()
    torch.testing.assert_close(torch.stack(densities).mean(), exact)


def test_total_correlation_of_a_correlated_normal_is_its_closed_form():
    """-log(1 - rho^2) / 2 for q(z) close to N(0, [[1, rho], [rho, 1]])."""
    torch.manual_seed(0)
    rho, noise, n = 0.8, 0.3, 1000
    covariance = torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64) - noise**2 * torch.eye(2, dtype=torch.float64)
    mean = double(n, 2) @ torch.linalg.cholesky(covariance).T
    posterior = Independent(Normal(mean, torch.full_like(mean, noise)), 1)
    terms = Terms(posterior, standard_normal(2), posterior.sample(torch.Size([1])), double(1, n))
    total_correlation = decompose_kl(terms, dataset_size=n).total_correlation
    expected = -0.5 * torch.log(torch.tensor(1 - rho**2)).item()
    assert total_correlation.mean().item() == pytest.approx(expected, abs=4 * total_correlation.std().item() / n**0.5)


def test_beta_tc_weights_the_total_correlation(terms):
    total_correlation = decompose_kl(terms, 100).total_correlation
    torch.testing.assert_close(BetaTC(100, beta=5.0)(terms, 0), terms.elbo - 4 * total_correlation)
    torch.testing.assert_close(BetaTC(100, beta=1.0)(terms, 0), terms.elbo)


@pytest.mark.parametrize("dataset_size", [4, 0])
def test_beta_tc_refuses_a_batch_larger_than_the_dataset(terms, dataset_size):
    with pytest.raises(ValueError, match="Set dataset_size to the number of training"):
        BetaTC(dataset_size)(terms, 0)


def single_example():
    posterior = standard_normal(2).expand(torch.Size([1]))
    return Terms(posterior, standard_normal(2), double(1, 1, 2), double(1, 1))


@pytest.mark.parametrize("objective", [BetaTC(10), MMD(1.0)])
def test_refuses_a_batch_of_one_example(objective):
    with pytest.raises(ValueError, match=r"--data\.batch_size to at least 2"):
        objective(single_example(), 0)


def test_squared_mmd_is_the_double_sum():
    """Gretton et al. 2012, equation 3, pair by pair."""
    one, other = double(4, 3), double(4, 3)
    kernel = lambda x, y: 6 / (6 + (x - y).square().sum().item())  # noqa: E731
    pairs = list(itertools.permutations(range(4), 2))
    within = sum(kernel(one[i], one[j]) + kernel(other[i], other[j]) for i, j in pairs) / 12
    across = sum(kernel(x, y) for x in one for y in other) / 16
    assert squared_mmd(one, other).item() == pytest.approx(within - 2 * across)


def test_squared_mmd_is_unbiased():
    """The mean is 0 for equal distributions and above 0 for different ones."""
    torch.manual_seed(0)
    equal = squared_mmd(double(2000, 10, 2), double(2000, 10, 2))
    shifted = squared_mmd(double(2000, 10, 2), double(2000, 10, 2) + 0.5)
    error = equal.std().item() / 2000**0.5
    assert abs(equal.mean().item()) < 4 * error
    assert shifted.mean().item() > 10 * error


def test_mmd_trains_a_learned_prior():
    """Without a weight on the KL, the prior is trained through its samples; a mixture's samples have no gradient."""
    model = vae(prior=partial(TopDown, layer_dims=[4, 2]), data_shape=(6,), latent_dim=6)
    terms = model.terms(torch.rand(5, 6).round(), 1)
    MMD(weight=10.0)(terms, 0).mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.prior.parameters())
    mixture = vae(prior=MixtureOfGaussians, data_shape=(6,)).terms(torch.rand(5, 6).round(), 1)
    with pytest.raises(ValueError, match=r"leave this prior untrained.*Choose a kl_weight above 0"):
        MMD(weight=10.0)(mixture, 0)


def test_mmd_trains_a_mixture_through_the_kl_only():
    model = vae(prior=MixtureOfGaussians, data_shape=(6,))
    terms = model.terms(torch.rand(5, 6).round(), 1)
    MMD(weight=10.0, kl_weight=0.5)(terms, 0).mean().backward()
    with_mmd = [parameter.grad.clone() for parameter in model.prior.parameters()]
    model.zero_grad()
    (-0.5 * model.prior().log_prob(terms.z.detach()).mean()).backward()
    for gradient, parameter in zip(with_mmd, model.prior.parameters(), strict=True):
        torch.testing.assert_close(gradient, -parameter.grad)


def test_mmd_is_the_elbo_minus_the_weighted_discrepancy(terms):
    torch.manual_seed(1)
    value = MMD(weight=10.0, kl_weight=1.0)(terms, 0)
    torch.manual_seed(1)
    discrepancy = squared_mmd(terms.z, terms.prior.sample(torch.Size([2, 5]))).mean()
    torch.testing.assert_close(value, terms.elbo - 10 * discrepancy)
    torch.testing.assert_close(MMD(weight=0.0)(terms, 0), terms.log_likelihood.mean(0))
