"""R3GAN's networks: parameter counts, and properties at initialization."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from gen_lightning.networks import R3GANDiscriminator, R3GANEncoder, R3GANGenerator
from gen_lightning.networks.r3gan import Downsampling, InvertedBottleneck, Upsampling

IMAGE = (1, 28, 28)
SMALL = {"widths": 8, "blocks": 2, "cardinalities": 4}


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def find_blocks(network):
    return [module for module in network.modules() if isinstance(module, InvertedBottleneck)]


def count_by_hand(widths, blocks, cardinalities, map_size=4, latent_dim=64, expansion=2):
    """Return the number of parameters of the generator and the discriminator, added up by hand."""
    shared = widths[-1] * 3 + map_size**2 * widths[0]
    for width, number, cardinality in zip(widths, blocks, cardinalities, strict=True):
        inner = expansion * width
        shared += number * (2 * width * inner + inner * (inner // cardinality) * 9 + 2 * inner)
    shared += sum(one * other for one, other in pairwise(widths) if one != other)
    return shared + latent_dim * widths[0], shared + widths[0]


@pytest.mark.parametrize(
    ("size", "widths", "cardinalities", "generator", "discriminator"),
    [
        (32, [768] * 4, [96] * 4, 20_732_160, 20_683_776),
        (64, [768] * 4 + [384], [96] * 4 + [48], 22_429_824, 22_381_440),
        (256, [768] * 4 + [384, 192, 96], [96] * 4 + [48, 24, 12], 23_057_952, 23_009_568),
    ],
)
def test_the_authors_presets_have_their_sizes(size, widths, cardinalities, generator, discriminator):
    """Presets for CIFAR-10 and FFHQ at 64 and 256 pixels, counted in the authors' code and by hand."""
    blocks = [2] * len(widths)
    assert count_by_hand(widths, blocks, cardinalities) == (generator, discriminator)
    with torch.device("meta"):
        assert count_parameters(R3GANGenerator(64, (3, size, size), widths, blocks, cardinalities)) == generator
        assert count_parameters(R3GANDiscriminator((3, size, size), widths, blocks, cardinalities)) == discriminator


def test_the_default_is_the_preset_for_cifar_10_with_one_stage_fewer_at_28():
    with torch.device("meta"):
        ours = [count_parameters(R3GANGenerator(64, (3, 32, 32))), count_parameters(R3GANDiscriminator((3, 32, 32)))]
        at_28 = [count_parameters(R3GANGenerator(64, (3, 28, 28))), count_parameters(R3GANDiscriminator((3, 28, 28)))]
    assert tuple(ours) == count_by_hand([768] * 4, [2] * 4, [96] * 4)
    assert tuple(at_28) == count_by_hand([768] * 3, [2] * 3, [96] * 3, map_size=7)


def record_block_shapes(network, data):
    shapes = []
    for block in find_blocks(network):
        block.register_forward_hook(lambda module, args, output: shapes.append(output.shape[1:]))
    network(data)
    return shapes


def test_arguments_of_stages_start_with_the_smallest_map():
    arguments = {"widths": (16, 8, 4), "blocks": (1, 2, 3), "cardinalities": (8, 4, 2)}
    shapes = [(16, 7, 7)] + [(8, 14, 14)] * 2 + [(4, 28, 28)] * 3
    assert record_block_shapes(R3GANGenerator(10, IMAGE, **arguments), torch.randn(2, 10)) == shapes
    assert record_block_shapes(R3GANDiscriminator(IMAGE, **arguments), torch.rand(2, *IMAGE)) == shapes[::-1]


def test_a_block_is_initialized_as_the_identity():
    maps = torch.randn(3, 8, 7, 7)
    assert torch.equal(InvertedBottleneck(8, 16, 4, depth=5)(maps), maps)


@pytest.mark.parametrize("size", [28, 32])
def test_both_networks_are_linear_at_initialization(size):
    """They are linear in z and in 2 x - 1: blocks are the identity, and no layer between them has a bias."""
    torch.manual_seed(0)
    z, (one, other) = torch.randn(4, 10), torch.rand(2, 4, 3, size, size)
    generator, encoder = R3GANGenerator(10, (3, size, size), **SMALL), R3GANEncoder((3, size, size), 5, **SMALL)
    torch.testing.assert_close(generator(-3 * z) * 2 - 1, -3 * (generator(z) * 2 - 1))
    torch.testing.assert_close(encoder(1.5 * one - 0.5 * other), 1.5 * encoder(one) - 0.5 * encoder(other))


@pytest.mark.parametrize("depth", [1, 4, 16])
def test_branches_of_all_blocks_add_up_to_a_variance_of_one(depth):
    """The mean square before the last convolution is 1 / depth. Edges are excluded because of their zero padding."""
    torch.manual_seed(0)
    branch = InvertedBottleneck(64, 256, 8, depth).layers[:-1](torch.randn(8, 64, 16, 16))
    assert branch[..., 1:-1, 1:-1].square().mean().item() == pytest.approx(1 / depth, rel=0.1)


def test_the_first_and_last_layers_of_the_discriminator_keep_the_variance():
    """For standard normal inputs: the first convolution, and the basis with its linear layer, over many features."""
    torch.manual_seed(0)
    layers = R3GANEncoder((3, 28, 28), 500, widths=200, blocks=1, cardinalities=100).layers
    assert layers[0](torch.randn(10, 3, 28, 28)).var().item() == pytest.approx(1, abs=0.2)
    assert layers[-3:](torch.randn(50, 200, 7, 7)).var().item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("size", [7, 8])
def test_resampling_is_bilinear_interpolation(size):
    """Maps are padded with zeros, so that a constant map stays constant except at its edges."""
    maps = torch.randn(2, 3, size, size)
    interpolated = F.interpolate(F.pad(maps, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Upsampling()(maps), interpolated[..., 2:-2, 2:-2])
    constant = torch.ones(1, 1, 2 * size, 2 * size)
    assert torch.equal(Upsampling()(constant)[..., 1:-1, 1:-1], torch.ones(1, 1, 4 * size - 2, 4 * size - 2))
    assert torch.equal(Downsampling()(constant)[..., 1:-1, 1:-1], torch.ones(1, 1, size - 2, size - 2))
    assert Downsampling()(constant)[0, 0, 0, 0].item() == (7 / 8) ** 2


def test_downsampling_is_the_transpose_of_upsampling():
    small, large = torch.randn(2, 3, 7, 7), torch.randn(2, 3, 14, 14)
    torch.testing.assert_close((Upsampling()(small) * large).sum(), 4 * (small * Downsampling()(large)).sum())


def test_images_are_clipped_in_evaluation_mode():
    torch.manual_seed(0)
    generator = R3GANGenerator(10, IMAGE, **SMALL)
    z = 5 * torch.randn(20, 10)
    unbounded = generator(z)
    assert unbounded.min() < 0
    assert unbounded.max() > 1
    assert torch.equal(generator.eval()(z), unbounded.clamp(0, 1))


def test_maps_inside_blocks_are_bfloat16_under_autocast():
    network = R3GANDiscriminator(IMAGE, **SMALL)
    dtypes = set()
    for layer in (layer for block in find_blocks(network) for layer in block.layers):
        layer.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.rand(2, *IMAGE))
    assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": [8, 8, 8, 8]}, r"widths` is .* or 3 numbers, one for each map size"),
        ({"blocks": [1, 0, 1]}, r"blocks` is .* at least 1 each"),
        ({"cardinalities": 0}, "cardinalities` is 0"),
        ({"widths": 24, "cardinalities": 36}, "the 48 channels .* such as 12"),
        ({"expansion": 0}, "expansion` is 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        R3GANGenerator(10, IMAGE, **SMALL | arguments)
    with pytest.raises(ValueError, match=message):
        R3GANDiscriminator(IMAGE, **SMALL | arguments)
