"""Plain networks that know no loss and no Lightning.

Encoders and discriminators go from data to features, decoders and generators from latents to data. `SpectralNorm`,
`Packing` and `DifferentiableAugmentation` take any discriminator as an argument, `ProjectionDiscriminator` any encoder,
`ConditionalGenerator` any generator or decoder, and `ConditionalEncoder` and `AugmentedEncoder` any encoder.
"""

from gen_lightning.networks.augmentation import Affine, Color, Cutout, Thickness, Translation
from gen_lightning.networks.conditional import (
    ConditionalEncoder,
    ConditionalGenerator,
    ProjectionDiscriminator,
    common_num_classes,
    find_num_classes,
)
from gen_lightning.networks.dcgan import DCGANDecoder, DCGANDiscriminator, DCGANEncoder, DCGANGenerator
from gen_lightning.networks.mlp import MLPDecoder, MLPDiscriminator, MLPEncoder, MLPGenerator
from gen_lightning.networks.r3gan import R3GANDiscriminator, R3GANEncoder, R3GANGenerator
from gen_lightning.networks.residual import ResidualBlock, ResidualDecoder, ResidualEncoder
from gen_lightning.networks.resnet import ResNetDiscriminator, ResNetEncoder, ResNetGenerator
from gen_lightning.networks.strided import StridedDecoder, StridedEncoder
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
    "MLPDecoder",
    "MLPDiscriminator",
    "MLPEncoder",
    "MLPGenerator",
    "Packing",
    "ProjectionDiscriminator",
    "R3GANDiscriminator",
    "R3GANEncoder",
    "R3GANGenerator",
    "ResNetDiscriminator",
    "ResNetEncoder",
    "ResNetGenerator",
    "ResidualBlock",
    "ResidualDecoder",
    "ResidualEncoder",
    "SpectralNorm",
    "StridedDecoder",
    "StridedEncoder",
    "Thickness",
    "Translation",
    "common_num_classes",
    "find_num_classes",
]
