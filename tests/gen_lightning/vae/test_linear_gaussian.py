"""Bounds and gradient estimators on models whose likelihood and posterior are known exactly.

See `linear_gaussian`, `two_layer_linear_gaussian` and `ladder_linear_gaussian` in the helpers.
"""

import copy
import itertools

import pytest
import torch
from helpers import (
    compute_exact_log_likelihood,
    compute_gradients,
    compute_posterior_gradients,
    ladder_linear_gaussian,
    linear_gaussian,
    standardize_differences,
    two_layer_linear_gaussian,
)

from gen_lightning.vae import IWAE, STL, DReG, Terms, importance_weighted_bound

LATENT = 2


MODELS = [linear_gaussian, two_layer_linear_gaussian, ladder_linear_gaussian]


@pytest.fixture(params=MODELS, ids=["one_layer", "two_layers", "ladder"])
def make(request):
    """Return the constructor of a model with one latent layer, two layers bottom-up, or two layers in a ladder."""
    return request.param


@pytest.fixture
def exact(make):
    """Return the model with its exact posterior."""
    return make()


@pytest.fixture
def model(make):
    """Return the model with a posterior that differs from the exact one, so that the bounds have a gap."""
    return make(posterior_error=0.15)


@pytest.fixture
@torch.no_grad()
def x():
    """Return samples `[8, 4]` of the models' distribution."""
    torch.manual_seed(1)
    exact = linear_gaussian()
    return exact.decode(exact.prior().sample(torch.Size([8]))).sample()


@torch.no_grad()
def test_with_the_exact_posterior_every_log_weight_is_the_log_likelihood(exact, x):
    torch.testing.assert_close(exact.log_weights(x, 3), compute_exact_log_likelihood(exact, x).expand(3, 8))


@pytest.mark.slow
@torch.no_grad()
def test_bounds_rise_with_k_to_the_log_likelihood(model, x):
    """ELBO <= IWAE_k <= IWAE_m <= log p(x) for k < m (Burda et al. 2016, theorem 1)."""
    ks = [1, 4, 16, 64]
    bounds = [importance_weighted_bound(model.log_weights(x, k * 1000).view(k, 1000, 8)) for k in ks]
    exact, means = compute_exact_log_likelihood(model, x), torch.stack([bound.mean(0) for bound in bounds])
    errors = torch.stack([bound.std(0) / 1000**0.5 for bound in bounds])
    elbo = torch.stack([model.elbo(x) for _ in range(500)])
    assert ((elbo.mean(0) - means[0]).abs() < 4 * (elbo.var(0) / 500 + errors[0] ** 2).sqrt()).all()
    assert (means[-1] < exact + 4 * errors[-1]).all()
    for (low, high), (error, other) in zip(itertools.pairwise(means), itertools.pairwise(errors), strict=True):
        assert (low - high < 4 * (error**2 + other**2).sqrt()).all()
        assert low.mean() < high.mean()
    assert (exact - means[0]).mean() > 0.1
    many = importance_weighted_bound(model.log_weights(x, 100_000))
    torch.testing.assert_close(many, exact, rtol=0, atol=0.02)


@pytest.mark.slow
def test_dreg_is_unbiased_with_less_variance_and_stl_is_biased(model, x):
    """For k = 8 (Tucker et al. 2019). STL is in the same test to show that the check of DReG can fail."""
    iwae, dreg, stl = (
        compute_posterior_gradients(model, objective(num_samples=8), x, seed)
        for objective, seed in ((IWAE, 0), (DReG, 1000), (STL, 2000))
    )
    assert standardize_differences(iwae, dreg).abs().max() < 4
    assert standardize_differences(iwae, stl).abs().max() > 8
    assert dreg.var(0).sum() < 0.3 * iwae.var(0).sum()


@pytest.mark.slow
def test_dreg_is_unbiased_for_the_prior_of_a_ladder(x):
    """The prior is part of the posterior, so its gradients come through the density and through the samples."""
    model = ladder_linear_gaussian(posterior_error=0.15)

    def prior_gradients(objective, seed):
        for i in range(40):
            compute_gradients(model, objective(num_samples=8), x.repeat(200, 1), seed + i)
            yield torch.cat([parameter.grad.flatten() for parameter in model.prior.parameters()])

    iwae, dreg, stl = (
        torch.stack(list(prior_gradients(objective, seed)))
        for objective, seed in ((IWAE, 0), (DReG, 1000), (STL, 2000))
    )
    assert standardize_differences(iwae, dreg).abs().max() < 4
    assert standardize_differences(iwae, stl).abs().max() > 8


@pytest.mark.slow
def test_stl_is_unbiased_for_one_sample(model, x):
    iwae, stl = (compute_posterior_gradients(model, objective(num_samples=1), x, 0) for objective in (IWAE, STL))
    assert standardize_differences(iwae, stl).abs().max() < 4


@pytest.mark.parametrize("estimator", [STL, DReG])
def test_gradients_of_prior_and_decoder_equal_those_of_the_bound(model, estimator, x):
    expected = compute_gradients(model, IWAE(num_samples=8), x)[1]
    torch.testing.assert_close(compute_gradients(model, estimator(num_samples=8), x)[1], expected)


@pytest.mark.parametrize("estimator", [STL(num_samples=1), STL(num_samples=8), DReG(num_samples=8)])
def test_path_gradients_vanish_at_the_exact_posterior(exact, estimator, x):
    """They have no variance (Roeder et al. 2017, section 3), whereas the gradient of the bound itself is noise."""
    assert compute_gradients(exact, estimator, x)[0].abs().max() < 1e-12
    assert compute_gradients(exact, IWAE(estimator.num_samples), x)[0].abs().max() > 1e-2


@pytest.mark.parametrize("estimator", [STL, DReG])
def test_path_gradients_equal_those_with_detached_parameters(estimator, x):
    """Both are derived again from the path derivative of each latent's log-weight."""
    model, k = linear_gaussian(posterior_error=0.15), 5
    actual = compute_gradients(model, estimator(num_samples=k), x, seed=3)[0]
    torch.manual_seed(3)
    noise = torch.randn(k, len(x), LATENT, dtype=torch.float64)
    mean, log_variance = model.encoder(x).chunk(2, -1)
    z = mean + (log_variance / 2).exp() * noise
    fixed = copy.deepcopy(model).requires_grad_(False)
    log_weights = Terms(fixed.encode(x), fixed.prior(), z, fixed.decode(z).log_prob(x)).log_weights
    (path,) = torch.autograd.grad(log_weights.sum(), z, retain_graph=True)
    weights = log_weights.detach().softmax(0).unsqueeze(-1) ** (2 if estimator is DReG else 1)
    model.zero_grad()
    z.backward(weights * path / len(x))
    expected = torch.cat([parameter.grad.flatten() for parameter in model.encoder.parameters()])
    torch.testing.assert_close(actual, expected)
