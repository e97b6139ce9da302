"""Variational autoencoders: encoder, decoder, likelihood, posterior, prior and objective are chosen independently."""

from gen_lightning.metrics.bounds import bits_per_dimension, importance_weighted_bound
from gen_lightning.schedules import CyclicalWarmup, LinearWarmup, Schedule
from gen_lightning.vae.aggregate import MMD, BetaTC
from gen_lightning.vae.fitted_prior import fit_latent_mixture
from gen_lightning.vae.flows import Flow
from gen_lightning.vae.hierarchy import Hierarchy
from gen_lightning.vae.likelihoods import (
    AutoregressiveBernoulli,
    AutoregressiveLogisticMixture,
    Bernoulli,
    CenteredBernoulli,
    ColourLogisticMixture,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gaussian,
    LearnedScaleGaussian,
    Likelihood,
    OptimalScaleGaussian,
)
from gen_lightning.vae.module import VAEModule
from gen_lightning.vae.objectives import ELBO, IWAE, STL, Beta, Capacity, DReG, FreeBits, Objective
from gen_lightning.vae.parts import ModelParts
from gen_lightning.vae.posteriors import BottomUp, CouplingFlow, DiagonalGaussian, Ladder, Posterior
from gen_lightning.vae.priors import MixtureOfGaussians, Prior, ResidualTopDown, StandardNormal, TopDown, VampPrior
from gen_lightning.vae.table import TableLikelihood
from gen_lightning.vae.terms import Terms
from gen_lightning.vae.texts import (
    AutoregressiveCategorical,
    ConvolutionalTokens,
    RecurrentTokens,
    TokenNetwork,
    TokenSequence,
)

__all__ = [
    "ELBO",
    "IWAE",
    "MMD",
    "STL",
    "AutoregressiveBernoulli",
    "AutoregressiveCategorical",
    "AutoregressiveLogisticMixture",
    "Bernoulli",
    "Beta",
    "BetaTC",
    "BottomUp",
    "Capacity",
    "CenteredBernoulli",
    "ColourLogisticMixture",
    "ContinuousBernoulli",
    "ConvolutionalTokens",
    "CouplingFlow",
    "CyclicalWarmup",
    "DReG",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Flow",
    "FreeBits",
    "Gaussian",
    "Hierarchy",
    "Ladder",
    "LearnedScaleGaussian",
    "Likelihood",
    "LinearWarmup",
    "MixtureOfGaussians",
    "ModelParts",
    "Objective",
    "OptimalScaleGaussian",
    "Posterior",
    "Prior",
    "RecurrentTokens",
    "ResidualTopDown",
    "Schedule",
    "StandardNormal",
    "TableLikelihood",
    "Terms",
    "TokenNetwork",
    "TokenSequence",
    "TopDown",
    "VAEModule",
    "VampPrior",
    "bits_per_dimension",
    "fit_latent_mixture",
    "importance_weighted_bound",
]
