"""Generative adversarial networks: loss, regularizers and networks are separate axes of one module."""

from gen_lightning.gan.codes import LatentCodes
from gen_lightning.gan.ema import EMA
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
from gen_lightning.gan.regularizers import (
    DRAGAN,
    R1,
    R2,
    Consistency,
    DiscriminatorPass,
    DiscriminatorRegularizer,
    GradientPenalty,
    Lazy,
    LeCam,
    MismatchedLabels,
)

__all__ = [
    "DRAGAN",
    "EMA",
    "R1",
    "R2",
    "Consistency",
    "DiscriminatorPass",
    "DiscriminatorRegularizer",
    "GANLoss",
    "GANModule",
    "GradientPenalty",
    "Hinge",
    "LatentCodes",
    "Lazy",
    "LeCam",
    "LeastSquares",
    "Minimax",
    "MismatchedLabels",
    "NonSaturating",
    "RelativisticPaired",
    "Wasserstein",
]
