"""Images whose pixels are drawn row by row, each given the pixels drawn before it in a small window."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.types import _size

from gen_lightning.networks.residual import apply_to_maps, zero_init
from gen_lightning.numerics import promote_to_float32


class CausalConv2d(nn.Conv2d):
    """A masked convolution whose output at a pixel sees only the pixels before it (van den Oord et al. 2016).

    Images `[N, C, H, W]` -> maps `[N, width, H, W]`. The pixels before a pixel are those above it, and those to its
    left in the same row, in a square window around it. Pixels outside the image are 0.

    Args:
        channels: channels of the images, C
        width: channels of the maps
        window: height and width of the window; odd
    """

    mask: Tensor

    def __init__(self, channels: int, width: int, window: int) -> None:
        super().__init__(channels, width, window, padding=window // 2)
        before = torch.arange(window**2) < window**2 // 2
        self.register_buffer("mask", before.view(window, window).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the maps `[N, width, H, W]` of images `[N, C, H, W]`."""
        return F.conv2d(images, self.weight * self.mask, self.bias, padding=self.padding)

    def compute_pixel(self, window: Tensor) -> Tensor:
        """Return `forward` at one pixel, from the window around it: `[N, C, window, window]` -> `[N, width]`."""
        return F.linear(window.flatten(1), (self.weight * self.mask).flatten(1), self.bias)


class LocalAutoregression(nn.Module):
    """Corrects the parameters of each pixel's distribution, given the pixels before it (Chen et al. 2017, section 3.2).

    The window is small, so that only the uncorrected parameters can carry what is not local. The correction starts at
    0.

    Args:
        channels: channels of the images, C; their dependence within a pixel is that of the pixel's distribution
        num_parameters: number of parameters of a pixel's distribution, P
        width: channels of the hidden layer
        window: height and width of the window that a pixel depends on; odd
    """

    def __init__(self, channels: int, num_parameters: int, width: int, window: int) -> None:
        super().__init__()
        self.channels = channels
        self.causal = CausalConv2d(channels, width, window)
        self.head = nn.Sequential(nn.SiLU(), zero_init(nn.Conv2d(width, num_parameters, 1)))

    def forward(self, images: Tensor, parameters: Tensor, context: Tensor) -> Tensor:
        """Return the corrected parameters of all pixels, `[..., P, H, W]`.

        Args:
            images: images, `[..., C, H, W]`
            parameters: parameters, `[..., P, H, W]`, with the same leading dimensions or additional ones
            context: maps that are added to the hidden layer before its activation, `[..., width, H, W]`, with the
                leading dimensions of the parameters
        """
        features = apply_to_maps(self.causal, images) + context
        return parameters + promote_to_float32(apply_to_maps(self.head, features))

    @torch.no_grad()
    def draw(
        self, parameters: Tensor, context: Tensor, draw_pixels: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Draw images pixel by pixel.

        Args:
            parameters: parameters, `[N, P, H, W]`
            context: maps, `[N, width, H, W]`
            draw_pixels: function that draws images of 1 x 1, `[N, C, 1, 1]`, from corrected parameters `[N, P, 1, 1]`

        Returns:
            The images, `[N, C, H, W]`, and the corrected parameters that their pixels were drawn from, `[N, P, H, W]`.
        """
        height, width = parameters.shape[-2:]
        reach = self.causal.kernel_size[0] // 2
        padded = parameters.new_zeros(len(parameters), self.channels, height + 2 * reach, width + 2 * reach)
        corrected = torch.empty_like(parameters)
        for row in range(height):
            for column in range(width):
                window = padded[..., row : row + 2 * reach + 1, column : column + 2 * reach + 1]
                features = self.causal.compute_pixel(window) + context[..., row, column]
                correction = promote_to_float32(self.head(features[..., None, None]))
                pixel = parameters[..., row : row + 1, column : column + 1] + correction
                corrected[..., row, column] = pixel[..., 0, 0]
                padded[..., row + reach, column + reach] = draw_pixels(pixel)[..., 0, 0]
        return padded[..., reach : reach + height, reach : reach + width], corrected


class Autoregressive(Distribution):
    """A distribution of images in which each pixel depends on the pixels before it.

    Args:
        parameters: parameters before the correction, `[..., P, H, W]`; the batch shape is `[...]`
        context: additional input of the network, `[..., width, H, W]`
        network: network that corrects the parameters of a pixel, given the pixels before it
        build: function that returns the distribution of images with independent pixels, batch shape `[...]` and event
            shape `[C, H, W]`, from corrected parameters
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self,
        parameters: Tensor,
        context: Tensor,
        network: LocalAutoregression,
        build: Callable[[Tensor], Distribution],
    ) -> None:
        self.parameters = parameters
        self.context = context
        self.network = network
        self.build = build
        event_shape = torch.Size((network.channels, *parameters.shape[-2:]))
        super().__init__(parameters.shape[:-3], event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability `[...]` of images `[..., C, H, W]`."""
        return self.build(self.network(value, self.parameters, self.context)).log_prob(value)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Return images, `[*sample_shape, ..., C, H, W]`."""
        return self._draw(torch.Size(sample_shape))[0]

    @property
    def mean(self) -> Tensor:
        """An estimate of the mean, `[..., C, H, W]`, from one image that each access draws.

        The estimate is the mean of each pixel, given the pixels drawn before it. It is unbiased if the mean
        of a pixel's distribution is exact, as for binary pixels.
        """
        return self.build(self._draw(torch.Size())[1]).mean

    def _draw(self, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return images `[*sample_shape, ..., C, H, W]`, and the corrected parameters of their pixels."""
        parameters, context = (
            maps.expand(*sample_shape, *maps.shape).reshape(-1, *maps.shape[-3:])
            for maps in (self.parameters, self.context)
        )
        images, corrected = self.network.draw(parameters, context, lambda pixel: self.build(pixel).sample())
        leading = (*sample_shape, *self.batch_shape)
        return images.reshape(*leading, *images.shape[1:]), corrected.reshape(*leading, *corrected.shape[1:])
