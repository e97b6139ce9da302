"""Terms and objectives, against closed forms."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import vae
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from gen_lightning.metrics.bounds import mean_bound
from gen_lightning.vae import (
    ELBO,
    IWAE,
    MMD,
    STL,
    Beta,
    BetaTC,
    Capacity,
    DReG,
    FreeBits,
    LinearWarmup,
    StandardNormal,
    Terms,
    VampPrior,
    importance_weighted_bound,
)


def terms_with_prior(prior, k):
    torch.manual_seed(0)
    mean, log_variance = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    posterior = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    closed_form = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    z = posterior.sample(torch.Size([k]))
    return Terms(posterior, prior, z, torch.randn(k, 3, dtype=torch.float64)), closed_form


def standard_normal(dimension=4):
    zeros = torch.zeros(dimension, dtype=torch.float64)
    return Independent(Normal(zeros, zeros + 1), 1)


def test_kl_is_the_closed_form():
    """Kingma & Welling 2014, appendix B."""
    terms, closed_form = terms_with_prior(standard_normal(), k=1)
    torch.testing.assert_close(terms.kl, closed_form)


def test_kl_without_a_closed_form_is_estimated():
    """A mixture of two standard normals is the standard normal, but torch has no closed form for a mixture."""
    parts = Independent(Normal(torch.zeros(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)), 1)
    mixture = MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)), parts)
    terms, closed_form = terms_with_prior(mixture, k=20_000)
    error = (terms.log_posterior - terms.log_prior).std(0) / 20_000**0.5
    assert ((terms.kl - closed_form).abs() < 4 * error).all()


def test_log_weights_average_to_the_elbo():
    terms, closed_form = terms_with_prior(standard_normal(), k=20_000)
    error = terms.log_weights.std(0) / 20_000**0.5
    expected = terms.log_likelihood.mean(0) - closed_form
    torch.testing.assert_close(terms.elbo, expected)
    assert ((terms.log_weights.mean(0) - expected).abs() < 4 * error).all()


def test_elbo_objective_is_the_bound():
    terms, _ = terms_with_prior(standard_normal(), k=2)
    assert torch.equal(ELBO(num_samples=2)(terms, iteration=0), terms.elbo)


def test_beta_weights_the_kl():
    terms, closed_form = terms_with_prior(standard_normal(), k=2)
    expected = terms.log_likelihood.mean(0) - 3 * closed_form
    torch.testing.assert_close(Beta(3.0, num_samples=2)(terms, iteration=0), expected)
    assert torch.equal(Beta(1.0)(terms, iteration=0), terms.elbo)


def test_beta_follows_its_warmup():
    terms, closed_form = terms_with_prior(standard_normal(), k=1)
    objective = Beta(4.0, warmup=LinearWarmup(100))
    assert torch.equal(objective(terms, iteration=0), terms.log_likelihood[0])
    torch.testing.assert_close(objective(terms, iteration=50), terms.log_likelihood[0] - 2 * closed_form)
    assert torch.equal(objective(terms, iteration=100), Beta(4.0)(terms, iteration=0))


def test_free_bits_of_zero_are_the_elbo():
    terms, _ = terms_with_prior(standard_normal(), k=1)
    torch.testing.assert_close(FreeBits(0.0)(terms, iteration=0), terms.elbo)


def test_free_bits_charge_each_dimension_at_least_the_minimum():
    """A dimension whose mean KL is below the minimum has no gradient."""
    torch.manual_seed(0)
    mean = torch.randn(5, 2, dtype=torch.float64) * torch.tensor([0.1, 3.0], dtype=torch.float64)
    mean.requires_grad_()
    posterior = Independent(Normal(mean, torch.ones_like(mean)), 1)
    log_likelihood = torch.zeros(1, 5, dtype=torch.float64)
    terms = Terms(posterior, standard_normal(2), posterior.rsample(torch.Size([1])), log_likelihood)
    value = FreeBits(0.5)(terms, iteration=0).mean()
    mean_kl = (mean**2 / 2).mean(0)
    assert mean_kl[0] < 0.5 < mean_kl[1]
    assert value.item() == pytest.approx(-0.5 - mean_kl[1].item())
    value.backward()
    torch.testing.assert_close(mean.grad, -mean.detach() / 5 * torch.tensor([0.0, 1.0]))


def test_capacity_penalizes_the_distance_of_the_kl():
    terms, closed_form = terms_with_prior(standard_normal(), k=1)
    assert closed_form.min() < 3 < closed_form.max()
    expected = terms.log_likelihood[0] - 7 * (closed_form - 3).abs()
    torch.testing.assert_close(Capacity(3.0, gamma=7.0)(terms, iteration=0), expected)
    assert torch.equal(Capacity(0.0, gamma=7.0)(terms, iteration=0), Beta(7.0)(terms, iteration=0))
    assert torch.equal(Capacity(3.0, 7.0, LinearWarmup(10))(terms, iteration=0), Beta(7.0)(terms, iteration=0))


@pytest.mark.parametrize("objective", [IWAE, STL, DReG])
def test_the_value_is_the_importance_weighted_bound(objective):
    """Burda et al. 2016, equation 8, whatever the gradient estimator is."""
    terms, _ = terms_with_prior(standard_normal(), k=6)
    expected = terms.log_weights.exp().mean(0).log()
    torch.testing.assert_close(objective(num_samples=6)(terms, iteration=0), expected)


def test_importance_weighted_bound_in_float32_at_many_samples():
    log_weights = torch.randn(5000, 8, dtype=torch.float64) * 5 - 1000
    expected = torch.tensor(np.log(np.exp(log_weights.numpy() + 1000).mean(0)) - 1000)
    torch.testing.assert_close(importance_weighted_bound(log_weights), expected)
    torch.testing.assert_close(importance_weighted_bound(log_weights.float()).double(), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Beta(-1.0), "beta"),
        (lambda: Beta(math.nan), "beta"),
        (lambda: FreeBits(-0.1), "free_nats"),
        (lambda: Capacity(-1.0), "capacity"),
        (lambda: Capacity(1.0, gamma=-1.0), "gamma"),
        (lambda: BetaTC(10, beta=-1.0), "beta"),
        (lambda: MMD(-1.0), "weight"),
        (lambda: MMD(1.0, kl_weight=-1.0), "kl_weight"),
    ],
)
def test_refuses_negative_weights(make, name):
    with pytest.raises(ValueError, match=rf"`\w+\.{name}` is (-|nan).*\. Choose at least 0\."):
        make()


def test_refuses_a_bound_at_more_weights_than_exist():
    for k in (0, 6):
        with pytest.raises(ValueError, match=rf"`mean_bound\.k` is {k}\. Choose at least 1 and at most 5\."):
            mean_bound(torch.zeros(5, 3), k)


@pytest.mark.parametrize("objective", [ELBO, Beta, IWAE, DReG, STL])
def test_refuses_0_samples(objective):
    with pytest.raises(ValueError, match=rf"`{objective.__name__}\.num_samples` is 0\. Choose at least 1\."):
        objective(num_samples=0)


@pytest.mark.parametrize("objective", [FreeBits(0.1), BetaTC(3)])
def test_objectives_with_a_kl_per_dimension_refuse_a_posterior_that_does_not_factorize(objective):
    scale = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    posterior = MultivariateNormal(torch.zeros(3, 4, dtype=torch.float64), scale_tril=scale)
    terms = Terms(posterior, standard_normal(), posterior.sample(torch.Size([1])), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="MultivariateNormal does not factorize"):
        objective(terms, iteration=0)


def estimate_gradient_variance(objective, prior):
    """Return the variance of the encoder's gradient over 50 draws of the latents, summed over all parameters."""
    torch.manual_seed(0)
    model = vae(prior=prior, data_shape=(20,))
    data, gradients = torch.rand(16, 20).bernoulli(), []
    for _ in range(50):
        model.zero_grad()
        objective(model.terms(data, 5), 0).mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.encoder.parameters()]))
    return torch.stack(gradients).var(0).sum()


def test_dreg_has_less_variance_than_iwae_but_not_with_a_vamp_prior():
    """Tucker et al. 2019 assume a prior without the encoder's parameters."""
    for prior, less in ((StandardNormal, True), (partial(VampPrior, num_components=10), False)):
        dreg, iwae = (estimate_gradient_variance(objective, prior) for objective in (DReG(5), IWAE(5)))
        assert (dreg < iwae / 2) if less else (dreg > iwae)
