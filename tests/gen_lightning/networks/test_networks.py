"""Shapes, ranges and sizes of the networks."""

import pytest
import torch

from gen_lightning import networks


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_founding_networks_have_two_hidden_layers_of_128():
    hidden = 128 * 128 + 128
    assert count(networks.MLPGenerator(100, (1, 28, 28))) == (100 * 128 + 128) + hidden + (128 * 784 + 784)
    assert count(networks.MLPDiscriminator((1, 28, 28))) == (784 * 128 + 128) + hidden + (128 + 1)
    assert count(networks.MLPEncoder((1, 28, 28), 80)) == (784 * 128 + 128) + hidden + (128 * 80 + 80)


def test_dcgan_at_64_has_the_papers_size():
    """3,576,704 and 2,765,568 in the reference implementation, which leaves out the biases of both image layers."""
    assert count(networks.DCGANGenerator(100, (3, 64, 64))) == 3_576_704 + 3
    assert count(networks.DCGANDiscriminator((3, 64, 64))) == 2_765_568 + 64 + 1


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 32, 32), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("kind", ["MLP", "DCGAN"])
def test_shapes_and_ranges(kind, shape):
    torch.manual_seed(0)
    z = torch.randn(5, 10)
    images = getattr(networks, f"{kind}Generator")(10, shape)(z)
    assert images.shape == (5, *shape)
    assert 0 <= images.min() < images.max() <= 1
    outputs = getattr(networks, f"{kind}Decoder")(10, shape)(z)
    assert outputs.shape == (5, *shape)
    assert outputs.min() < 0
    assert getattr(networks, f"{kind}Discriminator")(shape)(images).shape == (5,)
    assert getattr(networks, f"{kind}Encoder")(shape, 7)(images).shape == (5, 7)


@pytest.mark.parametrize("kind", ["Generator", "Discriminator"])
def test_dcgan_has_no_normalization_at_the_image(kind):
    network = (
        networks.DCGANGenerator(10, (1, 28, 28)) if kind == "Generator" else networks.DCGANDiscriminator((1, 28, 28))
    )
    layers = [layer for layer in network.layers if not isinstance(layer, torch.nn.Identity)]
    ends = layers[-1:] if kind == "Generator" else layers[:2]
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in ends)
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in layers)


def test_mlps_take_an_activation_and_an_initialization():
    """Glorot & Bengio 2010, equation 16: uniform up to sqrt(6 / (inputs + outputs)), with biases of 0."""
    tanh, glorot = torch.nn.Tanh, torch.nn.init.xavier_uniform_
    for network in (
        networks.MLPEncoder((50,), 10, (200,), tanh, glorot),
        networks.MLPDecoder(50, (10,), (200,), tanh, glorot),
    ):
        first, activation, last = network.layers
        assert isinstance(activation, tanh)
        assert not torch.cat([first.bias, last.bias]).any()
        for weight in (first.weight, last.weight):
            bound = (6 / sum(weight.shape)) ** 0.5
            assert 0.95 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize("size", [28, 32])
def test_residual_networks_go_from_images_to_maps_and_back(size):
    """Of 7 x 7 or 4 x 4, each resolution of the same cost."""
    values = 3 * (7 if size == 28 else 4) ** 2
    encoder = networks.ResidualEncoder((1, size, size), values, width=16, num_blocks=1)
    decoder = networks.ResidualDecoder(values, (1, size, size), width=16, num_blocks=1)
    z = encoder(torch.rand(5, 1, size, size))
    assert z.shape == (5, values)
    assert decoder(z).shape == (5, 1, size, size)
    for network in (networks.ResidualEncoder, networks.ResidualDecoder):
        with pytest.raises(ValueError, match="choose a multiple of"):
            network(*((7, (1, size, size)) if network is networks.ResidualDecoder else ((1, size, size), 7)))


def test_residual_blocks_start_as_the_identity():
    maps = torch.randn(2, 4, 5, 5)
    assert torch.equal(networks.ResidualBlock(4)(maps), maps)


def test_mlps_take_points_too():
    points = networks.MLPDecoder(3, (2,))(torch.randn(5, 3))
    assert points.shape == (5, 2)
    assert networks.MLPDiscriminator((2,))(points).shape == (5,)


@pytest.mark.parametrize("shape", [(1, 30, 30), (1, 28, 32), (2,)])
def test_dcgan_refuses_sizes_it_cannot_halve(shape):
    with pytest.raises(ValueError, match="4 to 7 times a power of 2"):
        networks.DCGANEncoder(shape, 1)
