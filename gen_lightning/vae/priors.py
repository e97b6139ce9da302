"""Priors p(z): distributions of the latent variable before data are seen."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.networks import MLPEncoder, ResidualBlock, ResidualDecoder, ResidualEncoder
from gen_lightning.networks.residual import apply_to_maps, count_channels, zero_init
from gen_lightning.numerics import promote_to_float32
from gen_lightning.vae.hierarchy import (
    Choose,
    Hierarchy,
    Network,
    build_gaussian,
    check_layer_dims,
    predict_gaussian,
)
from gen_lightning.vae.parts import ModelParts


class Prior(nn.Module):
    """A distribution of latents `[Z]`; it may have parameters to learn.

    Args:
        latent_dim: dimension of the latent, Z
    """

    decoder_input_dim: int
    """Number of inputs of the decoder."""
    descending = False
    """Whether the latents are in layers, drawn from the uppermost layer to the lowest."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.decoder_input_dim = latent_dim

    def compute_decoder_input(self, z: Tensor) -> Tensor:
        """Return the decoder's inputs `[..., decoder_input_dim]` for latents `[..., Z]`; by default the latents."""
        return z

    def bind(self, parts: ModelParts) -> None:
        """Receive the parts of the built model, for priors that are defined by other parts of it."""

    def forward(self) -> Distribution:
        """Return p(z): batch shape `[]`, event shape `[Z]`."""
        raise NotImplementedError


class StandardNormal(Prior):
    """N(0, I).

    Args:
        latent_dim: dimension of the latent, Z
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("mean", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Independent:
        """Return p(z): batch shape `[]`, event shape `[Z]`."""
        return Independent(Normal(self.mean, self.scale, validate_args=False), 1, validate_args=False)


class MixtureOfGaussians(Prior):
    """A learned mixture of diagonal Gaussians.

    Args:
        latent_dim: dimension of the latent, Z
        num_components: number of Gaussians in the mixture; at least 1

    Raises:
        UserError: num_components is less than 1.
    """

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__(latent_dim)
        check_range(self, at_least=1, num_components=num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        # Random means, because equal components would have equal gradients and stay equal.
        self.mean = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_variance = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self) -> MixtureSameFamily:
        """Return p(z): batch shape `[]`, event shape `[Z]`."""
        normals = Normal(self.mean, (self.log_variance / 2).exp(), validate_args=False)
        return _build_mixture(self.logits, Independent(normals, 1, validate_args=False))


class VampPrior(Prior):
    """The mean of the posteriors of learned pseudo-inputs (Tomczak & Welling 2018, equation 9).

    It uses the model's own encoder. Each call of the prior runs the encoder on all pseudo-inputs. As in the authors'
    code, those of images are clamped to [0, 1].

    Args:
        latent_dim: dimension of the latent, Z
        num_components: number of pseudo-inputs; at least 1

    Raises:
        UserError: num_components is less than 1; in `bind`, the encoder has batch normalization or is
            class-conditional.
    """

    pseudo_inputs: nn.Parameter
    """`[num_components, *data_shape]`, initially uniform in [0, 1]."""

    def __init__(self, latent_dim: int, num_components: int = 500) -> None:
        super().__init__(latent_dim)
        check_range(self, at_least=1, num_components=num_components)
        self.num_components = num_components

    def bind(self, parts: ModelParts) -> None:
        """Create pseudo-inputs of the data's shape."""
        if parts.num_classes is not None:
            raise UserError(
                "The pseudo-inputs of VampPrior have no labels, and the encoder is class-conditional. Choose another"
                " prior, or an encoder and a decoder without classes."
            )
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in parts.encoder.modules()):
            raise UserError(
                "The encoder's batch normalization would mix VampPrior's pseudo-inputs with the data. Choose an encoder"
                " without batch normalization, or another prior."
            )
        self.pseudo_inputs = nn.Parameter(torch.rand(self.num_components, *parts.data_shape))
        # A bound method is no submodule, so the encoder's parameters are not registered twice.
        self._encode = parts.encode

    def forward(self) -> MixtureSameFamily:
        """Return p(z): batch shape `[]`, event shape `[Z]`."""
        equal = self.pseudo_inputs.new_zeros(self.num_components)
        are_images = self.pseudo_inputs.ndim == 4
        inputs = self.pseudo_inputs.clamp(0, 1) if are_images else self.pseudo_inputs
        return _build_mixture(equal, self._encode(inputs))


class TopDown(Prior):
    """Layers of latents, each a diagonal Gaussian given the layer above it (Burda et al. 2016, equation 1).

    p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2). The uppermost layer z_L is N(0, I); the decoder sees only z_1.

    Args:
        latent_dim: dimension of the latent, all layers together
        layer_dims: dimension of each layer, from the layer next to the data upwards
        network: network of each layer except the uppermost; called with ((dimension above,), number of features)

    Raises:
        UserError: the layers' dimensions do not add up to latent_dim, or one is less than 1.
    """

    descending = True

    def __init__(self, latent_dim: int, layer_dims: Sequence[int], network: Network = MLPEncoder) -> None:
        super().__init__(latent_dim)
        self.layer_dims = check_layer_dims(self, latent_dim, layer_dims)
        self.decoder_input_dim = self.layer_dims[0]
        self.uppermost = StandardNormal(self.layer_dims[-1])
        self.networks = nn.ModuleList(network((above,), 2 * below) for below, above in pairwise(self.layer_dims))

    def compute_decoder_input(self, z: Tensor) -> Tensor:
        """Return the layer next to the data, z_1: latents `[..., Z]` -> `[..., Z_1]`."""
        return z[..., : self.decoder_input_dim]

    def forward(self) -> Hierarchy:
        """Return p(z): batch shape `[]`, event shape `[Z]`."""
        return Hierarchy(self.layer_dims, torch.Size(), self._descend, descending=True)

    def _descend(self, choose: Choose) -> None:
        z = choose(len(self.networks), self.uppermost())
        for layer, network in reversed(list(enumerate(self.networks))):
            z = choose(layer, predict_gaussian(network, z))


class ResidualTopDown(Prior):
    """Layers of latent maps, each a diagonal Gaussian given all layers above it.

    A map of features starts from a learned constant and passes the layers from the uppermost to the lowest. At each
    layer it passes residual blocks, predicts the layer's Gaussian (initially N(0, I)) and adds a projection of the
    layer's latents. The decoder sees the features after the last layer, so every layer reaches the data by its own
    path (Sønderby et al. 2016, without their bottleneck; Child 2021, figure 3).

    Args:
        latent_dim: dimension of the latent, all layers together
        num_layers: number of layers, all of the same size; at least 1
        map_size: height and width of the maps; equal to the smallest map of a residual encoder and decoder
        width: channels of the features; at least 1
        num_blocks: number of residual blocks before each layer; at least 1

    Raises:
        UserError: a number is less than 1; the latent cannot be divided into that many maps of that size; in `bind`,
            the networks' smallest map has another size.
    """

    descending = True

    def __init__(
        self, latent_dim: int, num_layers: int = 6, map_size: int = 7, width: int = 128, num_blocks: int = 1
    ) -> None:
        super().__init__(latent_dim)
        check_range(self, at_least=1, num_layers=num_layers, map_size=map_size, width=width, num_blocks=num_blocks)
        if latent_dim % num_layers:
            raise UserError(
                f"`latent_dim` is {latent_dim}, which cannot be divided into {num_layers} equal layers of maps. Choose"
                f" a multiple of {num_layers * map_size**2}."
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

    def bind(self, parts: ModelParts) -> None:
        """Check that residual networks have maps of the prior's size; a reshape to another size would mix up pixels."""
        for network in (*parts.encoder.modules(), *parts.decoder.modules()):
            if isinstance(network, ResidualEncoder | ResidualDecoder) and network.map_size != self.map_size:
                raise UserError(
                    f"`ResidualTopDown.map_size` is {self.map_size}, and the smallest map of {type(network).__name__}"
                    f" is {network.map_size} x {network.map_size}. Set --model.prior.map_size={network.map_size}."
                )

    def compute_decoder_input(self, z: Tensor) -> Tensor:
        """Return the features after the last layer: latents `[..., Z]` -> `[..., decoder_input_dim]`."""
        layers = z.split(self.layer_dims, -1)
        return self._descend(lambda layer, conditional: layers[layer]).flatten(-3)

    def forward(self) -> Hierarchy:
        """Return p(z): batch shape `[]`, event shape `[Z]`."""
        return Hierarchy(self.layer_dims, torch.Size(), self._descend, descending=True)

    def _descend(self, choose: Choose) -> Tensor:
        """Return the features after the last layer, `[..., width, map_size, map_size]`."""
        features: Tensor = self.start
        for layer in reversed(range(len(self.layer_dims))):
            features = apply_to_maps(self.blocks[layer], features)
            parameters = promote_to_float32(apply_to_maps(self.heads[layer], features))
            z = choose(layer, build_gaussian(parameters.flatten(-3)))
            features = features + apply_to_maps(self.inlets[layer], self.latent_maps(z))
        return features


def _build_mixture(logits: Tensor, components: Distribution) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)
