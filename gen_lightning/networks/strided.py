"""Residual networks whose largest map has half the image's size, for VAEs whose latents are vectors.

The encoder downsamples the image to a map of size 4 to 7 by strided 4 x 4 convolutions, as in DCGAN (Radford et al.
2016). The decoder upsamples by pixel shuffling (Shi et al. 2016), which is faster on CPUs than transposed convolutions.
Residual blocks at each size (Child 2021) replace normalization. One hidden layer connects the smallest map with the
vectors.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from gen_lightning.checks import check_range
from gen_lightning.networks.residual import ResidualBlock, apply_to_maps
from gen_lightning.networks.sizes import compute_widths, factor_image_size

# Wider maps would make the networks of large images slow: without it, 2,048 channels for width 64 at 256 pixels.
_MAX_WIDTH = 512


class StridedEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`.

    Args:
        data_shape: shape of one image, `(C, H, W)`, with H = W equal to 4, 5, 6 or 7 times a power of 2, such as 28, 32
            or 64
        out_features: number of outputs
        width: number of channels of the largest map, which doubles when the size halves, up to 512; at least 1
        num_blocks: number of residual blocks at each size; at least 1
        hidden_dim: number of features of the hidden layer; at least 1

    Raises:
        UserError: the image size does not have this form, or another argument is out of range.
    """

    def __init__(
        self, data_shape: Sequence[int], out_features: int, width: int = 16, num_blocks: int = 1, hidden_dim: int = 400
    ) -> None:
        super().__init__()
        check_range(self, at_least=1, width=width, num_blocks=num_blocks, hidden_dim=hidden_dim)
        map_size, num_stages = factor_image_size(data_shape)
        inputs, layers = data_shape[0], []
        for outputs in compute_widths(width, num_stages, _MAX_WIDTH):
            blocks = (ResidualBlock(outputs) for _ in range(num_blocks))
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), *blocks, nn.SiLU()]
            inputs = outputs
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs * map_size**2, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, out_features)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.head(apply_to_maps(self.convolutions, images * 2 - 1))


class StridedDecoder(nn.Module):
    """Latents `[N, latent_dim]` -> unbounded outputs `[N, C, H, W]`.

    Args:
        latent_dim: dimension of the latent
        data_shape: shape of one image, as for `StridedEncoder`
        width: number of channels of the largest map, which doubles when the size halves, up to 512; at least 1
        num_blocks: number of residual blocks at each size; at least 1
        hidden_dim: number of features of the hidden layer; at least 1

    Raises:
        UserError: as for `StridedEncoder`.
    """

    def __init__(
        self, latent_dim: int, data_shape: Sequence[int], width: int = 16, num_blocks: int = 1, hidden_dim: int = 400
    ) -> None:
        super().__init__()
        check_range(self, at_least=1, width=width, num_blocks=num_blocks, hidden_dim=hidden_dim)
        map_size, num_stages = factor_image_size(data_shape)
        channels = compute_widths(width, num_stages, _MAX_WIDTH)[::-1]
        self.stem = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, channels[0] * map_size**2),
            nn.Unflatten(1, (channels[0], map_size, map_size)),
        )
        layers: list[nn.Module] = []
        for inputs, outputs in zip(channels, [*channels[1:], data_shape[0]], strict=True):
            blocks = (ResidualBlock(inputs) for _ in range(num_blocks))
            layers += [*blocks, nn.SiLU(), nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2)]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Return outputs `[N, C, H, W]`."""
        return apply_to_maps(self.convolutions, self.stem(z))
