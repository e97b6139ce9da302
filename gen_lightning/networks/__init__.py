"""Networks as plain `nn.Module`s, independent of losses and of Lightning.

Encoders map data to features, discriminators data to logits, and decoders and generators latents to data. Some classes
wrap another network: `SpectralNorm`, `Packing` and `DifferentiableAugmentation` wrap a discriminator,
`ProjectionDiscriminator`, `ConditionalEncoder` and `AugmentedEncoder` an encoder, and `ConditionalGenerator` a
generator or a decoder.
"""

from gen_lightning.networks.augmentation import Affine, Color, Cutout, Thickness, Translation
from gen_lightning.networks.conditional import (
    ConditionalEncoder,
    ConditionalGenerator,
    ProjectionDiscriminator,
    find_common_num_classes,
    find_num_classes,
    find_output_range,
)
from gen_lightning.networks.dcgan import DCGANDecoder, DCGANDiscriminator, DCGANEncoder, DCGANGenerator
from gen_lightning.networks.mlp import MLPDecoder, MLPDiscriminator, MLPEncoder, MLPGenerator
from gen_lightning.networks.r3gan import R3GANDiscriminator, R3GANEncoder, R3GANGenerator
from gen_lightning.networks.residual import ResidualBlock, ResidualDecoder, ResidualEncoder
from gen_lightning.networks.resnet import ResNetDiscriminator, ResNetEncoder, ResNetGenerator
from gen_lightning.networks.signals import SignalDecoder, SignalDiscriminator, SignalEncoder
from gen_lightning.networks.strided import StridedDecoder, StridedEncoder
from gen_lightning.networks.table import TableGenerator
from gen_lightning.networks.text import EmbeddingEncoder, RecurrentEncoder
from gen_lightning.networks.wrappers import AugmentedEncoder, DifferentiableAugmentation, Packing, SpectralNorm

__all__ = [
    "Affine",
    "AugmentedEncoder",
    "Color",
    "ConditionalEncoder",
    "ConditionalGenerator",
    "Cutout",
    "DCGANDecoder",
    "DCGANDiscriminator",
    "DCGANEncoder",
    "DCGANGenerator",
    "DifferentiableAugmentation",
    "EmbeddingEncoder",
    "MLPDecoder",
    "MLPDiscriminator",
    "MLPEncoder",
    "MLPGenerator",
    "Packing",
    "ProjectionDiscriminator",
    "R3GANDiscriminator",
    "R3GANEncoder",
    "R3GANGenerator",
    "RecurrentEncoder",
    "ResNetDiscriminator",
    "ResNetEncoder",
    "ResNetGenerator",
    "ResidualBlock",
    "ResidualDecoder",
    "ResidualEncoder",
    "SignalDecoder",
    "SignalDiscriminator",
    "SignalEncoder",
    "SpectralNorm",
    "StridedDecoder",
    "StridedEncoder",
    "TableGenerator",
    "Thickness",
    "Translation",
    "find_common_num_classes",
    "find_num_classes",
    "find_output_range",
]
