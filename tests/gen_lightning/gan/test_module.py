"""An iteration of the GAN: its clock, its passes, its updates."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import gan
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning.clock import seed_of
from gen_lightning.gan import R1, GANLoss
from gen_lightning.networks import MLPDecoder, MLPDiscriminator

LEARNING_RATE = 0.1


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=LEARNING_RATE)


def plane(**arguments):
    """A GAN of points in the plane."""
    return gan(**{"generator": MLPDecoder, "data_shape": (2,), "latent_dim": 3} | arguments)


def train(model, data, batch_size, steps, **arguments):
    loader = DataLoader(TensorDataset(data, torch.zeros(len(data))), batch_size)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(model, loader)
    return trainer


@pytest.mark.parametrize("discriminator_steps", [1, 2, 5])
def test_one_iteration_is_one_update_of_the_generator(discriminator_steps):
    model = plane(discriminator_steps=discriminator_steps)
    trainer = train(model, torch.randn(40, 2), batch_size=10, steps=6)
    assert trainer.global_step == 6
    generator_optimizer, discriminator_optimizer = trainer.optimizers
    assert all(state["step"] == 6 for state in generator_optimizer.state.values())
    assert all(state["step"] == 6 * discriminator_steps for state in discriminator_optimizer.state.values())


class Relativistic(GANLoss):
    relativistic = True

    def discriminator(self, real_logits, fake_logits):
        return F.softplus(fake_logits - real_logits).mean()

    def generator(self, real_logits, fake_logits):
        return F.softplus(real_logits - fake_logits).mean()


@pytest.mark.parametrize(("arguments", "passes_of_real"), [({}, 2), ({"loss": Relativistic()}, 3)])
def test_passes_of_one_iteration(arguments, passes_of_real):
    """One generator pass per player and step; real and fake apart; each discriminator step on examples of its own."""
    model = plane(discriminator_steps=2, **arguments)
    generated, judged = [], []
    model.generator.register_forward_hook(lambda module, args, output: generated.append(output.detach()))
    model.discriminator.register_forward_hook(lambda module, args, output: judged.append(args[0].detach()))
    data = torch.randn(10, 2)
    train(model, data, batch_size=10, steps=1)
    assert [len(batch) for batch in generated] == [5, 5, 5]
    real = [batch for batch in judged if any(torch.equal(batch, half) for half in data.chunk(2))]
    assert len(judged) == 3 + passes_of_real
    assert len(real) == passes_of_real
    assert torch.equal(torch.cat(real[:2]), data)


def test_updates_equal_a_plain_re_derivation():
    """Two steps of the discriminator and one of the generator, by hand, on the noise of (seed, rank, iteration)."""
    torch.manual_seed(0)
    model = plane(
        generator_optimizer=sgd, discriminator_optimizer=sgd, discriminator_steps=2, regularizers=[R1(2.0)], seed=5
    )
    generator, discriminator = copy.deepcopy(model.generator), copy.deepcopy(model.discriminator)
    data = torch.randn(8, 2)
    train(model, data, batch_size=8, steps=1)

    def step(network, loss):
        for parameter, gradient in zip(
            network.parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
        ):
            parameter.data -= LEARNING_RATE * gradient

    torch.manual_seed(seed_of(0, 5, 0, 0))
    for real in data.chunk(2):
        real = real.clone().requires_grad_()
        fake = generator(torch.randn(4, 3)).detach()
        real_logits, fake_logits = discriminator(real), discriminator(fake)
        (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
        ones = torch.ones(4)
        loss = F.binary_cross_entropy_with_logits(real_logits, ones)
        loss = loss + F.binary_cross_entropy_with_logits(fake_logits, 1 - ones) + slope.square().sum(1).mean()
        step(discriminator, loss)
    logits = discriminator(generator(torch.randn(4, 3)))
    step(generator, F.binary_cross_entropy_with_logits(logits, torch.ones(4)))

    for ours, theirs in [(model.generator, generator), (model.discriminator, discriminator)]:
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other)


def test_learns_the_mean_of_a_gaussian():
    torch.manual_seed(0)
    center = torch.tensor([2.0, -1.0])
    model = plane(
        generator=partial(MLPDecoder, hidden_dims=(16,)),
        discriminator=partial(MLPDiscriminator, hidden_dims=(16,)),
        regularizers=[R1(1.0)],
    )
    train(model, center + 0.1 * torch.randn(4096, 2), batch_size=64, steps=600, max_epochs=-1)
    mean = model.sample(500, generator=torch.Generator().manual_seed(0)).mean(0)
    assert (mean - center).norm() < 0.3


def test_bfloat16_trains_and_keeps_logits_in_float32():
    model = plane()
    seen = []
    model.log_iteration = lambda scalars, iteration, batch_size: seen.append(scalars)
    train(model, torch.randn(20, 2), batch_size=10, steps=2, precision="bf16-mixed")
    assert all(value.dtype == torch.float32 and value.isfinite() for scalars in seen for value in scalars.values())


@pytest.mark.parametrize("argument", ["latent_dim", "discriminator_steps"])
def test_refuses_sizes_below_one(argument):
    with pytest.raises(ValueError, match="choose 1 or more"):
        gan(**{argument: 0})


def test_refuses_a_batch_that_does_not_divide_before_any_update():
    model = plane(discriminator_steps=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="choose a multiple"):
        train(model, torch.randn(20, 2), batch_size=10, steps=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_labels_of_batches_are_optional_in_a_data_module():
    class Points(LightningDataModule):
        shape = (2,)

        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.randn(20, 2)), 10)

    trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(plane(), datamodule=Points())
    assert trainer.global_step == 2
