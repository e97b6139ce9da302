"""InfoGAN: the mutual information bound against closed forms, and its use in an iteration."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import gan, load
from lightning.pytorch import Trainer
from torch import nn
from torch.distributions import Normal, Uniform
from torch.utils.data import DataLoader, TensorDataset

from datamodules import MNISTDataModule
from gen_lightning.clock import derive_seed
from gen_lightning.gan import EMA, R1, LatentCodes
from gen_lightning.networks import MLPDecoder, MLPEncoder

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
SMALL = partial(MLPEncoder, hidden_dims=(16,))


class FixedOutput(nn.Module):
    """A network Q that ignores the data and returns a given tensor."""

    def __init__(self, data_shape, num_outputs):
        super().__init__()
        self.num_outputs = num_outputs
        self.output = None

    def forward(self, data):
        assert self.output.shape == (len(data), self.num_outputs)
        return self.output


def draw_codes(n=1000, noise_dim=3, **arguments):
    """Return codes whose Q has a fixed output, latents, and data that Q ignores."""
    torch.manual_seed(0)
    codes = LatentCodes((2,), FixedOutput, **arguments)
    return codes, codes.append_codes(torch.randn(n, noise_dim)), torch.zeros(n, 2)


def compute_bound(codes, latents, data, *output):
    codes.encoder.output = torch.cat(output, 1)
    return codes.bound_mutual_information(latents, data)


class TestLatents:
    def test_categories_are_one_hot_and_equally_likely(self):
        codes, latents, _ = draw_codes(30_000, categories=(3, 5), num_continuous=1)
        assert codes.dim == 9
        assert latents.shape == (30_000, 12)
        for part in latents[:, 3:11].split([3, 5], 1):
            assert (part.sum(1) == 1).all()
            assert ((part == 0) | (part == 1)).all()
            share = 1 / part.shape[1]
            assert (part.mean(0) - share).abs().max() < 5 * (share * (1 - share) / 30_000) ** 0.5

    def test_continuous_codes_are_uniform(self):
        latents = draw_codes(30_000, categories=(), num_continuous=2)[1][:, 3:]
        assert -1 <= latents.min() < -0.999
        assert 0.999 < latents.max() <= 1
        for moment, expected in [(1, 0.0), (2, 1 / 3)]:
            torch.testing.assert_close(latents.pow(moment).mean(0), torch.full((2,), expected), atol=0.02, rtol=0)

    def test_codes_follow_the_noise(self):
        noise = torch.randn(5, 3)
        assert torch.equal(LatentCodes((2,), SMALL).append_codes(noise)[:, :3], noise)


class TestMutualInformation:
    def test_equals_the_entropy_if_q_knows_the_category(self):
        codes, latents, data = draw_codes(categories=(10, 4), num_continuous=0)
        information = compute_bound(codes, latents, data, 1000 * latents[:, 3:])
        assert information.keys() == {"categorical"}
        assert information["categorical"].item() == pytest.approx(math.log(10) + math.log(4))

    def test_is_zero_if_q_ignores_the_category(self):
        codes, latents, data = draw_codes(categories=(10,), num_continuous=0)
        information = compute_bound(codes, latents, data, torch.ones(1000, 10))["categorical"]
        assert information.item() == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("confidence", [0.1, 1.0, 10.0])
    def test_is_at_most_the_entropy(self, confidence):
        codes, latents, data = draw_codes(categories=(10,), num_continuous=0)
        output = confidence * (torch.randn(1000, 10) + latents[:, 3:])
        assert compute_bound(codes, latents, data, output)["categorical"] <= math.log(10)

    def test_equals_the_information_of_a_noisy_channel_if_q_is_exact(self):
        """A symmetric channel, correct with probability 0.7: log 4 - H(0.7, 0.1, 0.1, 0.1)."""
        codes, latents, data = draw_codes(100_000, categories=(4,), num_continuous=0)
        received = latents[:, 3:].where(torch.rand(100_000, 1) < 0.6, torch.eye(4)[torch.randint(4, (100_000,))])
        information = compute_bound(codes, latents, data, (0.1 + 0.6 * received).log())["categorical"]
        entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.1))
        assert information.item() == pytest.approx(math.log(4) - entropy, abs=0.02)

    def test_continuous_codes_have_a_gaussian_density(self):
        codes, latents, data = draw_codes(categories=(), num_continuous=2)
        values, means, log_deviations = latents[:, 3:], torch.randn(1000, 2), 0.3 * torch.randn(1000, 2)
        information = compute_bound(codes, latents, data, means, log_deviations)
        densities = Normal(means, 0.1 + log_deviations.exp()).log_prob(values) + Uniform(-1, 1).entropy()
        assert information.keys() == {"continuous"}
        torch.testing.assert_close(information["continuous"], densities.sum(1).mean())

    def test_continuous_codes_that_are_known_up_to_a_standard_deviation(self):
        """Each contributes log 2 - log(sigma sqrt(2 pi e)), if the ends of the interval are negligible."""
        codes, latents, data = draw_codes(100_000, categories=(), num_continuous=2)
        means = latents[:, 3:] + 0.11 * torch.randn(100_000, 2)
        information = compute_bound(codes, latents, data, means, torch.full((100_000, 2), math.log(0.01)))
        expected = 2 * (math.log(2) - math.log(0.11 * math.sqrt(2 * math.pi * math.e)))
        assert information["continuous"].item() == pytest.approx(expected, abs=0.02)

    def test_gradients_equal_those_derived_by_hand(self):
        codes, latents, data = draw_codes(8, categories=(3,), num_continuous=1)
        output = torch.randn(8, 5, requires_grad=True)
        codes.encoder.output = output
        information = codes.bound_mutual_information(latents, data)
        (gradient,) = torch.autograd.grad(codes.weigh(information), output)
        expected = torch.zeros(8, 5)
        expected[:, :3] = latents[:, 3:6] - output[:, :3].softmax(1)
        error, deviation = latents[:, 6] - output[:, 3], output[:, 4].exp()
        precision = (0.1 + deviation) ** -2
        expected[:, 3] = 0.1 * error * precision
        expected[:, 4] = 0.1 * (error**2 * precision - 1) * deviation / (0.1 + deviation)
        torch.testing.assert_close(gradient, expected / 8)


def test_the_first_code_classifies():
    codes, _, data = draw_codes(2, categories=(3, 4), num_continuous=1)
    codes.encoder.output = torch.tensor([[0.0, 2, 1, 9, 0, 0, 0, 9, 9], [3.0, 2, 1, 9, 0, 0, 0, 9, 9]])
    assert codes.classify(data).tolist() == [1, 0]


def test_the_scale_changes_latents_but_not_bounds():
    plain, latents, data = draw_codes(50, categories=(3, 4), num_continuous=0)
    large, scaled, _ = draw_codes(50, categories=(3, 4), num_continuous=0, scale=5.0)
    torch.testing.assert_close(scaled, latents * torch.tensor([1.0] * 3 + [5.0] * 7))
    output = torch.randn(50, 7)
    torch.testing.assert_close(compute_bound(large, scaled, data, output), compute_bound(plain, latents, data, output))
    rows = plain.traverse(latents) * torch.tensor([1.0] * 3 + [5.0] * 7)
    torch.testing.assert_close(large.traverse(scaled), rows)


def test_a_traversal_varies_one_code_per_row():
    codes, latents, _ = draw_codes(4, categories=(3, 2), num_continuous=2)
    rows = codes.traverse(latents).unflatten(0, (-1, 4))
    assert rows.shape == (3 + 2 + 2 * 4, 4, 10)
    for number, row in enumerate(rows[:5]):
        varied = slice(3, 6) if number < 3 else slice(6, 8)
        category = number if number < 3 else number - 3
        assert (row[:, varied].argmax(1) == category).all()
        assert (row[:, varied].sum(1) == 1).all()
        others = torch.ones(10, dtype=torch.bool)
        others[varied] = False
        assert torch.equal(row[:, others], latents[:, others])
    for number, row in enumerate(rows[5:]):
        varied, latent = 8 + number // 4, latents[number % 4]
        torch.testing.assert_close(row[:, varied], torch.tensor([-2.0, -2 / 3, 2 / 3, 2.0]))
        others = torch.arange(10) != varied
        assert torch.equal(row[:, others], latent[others].expand(4, -1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"categories": (), "num_continuous": 0}, "at least one code"),
        ({"categories": (10, 1)}, "at least 2 categories"),
        ({"num_continuous": -1}, "num_continuous` is -1"),
        ({"continuous_weight": -0.1}, "continuous_weight` is -0.1. Choose at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        LatentCodes((2,), SMALL, **arguments)


def build_infogan(**arguments):
    """Return an InfoGAN of points in the plane."""
    torch.manual_seed(0)
    defaults = {
        "generator": partial(MLPDecoder, hidden_dims=(16,)),
        "codes": partial(LatentCodes, encoder=SMALL, categories=(3,), num_continuous=1),
        "data_shape": (2,),
        "latent_dim": 3,
    }
    return gan(**defaults | arguments)


def train(model, data, steps=1, batch_size=8):
    trainer = Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", log_every_n_steps=1, **QUIET)
    trainer.fit(model, DataLoader(TensorDataset(data), batch_size))
    return trainer


def test_an_iteration_equals_a_reimplementation():
    """The generator and Q take one step, with noise drawn from (seed, rank, iteration); discriminator updates skip Q.

    The discriminator has a learning rate of 0, so that the generator's step sees the copied discriminator.
    """
    sgd = partial(torch.optim.SGD, lr=0.1)
    frozen = partial(torch.optim.SGD, lr=0.0)
    optimizers = {"generator_optimizer": sgd, "discriminator_optimizer": frozen}
    model = build_infogan(discriminator_steps=2, ema=EMA, seed=5, **optimizers)
    generator, encoder, discriminator = map(copy.deepcopy, (model.generator, model.codes.encoder, model.discriminator))
    assert generator.layers[0].in_features == 3 + 3 + 1
    trainer = train(model, torch.randn(8, 2))

    def draw_latents():
        noise, categories = torch.randn(4, 3), torch.randint(3, (4,))
        value = 2 * torch.rand(4, 1) - 1
        return torch.cat([noise, F.one_hot(categories, 3), value], 1), categories, value[:, 0]

    torch.manual_seed(derive_seed(0, 5, 0, 0))
    z, categories, value = [draw_latents() for _ in range(3)][-1]
    fake = generator(z)
    outputs, ones = encoder(fake), torch.ones(4)
    loss = F.binary_cross_entropy_with_logits(discriminator(fake), ones)
    category_information = math.log(3) + outputs[:, :3].log_softmax(1)[torch.arange(4), categories].mean()
    variance = (0.1 + outputs[:, 4].exp()) ** 2
    value_information = math.log(2) - F.gaussian_nll_loss(outputs[:, 3], value, variance, full=True)
    total = loss - category_information - 0.1 * value_information
    networks = [(model.generator, generator), (model.codes.encoder, encoder)]
    for ours, theirs in networks:
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            (gradient,) = torch.autograd.grad(total, other, retain_graph=True)
            assert gradient.abs().max() > 0
            torch.testing.assert_close(one, other - 0.1 * gradient)

    logged = trainer.callback_metrics
    assert logged["train/generator_loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert logged["train/mutual_information/categorical"].item() == pytest.approx(category_information.item(), rel=1e-5)
    assert logged["train/mutual_information/continuous"].item() == pytest.approx(value_information.item(), rel=1e-5)
    assert len(list(model.ema.network.parameters())) == len(list(generator.parameters()))


def test_the_generator_learns_to_encode_the_category():
    model = build_infogan(regularizers=[R1(1.0)], generator_optimizer=partial(torch.optim.Adam, lr=1e-2))
    modes = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    data = modes[torch.arange(999) % 3] + 0.05 * torch.randn(999, 2)
    logged = train(model, data, steps=80, batch_size=64).callback_metrics
    assert 0.9 * math.log(3) < logged["train/mutual_information/categorical"] <= math.log(3)


def test_resumes_exactly(tmp_path):
    """Resuming in the middle of an epoch, with an EMA."""

    def fit(steps, ckpt_path=None):
        trainer = Trainer(max_steps=steps, accelerator="cpu", default_root_dir=tmp_path, limit_val_batches=1, **QUIET)
        model = build_infogan(codes=partial(LatentCodes, encoder=MLPEncoder), data_shape=(1, 28, 28), ema=EMA)
        trainer.fit(model, MNISTDataModule("digits", batch_size=256), ckpt_path=ckpt_path, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return load(tmp_path / f"{steps}.ckpt")

    uninterrupted = fit(7)
    fit(3)
    resumed = fit(7, tmp_path / "3.ckpt")
    assert any(name.startswith("codes.encoder.") for name in resumed["state_dict"])
    for name, value in uninterrupted["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
