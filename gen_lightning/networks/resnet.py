"""The residual networks of SNGAN for CIFAR-10 (Miyato et al. 2018, appendix B.4, table 4).

What the tables leave open is as in the authors' code: nearest neighbours, Glorot's uniform initialization, and pooling
by a sum. The discriminator comes without its spectral normalization, which `SpectralNorm` adds. The paper has other
tables for images larger than CIFAR-10's.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from gen_lightning.networks.sizes import map_size_and_stages


class ResNetGenerator(nn.Module):
    """Latents `[N, latent_dim]` -> images `[N, C, H, W]` in [0, 1].

    A map of 4 x 4 goes through three blocks that double it to 32 x 32, as in the paper; a map of 7 x 7 through two to
    28 x 28.

    Args:
        latent_dim: the dimension of the latent, 128 in the paper
        data_shape: `(C, H, W)` with H = W, 4 to 7 times a power of 2 and at least 16, such as 28 or 32
        width: channels of all maps

    Raises:
        UserError: the image size is not of that form.
    """

    def __init__(self, latent_dim: int, data_shape: Sequence[int], width: int = 256) -> None:
        super().__init__()
        map_size, num_stages = map_size_and_stages(data_shape, least_stages=2)
        self.layers = nn.Sequential(
            _initialized(nn.Linear(latent_dim, width * map_size**2)),
            nn.Unflatten(1, (width, map_size, map_size)),
            *(_upsampling_block(width) for _ in range(num_stages)),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _initialized(nn.Conv2d(width, data_shape[0], 3, padding=1)),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images `[N, C, H, W]` in [0, 1]."""
        return (self.layers(z) + 1) / 2


class ResNetEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`.

    Two blocks that halve the map, two that keep it, and a sum over the map. Nothing in it mixes examples.

    Args:
        data_shape: as for `ResNetGenerator`
        out_features: the number of outputs
        width: channels of all maps

    Raises:
        UserError: the image size is not of the form that `ResNetGenerator` takes.
    """

    def __init__(self, data_shape: Sequence[int], out_features: int, width: int = 128) -> None:
        super().__init__()
        map_size_and_stages(data_shape, least_stages=2)
        self.blocks = nn.Sequential(
            _first_block(data_shape[0], width),
            _downsampling_block(width),
            _block(width),
            _block(width),
            nn.ReLU(),
        )
        self.linear = _initialized(nn.Linear(width, out_features))

    def forward(self, images: Tensor) -> Tensor:
        """Features `[N, out_features]`."""
        return self.linear(self.blocks(images * 2 - 1).sum((2, 3)))


class ResNetDiscriminator(ResNetEncoder):
    """Images `[N, C, H, W]` in [0, 1] -> logits `[N]`.

    Args:
        data_shape: as for `ResNetGenerator`
        width: channels of all maps
    """

    def __init__(self, data_shape: Sequence[int], width: int = 128) -> None:
        super().__init__(data_shape, 1, width)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N]`."""
        return super().forward(images).squeeze(-1)


class _ResidualBlock(nn.Module):
    def __init__(self, residual: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


# On shortcuts the convolutions are of 1 x 1, which commute with resampling: they are where the map is smaller.


def _upsampling_block(width: int) -> nn.Module:
    residual = nn.Sequential(
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        _residual_convolution(width, width),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        _residual_convolution(width, width),
    )
    shortcut = nn.Sequential(_initialized(nn.Conv2d(width, width, 1)), nn.Upsample(scale_factor=2))
    return _ResidualBlock(residual, shortcut)


def _first_block(channels: int, width: int) -> nn.Module:
    # The authors' "optimized" block: no ReLU in front of the pixels.
    residual = nn.Sequential(
        _residual_convolution(channels, width), nn.ReLU(), _residual_convolution(width, width), nn.AvgPool2d(2)
    )
    return _ResidualBlock(residual, nn.Sequential(nn.AvgPool2d(2), _initialized(nn.Conv2d(channels, width, 1))))


def _downsampling_block(width: int) -> nn.Module:
    residual = nn.Sequential(_residual(width), nn.AvgPool2d(2))
    return _ResidualBlock(residual, nn.Sequential(nn.AvgPool2d(2), _initialized(nn.Conv2d(width, width, 1))))


def _block(width: int) -> nn.Module:
    return _ResidualBlock(_residual(width), nn.Identity())


def _residual(width: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), _residual_convolution(width, width), nn.ReLU(), _residual_convolution(width, width))


def _residual_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return _initialized(nn.Conv2d(inputs, outputs, 3, padding=1), gain=math.sqrt(2))


_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def _initialized(layer: _Layer, gain: float = 1.0) -> _Layer:
    nn.init.xavier_uniform_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
