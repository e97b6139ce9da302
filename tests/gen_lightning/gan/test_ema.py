"""The exponential moving average of a generator: half-life, ramp, and use in training and sampling."""

from functools import partial

import pytest
import torch
from helpers import gan
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning.gan import EMA
from gen_lightning.networks import MLPDecoder
from gen_lightning.schedules import Linear


def build_constant(value):
    """Return a network with one weight and one running statistic of the same value."""
    network = nn.BatchNorm1d(1, affine=True)
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    network.running_mean.fill_(value)
    return network


def train(model, steps=6, **arguments):
    data = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(model, DataLoader(TensorDataset(data, torch.zeros(40)), 10))
    return model


def build_gan(**arguments):
    torch.manual_seed(0)
    return gan(generator=MLPDecoder, data_shape=(2,), latent_dim=3, **arguments)


@pytest.mark.parametrize("images", [10, 125, 1000])
def test_one_half_life_halves_the_distance_to_constant_weights(images):
    average, generator = EMA(build_constant(0.0), half_life=1000, ramp=None), build_constant(3.0)
    for iteration in range(1000 // images):
        average.update(generator, iteration, images)
    torch.testing.assert_close(average.network.weight, torch.tensor([1.5]))


def test_buffers_are_copied():
    average = EMA(build_constant(0.0), half_life=1000, ramp=None)
    average.update(build_constant(3.0), 0, 10)
    assert average.network.running_mean.item() == 3.0


def test_half_life_zero_copies_the_generator():
    model = train(build_gan(ema=partial(EMA, half_life=0.0)))
    assert all(
        torch.equal(value, model.ema.network.state_dict()[name]) for name, value in model.generator.state_dict().items()
    )


def test_the_ramp_limits_the_half_life_to_a_fraction_of_the_images_seen():
    average = EMA(nn.Identity(), half_life=1000, ramp=0.05)
    assert average.compute_decay(iteration=0, images=10) == 0
    assert average.compute_decay(iteration=20, images=10) == 0.5  # 200 images seen, half-life 10
    assert average.compute_decay(iteration=10**6, images=10) == 0.5 ** (10 / 1000)


def test_the_half_life_follows_a_schedule():
    average = EMA(nn.Identity(), half_life=Linear(0.0, 100.0, 10), ramp=None)
    assert [average.compute_decay(iteration, images=50) for iteration in (0, 5, 10)] == [0.0, 0.5, 0.5**0.5]


def test_the_average_in_training_equals_a_reimplementation():
    """The generator's weights are recorded at each iteration, and averaged in float64 afterwards."""
    model = build_gan(ema=partial(EMA, half_life=25.0, ramp=None))
    expected = nn.utils.parameters_to_vector(model.generator.parameters()).double()
    seen = []
    log_iteration = model.log_iteration
    model.log_iteration = lambda *arguments: (
        seen.append(nn.utils.parameters_to_vector(model.generator.parameters()).detach()),
        log_iteration(*arguments),
    )
    train(model)
    for weights in seen:
        expected = 0.5 ** (10 / 25) * expected + (1 - 0.5 ** (10 / 25)) * weights.double()
    average = nn.utils.parameters_to_vector(model.ema.network.parameters())
    torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)
    assert (average - seen[-1]).abs().max() > 1e-4


def test_training_is_bit_equal_with_and_without_an_average():
    one, other = train(build_gan()), train(build_gan(ema=EMA))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_samples_come_from_the_average():
    model = train(build_gan(ema=partial(EMA, half_life=100.0)))
    samples = model.sample(5, generator=torch.Generator().manual_seed(0))
    model.generator = None
    assert torch.equal(samples, model.sample(5, generator=torch.Generator().manual_seed(0)))


def test_the_average_is_frozen():
    assert not any(parameter.requires_grad for parameter in build_gan(ema=EMA).ema.parameters())


@pytest.mark.parametrize("arguments", [{"half_life": -1.0}, {"ramp": -0.1}])
def test_refuses_negative_numbers(arguments):
    with pytest.raises(ValueError, match="Choose at least 0"):
        EMA(nn.Identity(), **arguments)
