"""A mixture fitted to latents of known density, and stored for the model's weights and the data."""

import pytest
import torch
from helpers import linear_gaussian, vae
from torch.distributions import Independent, Normal

from gen_lightning.vae import fit_latent_mixture
from gen_lightning.vae.fitted_prior import fit_mixture


def make_batches(x):
    return lambda: ((part, torch.zeros(len(part))) for part in x.split(400))


def test_a_mixture_is_recovered_from_its_samples():
    """Two distant normals, one with correlated dimensions."""
    torch.manual_seed(0)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    latents = torch.cat([torch.randn(3000, 2) @ root.T + 10, torch.randn(1000, 2) * 2])
    tensors = fit_mixture(latents, num_components=2, seed=0)
    first, second = tensors["weights"].argsort(descending=True).tolist()
    torch.testing.assert_close(tensors["weights"][[first, second]], torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(tensors["scale_trils"][first], root, atol=0.06, rtol=0)
    torch.testing.assert_close(tensors["means"][second], torch.zeros(2), atol=0.25, rtol=0)


@torch.no_grad()
def test_the_mixture_of_exact_posteriors_is_the_prior(tmp_path):
    """E_p(x) p(z | x) = p(z), the standard normal. The mixture's samples follow its own density."""
    model = linear_gaussian()
    torch.manual_seed(1)
    x = model.decode(model.prior().sample(torch.Size([4000]))).sample()
    mixture = fit_latent_mixture(model, make_batches(x), "x", tmp_path, num_components=2)
    z = mixture.sample(torch.Size([4000]))
    log_ratio = mixture.log_prob(z) - Independent(Normal(torch.zeros(2), 1.0), 1).log_prob(z)
    # KL(fitted || prior), of a fit with 11 parameters.
    assert 0 <= log_ratio.mean() + 4 * log_ratio.std() / 4000**0.5 < 0.02


@torch.no_grad()
def test_a_mixture_is_fitted_once_for_the_same_weights_and_data(tmp_path):
    def refuse_to_read():
        raise AssertionError("the examples were read again")

    model = linear_gaussian()
    x = torch.randn(50, 4, dtype=torch.float64)
    fitted = fit_latent_mixture(model, make_batches(x), "x", tmp_path, num_components=2)
    stored = fit_latent_mixture(model, refuse_to_read, "x", tmp_path, num_components=2)
    assert torch.equal(fitted.component_distribution.loc, stored.component_distribution.loc)
    model.encoder.bias[0] += 1
    moved = fit_latent_mixture(model, make_batches(x), "x", tmp_path, num_components=2)
    torch.testing.assert_close(moved.mean[0] - fitted.mean[0], torch.tensor(1.0))
    with_other_data = fit_latent_mixture(model, make_batches(x + 1), "x + 1", tmp_path, num_components=2)
    assert not torch.allclose(with_other_data.mean, moved.mean, atol=0.1)
    assert len(list(tmp_path.glob("gmm-*.safetensors"))) == 3


def test_samples_are_decoded_from_the_fitted_prior():
    model = vae(data_shape=(2,), latent_dim=2)
    point = torch.tensor([3.0, -2.0])
    model.fitted_prior = Independent(Normal(point, 1e-6), 1)
    samples = model.sample(4, generator=torch.Generator())
    torch.testing.assert_close(samples, model.decode(point.expand(4, 2)).mean)


def test_refuses_too_many_dimensions(tmp_path):
    with pytest.raises(ValueError, match=r"latent_dim` is 1,001.*Sample with --latents prior"):
        fit_latent_mixture(vae(data_shape=(2,), latent_dim=1001), make_batches(torch.zeros(5, 2)), "0", tmp_path)
