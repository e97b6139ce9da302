"""GANs and VAEs on PyTorch Lightning with one interface.

- `GANModule`: generative adversarial networks, with a loss, regularizers and networks to choose
- `VAEModule`: variational autoencoders, with an objective, a likelihood, a prior, a posterior and networks to choose
- `GenerativeModule`: base class of both, for models of your own: sampling, checks and logging

`__version__` is the version of the installed package.
"""

from importlib.metadata import version

from gen_lightning.base import GenerativeModule
from gen_lightning.gan import GANModule
from gen_lightning.vae import VAEModule

__version__ = version("gen_lightning")

__all__ = ["GANModule", "GenerativeModule", "VAEModule", "__version__"]
