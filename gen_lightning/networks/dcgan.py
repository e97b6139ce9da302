"""DCGAN (Radford, Metz & Chintala 2016), and an encoder and a decoder of the same form for VAEs.

Strided 4 x 4 convolutions connect the image with a map of 4 x 4 (image size 32) or 7 x 7 (image size 28). Each halves
the size and doubles the channels, up to a maximum. All layers except the first and the last have batch normalization.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from gen_lightning.checks import check_range
from gen_lightning.networks.sizes import compute_widths, factor_image_size


class DCGANEncoder(nn.Module):
    """Images `[N, C, H, W]` in [0, 1] -> features `[N, out_features]`.

    Args:
        data_shape: shape of one image, `(C, H, W)`, with H = W equal to 4, 5, 6 or 7 times a power of 2, such as 28, 32
            or 64
        out_features: number of outputs
        width: number of channels of the map next to the image; at least 1
        normalization: function of the number of channels that returns a layer; `torch.nn.Identity` for none
        max_width: number of channels at which the doubling stops, at least 1. 512 is the maximum of Karras et al.
            (2018) for up to 1024 pixels; with the default width, it changes only networks for more than 64 pixels.

    Raises:
        UserError: the image size does not have this form, or another argument is out of range.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int,
        width: int = 64,
        normalization: Callable[[int], nn.Module] = nn.BatchNorm2d,
        max_width: int = 512,
    ) -> None:
        super().__init__()
        check_range(self, at_least=1, width=width, max_width=max_width)
        map_size, num_stages = factor_image_size(data_shape)
        channels = [data_shape[0], *compute_widths(width, num_stages, max_width)]
        layers: list[nn.Module] = []
        for stage, (inputs, outputs) in enumerate(pairwise(channels)):
            norm = nn.Identity() if stage == 0 else normalization(outputs)
            # Batch normalization already has a bias.
            bias = not isinstance(norm, nn.BatchNorm2d)
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=bias), norm, nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(channels[-1], out_features, map_size), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.layers(images * 2 - 1)


class DCGANDecoder(nn.Module):
    """Latents `[N, latent_dim]` -> unbounded outputs `[N, C, H, W]`.

    Args:
        latent_dim: dimension of the latent
        data_shape: shape of one image, as for `DCGANEncoder`
        width: number of channels of the map next to the output; at least 1
        max_width: number of channels at which the doubling stops, as for `DCGANEncoder`

    Raises:
        UserError: as for `DCGANEncoder`.
    """

    def __init__(self, latent_dim: int, data_shape: Sequence[int], width: int = 64, max_width: int = 512) -> None:
        super().__init__()
        check_range(self, at_least=1, width=width, max_width=max_width)
        map_size, num_stages = factor_image_size(data_shape)
        channels = compute_widths(width, num_stages, max_width)[::-1]
        layers: list[nn.Module] = [
            nn.Unflatten(1, (latent_dim, 1, 1)),
            nn.ConvTranspose2d(latent_dim, channels[0], map_size, bias=False),
        ]
        for inputs, outputs in pairwise(channels):
            layers += [
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
            ]
        layers += [
            nn.BatchNorm2d(channels[-1]),
            nn.ReLU(),
            nn.ConvTranspose2d(channels[-1], data_shape[0], 4, stride=2, padding=1),
        ]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, z: Tensor) -> Tensor:
        """Return outputs `[N, C, H, W]`."""
        return self.layers(z)


class DCGANDiscriminator(DCGANEncoder):
    """Images `[N, C, H, W]` in [0, 1] -> logits `[N]`.

    Args:
        data_shape: shape of one image, as for `DCGANEncoder`
        width: number of channels of the map next to the image; at least 1
        normalization: function of the number of channels that returns a layer, as for `DCGANEncoder`
        max_width: number of channels at which the doubling stops, as for `DCGANEncoder`
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        width: int = 64,
        normalization: Callable[[int], nn.Module] = nn.BatchNorm2d,
        max_width: int = 512,
    ) -> None:
        super().__init__(data_shape, 1, width, normalization, max_width)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[N]`."""
        return super().forward(images).squeeze(-1)


class DCGANGenerator(DCGANDecoder):
    """Latents `[N, latent_dim]` -> images `[N, C, H, W]` in [0, 1], by a tanh as in the paper."""

    output_range = (0.0, 1.0)

    def forward(self, z: Tensor) -> Tensor:
        """Return images `[N, C, H, W]` in [0, 1]."""
        return (super().forward(z).tanh() + 1) / 2


def _initialize(module: nn.Module) -> None:
    # Section 4 of the paper: a zero-mean normal with standard deviation 0.02.
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
