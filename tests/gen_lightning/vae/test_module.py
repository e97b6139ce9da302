"""VAEModule, against exact integration over its latent and an independent derivation of its update."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import vae
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from datamodules import MNISTDataModule
from gen_lightning import VAEModule
from gen_lightning.clock import derive_seed
from gen_lightning.vae import (
    ELBO,
    IWAE,
    MMD,
    STL,
    Bernoulli,
    Beta,
    BetaTC,
    CenteredBernoulli,
    DReG,
    FreeBits,
    OptimalScaleGaussian,
)

PIXELS = (1, 2, 2)


@pytest.fixture
def small_vae():
    """Return a VAE of 2 x 2 binary images with one latent dimension, so that p(x) can be integrated."""
    torch.manual_seed(0)
    model = vae(data_shape=PIXELS, latent_dim=1).double()
    for parameter in model.decoder.parameters():
        parameter.data *= 3  # makes x depend on z, so that the bound has a gap
    return model


ALL_IMAGES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64).view(16, *PIXELS)


def exact_log_likelihood(model):
    z = torch.linspace(-10, 10, 20_001, dtype=torch.float64).view(-1, 1, 1)
    parameters = model.decoder(z.view(-1, 1)).unflatten(0, (-1, 1))
    log_joint = model.likelihood(parameters).log_prob(ALL_IMAGES) + model.prior().log_prob(z)
    return log_joint.logsumexp(0) + math.log(20 / 20_000)


@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one(small_vae):
    assert exact_log_likelihood(small_vae).logsumexp(0).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
@torch.no_grad()
def test_elbo_bounds_and_weights_estimate_the_exact_likelihood(small_vae):
    """E[ELBO] <= log p(x), and the mean weight is p(x) (Burda et al. 2016, section 3)."""
    k = 20_000
    log_likelihood = exact_log_likelihood(small_vae)
    log_weights = small_vae.log_weights(ALL_IMAGES, k)
    assert log_weights.shape == (k, 16)
    standard_error = log_weights.exp().std(0) / k**0.5
    assert ((log_weights.exp().mean(0) - log_likelihood.exp()).abs() < 4 * standard_error).all()
    assert (log_weights.mean(0) < log_likelihood).all()
    elbo = torch.stack([small_vae.elbo(ALL_IMAGES) for _ in range(500)]).mean(0)
    assert elbo.shape == (16,)
    assert (elbo < log_likelihood).all()


def test_shapes_of_the_distributions(small_vae):
    x = ALL_IMAGES[:5]
    posterior, prior = small_vae.encode(x), small_vae.prior()
    assert (posterior.batch_shape, posterior.event_shape) == ((5,), (1,))
    assert (prior.batch_shape, prior.event_shape) == ((), (1,))
    likelihood = small_vae.decode(posterior.rsample(torch.Size([3])))
    assert (likelihood.batch_shape, likelihood.event_shape) == ((3, 5), PIXELS)


@torch.no_grad()
def test_encode_and_decode_apply_the_modules_to_the_networks(small_vae):
    x, z = ALL_IMAGES[:5], torch.randn(5, 1, dtype=torch.float64)
    assert torch.equal(small_vae.encode(x).mean, small_vae.posterior(small_vae.encoder(x)).mean)
    assert torch.equal(small_vae.decode(z).mean, small_vae.likelihood(small_vae.decoder(z)).mean)
    assert list(dict(small_vae.named_children())) == ["posterior", "prior", "likelihood", "encoder", "decoder"]


def train(model, data, batch_size, steps, **arguments):
    loader = DataLoader(TensorDataset(data, torch.zeros(len(data))), batch_size)
    trainer = Trainer(max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, **arguments)
    trainer.fit(model, loader)
    return trainer


def test_an_update_equals_an_independent_derivation():
    """One step from cross-entropy and the closed-form KL, with the noise of (seed, rank, iteration)."""
    torch.manual_seed(0)
    model = vae(data_shape=(2,), latent_dim=3, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1), seed=7)
    plain = copy.deepcopy(model)
    data = torch.rand(6, 2).bernoulli()
    train(model, data, batch_size=6, steps=1)

    torch.manual_seed(derive_seed(0, 7, 0, 0))
    mean, log_variance = plain.encoder(data).chunk(2, 1)
    z = mean + (log_variance / 2).exp() * torch.randn(1, 6, 3)[0]
    reconstruction = F.binary_cross_entropy_with_logits(plain.decoder(z), data, reduction="sum") / 6
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 6
    (reconstruction + kl).backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other - 0.1 * other.grad)


@pytest.mark.slow
def test_learns_the_distribution_of_independent_bits():
    """At the optimum the bound is the negative entropy, and the latent is unused."""
    torch.manual_seed(0)
    model = vae(data_shape=(2,), latent_dim=1)
    probabilities = torch.tensor([0.9, 0.2])
    entropy = -(probabilities * probabilities.log() + (1 - probabilities) * (1 - probabilities).log()).sum()
    train(model, probabilities.expand(12_800, 2).bernoulli(), batch_size=128, steps=500, max_epochs=-1)
    data = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    weight = torch.distributions.Bernoulli(probabilities).log_prob(data).sum(1).exp()
    with torch.no_grad():
        cross_entropy = -(weight * (model.log_weights(data, 5000).logsumexp(0) - math.log(5000))).sum()
    assert cross_entropy.item() == pytest.approx(entropy.item(), abs=0.02)


def test_bfloat16_trains_and_sums_in_float32():
    model = vae(data_shape=(2,))
    seen = []
    model.log_iteration = lambda scalars, iteration, batch_size: seen.append(scalars)
    train(model, torch.rand(20, 2).bernoulli(), batch_size=10, steps=2, precision="bf16-mixed")
    assert all(value.dtype == torch.float32 and value.isfinite() for scalars in seen for value in scalars.values())


def test_the_objective_sets_the_number_of_samples():
    model = vae(data_shape=(2,), objective=ELBO(num_samples=3))
    decoded = []
    model.decoder.register_forward_hook(lambda module, args, output: decoded.append(len(output)))
    train(model, torch.rand(20, 2).bernoulli(), batch_size=10, steps=1)
    assert decoded == [30]


def test_grey_data_are_refused_before_any_update():
    model = vae(data_shape=(2,))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="Bernoulli"):
        train(model, torch.rand(20, 2), batch_size=10, steps=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_refuses_a_latent_of_dimension_0():
    with pytest.raises(ValueError, match=r"`VAEModule\.latent_dim` is 0\. Choose at least 1\."):
        vae(latent_dim=0)


def test_the_optimal_scale_is_set_only_in_training():
    """It is kept in the state, so that the density does not depend on held-out data."""
    model = vae(data_shape=(2,), likelihood=OptimalScaleGaussian)
    assert model.state_dict()["likelihood.scale"] == 1
    train(model, torch.rand(20, 2), batch_size=10, steps=2)
    trained = model.state_dict()["likelihood.scale"].clone()
    assert 0.1 < trained < 0.6
    for measured in (model.train(), model.eval()):
        measured.elbo(torch.zeros(5, 2))
        assert model.state_dict()["likelihood.scale"] == trained


def test_data_of_another_shape_are_refused():
    """A missing axis would be broadcast over the batch."""
    model = vae(data_shape=(1, 4, 4))
    with pytest.raises(ValueError, match=r"The data have shape \(4, 4\), but the model is built for \(1, 4, 4\)"):
        model.log_weights(torch.zeros(8, 4, 4), 3)


def test_refuses_0_samples():
    with pytest.raises(ValueError, match=r"`VAEModule\.k` is 0\. Choose at least 1\."):
        vae(data_shape=(2,)).log_weights(torch.zeros(8, 2), 0)


def test_centered_pixels_train_like_a_decoder_with_the_mean_image_as_its_bias():
    """After some steps of Adam, the model equals one with the initialization of Burda et al."""
    data = MNISTDataModule("digits", binarization="dynamic", batch_size=50)
    data.setup("fit")
    mean = torch.cat(list(data.images("train"))).double().mean(0).clamp(0.001, 0.999).float()
    centered, biased = (vae(likelihood=likelihood, seed=3) for likelihood in (CenteredBernoulli, Bernoulli))
    weights = centered.state_dict()
    weights.pop("likelihood.offset")
    biased.load_state_dict(weights)
    biased.decoder.layers[-1].bias.data += mean.flatten().logit()
    for model in (centered, biased):
        Trainer(max_steps=5, accelerator="cpu", logger=False, enable_checkpointing=False).fit(model, data)
    z = torch.randn(4, 8)
    torch.testing.assert_close(centered.decode(z).mean, biased.decode(z).mean)


@pytest.mark.parametrize("objective", [Beta(0.0), MMD(100.0), IWAE(50)], ids=lambda value: type(value).__name__)
def test_validation_and_test_report_the_elbo(objective):
    """With a KL weight of 1 and one latent for each example, whatever the objective is."""
    torch.manual_seed(0)
    model = vae(data_shape=(2,), objective=objective)
    x = torch.rand(20, 2).bernoulli()
    loader = DataLoader(TensorDataset(x, torch.zeros(20)), batch_size=20)
    trainer = Trainer(accelerator="cpu", logger=False)
    for name, measure in (("val", trainer.validate), ("test", trainer.test)):
        seen = []
        model.terms = lambda *args, seen=seen: seen.append(VAEModule.terms(model, *args)) or seen[-1]
        (values,) = measure(model, loader, verbose=False)
        (terms,) = seen
        assert terms.z.shape == (1, 20, model.latent_dim)
        exact = torch.distributions.kl_divergence(terms.posterior, terms.prior)
        assert values[f"{name}/elbo"] == pytest.approx((terms.log_likelihood[0] - exact).mean().item(), rel=1e-5)


def test_centered_pixels_need_images():
    with pytest.raises(ValueError, match="CenteredBernoulli needs a data module with whole splits of images"):
        train(vae(data_shape=(2,), likelihood=CenteredBernoulli), torch.rand(20, 2).bernoulli(), 10, steps=1)


@pytest.mark.parametrize(
    "objective",
    [FreeBits(0.1), IWAE(3), STL(3), DReG(3), BetaTC(20), MMD(10.0)],
    ids=lambda value: type(value).__name__,
)
def test_objectives_train_and_the_elbo_is_logged(objective):
    """The logged bound is the mean ELBO, and the loss is the negative mean of the objective."""
    model = vae(data_shape=(2,), objective=objective)
    seen, losses = [], []
    model.log_iteration = lambda scalars, iteration, batch_size: seen.append(scalars)
    model.objective = lambda terms, iteration: losses.append((objective(terms, iteration), terms)) or losses[-1][0]
    model.objective.num_samples = objective.num_samples
    before = copy.deepcopy(model.state_dict())
    train(model, torch.rand(20, 2).bernoulli(), batch_size=10, steps=2, log_every_n_steps=1)
    for scalars, (values, terms) in zip(seen, losses, strict=True):
        assert values.shape == (10,)
        assert scalars["loss"] == -values.mean()
        assert scalars["elbo"] == (terms.log_likelihood.mean(0) - terms.kl).mean()
    assert not any(torch.equal(value, before[name]) for name, value in model.state_dict().items())
