"""Residual networks whose largest map is half the image, for VAEs whose latents are vectors.

Down from the image to the map of 4 x 4 to 7 x 7 go strided 4 x 4 convolutions, as in DCGAN (Radford et al. 2016); up
from that map each position becomes four (Shi et al. 2016), which CPUs are quicker at than at transposed convolutions.
Each size has residual blocks (Child 2021) in place of normalization. Between the smallest map and the vectors lies one
hidden layer.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from gen_lightning.networks.residual import ResidualBlock, apply_to_maps
from gen_lightning.networks.sizes import check_sizes, map_size_and_stages


class StridedEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`.

    Args:
        data_shape: `(C, H, W)` with H = W, a small number (4 to 7) times a power of 2, such as 28, 32 or 64
        out_features: the number of outputs
        width: channels of the largest map; they double where its size halves
        num_blocks: residual blocks at each size
        hidden_dim: the size of the hidden layer

    Raises:
        UserError: the image size is not of that form; another size is less than 1.
    """

    def __init__(
        self, data_shape: Sequence[int], out_features: int, width: int = 16, num_blocks: int = 1, hidden_dim: int = 400
    ) -> None:
        super().__init__()
        check_sizes(self, width=width, num_blocks=num_blocks, hidden_dim=hidden_dim)
        map_size, num_stages = map_size_and_stages(data_shape)
        inputs, layers = data_shape[0], []
        for outputs in (width * 2**stage for stage in range(num_stages)):
            blocks = (ResidualBlock(outputs) for _ in range(num_blocks))
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), *blocks, nn.SiLU()]
            inputs = outputs
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs * map_size**2, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, out_features)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features `[N, out_features]`."""
        return self.head(apply_to_maps(self.convolutions, images * 2 - 1))


class StridedDecoder(nn.Module):
    """Latents `[N, latent_dim]` -> unbounded outputs `[N, C, H, W]`.

    Args:
        latent_dim: the dimension of the latent
        data_shape: as for `StridedEncoder`
        width: as for `StridedEncoder`
        num_blocks: as for `StridedEncoder`
        hidden_dim: as for `StridedEncoder`

    Raises:
        UserError: a size is none that `StridedEncoder` takes.
    """

    def __init__(
        self, latent_dim: int, data_shape: Sequence[int], width: int = 16, num_blocks: int = 1, hidden_dim: int = 400
    ) -> None:
        super().__init__()
        check_sizes(self, width=width, num_blocks=num_blocks, hidden_dim=hidden_dim)
        map_size, num_stages = map_size_and_stages(data_shape)
        channels = [width * 2**stage for stage in reversed(range(num_stages))]
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
        """Outputs `[N, C, H, W]`."""
        return apply_to_maps(self.convolutions, self.stem(z))
