"""Residual networks without normalization, for VAEs whose latents are maps.

As in Child 2021, every block is initialized as the identity. The number of channels halves when the size of the map
doubles, so that all resolutions have the same cost.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.networks.sizes import factor_image_size


class ResidualBlock(nn.Module):
    """Maps `[N, C, H, W]` plus a residual, initially 0: two 3 x 3 convolutions, each preceded by a SiLU.

    Args:
        width: number of channels, C
        convolution: class of the convolutions; nn.Conv1d for series `[N, C, T]`
    """

    def __init__(self, width: int, convolution: type[nn.Conv1d | nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.SiLU(),
            convolution(width, width, 3, padding=1),
            nn.SiLU(),
            zero_init(convolution(width, width, 3, padding=1)),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        return maps + self.residual(maps)


class ResidualEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`, a flattened map of size m = 4 to 7.

    Args:
        data_shape: shape of one image, `(C, H, W)`, with H = W equal to m = 4, 5, 6 or 7 times a power of 2, such as
            28, 32 or 64
        out_features: number of outputs; a multiple of m^2
        width: number of channels of the smallest map; a multiple of this power of 2
        num_blocks: number of residual blocks at each resolution; at least 1

    Raises:
        UserError: the image size, out_features or width does not have this form, or num_blocks is less than 1.
    """

    def __init__(self, data_shape: Sequence[int], out_features: int, width: int = 128, num_blocks: int = 3) -> None:
        super().__init__()
        self.map_size, num_stages = factor_image_size(data_shape)
        check_range(self, at_least=1, num_blocks=num_blocks)
        _check_width(width, num_stages)
        out_channels = count_channels(out_features, self.map_size)
        channels = width // 2**num_stages
        layers: list[nn.Module] = [
            nn.Conv2d(data_shape[0], channels, 3, padding=1),
            *_make_blocks(channels, num_blocks),
        ]
        for _ in range(num_stages):
            layers += [
                nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
                *_make_blocks(2 * channels, num_blocks),
            ]
            channels *= 2
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, out_channels, 1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.layers(images * 2 - 1)


class ResidualDecoder(nn.Module):
    """Latents `[N, latent_dim]`, a flattened map of size m = 4 to 7 -> unbounded outputs `[N, C, H, W]`.

    Args:
        latent_dim: dimension of the latent; a multiple of m^2
        data_shape: shape of one image, as for `ResidualEncoder`
        width: number of channels of the smallest map, as for `ResidualEncoder`
        num_blocks: number of residual blocks at each resolution; at least 1

    Raises:
        UserError: the image size, latent_dim or width does not have this form, or num_blocks is less than 1.
    """

    def __init__(self, latent_dim: int, data_shape: Sequence[int], width: int = 128, num_blocks: int = 3) -> None:
        super().__init__()
        self.map_size, num_stages = factor_image_size(data_shape)
        check_range(self, at_least=1, num_blocks=num_blocks)
        _check_width(width, num_stages)
        in_channels = count_channels(latent_dim, self.map_size)
        layers: list[nn.Module] = [
            nn.Unflatten(1, (in_channels, self.map_size, self.map_size)),
            nn.Conv2d(in_channels, width, 1),
            *_make_blocks(width, num_blocks),
        ]
        channels = width
        for _ in range(num_stages):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels // 2, 3, padding=1)]
            channels //= 2
            layers += _make_blocks(channels, num_blocks)
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, data_shape[0], 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Return outputs `[N, C, H, W]`."""
        return self.layers(z)


def zero_init(layer: nn.Module) -> nn.Module:
    """Set a layer's weight and bias to 0, and return the layer."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def apply_to_maps(network: nn.Module, maps: Tensor) -> Tensor:
    """Return a convolutional network's outputs for maps `[..., C, H, W]` with any number of leading dimensions."""
    # In the channels_last memory format, convolutions take about half the time on CPUs.
    outputs = network(maps.reshape(-1, *maps.shape[-3:]).contiguous(memory_format=torch.channels_last))
    return outputs.reshape(*maps.shape[:-3], *outputs.shape[1:])


def count_channels(size: int, map_size: int) -> int:
    """Return the number of channels of a map with `map_size` squared pixels and `size` values.

    Raises:
        UserError: size is not a positive multiple of the number of pixels.
    """
    channels, rest = divmod(size, map_size**2)
    if rest or not channels:
        raise UserError(
            f"{size} values do not make a map of {map_size} x {map_size}. Choose a multiple of {map_size**2} for each"
            " layer of the latent."
        )
    return channels


def _make_blocks(width: int, num_blocks: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(num_blocks)]


def _check_width(width: int, num_stages: int) -> None:
    if width < 1 or width % 2**num_stages:
        raise UserError(
            f"The width is {width}, and is halved {num_stages} times. Choose a multiple of {2**num_stages}."
        )
