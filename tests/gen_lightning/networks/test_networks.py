"""Shapes, ranges and parameter counts of the networks."""

from functools import partial

import pytest
import torch

from gen_lightning import networks
from gen_lightning.gan import R1, R2, DiscriminatorPass

SMALL_RESIDUAL = {
    "ResNet": {"width": 8},
    "R3GAN": {"widths": 8, "blocks": 1, "cardinalities": 4},
}


def configure_small(kind, part):
    """Return a function that builds a small residual network."""
    return partial(getattr(networks, kind + part), **SMALL_RESIDUAL[kind])


def randomize(network):
    """Return the network with random parameters, so that none keeps its initial value of 0."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return network


def count_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_mlps_have_two_hidden_layers_of_128_by_default():
    hidden = 128 * 128 + 128
    assert count_parameters(networks.MLPGenerator(100, (1, 28, 28))) == (100 * 128 + 128) + hidden + (128 * 784 + 784)
    assert count_parameters(networks.MLPDiscriminator((1, 28, 28))) == (784 * 128 + 128) + hidden + (128 + 1)
    assert count_parameters(networks.MLPEncoder((1, 28, 28), 80)) == (784 * 128 + 128) + hidden + (128 * 80 + 80)


def test_first_layer_scale_multiplies_the_first_layers_weight_and_bias():
    plain, scaled = [
        (torch.manual_seed(0), networks.MLPDecoder(2, (2,), activation=torch.nn.Tanh, first_layer_scale=scale))[1]
        for scale in (1.0, 10.0)
    ]
    z = torch.randn(5, 2)
    first, *rest = plain.layers
    torch.testing.assert_close(scaled(z), torch.nn.Sequential(*rest)(10 * first(z)))


def test_dcgan_at_64_has_the_papers_size():
    """The reference implementation has 3,576,704 and 2,765,568 parameters, without the biases of both image layers."""
    assert count_parameters(networks.DCGANGenerator(100, (3, 64, 64))) == 3_576_704 + 3
    assert count_parameters(networks.DCGANDiscriminator((3, 64, 64))) == 2_765_568 + 64 + 1


@pytest.mark.parametrize("size", [8, 16, 128, 256, 512])
def test_dcgan_has_at_most_the_channels_of_the_maximum(size):
    """Each stage above 64 pixels adds a convolution from 512 to 512 channels."""
    with torch.device("meta"):
        generator = networks.DCGANGenerator(100, (3, size, size))
        discriminator = networks.DCGANDiscriminator((3, size, size))
        assert generator(torch.empty(2, 100)).shape == (2, 3, size, size)
        assert discriminator(torch.empty(2, 3, size, size)).shape == (2,)
    additional = max(0, size.bit_length() - 7) * (512 * 512 * 16 + 2 * 512)
    assert count_parameters(generator) <= 3_576_704 + 3 + additional
    assert count_parameters(discriminator) <= 2_765_568 + 64 + 1 + additional
    if size > 64:
        assert count_parameters(generator) == 3_576_704 + 3 + additional
        assert count_parameters(discriminator) == 2_765_568 + 64 + 1 + additional


def test_the_maximum_of_the_channels_is_an_argument():
    with torch.device("meta"):
        convolutions = [
            layer.weight.shape[0]
            for layer in networks.DCGANEncoder((3, 64, 64), 7, width=16, max_width=40).modules()
            if isinstance(layer, torch.nn.Conv2d)
        ]
    assert convolutions == [16, 32, 40, 40, 7]
    with pytest.raises(ValueError, match=r"`DCGANDecoder\.max_width` is 0\. Choose at least 1"):
        networks.DCGANDecoder(10, (3, 64, 64), max_width=0)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("kind", ["Residual", "Strided"])
def test_networks_of_vaes_take_colour_images(kind, size):
    shape, latent_dim = (3, size, size), 4 * 16
    options = {"width": size // 4 if kind == "Residual" else 4, "num_blocks": 1}
    encoder = getattr(networks, f"{kind}Encoder")(shape, 2 * latent_dim, **options)
    decoder = getattr(networks, f"{kind}Decoder")(latent_dim, (10, size, size), **options)
    features = encoder(torch.rand(2, *shape))
    assert features.shape == (2, 2 * latent_dim)
    assert decoder(features[:, :latent_dim]).shape == (2, 10, size, size)


def test_strided_networks_have_at_most_512_channels():
    with torch.device("meta"):
        wide = networks.StridedDecoder(10, (3, 256, 256), width=64)
        narrow = networks.StridedDecoder(10, (3, 32, 32), width=64)
    assert count_parameters(narrow) < count_parameters(wide) < 50e6


@pytest.mark.parametrize("kind", ["MLP", "DCGAN", "ResNet", "R3GAN"])
def test_the_values_of_a_generator_reach_the_ends_of_its_range_and_stay_within_it(kind):
    generator = randomize(
        partial(getattr(networks, f"{kind}Generator"), **SMALL_RESIDUAL.get(kind, {}))(8, (1, 16, 16))
    )
    lowest, highest = (value.item() for value in generator.eval()(100 * torch.randn(50, 8)).aminmax())
    smallest, largest = networks.find_output_range(generator)
    assert smallest <= lowest < smallest + 1e-3
    assert largest - 1e-3 < highest <= largest


@pytest.mark.parametrize("kind", ["MLP", "DCGAN", "Residual", "Strided"])
def test_decoders_say_no_range(kind):
    assert networks.find_output_range(getattr(networks, f"{kind}Decoder")(16, (1, 16, 16))) is None


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


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 32, 32), (3, 64, 64)])
def test_shapes_of_strided_networks(shape):
    decoder, encoder = randomize(networks.StridedDecoder(10, shape)), randomize(networks.StridedEncoder(shape, 7))
    outputs = decoder(torch.randn(5, 10))
    assert outputs.shape == (5, *shape)
    assert outputs.min() < 0 < outputs.max()
    assert encoder(outputs.sigmoid()).shape == (5, 7)
    for network in (partial(networks.StridedDecoder, 10), partial(networks.StridedEncoder, out_features=7)):
        with pytest.raises(ValueError, match="times a power of 2"):
            network(data_shape=(1, 30, 30))


@pytest.mark.parametrize("size", ["width", "num_blocks", "hidden_dim"])
def test_strided_networks_refuse_sizes_below_one(size):
    for network in (partial(networks.StridedDecoder, 10), partial(networks.StridedEncoder, out_features=7)):
        with pytest.raises(ValueError, match=rf"`Strided.*\.{size}` is 0\. Choose at least 1"):
            network(data_shape=(1, 28, 28), **{size: 0})


def test_strided_networks_have_their_first_convolutions_at_half_the_size():
    """For 28 x 28 and width 4 there are two changes of size, two blocks and two fully connected layers."""
    blocks = 2 * (9 * 4 * 4 + 4) + 2 * (9 * 8 * 8 + 8)
    encoder = networks.StridedEncoder((1, 28, 28), 7, width=4, hidden_dim=5)
    assert count_parameters(encoder) == (16 * 4 + 4) + (16 * 4 * 8 + 8) + blocks + (8 * 49 * 5 + 5) + (5 * 7 + 7)
    decoder = networks.StridedDecoder(3, (1, 28, 28), width=4, hidden_dim=5)
    assert count_parameters(decoder) == (3 * 5 + 5) + (5 * 8 * 49 + 8 * 49) + blocks + (8 * 16 + 16) + (4 * 4 + 4)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32)])
@pytest.mark.parametrize("kind", SMALL_RESIDUAL)
def test_shapes_and_ranges_of_residual_networks(kind, shape):
    generator = randomize(configure_small(kind, "Generator")(10, shape)).eval()
    images = generator(torch.randn(5, 10))
    assert images.shape == (5, *shape)
    assert 0 <= images.min() < images.max() <= 1
    assert configure_small(kind, "Discriminator")(shape)(images).shape == (5,)
    assert configure_small(kind, "Encoder")(shape, 7)(images).shape == (5, 7)


@pytest.mark.parametrize("kind", SMALL_RESIDUAL)
def test_logits_of_residual_discriminators_depend_on_their_own_example_only(kind):
    discriminator = randomize(configure_small(kind, "Discriminator")((1, 28, 28)))
    images = torch.rand(3, 1, 28, 28)
    gradients = torch.autograd.functional.jacobian(discriminator, images).square().sum((2, 3, 4))
    assert (gradients.diagonal() > 0).all()
    assert torch.equal(gradients, gradients.diagonal().diag())


@pytest.mark.parametrize("kind", SMALL_RESIDUAL)
def test_penalties_of_residual_discriminators_have_gradients_equal_to_finite_differences(kind):
    """The derivative of R1 + R2 along a random direction of the parameters is compared in float64."""
    discriminator = randomize(configure_small(kind, "Discriminator")((1, 28, 28))).double()
    real, fake = torch.rand(2, 4, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    directions = [torch.randn_like(parameter) for parameter in discriminator.parameters()]

    def compute_penalty(step=0.0):
        with torch.no_grad():
            for parameter, direction in zip(discriminator.parameters(), directions, strict=True):
                parameter += step * direction
        state = DiscriminatorPass(discriminator, real, fake, discriminator(real), discriminator(fake), 0)
        return R1()(state) + R2()(state)

    gradients = torch.autograd.grad(compute_penalty(), list(discriminator.parameters()), materialize_grads=True)
    along = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions, strict=True))
    difference = compute_penalty(1e-7) - compute_penalty(-2e-7)
    assert difference.item() / 2e-7 == pytest.approx(along.item(), rel=1e-4)


@pytest.mark.parametrize("kind", SMALL_RESIDUAL)
def test_residual_networks_run_under_autocast(kind):
    """Tolerances allow for the 8 significant bits of bfloat16; images are in [0, 1]."""
    generator, discriminator = (
        randomize(configure_small(kind, "Generator")(10, (3, 32, 32))),
        randomize(configure_small(kind, "Discriminator")((3, 32, 32))),
    )
    z = torch.randn(8, 10)
    images = generator(z).detach()
    with torch.autocast("cpu", torch.bfloat16):
        images_16 = generator(z)
        logits_16 = discriminator(images_16)
    logits_16.sum().backward()
    assert images_16.dtype == logits_16.dtype == torch.bfloat16
    assert (images_16 - images).square().mean() < 1e-3 * images.var()
    assert (logits_16 - discriminator(images)).square().mean() < 1e-2 * discriminator(images).square().mean()
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        assert parameter.grad.isfinite().all()


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
    """Glorot & Bengio 2010, equation 16: weights are uniform up to sqrt(6 / (inputs + outputs)), and biases are 0."""
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
def test_residual_networks_map_images_to_maps_and_back(size):
    """The maps have size 7 x 7 or 4 x 4."""
    values = 3 * (7 if size == 28 else 4) ** 2
    encoder = networks.ResidualEncoder((1, size, size), values, width=16, num_blocks=1)
    decoder = networks.ResidualDecoder(values, (1, size, size), width=16, num_blocks=1)
    z = encoder(torch.rand(5, 1, size, size))
    assert z.shape == (5, values)
    assert decoder(z).shape == (5, 1, size, size)
    for network in (networks.ResidualEncoder, networks.ResidualDecoder):
        with pytest.raises(ValueError, match="Choose a multiple of"):
            network(*((7, (1, size, size)) if network is networks.ResidualDecoder else ((1, size, size), 7)))


def test_residual_blocks_are_initialized_as_the_identity():
    maps = torch.randn(2, 4, 5, 5)
    assert torch.equal(networks.ResidualBlock(4)(maps), maps)


def test_mlps_support_points():
    points = networks.MLPDecoder(3, (2,))(torch.randn(5, 3))
    assert points.shape == (5, 2)
    assert networks.MLPDiscriminator((2,))(points).shape == (5,)


@pytest.mark.parametrize("shape", [(1, 30, 30), (1, 28, 32), (2,)])
@pytest.mark.parametrize("kind", ["DCGAN", "ResNet", "R3GAN"])
def test_convolutional_networks_refuse_sizes_that_they_cannot_halve(kind, shape):
    with pytest.raises(ValueError, match="4 to 7 times a power of 2"):
        getattr(networks, f"{kind}Encoder")(shape, 1)
    with pytest.raises(ValueError, match="4 to 7 times a power of 2"):
        getattr(networks, f"{kind}Generator")(10, shape)


@pytest.mark.parametrize("build", [networks.ResidualEncoder, networks.ResidualDecoder])
@pytest.mark.parametrize("width", [2, 6, 0])
def test_residual_networks_refuse_widths_that_they_cannot_halve(build, width):
    """Sizes are halved twice, from 28 to 7."""
    sizes = [49, (1, 28, 28)] if build is networks.ResidualDecoder else [(1, 28, 28), 49]
    with pytest.raises(ValueError, match=rf"The width is {width}, and is halved 2 times\. Choose a multiple of 4"):
        build(*sizes, width=width)
