"""Deep generative models on PyTorch Lightning: GANs and VAEs under one protocol."""

from gen_lightning.base import GenerativeModule
from gen_lightning.gan import GANModule
from gen_lightning.vae import VAEModule

__all__ = ["GANModule", "GenerativeModule", "VAEModule"]
