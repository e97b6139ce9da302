"""p(z): where latents come from."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from gen_lightning.networks import MLPEncoder
from gen_lightning.vae.hierarchy import Choose, Hierarchy, Network, check_layer_dims, gaussian_given

if TYPE_CHECKING:
    from gen_lightning.vae.module import VAEModule


class Prior(nn.Module):
    """A distribution over latents `[Z]`, built with the latent dimension Z; it may have parameters to learn.

    Args:
        latent_dim: the dimension of the latent
    """

    decoded_dim: int
    """The number of values that the decoder sees of a latent."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.decoded_dim = latent_dim

    def decoded(self, z: Tensor) -> Tensor:
        """What p(x | z) depends on of latents `[..., Z]`: `[..., decoded_dim]`, by default all."""
        return z

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
        super().__init__(latent_dim)
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
        super().__init__(latent_dim)
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
        super().__init__(latent_dim)
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


class TopDown(Prior):
    """Layers of latents, each a diagonal Gaussian given the one above it (Burda et al. 2016, equation 1).

    p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2), of which the uppermost is N(0, I); the decoder sees z_1 alone.

    Args:
        latent_dim: the dimension of the latent, all layers together
        layer_dims: the dimension of each layer, from the data on
        network: of each layer but the uppermost; called with ((dimension above,), number of features)

    Raises:
        ValueError: the layers are not those of such a latent.
    """

    def __init__(self, latent_dim: int, layer_dims: Sequence[int], network: Network = MLPEncoder) -> None:
        super().__init__(latent_dim)
        self.layer_dims = check_layer_dims("TopDown", latent_dim, layer_dims)
        self.decoded_dim = self.layer_dims[0]
        self.uppermost = StandardNormal(self.layer_dims[-1])
        self.networks = nn.ModuleList(network((above,), 2 * below) for below, above in pairwise(self.layer_dims))

    def decoded(self, z: Tensor) -> Tensor:
        """The layer next to the data, z_1: latents `[..., Z]` -> `[..., Z_1]`."""
        return z[..., : self.decoded_dim]

    def forward(self) -> Hierarchy:
        """p(z): batch shape `[]`, event shape `[Z]`."""
        return Hierarchy(self.layer_dims, torch.Size(), self._descend)

    def _descend(self, choose: Choose) -> None:
        z = choose(len(self.networks), self.uppermost())
        for layer, network in reversed(list(enumerate(self.networks))):
            z = choose(layer, gaussian_given(network, z))


def _mixture(logits: Tensor, components: Distribution) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)


def _check_num_components(num_components: int) -> None:
    if num_components < 1:
        raise ValueError(f"The prior's num_components is {num_components}: choose 1 or more.")
