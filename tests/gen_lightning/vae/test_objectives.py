"""The terms of the bound against closed forms."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from gen_lightning.vae import ELBO, Terms


def terms_with_prior(prior, k):
    torch.manual_seed(0)
    mean, log_variance = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    posterior = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    closed_form = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    z = posterior.sample(torch.Size([k]))
    return Terms(posterior, prior, z, torch.randn(k, 3, dtype=torch.float64)), closed_form


def standard_normal():
    return Independent(Normal(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)), 1)


def test_kl_is_the_closed_form():
    """Kingma & Welling 2014, appendix B."""
    terms, closed_form = terms_with_prior(standard_normal(), k=1)
    torch.testing.assert_close(terms.kl, closed_form)


def test_kl_without_a_closed_form_is_estimated():
    """A mixture of equal parts is the standard normal, but no formula knows it."""
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


def test_elbo_refuses_no_samples():
    with pytest.raises(ValueError, match="choose 1 or more"):
        ELBO(num_samples=0)
