"""R3GAN's residual networks without normalization (Huang et al. 2024, "The GAN is dead; long live the GAN!", config E).

A stage consists of the blocks that work on maps of one size. The generator's stages double the size, from 4 x 4 to
32 x 32 or from 7 x 7 to 28 x 28, and the discriminator's stages halve it. Details that the paper leaves open follow the
authors' code, github.com/brownvc/R3GAN. Its preset for CIFAR-10 is the default.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.networks.sizes import factor_image_size, repeat_per_stage

_NEGATIVE_SLOPE = 0.2


class R3GANGenerator(nn.Module):
    """Latents `[N, latent_dim]` -> images `[N, C, H, W]`, clipped to [0, 1] in evaluation mode.

    In training mode the images are unbounded, so that the discriminator corrects values outside [0, 1]. The authors'
    code also clips only the images that it saves.

    Args:
        latent_dim: dimension of the latent; 64 in the paper
        data_shape: shape of one image, `(C, H, W)`, with H = W equal to 4 to 7 times a power of 2, such as 28, 32 or 64
        widths: number of channels of the maps; at least 1. One number for all stages, or one for each stage, starting
            with the smallest map.
        blocks: number of residual blocks in a stage; at least 1. One number or one for each stage, as for widths.
        cardinalities: number of groups of the 3 x 3 convolutions in a stage; at least 1. One number or one for each
            stage, as for widths. Each must divide the number of channels inside its blocks.
        expansion: number of channels inside a block, as a multiple of the number outside; at least 1

    Raises:
        UserError: the image size does not have this form, an argument is out of range or does not have one number for
            each stage, or a cardinality does not divide the channels inside its blocks.
    """

    output_range = (0.0, 1.0)

    def __init__(
        self,
        latent_dim: int,
        data_shape: Sequence[int],
        widths: int | Sequence[int] = 768,
        blocks: int | Sequence[int] = 2,
        cardinalities: int | Sequence[int] = 96,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        map_size, widths, stages = _build_stages(self, data_shape, widths, blocks, cardinalities, expansion)
        layers: list[nn.Module] = [_GenerativeBasis(latent_dim, widths[0], map_size), stages[0]]
        for (inputs, outputs), stage in zip(pairwise(widths), stages[1:], strict=True):
            layers += [_build_transition(inputs, outputs), Upsampling(), stage]
        layers.append(_initialize(nn.Conv2d(widths[-1], data_shape[0], 1, bias=False)))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Return images `[N, C, H, W]`, in [0, 1] in evaluation mode."""
        images = (self.layers(z) + 1) / 2
        return images if self.training else images.clamp(0, 1)


class R3GANEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`, which do not depend on other examples.

    Args:
        data_shape: shape of one image, as for `R3GANGenerator`
        out_features: number of outputs
        widths: number of channels, as for `R3GANGenerator`, also starting with the smallest map
        blocks: number of residual blocks, as for `R3GANGenerator`
        cardinalities: number of groups, as for `R3GANGenerator`
        expansion: expansion of the blocks, as for `R3GANGenerator`

    Raises:
        UserError: as for `R3GANGenerator`.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int,
        widths: int | Sequence[int] = 768,
        blocks: int | Sequence[int] = 2,
        cardinalities: int | Sequence[int] = 96,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        map_size, widths, stages = _build_stages(self, data_shape, widths, blocks, cardinalities, expansion)
        layers: list[nn.Module] = [_initialize(nn.Conv2d(data_shape[0], widths[-1], 1, bias=False)), stages[-1]]
        for (inputs, outputs), stage in zip(pairwise(widths[::-1]), stages[-2::-1], strict=True):
            layers += [Downsampling(), _build_transition(inputs, outputs), stage]
        # The discriminative basis of the authors' code: the inner product of each channel with a learned map.
        layers += [
            _initialize(nn.Conv2d(widths[0], widths[0], map_size, groups=widths[0], bias=False)),
            nn.Flatten(),
            _initialize(nn.Linear(widths[0], out_features, bias=False)),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.layers(images * 2 - 1)


class R3GANDiscriminator(R3GANEncoder):
    """Images `[N, C, H, W]` in [0, 1] -> logits `[N]`.

    Args:
        data_shape: shape of one image, as for `R3GANGenerator`
        widths: number of channels, as for `R3GANGenerator`, also starting with the smallest map
        blocks: number of residual blocks, as for `R3GANGenerator`
        cardinalities: number of groups, as for `R3GANGenerator`
        expansion: expansion of the blocks, as for `R3GANGenerator`
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        widths: int | Sequence[int] = 768,
        blocks: int | Sequence[int] = 2,
        cardinalities: int | Sequence[int] = 96,
        expansion: int = 2,
    ) -> None:
        super().__init__(data_shape, 1, widths, blocks, cardinalities, expansion)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[N]`."""
        return super().forward(images).squeeze(-1)


class InvertedBottleneck(nn.Module):
    """An inverted bottleneck of 1 x 1, grouped 3 x 3 and 1 x 1 convolutions, initialized as the identity.

    It has Fixup's initialization (Zhang et al. 2019) for networks without normalization: the last convolution is 0, and
    the output variances of the other two multiply to 1 / depth.

    Args:
        width: number of channels outside
        inner_width: number of channels inside; a multiple of cardinality
        cardinality: number of groups of the 3 x 3 convolution
        depth: number of blocks in the network
    """

    def __init__(self, width: int, inner_width: int, cardinality: int, depth: int) -> None:
        super().__init__()
        gain = nn.init.calculate_gain("leaky_relu", _NEGATIVE_SLOPE) * depth ** (-1 / 4)
        middle = nn.Conv2d(inner_width, inner_width, 3, padding=1, groups=cardinality, bias=False)
        self.layers = nn.Sequential(
            _initialize(nn.Conv2d(width, inner_width, 1, bias=False), gain),
            BiasedLeakyReLU(inner_width),
            _initialize(middle, gain),
            BiasedLeakyReLU(inner_width),
            _initialize(nn.Conv2d(inner_width, width, 1, bias=False), gain=0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[N, width, H, W]` from maps of the same shape."""
        return x + self.layers(x)


class BiasedLeakyReLU(nn.Module):
    """A leaky ReLU of maps `[N, channels, H, W]` plus a per-channel bias, initially 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of the same shape."""
        # Under autocast a float32 bias would promote the large maps inside a block to float32.
        return F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], _NEGATIVE_SLOPE)


class _Resampling(nn.Module):
    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        # The kernel of bilinear interpolation at half pixels: [1, 2, 1] convolved with [1, 1].
        weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", weights.outer(weights)[None, None], persistent=False)


class Upsampling(_Resampling):
    """Upsampling of maps `[N, C, H, W]` to twice their size, by bilinear interpolation with zero padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[N, C, 2 H, 2 W]`."""
        maps = F.conv_transpose2d(x.flatten(0, 1)[:, None], 4 * self.kernel, stride=2, padding=1)
        return maps.unflatten(0, x.shape[:2]).squeeze(2)


class Downsampling(_Resampling):
    """Downsampling of maps `[N, C, H, W]` to half their size, by the transpose of `Upsampling` divided by 4."""

    def forward(self, x: Tensor) -> Tensor:
        """Return maps `[N, C, H / 2, W / 2]`."""
        maps = F.conv2d(x.flatten(0, 1)[:, None], self.kernel, stride=2, padding=1)
        return maps.unflatten(0, x.shape[:2]).squeeze(2)


class _GenerativeBasis(nn.Module):
    """Latents `[N, latent_dim]` -> learned maps, each multiplied by a linear function of the latent."""

    def __init__(self, latent_dim: int, channels: int, map_size: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(channels, map_size, map_size))
        self.linear = _initialize(nn.Linear(latent_dim, channels, bias=False))

    def forward(self, z: Tensor) -> Tensor:
        return self.basis * self.linear(z)[..., None, None]


def _build_stages(
    network: nn.Module,
    data_shape: Sequence[int],
    widths: int | Sequence[int],
    blocks: int | Sequence[int],
    cardinalities: int | Sequence[int],
    expansion: int,
) -> tuple[int, list[int], list[nn.Sequential]]:
    """Return the size of the smallest map, then the widths and the blocks of the stages, starting with this map."""
    check_range(network, at_least=1, expansion=expansion)
    map_size, num_doublings = factor_image_size(data_shape)
    widths, blocks, cardinalities = (
        repeat_per_stage(network, name, value, num_doublings + 1)
        for name, value in (("widths", widths), ("blocks", blocks), ("cardinalities", cardinalities))
    )
    depth = sum(blocks)
    stages = []
    for width, num_blocks, cardinality in zip(widths, blocks, cardinalities, strict=True):
        inner_width = width * expansion
        if inner_width % cardinality:
            raise UserError(
                f"`{type(network).__name__}.cardinalities` contains {cardinality}, which does not divide the"
                f" {inner_width} channels inside a block (widths times expansion). Choose a divisor, such as"
                f" {math.gcd(inner_width, cardinality)}."
            )
        stage = [InvertedBottleneck(width, inner_width, cardinality, depth) for _ in range(num_blocks)]
        stages.append(nn.Sequential(*stage))
    return map_size, widths, stages


def _build_transition(inputs: int, outputs: int) -> nn.Module:
    if inputs == outputs:
        return nn.Identity()
    return _initialize(nn.Conv2d(inputs, outputs, 1, bias=False))


_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def _initialize(layer: _Layer, gain: float = 1.0) -> _Layer:
    """Draw weights that map inputs of variance 1 to outputs of variance gain^2 (He et al. 2015, equation 10)."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    return layer
