"""p(z): where latents come from."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from gen_lightning.errors import UserError
from gen_lightning.networks import MLPEncoder, ResidualBlock, ResidualDecoder, ResidualEncoder
from gen_lightning.networks.residual import apply_to_maps, count_channels, zero_init
from gen_lightning.networks.sizes import check_sizes
from gen_lightning.numerics import promote_to_float32
from gen_lightning.vae.hierarchy import (
    Choose,
    Hierarchy,
    Network,
    check_layer_dims,
    diagonal_gaussian,
    gaussian_given,
)

if TYPE_CHECKING:
    from gen_lightning.vae.module import VAEModule


class Prior(nn.Module):
    """A distribution over latents `[Z]`, built with the latent dimension Z; it may have parameters to learn.

    Args:
        latent_dim: the dimension of the latent
    """

    decoder_input_dim: int
    """The number of values that the decoder sees of a latent."""
    descending = False
    """Whether it is in layers, drawn from the uppermost down."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.decoder_input_dim = latent_dim

    def decoded(self, z: Tensor) -> Tensor:
        """What p(x | z) depends on of latents `[..., Z]`: `[..., decoder_input_dim]`, by default all."""
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
        UserError: num_components is less than 1.
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
        UserError: num_components is less than 1; the encoder has batch normalization or is conditional (in `bind`).
    """

    pseudo_inputs: nn.Parameter
    """`[num_components, *data_shape]`, at first uniform in [0, 1]."""

    def __init__(self, latent_dim: int, num_components: int = 500) -> None:
        super().__init__(latent_dim)
        _check_num_components(num_components)
        self.num_components = num_components

    def bind(self, model: "VAEModule") -> None:
        """Makes pseudo-inputs of the data's shape."""
        if model.num_classes is not None:
            raise UserError(
                "VampPrior's pseudo-inputs have no labels, and the encoder is conditional: take another prior, or an"
                " encoder and a decoder that are not conditional."
            )
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.encoder.modules()):
            raise UserError(
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
        UserError: the layers are not those of such a latent.
    """

    descending = True

    def __init__(self, latent_dim: int, layer_dims: Sequence[int], network: Network = MLPEncoder) -> None:
        super().__init__(latent_dim)
        self.layer_dims = check_layer_dims("TopDown", latent_dim, layer_dims)
        self.decoder_input_dim = self.layer_dims[0]
        self.uppermost = StandardNormal(self.layer_dims[-1])
        self.networks = nn.ModuleList(network((above,), 2 * below) for below, above in pairwise(self.layer_dims))

    def decoded(self, z: Tensor) -> Tensor:
        """The layer next to the data, z_1: latents `[..., Z]` -> `[..., Z_1]`."""
        return z[..., : self.decoder_input_dim]

    def forward(self) -> Hierarchy:
        """p(z): batch shape `[]`, event shape `[Z]`."""
        return Hierarchy(self.layer_dims, torch.Size(), self._descend, descending=True)

    def _descend(self, choose: Choose) -> None:
        z = choose(len(self.networks), self.uppermost())
        for layer, network in reversed(list(enumerate(self.networks))):
            z = choose(layer, gaussian_given(network, z))


class ResidualTopDown(Prior):
    """Layers of latents that are maps, each a diagonal Gaussian given all the layers above it.

    A map of features goes down from a learned one. At each layer it passes residual blocks, gives the layer's Gaussian,
    at first N(0, I), and takes in the layer's latents; the decoder sees what leaves the last layer. So every layer
    reaches the data by a path of its own (Sønderby et al. 2016, without their bottleneck; Child 2021, figure 3).

    Args:
        latent_dim: the dimension of the latent, all layers together
        num_layers: layers of equal size, 1 or more
        map_size: height and width of the maps, the smallest one's of a residual encoder and decoder
        width: channels of the features
        num_blocks: residual blocks in front of each layer

    Raises:
        UserError: a number is less than 1; the latent is not that many maps of that size; those of the networks are of
            another (in `bind`).
    """

    descending = True

    def __init__(
        self, latent_dim: int, num_layers: int = 6, map_size: int = 7, width: int = 128, num_blocks: int = 1
    ) -> None:
        super().__init__(latent_dim)
        check_sizes(self, num_layers=num_layers, map_size=map_size, width=width, num_blocks=num_blocks)
        if latent_dim % num_layers:
            raise UserError(
                f"A latent_dim of {latent_dim} is not {num_layers} equal layers: choose a multiple of"
                f" {num_layers * map_size**2}."
            )
        self.map_size = map_size
        self.layer_dims = (latent_dim // num_layers,) * num_layers
        self.decoder_input_dim = width * map_size**2
        channels = count_channels(self.layer_dims[0], map_size)
        self.start = nn.Parameter(torch.zeros(width, map_size, map_size))
        self.latent_maps = nn.Unflatten(-1, (channels, map_size, map_size))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(num_blocks))) for _ in range(num_layers)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.SiLU(), zero_init(nn.Conv2d(width, 2 * channels, 1))) for _ in range(num_layers)
        )
        self.inlets = nn.ModuleList(nn.Conv2d(channels, width, 1) for _ in range(num_layers))

    def bind(self, model: "VAEModule") -> None:
        """Compares its maps with those of residual networks, which would take a pixel of them for another."""
        for network in model.modules():
            if isinstance(network, ResidualEncoder | ResidualDecoder) and network.map_size != self.map_size:
                raise UserError(
                    f"ResidualTopDown's map_size is {self.map_size}, and the {type(network).__name__}'s smallest map is"
                    f" {network.map_size} x {network.map_size}: set model.prior.map_size to {network.map_size}."
                )

    def decoded(self, z: Tensor) -> Tensor:
        """The features behind the last layer: latents `[..., Z]` -> `[..., decoder_input_dim]`."""
        layers = z.split(self.layer_dims, -1)
        return self._descend(lambda layer, conditional: layers[layer]).flatten(-3)

    def forward(self) -> Hierarchy:
        """p(z): batch shape `[]`, event shape `[Z]`."""
        return Hierarchy(self.layer_dims, torch.Size(), self._descend, descending=True)

    def _descend(self, choose: Choose) -> Tensor:
        """The features behind the last layer, `[..., width, map_size, map_size]`."""
        features: Tensor = self.start
        for layer in reversed(range(len(self.layer_dims))):
            features = apply_to_maps(self.blocks[layer], features)
            parameters = promote_to_float32(apply_to_maps(self.heads[layer], features))
            z = choose(layer, diagonal_gaussian(parameters.flatten(-3)))
            features = features + apply_to_maps(self.inlets[layer], self.latent_maps(z))
        return features


def _mixture(logits: Tensor, components: Distribution) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)


def _check_num_components(num_components: int) -> None:
    if num_components < 1:
        raise UserError(f"The prior's num_components is {num_components}: choose 1 or more.")
