"""Wrappers around any discriminator."""

import copy
from functools import partial

import pytest
import torch
from helpers import CONFIGS, gan, load
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning.gan import R1, DiscriminatorPass, RelativisticPaired
from gen_lightning.networks import (
    Color,
    Cutout,
    DCGANDiscriminator,
    DifferentiableAugmentation,
    MLPDiscriminator,
    Packing,
    R3GANDiscriminator,
    SpectralNorm,
    Translation,
)

IMAGE = (1, 28, 28)
SMALL_MLP = partial(MLPDiscriminator, hidden_dims=(32, 16))
SMALL_DCGAN = partial(DCGANDiscriminator, width=4, normalization=nn.Identity)


def train(model, batch_size=10):
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.rand(20, *model.data_shape), torch.zeros(20)), batch_size)
    Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False).fit(model, loader)
    return model


def find_weights(network):
    return [layer.weight for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


@pytest.mark.slow
@pytest.mark.parametrize("discriminator", [SMALL_MLP, SMALL_DCGAN, DCGANDiscriminator])
def test_spectral_norm_makes_every_largest_singular_value_one(discriminator):
    torch.manual_seed(0)
    network = SpectralNorm(IMAGE, discriminator)
    for _ in range(200):
        network(torch.rand(2, *IMAGE))
    assert len(find_weights(network)) == 3
    for weight in find_weights(network.eval()):
        assert torch.linalg.svdvals(weight.flatten(1)).max().item() == pytest.approx(1, abs=1e-3)


def test_an_mlp_with_spectral_norm_has_lipschitz_constant_one():
    """Each layer and each leaky ReLU has a Lipschitz constant of at most 1."""
    torch.manual_seed(0)
    network = SpectralNorm((8,), partial(MLPDiscriminator, hidden_dims=(64, 64)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(100)
        for _ in range(200):
            network(torch.randn(2, 8))
    network.eval()
    one, other = torch.randn(2, 500, 8)
    assert ((network(one) - network(other)).abs() <= (one - other).norm(dim=1) * 1.001).all()


def test_spectral_norm_updates_its_estimate_in_training_mode_only():
    network = SpectralNorm(IMAGE, SMALL_MLP)
    before = copy.deepcopy(network.state_dict())
    network.eval()(torch.rand(2, *IMAGE))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.train()(torch.rand(2, *IMAGE))
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_spectral_norm_refuses_weights_that_are_initialized_at_zero():
    """Some of R3GAN's weights are, and dividing them by their norm would give NaN."""
    with pytest.raises(ValueError, match="R3GANDiscriminator has weights that are initialized at 0"):
        SpectralNorm(IMAGE, partial(R3GANDiscriminator, widths=8, blocks=1, cardinalities=1))


def test_packing_with_one_changes_nothing():
    """The trained weights are bit-identical."""
    states = []
    for discriminator in (SMALL_DCGAN, partial(Packing, discriminator=SMALL_DCGAN, degree=1)):
        torch.manual_seed(1)
        model = train(gan(discriminator=discriminator, regularizers=[R1()]))
        states.append(list(model.state_dict().values()))
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


@pytest.mark.parametrize("shape", [(3, 4, 4), (5,)])
def test_a_pack_consists_of_consecutive_examples(shape):
    network = Packing(shape, SMALL_MLP, degree=2)
    packs = []
    network.discriminator.register_forward_hook(lambda module, args, output: packs.append(args[0]))
    data = torch.rand(6, *shape)
    assert network(data).shape == (3,)
    assert torch.equal(packs[0], torch.cat([data[0::2], data[1::2]], 1))


def test_in_evaluation_mode_the_first_examples_fill_the_last_pack():
    network = Packing((5,), SMALL_MLP, degree=4).eval()
    data = torch.rand(6, 5)
    torch.testing.assert_close(network(data), network(torch.cat([data, data[:2]])))
    torch.testing.assert_close(network(data[:1]), network(data[:1].expand(4, -1)))


def test_a_batch_that_cannot_be_packed_is_refused_before_any_update():
    model = gan(discriminator=partial(Packing, discriminator=SMALL_MLP, degree=3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="Choose a multiple"):
        train(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_packing_refuses_a_degree_below_one():
    with pytest.raises(ValueError, match="Choose at least 1"):
        Packing(IMAGE, SMALL_MLP, degree=0)


def test_r1_of_a_packed_linear_discriminator_covers_the_whole_pack():
    """R1 is gamma / 2 |w|^2, where w has one weight for each of the 6 coordinates of a pack."""
    network = Packing((2,), partial(MLPDiscriminator, hidden_dims=()), degree=3)
    data = torch.randn(6, 2).requires_grad_()
    penalty = R1(4.0)(DiscriminatorPass(network, data, data, network(data), network(data), 0))
    assert penalty.item() == pytest.approx(4 / 2 * network.discriminator.layers[0].weight.square().sum().item())


def test_packs_train_with_a_relativistic_paired_loss():
    train(gan(discriminator=partial(Packing, discriminator=SMALL_MLP), loss=RelativisticPaired()))


@pytest.mark.parametrize(
    ("shape", "kinds"), [(IMAGE, [Translation, Cutout]), ((3, 32, 32), [Color, Translation, Cutout])]
)
def test_default_augmentations_include_color_if_there_are_three_channels(shape, kinds):
    network = DifferentiableAugmentation(shape, SMALL_MLP)
    assert [type(augmentation) for augmentation in network.augmentation] == kinds


def test_augmentation_applies_in_training_mode_only_and_depends_on_the_seed():
    network = DifferentiableAugmentation(IMAGE, SMALL_MLP)
    images = torch.rand(5, *IMAGE)
    plain = network.discriminator(images)
    torch.manual_seed(0)
    first, second = network(images), network(images)
    torch.manual_seed(0)
    assert torch.equal(network(images), first)
    assert not torch.equal(first, second)
    assert torch.equal(network.eval()(images), plain)


def test_real_and_generated_images_of_both_updates_are_augmented():
    """The augmentation adds 1, so that every input of the inner discriminator is at least 1."""

    class AddOne(nn.Module):
        def forward(self, images):
            return images + 1

    model = gan(discriminator=partial(DifferentiableAugmentation, discriminator=SMALL_MLP, augmentations=[AddOne()]))
    minima = []
    model.discriminator.discriminator.register_forward_hook(lambda module, args, output: minima.append(args[0].min()))
    train(model)
    assert len(minima) == 2 * 3
    assert all(smallest >= 1 for smallest in minima)


def test_augmentation_refuses_points():
    with pytest.raises(ValueError, match="needs images"):
        DifferentiableAugmentation((2,), SMALL_MLP)


def test_dcgan_without_normalization_has_biases_and_supports_penalties():
    network = gan(discriminator=SMALL_DCGAN, regularizers=[R1()]).discriminator
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(convolution.bias is not None for convolution in convolutions)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


WRAPPED = """{class_path: gen_lightning.networks.DifferentiableAugmentation, init_args: {
  augmentations: [{class_path: gen_lightning.networks.Translation, init_args: {ratio: 0.2}}],
  discriminator: {class_path: gen_lightning.networks.Packing, init_args: {
    degree: 4,
    discriminator: {class_path: gen_lightning.networks.SpectralNorm, init_args: {
      discriminator: {class_path: gen_lightning.networks.DCGANDiscriminator, init_args: {
        width: 8, normalization: torch.nn.Identity}}}}}}}}"""


@pytest.mark.slow
def test_wrappers_nest_in_a_recipe_and_resume_exactly(fit):
    consistency = (
        "{class_path: gen_lightning.gan.Consistency, init_args: {augmentation: gen_lightning.networks.Cutout}}"
    )
    arguments = [
        f"--config={CONFIGS}/gan/mlp.yaml",
        f"--model.discriminator={WRAPPED}",
        f"--model.regularizers=[gen_lightning.gan.R1, {consistency}]",
        "--data.source=digits",
        "--data.batch_size=64",
        "--trainer.logger=false",
        "--trainer.limit_val_batches=1",
        "--trainer.callbacks=null",
    ]
    reference = fit(*arguments, "--trainer.max_steps=4")
    folder = fit(*arguments, "--trainer.max_steps=2")
    fit("--resume", str(folder), "--trainer.max_steps=4")
    ours, theirs = (load(path / "checkpoints/last.ckpt")["state_dict"] for path in (folder, reference))
    first = "discriminator.discriminator.discriminator.discriminator.layers.0.parametrizations.weight.original"
    assert ours[first].shape == (8, 4, 4, 4)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
