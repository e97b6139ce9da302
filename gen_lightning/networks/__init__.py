"""Plain networks that know no loss and no Lightning.

Encoders and discriminators go from data to features, decoders and generators from latents to data.
"""

from gen_lightning.networks.dcgan import DCGANDecoder, DCGANDiscriminator, DCGANEncoder, DCGANGenerator
from gen_lightning.networks.mlp import MLPDecoder, MLPDiscriminator, MLPEncoder, MLPGenerator

__all__ = [
    "DCGANDecoder",
    "DCGANDiscriminator",
    "DCGANEncoder",
    "DCGANGenerator",
    "MLPDecoder",
    "MLPDiscriminator",
    "MLPEncoder",
    "MLPGenerator",
]
