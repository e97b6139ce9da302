"""Class-conditional networks: closed forms and nesting."""

from functools import partial

import pytest
import torch
from torch import nn

from gen_lightning.gan import EMA
from gen_lightning.networks import (
    ConditionalGenerator,
    DCGANEncoder,
    DCGANGenerator,
    DifferentiableAugmentation,
    MLPDecoder,
    MLPDiscriminator,
    MLPEncoder,
    Packing,
    ProjectionDiscriminator,
    SpectralNorm,
    find_num_classes,
    find_output_range,
)

IMAGE = (1, 28, 28)
LABELS = torch.tensor([2, 0, 1, 2, 2])
SMALL_DCGAN = partial(DCGANEncoder, width=4, normalization=nn.Identity)
PROJECTION = partial(ProjectionDiscriminator, encoder=SMALL_DCGAN, num_classes=3, num_features=6)


def build_linear_encoder(data_shape, num_features):
    return MLPEncoder(data_shape, num_features, hidden_dims=())


def set_weights(layer, weight, bias=None):
    layer.weight.data = torch.tensor(weight)
    if bias is not None:
        layer.bias.data = torch.tensor(bias)


def test_a_projection_equals_the_formula_by_hand():
    """phi(x) = relu(x1 - x2, 2 x1) and psi = phi1 - phi2 + 1/2. Class 0 adds 3 phi1, and class 1 adds -phi2."""
    network = ProjectionDiscriminator((2,), build_linear_encoder, num_classes=2, num_features=2)
    set_weights(network.encoder.layers[0], [[1.0, -1.0], [2.0, 0.0]], [0.0, 0.0])
    set_weights(network.linear, [[1.0, -1.0]], [0.5])
    set_weights(network.embedding, [[3.0, 0.0], [0.0, -1.0]])
    data = torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 3.0]])
    logits = network(data, torch.tensor([0, 1, 0]))
    assert logits.tolist() == [1 - 4 + 0.5 + 3, 1 - 4 + 0.5 - 4, 0 - 2 + 0.5]


def test_the_label_has_no_effect_if_embeddings_are_zero():
    network = PROJECTION(IMAGE)
    network.embedding.weight.data.zero_()
    images = torch.rand(5, *IMAGE)
    plain = nn.Sequential(network.encoder, nn.ReLU(), network.linear, nn.Flatten(0))
    for labels in (LABELS, LABELS * 0):
        torch.testing.assert_close(network(images, labels), plain(images))


def test_a_generator_receives_the_latent_and_the_embedding_of_its_label():
    network = ConditionalGenerator(4, (2,), MLPDecoder, num_classes=3, embedding_dim=2)
    z = torch.randn(5, 4)
    rows = torch.stack([network.embedding.weight[label] for label in LABELS])
    assert torch.equal(network(z, LABELS), network.generator(torch.cat([z, rows], 1)))
    assert network(z, LABELS).shape == (5, 2)


def test_spectral_norm_normalizes_the_embedding_too():
    torch.manual_seed(0)
    network = SpectralNorm(IMAGE, PROJECTION)
    for _ in range(200):
        network(torch.rand(5, *IMAGE), LABELS)
    layers = [layer for layer in network.eval().modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding)]
    assert len(layers) == 3 + 2
    for layer in layers:
        assert torch.linalg.svdvals(layer.weight.flatten(1)).max().item() == pytest.approx(1, abs=1e-3)


def test_wrappers_pass_labels_on():
    images = torch.rand(5, *IMAGE)
    nested = DifferentiableAugmentation(IMAGE, partial(SpectralNorm, discriminator=PROJECTION)).eval()
    logits = nested(images, LABELS)
    assert torch.equal(logits, nested.discriminator.discriminator(images, LABELS))
    assert not torch.equal(logits, nested(images, LABELS.flip(0)))
    generator = ConditionalGenerator(4, IMAGE, partial(DCGANGenerator, width=4), num_classes=3)
    z = torch.randn(5, 4)
    assert torch.equal(EMA(generator)(z, LABELS), generator(z, LABELS))


def test_classes_are_found_within_wrappers():
    assert find_num_classes(DifferentiableAugmentation(IMAGE, partial(SpectralNorm, discriminator=PROJECTION))) == 3
    assert find_num_classes(EMA(ConditionalGenerator(4, (2,), MLPDecoder, num_classes=7))) == 7
    assert find_num_classes(SpectralNorm((2,), MLPDiscriminator)) is None


def test_the_range_of_a_generator_is_found_within_wrappers():
    nested = partial(ConditionalGenerator, generator=DCGANGenerator, embedding_dim=3)
    assert find_output_range(ConditionalGenerator(4, IMAGE, nested)) == (0, 1)
    assert find_output_range(ConditionalGenerator(4, IMAGE, MLPDecoder)) is None
    assert find_output_range(nn.Sequential(DCGANGenerator(4, IMAGE), nn.Softplus())) is None


def test_packing_refuses_a_conditional_discriminator():
    with pytest.raises(ValueError, match="Remove Packing, or choose an unconditional discriminator"):
        Packing(IMAGE, partial(SpectralNorm, discriminator=PROJECTION))
