"""Priors, against closed forms of their simplest cases; they are trained with the model."""

import copy
from functools import partial

import pytest
import scipy.integrate
import torch
from helpers import load, vae
from lightning.pytorch import Trainer
from torch import nn
from torch.distributions import Independent, Normal
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning.networks import DCGANEncoder
from gen_lightning.vae import MixtureOfGaussians, VampPrior

LEARNED = [MixtureOfGaussians, VampPrior]


def model(prior, num_components, **arguments):
    torch.manual_seed(0)
    return vae(prior=partial(prior, num_components=num_components), data_shape=(3,), **arguments)


@torch.no_grad()
def test_a_mixture_of_one_component_is_a_normal():
    prior = MixtureOfGaussians(4, num_components=1)
    prior.log_variance.normal_()
    z = torch.randn(5, 4)
    expected = Independent(Normal(prior.mean[0], (prior.log_variance[0] / 2).exp()), 1).log_prob(z)
    torch.testing.assert_close(prior().log_prob(z), expected)


@torch.no_grad()
def test_a_mixture_is_the_weighted_sum_of_its_normals():
    prior = MixtureOfGaussians(4, num_components=3)
    prior.logits.normal_()
    z = torch.randn(5, 1, 4)
    densities = Normal(prior.mean, torch.ones(3, 4)).log_prob(z).sum(-1).exp()
    torch.testing.assert_close(prior().log_prob(z[:, 0]).exp(), (densities * prior.logits.softmax(0)).sum(-1))


@torch.no_grad()
def test_a_vamp_prior_of_one_component_is_the_posterior_of_its_pseudo_input():
    vamp = model(VampPrior, 1)
    z = torch.randn(5, 8)
    expected = vamp.encode(vamp.prior.pseudo_inputs).log_prob(z)
    torch.testing.assert_close(vamp.prior().log_prob(z), expected)


@torch.no_grad()
def test_a_vamp_prior_is_the_mean_of_the_posteriors():
    vamp = model(VampPrior, 4)
    z = torch.randn(5, 1, 8)
    expected = vamp.encode(vamp.prior.pseudo_inputs).log_prob(z).exp().mean(-1)
    torch.testing.assert_close(vamp.prior().log_prob(z[:, 0]).exp(), expected)


@torch.no_grad()
@pytest.mark.parametrize(("data_shape", "clamped"), [((1, 2, 2), True), ((4,), False)])
def test_the_pseudo_inputs_of_images_are_clamped_to_the_range_of_images(data_shape, clamped):
    vamp = vae(prior=partial(VampPrior, num_components=1), data_shape=data_shape)
    vamp.prior.pseudo_inputs.mul_(4).sub_(2)
    inputs = vamp.prior.pseudo_inputs.clamp(0, 1) if clamped else vamp.prior.pseudo_inputs
    z = torch.randn(5, 8)
    torch.testing.assert_close(vamp.prior().log_prob(z), vamp.encode(inputs).log_prob(z))


@torch.no_grad()
@pytest.mark.parametrize("prior", LEARNED)
def test_densities_integrate_to_one(prior):
    distribution = model(prior, 3, latent_dim=1).double().prior()
    density = lambda z: distribution.log_prob(torch.tensor([z], dtype=torch.float64)).exp().item()  # noqa: E731
    assert scipy.integrate.quad(density, -20, 20, points=[-1, 0, 1])[0] == pytest.approx(1, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("prior", LEARNED)
def test_samples_have_the_moments_of_the_density(prior):
    distribution = model(prior, 3).prior()
    samples = distribution.sample(torch.Size([20_000]))
    assert samples.shape == (20_000, 8)
    error = (distribution.variance / 20_000).sqrt()
    assert ((samples.mean(0) - distribution.mean).abs() < 4 * error).all()
    torch.testing.assert_close(samples.var(0), distribution.variance, rtol=0.1, atol=0)


@pytest.mark.parametrize("prior", LEARNED)
def test_parameters_are_trained_and_saved_in_the_checkpoint(prior, tmp_path):
    trained = model(prior, 3)
    before = {name: value.clone() for name, value in trained.prior.named_parameters()}
    data = torch.rand(20, 3).bernoulli()
    trainer = Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(trained, DataLoader(TensorDataset(data, torch.zeros(20)), 10))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    state = load(tmp_path / "model.ckpt")["state_dict"]
    assert before
    for name, value in trained.prior.named_parameters():
        assert not torch.equal(value, before[name]), name
        assert torch.equal(state[f"prior.{name}"], value), name
    assert sum("encoder" in name for name in state) == len(trained.encoder.state_dict())


@pytest.mark.parametrize("prior", LEARNED)
def test_a_loaded_model_has_the_same_prior(prior):
    one, other = model(prior, 3), model(prior, 3)
    for parameter in one.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    other.load_state_dict(one.state_dict())
    z = torch.randn(5, 8)
    torch.testing.assert_close(other.prior().log_prob(z), one.prior().log_prob(z))


@torch.no_grad()
def test_the_vamp_prior_of_a_copied_model_uses_the_copied_encoder():
    original = model(VampPrior, 1)
    copied = copy.deepcopy(original)
    for parameter in original.encoder.parameters():
        parameter.zero_()
    z = torch.randn(5, 8)
    expected = copied.encode(copied.prior.pseudo_inputs).log_prob(z)
    torch.testing.assert_close(copied.prior().log_prob(z), expected)
    assert not torch.allclose(original.prior().log_prob(z), expected)


@pytest.mark.parametrize("prior", LEARNED)
def test_refuses_a_mixture_of_0_components(prior):
    with pytest.raises(ValueError, match=rf"`{prior.__name__}\.num_components` is 0\. Choose at least 1\."):
        prior(4, num_components=0)


def test_vamp_prior_refuses_batch_normalization():
    with pytest.raises(ValueError, match="Choose an encoder without batch normalization"):
        vae(prior=VampPrior, encoder=DCGANEncoder)
    vae(prior=VampPrior, encoder=lambda shape, features: nn.Sequential(nn.Flatten(), nn.Linear(784, features)))
