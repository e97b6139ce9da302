"""A mixture fitted to latents whose density is known, kept for the model and the data that it was fitted to."""

import pytest
import torch
from helpers import linear_gaussian, vae
from torch.distributions import Independent, Normal

from gen_lightning.metrics.cache import cache_folder
from gen_lightning.vae import aggregate_mixture
from gen_lightning.vae.ex_post import fit_mixture


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def batches_of(x):
    return lambda: ((part, torch.zeros(len(part))) for part in x.split(400))


def test_a_mixture_is_found_from_its_samples():
    """Two normals far apart, one of them correlated."""
    torch.manual_seed(0)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    latents = torch.cat([torch.randn(3000, 2) @ root.T + 10, torch.randn(1000, 2) * 2])
    tensors = fit_mixture(latents, num_components=2, seed=0)
    first, second = tensors["weights"].argsort(descending=True).tolist()
    torch.testing.assert_close(tensors["weights"][[first, second]], torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(tensors["scale_trils"][first], root, atol=0.06, rtol=0)
    torch.testing.assert_close(tensors["means"][second], torch.zeros(2), atol=0.25, rtol=0)


@torch.no_grad()
def test_the_aggregate_of_exact_posteriors_is_the_prior():
    """E_p(x) p(z | x) = p(z), the standard normal; and the mixture's samples are of the density that it says."""
    model = linear_gaussian()
    torch.manual_seed(1)
    x = model.likelihood(model.prior().sample(torch.Size([4000]))).sample()
    mixture = aggregate_mixture(model, batches_of(x), num_components=2)
    z = mixture.sample(torch.Size([4000]))
    log_ratio = mixture.log_prob(z) - Independent(Normal(torch.zeros(2), 1.0), 1).log_prob(z)
    assert 0 <= log_ratio.mean() + 4 * log_ratio.std() / 4000**0.5 < 0.02  # KL(fitted || prior), of 11 parameters


@torch.no_grad()
def test_it_is_fitted_once_for_each_model_and_data():
    model = linear_gaussian()
    x = torch.randn(50, 4, dtype=torch.float64)
    one, other = (aggregate_mixture(model, batches_of(x), num_components=2) for _ in range(2))
    assert len(list(cache_folder().iterdir())) == 1
    assert torch.equal(one.component_distribution.loc, other.component_distribution.loc)
    aggregate_mixture(model, batches_of(x + 1), num_components=2)
    model.encoder.bias[0] += 1
    moved = aggregate_mixture(model, batches_of(x), num_components=2)
    assert len(list(cache_folder().iterdir())) == 3
    torch.testing.assert_close(moved.mean[0] - one.mean[0], torch.tensor(1.0))


def test_samples_are_decoded_from_the_density_that_is_set():
    model = vae(data_shape=(2,), latent_dim=2)
    point = torch.tensor([3.0, -2.0])
    model.ex_post = Independent(Normal(point, 1e-6), 1)
    samples = model.sample(4, generator=torch.Generator())
    torch.testing.assert_close(samples, model.likelihood(point.expand(4, 2)).mean)


def test_refuses_covariances_that_are_too_large():
    with pytest.raises(ValueError, match="latent_dim is 1,001: sample with --latents prior"):
        aggregate_mixture(vae(data_shape=(2,), latent_dim=1001), batches_of(torch.zeros(5, 2)))
