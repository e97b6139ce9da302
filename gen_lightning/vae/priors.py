"""p(z): where latents come from."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

if TYPE_CHECKING:
    from gen_lightning.vae.module import VAEModule


class Prior(nn.Module):
    """A distribution over latents `[Z]`, built with the latent dimension Z; it may have parameters to learn."""

    def bind(self, model: "VAEModule") -> None:
        """Sees the model that it is part of, once that is built; for priors that are made of its other parts."""

    def forward(self) -> Distribution:
        """p(z): batch shape `[]`, event shape `[Z]`."""
        raise NotImplementedError


class StandardNormal(Prior):
    """N(0, I).

    Args:
        latent_dim: the dimension of the latent
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Independent:
        """p(z): batch shape `[]`, event shape `[Z]`."""
        return Independent(Normal(self.mean, self.scale, validate_args=False), 1, validate_args=False)


class MixtureOfGaussians(Prior):
    """A learned mixture of diagonal normals.

    Args:
        latent_dim: the dimension of the latent
        num_components: normals in the mixture

    Raises:
        ValueError: num_components is less than 1.
    """

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__()
        _check_num_components(num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        # Apart, since equal components would have equal gradients for ever.
        self.mean = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_variance = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self) -> MixtureSameFamily:
        """p(z): batch shape `[]`, event shape `[Z]`."""
        normals = Normal(self.mean, (self.log_variance / 2).exp(), validate_args=False)
        return _mixture(self.logits, Independent(normals, 1, validate_args=False))


class VampPrior(Prior):
    """The mean of the posteriors of learned pseudo-inputs (Tomczak & Welling 2018, equation 9).

    Its encoder is the model's own, which each call of the prior runs on all pseudo-inputs.

    Args:
        latent_dim: the dimension of the latent, which the model's posterior has too
        num_components: pseudo-inputs

    Raises:
        ValueError: num_components is less than 1; the encoder has batch normalization (in `bind`).
    """

    pseudo_inputs: nn.Parameter
    """`[num_components, *data_shape]`, at first uniform in [0, 1]."""

    def __init__(self, latent_dim: int, num_components: int = 500) -> None:
        super().__init__()
        _check_num_components(num_components)
        self.num_components = num_components

    def bind(self, model: "VAEModule") -> None:
        """Makes pseudo-inputs of the data's shape."""
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.encoder.modules()):
            raise ValueError(
                "VampPrior shows the encoder its pseudo-inputs by themselves, and batch normalization would mix their"
                " statistics with the data's: take an encoder without it, or another prior."
            )
        self.pseudo_inputs = nn.Parameter(torch.rand(self.num_components, *model.data_shape))
        # A method and no module, which would hold itself.
        self._posterior = model.posterior

    def forward(self) -> MixtureSameFamily:
        """p(z): batch shape `[]`, event shape `[Z]`."""
        equal = self.pseudo_inputs.new_zeros(self.num_components)
        return _mixture(equal, self._posterior(self.pseudo_inputs))


def _mixture(logits: Tensor, components: Distribution) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)


def _check_num_components(num_components: int) -> None:
    if num_components < 1:
        raise ValueError(f"The prior's num_components is {num_components}: choose 1 or more.")
