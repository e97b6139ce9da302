"""Residual networks without normalization, for VAEs whose latents are maps.

As in Child 2021, every block starts as the identity. Channels halve where the size of the map doubles, so that each
resolution costs the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gen_lightning.errors import UserError
from gen_lightning.networks.sizes import check_sizes, map_size_and_stages


class ResidualBlock(nn.Module):
    """Maps `[N, C, H, W]` and a function of them, at first 0: two 3 x 3 convolutions, each behind a SiLU.

    Args:
        width: channels, C
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            zero_init(nn.Conv2d(width, width, 3, padding=1)),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `[N, C, H, W]`."""
        return maps + self.residual(maps)


class ResidualEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`, which are a map of 4 x 4 to 7 x 7.

    Args:
        data_shape: `(C, H, W)` with H = W, a small number (4 to 7) times a power of 2, such as 28, 32 or 64
        out_features: the number of outputs, a multiple of that number squared
        width: channels of the smallest map
        num_blocks: residual blocks at each resolution

    Raises:
        UserError: the image size, the number of outputs, or the width is not of that form; num_blocks is less than 1.
    """

    def __init__(self, data_shape: Sequence[int], out_features: int, width: int = 128, num_blocks: int = 3) -> None:
        super().__init__()
        self.map_size, num_stages = map_size_and_stages(data_shape)
        _check_width(width, num_stages)
        check_sizes(self, num_blocks=num_blocks)
        out_channels = count_channels(out_features, self.map_size)
        channels = width // 2**num_stages
        layers: list[nn.Module] = [nn.Conv2d(data_shape[0], channels, 3, padding=1), *_blocks(channels, num_blocks)]
        for _ in range(num_stages):
            layers += [nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1), *_blocks(2 * channels, num_blocks)]
            channels *= 2
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, out_channels, 1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """Features `[N, out_features]`."""
        return self.layers(images * 2 - 1)


class ResidualDecoder(nn.Module):
    """Latents `[N, latent_dim]`, which are a map of 4 x 4 to 7 x 7 -> unbounded outputs `[N, C, H, W]`.

    Args:
        latent_dim: the dimension of the latent, a multiple of the smallest map's number of pixels
        data_shape: as for `ResidualEncoder`
        width: channels of the smallest map
        num_blocks: residual blocks at each resolution

    Raises:
        UserError: the image size, the dimension of the latent, or the width is not of that form; num_blocks is less
            than 1.
    """

    def __init__(self, latent_dim: int, data_shape: Sequence[int], width: int = 128, num_blocks: int = 3) -> None:
        super().__init__()
        self.map_size, num_stages = map_size_and_stages(data_shape)
        _check_width(width, num_stages)
        check_sizes(self, num_blocks=num_blocks)
        in_channels = count_channels(latent_dim, self.map_size)
        layers: list[nn.Module] = [
            nn.Unflatten(1, (in_channels, self.map_size, self.map_size)),
            nn.Conv2d(in_channels, width, 1),
            *_blocks(width, num_blocks),
        ]
        channels = width
        for _ in range(num_stages):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels // 2, 3, padding=1)]
            channels //= 2
            layers += _blocks(channels, num_blocks)
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, data_shape[0], 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Outputs `[N, C, H, W]`."""
        return self.layers(z)


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with a weight and a bias of 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def apply_to_maps(network: nn.Module, maps: Tensor) -> Tensor:
    """A convolutional network's outputs for maps `[..., C, H, W]`, with any leading dimensions or none."""
    # On CPUs its convolutions take about half the time where channels lie side by side.
    outputs = network(maps.reshape(-1, *maps.shape[-3:]).contiguous(memory_format=torch.channels_last))
    return outputs.reshape(*maps.shape[:-3], *outputs.shape[1:])


def count_channels(size: int, map_size: int) -> int:
    """The channels of a map of `map_size` squared pixels that has `size` values.

    Raises:
        UserError: there is no such number of channels.
    """
    channels, rest = divmod(size, map_size**2)
    if rest or not channels:
        raise UserError(
            f"{size} values are no map of {map_size} x {map_size}: choose a multiple of {map_size**2} for each layer of"
            " the latent."
        )
    return channels


def _blocks(width: int, num_blocks: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(num_blocks)]


def _check_width(width: int, num_stages: int) -> None:
    if width < 1 or width % 2**num_stages:
        raise UserError(
            f"The width is {width}, and is halved {num_stages} times: choose a multiple of {2**num_stages}."
        )
