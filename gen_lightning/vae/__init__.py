"""Variational autoencoders: networks, likelihood, posterior, prior and objective are separate axes of one module."""

from gen_lightning.vae.likelihoods import Bernoulli, Likelihood
from gen_lightning.vae.module import VAEModule
from gen_lightning.vae.objectives import ELBO, Objective, Terms
from gen_lightning.vae.posteriors import DiagonalGaussian, Posterior
from gen_lightning.vae.priors import Prior, StandardNormal

__all__ = [
    "ELBO",
    "Bernoulli",
    "DiagonalGaussian",
    "Likelihood",
    "Objective",
    "Posterior",
    "Prior",
    "StandardNormal",
    "Terms",
    "VAEModule",
]
