"""p(z): where latents come from."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal


class Prior(nn.Module):
    """A distribution over latents `[Z]`, built with the latent dimension Z; it may have parameters to learn."""

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
