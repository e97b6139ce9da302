"""The residual networks of SNGAN (Miyato et al. 2018, appendix B.4): tables 4 (CIFAR-10) and 5 (128 pixels).

By default all maps have the same number of channels, as in table 4. One number for each map gives the networks of table
5, which are for larger images. Details that the tables leave open follow the authors' code: nearest-neighbour
upsampling, Glorot's uniform initialization, sum pooling, and a last layer of the discriminator without a bias. The
discriminator has no spectral normalization; `SpectralNorm` adds it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from torch import Tensor, nn

from gen_lightning.networks.sizes import factor_image_size, repeat_per_stage


class ResNetGenerator(nn.Module):
    """Latents `[N, latent_dim]` -> images `[N, C, H, W]` in [0, 1].

    Each block doubles the size of the map: three blocks from 4 x 4 to 32 x 32, as in the paper, or two blocks from
    7 x 7 to 28 x 28.

    Args:
        latent_dim: dimension of the latent; 128 in the paper
        data_shape: shape of one image, `(C, H, W)`, with H = W equal to 4 to 7 times a power of 2 and at least 16, such
            as 28, 32 or 64
        width: number of channels; at least 1. One number for all maps, or one for each map size, starting with the
            smallest map: 1024, 1024, 512, 256, 128, 64 in table 5.

    Raises:
        UserError: the image size does not have this form, or width is out of range or does not have one number for each
            map size.
    """

    output_range = (0.0, 1.0)

    def __init__(self, latent_dim: int, data_shape: Sequence[int], width: int | Sequence[int] = 256) -> None:
        super().__init__()
        map_size, num_stages = factor_image_size(data_shape, min_stages=2)
        widths = repeat_per_stage(self, "width", width, num_stages + 1)
        self.layers = nn.Sequential(
            _initialize(nn.Linear(latent_dim, widths[0] * map_size**2)),
            nn.Unflatten(1, (widths[0], map_size, map_size)),
            *(_build_upsampling_block(inputs, outputs) for inputs, outputs in pairwise(widths)),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
            _initialize(nn.Conv2d(widths[-1], data_shape[0], 3, padding=1)),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return images `[N, C, H, W]` in [0, 1]."""
        return (self.layers(z) + 1) / 2


class ResNetEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`.

    In table 4, two blocks halve the size of the map and two blocks keep it. In table 5, blocks halve the size of the
    map down to 4 to 7, and one block keeps it. The result is summed over the map. The features of an example do not
    depend on other examples.

    Args:
        data_shape: shape of one image, as for `ResNetGenerator`
        out_features: number of outputs
        width: number of channels; at least 1. One number for the four blocks of table 4, or one for each block of table
            5, starting with the last block: 1024, 1024, 512, 256, 128, 64.
        bias: whether the last layer has a bias

    Raises:
        UserError: the image size does not have the form that `ResNetGenerator` supports, or width is out of range or
            does not have one number for each block.
    """

    def __init__(
        self, data_shape: Sequence[int], out_features: int, width: int | Sequence[int] = 128, bias: bool = True
    ) -> None:
        super().__init__()
        _, num_stages = factor_image_size(data_shape, min_stages=2)
        num_halvings, num_blocks = (2, 4) if isinstance(width, int) else (num_stages, num_stages + 1)
        widths = repeat_per_stage(self, "width", width, num_blocks)[::-1]
        self.blocks = nn.Sequential(
            _build_first_block(data_shape[0], widths[0]),
            *(
                _build_block(inputs, outputs, halves=block < num_halvings)
                for block, (inputs, outputs) in enumerate(pairwise(widths), 1)
            ),
            nn.ReLU(),
        )
        self.linear = _initialize(nn.Linear(widths[-1], out_features, bias=bias))

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.linear(self.blocks(images * 2 - 1).sum((2, 3)))


class ResNetDiscriminator(ResNetEncoder):
    """Images `[N, C, H, W]` in [0, 1] -> logits `[N]`.

    Args:
        data_shape: shape of one image, as for `ResNetGenerator`
        width: number of channels, as for `ResNetEncoder`
    """

    def __init__(self, data_shape: Sequence[int], width: int | Sequence[int] = 128) -> None:
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


def _build_upsampling_block(inputs: int, outputs: int) -> nn.Module:
    residual = nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        _build_convolution(inputs, outputs),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        _build_convolution(outputs, outputs),
    )
    shortcut = nn.Sequential(_initialize(nn.Conv2d(inputs, outputs, 1)), nn.Upsample(scale_factor=2))
    return _ResidualBlock(residual, shortcut)


def _build_first_block(channels: int, width: int) -> nn.Module:
    # The authors' "optimized" block: no ReLU before the first convolution.
    residual = nn.Sequential(
        _build_convolution(channels, width), nn.ReLU(), _build_convolution(width, width), nn.AvgPool2d(2)
    )
    return _ResidualBlock(residual, nn.Sequential(nn.AvgPool2d(2), _initialize(nn.Conv2d(channels, width, 1))))


def _build_block(inputs: int, outputs: int, halves: bool) -> nn.Module:
    residual = nn.Sequential(
        nn.ReLU(), _build_convolution(inputs, inputs), nn.ReLU(), _build_convolution(inputs, outputs)
    )
    # As in the authors' code, the shortcut has a convolution if the block changes the size or the number of channels.
    if not halves and inputs == outputs:
        return _ResidualBlock(residual, nn.Identity())
    shortcut = _initialize(nn.Conv2d(inputs, outputs, 1))
    if not halves:
        return _ResidualBlock(residual, shortcut)
    return _ResidualBlock(nn.Sequential(residual, nn.AvgPool2d(2)), nn.Sequential(nn.AvgPool2d(2), shortcut))


def _build_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return _initialize(nn.Conv2d(inputs, outputs, 3, padding=1), gain=math.sqrt(2))


_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


def _initialize(layer: _Layer, gain: float = 1.0) -> _Layer:
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
