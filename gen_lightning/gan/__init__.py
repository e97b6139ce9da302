"""Generative adversarial networks: loss, regularizers and networks are separate axes of one module."""

from gen_lightning.gan.losses import (
    GANLoss,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    RelativisticPaired,
    Wasserstein,
)
from gen_lightning.gan.module import GANModule
from gen_lightning.gan.regularizers import R1, DiscriminatorPass, DiscriminatorRegularizer

__all__ = [
    "R1",
    "DiscriminatorPass",
    "DiscriminatorRegularizer",
    "GANLoss",
    "GANModule",
    "Hinge",
    "LeastSquares",
    "Minimax",
    "NonSaturating",
    "RelativisticPaired",
    "Wasserstein",
]
