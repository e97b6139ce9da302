"""The residual networks of SNGAN for CIFAR-10 (Miyato et al. 2018, appendix B.4, table 4).

Details that the tables leave open follow the authors' code: nearest-neighbour upsampling, Glorot's uniform
initialization, sum pooling, and a last layer of the discriminator without a bias. The discriminator has no spectral
normalization; `SpectralNorm` adds it. The paper has other tables for images larger than those of CIFAR-10.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from gen_lightning.networks.sizes import factor_image_size


class ResNetGenerator(nn.Module):
    """Latents `[N, latent_dim]` -> images `[N, C, H, W]` in [0, 1].

    Each block doubles the size of the map: three blocks from 4 x 4 to 32 x 32, as in the paper, or two blocks from
    7 x 7 to 28 x 28.

    Args:
        latent_dim: dimension of the latent; 128 in the paper
        data_shape: shape of one image, `(C, H, W)`, with H = W equal to 4 to 7 times a power of 2 and at least 16, such
            as 28 or 32
        width: number of channels of all maps

    Raises:
        UserError: the image size does not have this form.
    """

    output_range = (0.0, 1.0)

    def __init__(self, latent_dim: int, data_shape: Sequence[int], width: int = 256) -> None:
        super().__init__()
        map_size, num_stages = factor_image_size(data_shape, min_stages=2)
        self.layers = nn.Sequential(
            _initialize(nn.Linear(latent_dim, width * map_size**2)),
            nn.Unflatten(1, (width, map_size, map_size)),
            *(_build_upsampling_block(width) for _ in range(num_stages)),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _initialize(nn.Conv2d(width, data_shape[0], 3, padding=1)),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return images `[N, C, H, W]` in [0, 1]."""
        return (self.layers(z) + 1) / 2


class ResNetEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`.

    Two blocks halve the size of the map, two blocks keep it, and the result is summed over the map. The features of an
    example do not depend on other examples.

    Args:
        data_shape: shape of one image, as for `ResNetGenerator`
        out_features: number of outputs
        width: number of channels of all maps
        bias: whether the last layer has a bias

    Raises:
        UserError: the image size does not have the form that `ResNetGenerator` supports.
    """

    def __init__(self, data_shape: Sequence[int], out_features: int, width: int = 128, bias: bool = True) -> None:
        super().__init__()
        factor_image_size(data_shape, min_stages=2)
        self.blocks = nn.Sequential(
            _build_first_block(data_shape[0], width),
            _build_downsampling_block(width),
            _build_block(width),
            _build_block(width),
            nn.ReLU(),
        )
        self.linear = _initialize(nn.Linear(width, out_features, bias=bias))

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.linear(self.blocks(images * 2 - 1).sum((2, 3)))


class ResNetDiscriminator(ResNetEncoder):
    """Images `[N, C, H, W]` in [0, 1] -> logits `[N]`.

    Args:
        data_shape: shape of one image, as for `ResNetGenerator`
        width: number of channels of all maps
    """

    def __init__(self, data_shape: Sequence[int], width: int = 128) -> None:
        super().__init__(data_shape, 1, width, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[N]`."""
        return super().forward(images).squeeze(-1)


class _ResidualBlock(nn.Module):
    def __init__(self, residual: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


# The 1 x 1 convolutions of the shortcuts commute with resampling, so they run on the smaller of the two maps.


def _build_upsampling_block(width: int) -> nn.Module:
    residual = nn.Sequential(
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        _build_convolution(width, width),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        _build_convolution(width, width),
    )
    shortcut = nn.Sequential(_initialize(nn.Conv2d(width, width, 1)), nn.Upsample(scale_factor=2))
    return _ResidualBlock(residual, shortcut)


def _build_first_block(channels: int, width: int) -> nn.Module:
    # The authors' "optimized" block: no ReLU before the first convolution.
    residual = nn.Sequential(
        _build_convolution(channels, width), nn.ReLU(), _build_convolution(width, width), nn.AvgPool2d(2)
    )
    return _ResidualBlock(residual, nn.Sequential(nn.AvgPool2d(2), _initialize(nn.Conv2d(channels, width, 1))))


def _build_downsampling_block(width: int) -> nn.Module:
    residual = nn.Sequential(_build_residual(width), nn.AvgPool2d(2))
    return _ResidualBlock(residual, nn.Sequential(nn.AvgPool2d(2), _initialize(nn.Conv2d(width, width, 1))))


def _build_block(width: int) -> nn.Module:
    return _ResidualBlock(_build_residual(width), nn.Identity())


def _build_residual(width: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), _build_convolution(width, width), nn.ReLU(), _build_convolution(width, width))


def _build_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return _initialize(nn.Conv2d(inputs, outputs, 3, padding=1), gain=math.sqrt(2))


_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def _initialize(layer: _Layer, gain: float = 1.0) -> _Layer:
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
