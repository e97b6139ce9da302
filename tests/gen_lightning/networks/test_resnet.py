"""SNGAN's residual networks against the paper's tables and the authors' code."""

from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gen_lightning.networks import ResNetDiscriminator, ResNetEncoder, ResNetGenerator, SpectralNorm


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def count_convolution(inputs, outputs, size):
    return inputs * outputs * size**2 + outputs


def double(maps):
    return maps.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halve(maps):
    return (maps[..., ::2, ::2] + maps[..., 1::2, ::2] + maps[..., ::2, 1::2] + maps[..., 1::2, 1::2]) / 4


def find_layers(network, kind):
    return [layer for layer in network.modules() if isinstance(layer, kind)]


def test_the_generator_has_the_parameters_of_table_4():
    """A linear layer, three blocks (two batch normalizations, two convolutions, one shortcut), and the image layer."""
    block = 2 * (2 * 256) + 2 * count_convolution(256, 256, 3) + count_convolution(256, 256, 1)
    to_image = 2 * 256 + count_convolution(256, 3, 3)
    assert (128 + 1) * 4 * 4 * 256 + 3 * block + to_image == 4_276_739
    with torch.device("meta"):
        assert count_parameters(ResNetGenerator(128, (3, 32, 32))) == 4_276_739
        assert count_parameters(ResNetGenerator(128, (3, 28, 28))) == (128 + 1) * 7 * 7 * 256 + 2 * block + to_image


def test_the_discriminator_has_the_parameters_of_table_4():
    """Shortcuts of blocks that halve the map have a convolution. The authors' last layer has no bias."""
    first = count_convolution(3, 128, 3) + count_convolution(128, 128, 3) + count_convolution(3, 128, 1)
    second = 2 * count_convolution(128, 128, 3) + count_convolution(128, 128, 1)
    others = 2 * 2 * count_convolution(128, 128, 3)
    assert first + second + others + 128 == 1_053_824
    with torch.device("meta"):
        assert count_parameters(ResNetDiscriminator((3, 32, 32))) == 1_053_824
        assert count_parameters(ResNetDiscriminator((3, 28, 28))) == 1_053_824


def test_one_number_of_channels_for_each_map_gives_the_networks_of_table_5():
    """The discriminator's blocks have as many channels inside as their inputs, as in the authors' code."""
    widths = [1024, 1024, 512, 256, 128, 64]
    generator = (128 + 1) * 4 * 4 * 1024 + 2 * 64 + count_convolution(64, 3, 3)
    discriminator = count_convolution(3, 64, 3) + count_convolution(64, 64, 3) + count_convolution(3, 64, 1)
    for outer, inner in pairwise(reversed(widths)):
        generator += 2 * (inner + outer) + count_convolution(inner, outer, 3) + count_convolution(outer, outer, 3)
        generator += count_convolution(inner, outer, 1)
        discriminator += count_convolution(outer, outer, 3) + count_convolution(outer, inner, 3)
        # The last block keeps the size and the number of channels, so its shortcut is the identity.
        discriminator += count_convolution(outer, inner, 1) * (outer != inner)
    with torch.device("meta"):
        assert count_parameters(ResNetGenerator(128, (3, 128, 128), widths)) == generator
        assert count_parameters(ResNetDiscriminator((3, 128, 128), widths)) == discriminator + 1024


@pytest.mark.parametrize("size", [16, 28, 64])
def test_a_number_of_channels_for_each_map(size):
    widths = [8] * (3 if size < 64 else 4) + [4] * (size == 64)
    images = ResNetGenerator(10, (3, size, size), widths)(torch.randn(2, 10))
    assert images.shape == (2, 3, size, size)
    network = ResNetDiscriminator((3, size, size), widths)
    assert network(images).shape == (2,)
    assert network.blocks(images).shape[-1] == (7 if size == 28 else 4)


@pytest.mark.parametrize("size", [28, 32])
def test_the_discriminator_equals_the_authors_code(size):
    """Their code has the shortcut's convolution before the pooling in the second block."""
    torch.manual_seed(0)
    network = ResNetDiscriminator((3, size, size), width=8)
    a1, a2, a3, b1, b2, b3, c1, c2, d1, d2 = find_layers(network, nn.Conv2d)
    images = torch.rand(4, 3, size, size)
    x = images * 2 - 1
    x = halve(a2(F.relu(a1(x)))) + a3(halve(x))
    x = halve(b2(F.relu(b1(F.relu(x))))) + halve(b3(x))
    x = c2(F.relu(c1(F.relu(x)))) + x
    x = d2(F.relu(d1(F.relu(x)))) + x
    torch.testing.assert_close(network(images), network.linear(F.relu(x).sum((2, 3))).squeeze(1))


@pytest.mark.parametrize(("size", "map_size"), [(28, 7), (32, 4)])
def test_the_generator_equals_the_authors_code(size, map_size):
    """Their code has the shortcut's convolution after the upsampling."""
    torch.manual_seed(0)
    network = ResNetGenerator(10, (3, size, size), width=8).eval()
    *convolutions, last = find_layers(network, nn.Conv2d)
    normalizations = find_layers(network, nn.BatchNorm2d)
    z = torch.randn(4, 10)
    x = find_layers(network, nn.Linear)[0](z).view(4, 8, map_size, map_size)
    for block in range(len(convolutions) // 3):
        c1, c2, c3 = convolutions[3 * block : 3 * block + 3]
        b1, b2 = normalizations[2 * block : 2 * block + 2]
        x = c2(F.relu(b2(c1(double(F.relu(b1(x))))))) + c3(double(x))
    torch.testing.assert_close(network(z), (last(F.relu(normalizations[-1](x))).tanh() + 1) / 2)


def test_branches_and_shortcuts_keep_the_second_moment_at_initialization():
    """The gain sqrt(2) compensates the ReLU, which halves it. Edges are excluded because of their zero padding."""
    torch.manual_seed(0)
    blocks = ResNetEncoder((3, 32, 32), 1, width=64).blocks
    x = torch.randn(8, 64, 16, 16)
    branch, shortcut = blocks[2].residual(x)[..., 2:-2, 2:-2], blocks[1].shortcut[-1](x)
    assert branch.square().mean().item() == pytest.approx(1, abs=0.1)
    assert shortcut.square().mean().item() == pytest.approx(1, abs=0.1)


def test_spectral_normalization_reaches_every_layer():
    network = SpectralNorm((3, 32, 32), lambda shape: ResNetDiscriminator(shape, width=4))
    assert len(find_layers(network, nn.Conv2d | nn.Linear)) == 11
    assert all(hasattr(layer, "parametrizations") for layer in find_layers(network, nn.Conv2d | nn.Linear))


def test_images_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(ValueError, match="at least 16"):
        ResNetDiscriminator((1, 14, 14))


@pytest.mark.parametrize("network", [ResNetDiscriminator, partial(ResNetGenerator, 10)])
@pytest.mark.parametrize("width", [0, [8, 8], [8, 8, 8, 8, 8, 0]])
def test_numbers_of_channels_out_of_range_are_refused(network, width):
    with pytest.raises(ValueError, match=r"`ResNet.*\.width` is .*at least 1 each"):
        network(data_shape=(3, 64, 64), width=width)
