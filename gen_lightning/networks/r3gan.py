"""R3GAN's residual networks without normalization (Huang et al. 2024, "The GAN is dead; long live the GAN!", config E).

A stage is a map size with its blocks; stages double the map, from 4 x 4 (to 32) or 7 x 7 (to 28). The discriminator is
the generator's mirror image. What the paper leaves open is as in the authors' code, github.com/brownvc/R3GAN, whose
preset for CIFAR-10 is the default.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.errors import UserError
from gen_lightning.networks.sizes import map_size_and_stages

_NEGATIVE_SLOPE = 0.2


class R3GANGenerator(nn.Module):
    """Latents `[N, latent_dim]` -> images `[N, C, H, W]`, in [0, 1] when they are looked at.

    Nothing bounds the authors' images, whose excess is cut off when they are written. So is it here in evaluation mode;
    in training mode the discriminator sees, and corrects, the excess.

    Args:
        latent_dim: the dimension of the latent, 64 in the paper
        data_shape: `(C, H, W)` with H = W, 4 to 7 times a power of 2, such as 28, 32 or 64
        widths: channels of the maps; this and the next two are one number for all stages, or one for each, beginning
            with the smallest map's
        blocks: residual blocks in a stage
        cardinalities: groups of the 3 x 3 convolutions in a stage's blocks
        expansion: channels inside a block as a multiple of those outside

    Raises:
        UserError: the image size is not of that form, or the numbers are not 1 or more, not as many as the stages, or
            a cardinality does not divide the channels inside its blocks.
    """

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
        map_size, widths, stages = _stages(data_shape, widths, blocks, cardinalities, expansion)
        layers: list[nn.Module] = [_GenerativeBasis(latent_dim, widths[0], map_size), stages[0]]
        for (inputs, outputs), stage in zip(pairwise(widths), stages[1:], strict=True):
            layers += [_transition(inputs, outputs), Upsampling(), stage]
        layers.append(_initialized(nn.Conv2d(widths[-1], data_shape[0], 1, bias=False)))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Images `[N, C, H, W]`, in evaluation mode in [0, 1]."""
        images = (self.layers(z) + 1) / 2
        return images if self.training else images.clamp(0, 1)


class R3GANEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`; nothing in it mixes examples.

    Args:
        data_shape: as for `R3GANGenerator`
        out_features: the number of outputs
        widths: as for `R3GANGenerator`, beginning with the smallest map's too
        blocks: likewise
        cardinalities: likewise
        expansion: likewise

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
        map_size, widths, stages = _stages(data_shape, widths, blocks, cardinalities, expansion)
        layers: list[nn.Module] = [_initialized(nn.Conv2d(data_shape[0], widths[-1], 1, bias=False)), stages[-1]]
        for (inputs, outputs), stage in zip(pairwise(widths[::-1]), stages[-2::-1], strict=True):
            layers += [Downsampling(), _transition(inputs, outputs), stage]
        # The authors' discriminative basis: each channel's product with a map of its own.
        layers += [
            _initialized(nn.Conv2d(widths[0], widths[0], map_size, groups=widths[0], bias=False)),
            nn.Flatten(),
            _initialized(nn.Linear(widths[0], out_features, bias=False)),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Features `[N, out_features]`."""
        return self.layers(images * 2 - 1)


class R3GANDiscriminator(R3GANEncoder):
    """Images `[N, C, H, W]` in [0, 1] -> logits `[N]`.

    Args:
        data_shape: as for `R3GANGenerator`
        widths: as for `R3GANGenerator`, beginning with the smallest map's too
        blocks: likewise
        cardinalities: likewise
        expansion: likewise
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
        """Logits `[N]`."""
        return super().forward(images).squeeze(-1)


class InvertedBottleneck(nn.Module):
    """An inverted bottleneck of 1 x 1, grouped 3 x 3 and 1 x 1 convolutions, which is the identity at first.

    Fixup's initialization (Zhang et al. 2019) for networks without normalization: the last convolution is 0, and the
    variances of the others' outputs multiply to 1 / depth.

    Args:
        width: channels outside
        inner_width: channels inside, a multiple of cardinality
        cardinality: groups of the 3 x 3 convolution
        depth: the number of blocks in the network
    """

    def __init__(self, width: int, inner_width: int, cardinality: int, depth: int) -> None:
        super().__init__()
        gain = nn.init.calculate_gain("leaky_relu", _NEGATIVE_SLOPE) * depth ** (-1 / 4)
        middle = nn.Conv2d(inner_width, inner_width, 3, padding=1, groups=cardinality, bias=False)
        self.layers = nn.Sequential(
            _initialized(nn.Conv2d(width, inner_width, 1, bias=False), gain),
            BiasedLeakyReLU(inner_width),
            _initialized(middle, gain),
            BiasedLeakyReLU(inner_width),
            _initialized(nn.Conv2d(inner_width, width, 1, bias=False), gain=0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, width, H, W]` to maps of the same shape."""
        return x + self.layers(x)


class BiasedLeakyReLU(nn.Module):
    """A leaky ReLU of maps `[N, channels, H, W]` plus a bias for each channel, 0 at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the same shape."""
        # Under autocast a float32 bias would make the large maps inside a block float32.
        return F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], _NEGATIVE_SLOPE)


class _Resampling(nn.Module):
    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Bilinear interpolation: [1, 2, 1] at half pixels, which is [1, 2, 1] convolved with [1, 1].
        weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", weights.outer(weights)[None, None], persistent=False)


class Upsampling(_Resampling):
    """Doubles maps `[N, C, H, W]` by bilinear interpolation, with zeros around the map."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, C, 2 H, 2 W]`."""
        maps = F.conv_transpose2d(x.flatten(0, 1)[:, None], 4 * self.kernel, stride=2, padding=1)
        return maps.unflatten(0, x.shape[:2]).squeeze(2)


class Downsampling(_Resampling):
    """Halves maps `[N, C, H, W]` by the transpose of `Upsampling`, divided by 4."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, C, H / 2, W / 2]`."""
        maps = F.conv2d(x.flatten(0, 1)[:, None], self.kernel, stride=2, padding=1)
        return maps.unflatten(0, x.shape[:2]).squeeze(2)


class _GenerativeBasis(nn.Module):
    """Latents `[N, latent_dim]` -> a learned map for each channel, times what a linear layer says."""

    def __init__(self, latent_dim: int, channels: int, map_size: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(channels, map_size, map_size))
        self.linear = _initialized(nn.Linear(latent_dim, channels, bias=False))

    def forward(self, z: Tensor) -> Tensor:
        return self.basis * self.linear(z)[..., None, None]


def _stages(
    data_shape: Sequence[int],
    widths: int | Sequence[int],
    blocks: int | Sequence[int],
    cardinalities: int | Sequence[int],
    expansion: int,
) -> tuple[int, list[int], list[nn.Sequential]]:
    # The size of the smallest map, the stages' widths, and their blocks, beginning with the smallest map's.
    if expansion < 1:
        raise UserError(f"R3GAN's expansion is {expansion}: choose 1 or more.")
    map_size, num_doublings = map_size_and_stages(data_shape)
    widths, blocks, cardinalities = (
        _per_stage(name, value, num_doublings + 1)
        for name, value in (("widths", widths), ("blocks", blocks), ("cardinalities", cardinalities))
    )
    depth = sum(blocks)
    stages = []
    for width, num_blocks, cardinality in zip(widths, blocks, cardinalities, strict=True):
        inner_width = width * expansion
        if inner_width % cardinality:
            raise UserError(
                f"R3GAN's cardinalities have {cardinality}, which does not divide the {inner_width} channels inside a"
                f" block (widths times expansion): choose a divisor, such as {math.gcd(inner_width, cardinality)}."
            )
        stage = [InvertedBottleneck(width, inner_width, cardinality, depth) for _ in range(num_blocks)]
        stages.append(nn.Sequential(*stage))
    return map_size, widths, stages


def _per_stage(name: str, value: int | Sequence[int], num_stages: int) -> list[int]:
    values = [value] * num_stages if isinstance(value, int) else list(value)
    if len(values) != num_stages or min(values) < 1:
        raise UserError(
            f"R3GAN's {name} are {value}: choose one number of 1 or more for all stages, or {num_stages}, one for each"
            " map size."
        )
    return values


def _transition(inputs: int, outputs: int) -> nn.Module:
    if inputs == outputs:
        return nn.Identity()
    return _initialized(nn.Conv2d(inputs, outputs, 1, bias=False))


_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def _initialized(layer: _Layer, gain: float = 1.0) -> _Layer:
    """Draws the weights so that unit variance in gives a variance of gain^2 out (He et al. 2015, equation 10)."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    return layer
