"""Binary images whose pixels are drawn row by row, each given the pixels drawn before it in a small window."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.types import _size

from gen_lightning.networks.residual import apply_to_maps, zero_init
from gen_lightning.numerics import promote_to_float32
from gen_lightning.vae import distributions


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
    """Corrects the logits of binary images at each pixel, given the pixels before it (Chen et al. 2017, section 3.2).

    The window is small, so that only the logits can carry what is not local. The correction starts at 0.

    Args:
        channels: channels of the images, C; the channels of a pixel are independent given the pixels before it
        width: channels of the hidden layer
        window: height and width of the window that a pixel depends on; odd
    """

    def __init__(self, channels: int, width: int, window: int) -> None:
        super().__init__()
        self.causal = CausalConv2d(channels, width, window)
        self.head = nn.Sequential(nn.SiLU(), zero_init(nn.Conv2d(width, channels, 1)))

    def forward(self, images: Tensor, logits: Tensor, context: Tensor) -> Tensor:
        """Return the corrected logits of all pixels, `[..., C, H, W]`.

        Args:
            images: binary images, `[..., C, H, W]`
            logits: logits, `[..., C, H, W]`, with the same leading dimensions or additional ones
            context: maps that are added to the hidden layer before its activation, `[..., width, H, W]`, with the
                leading dimensions of the logits
        """
        features = apply_to_maps(self.causal, images) + context
        return logits + promote_to_float32(apply_to_maps(self.head, features))

    @torch.no_grad()
    def draw(self, logits: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Draw images pixel by pixel.

        Args:
            logits: logits, `[N, C, H, W]`
            context: maps, `[N, width, H, W]`

        Returns:
            The images, and the corrected logits that their pixels were drawn from, each `[N, C, H, W]`.
        """
        height, width = logits.shape[-2:]
        reach = self.causal.kernel_size[0] // 2
        images, corrected = F.pad(torch.zeros_like(logits), (reach,) * 4), torch.empty_like(logits)
        for row in range(height):
            for column in range(width):
                window = images[..., row : row + 2 * reach + 1, column : column + 2 * reach + 1]
                features = self.causal.compute_pixel(window) + context[..., row, column]
                correction = promote_to_float32(self.head(features[..., None, None]))[..., 0, 0]
                corrected[..., row, column] = logits[..., row, column] + correction
                images[..., row + reach, column + reach] = corrected[..., row, column].sigmoid().bernoulli()
        return images[..., reach : reach + height, reach : reach + width], corrected


class Autoregressive(Distribution):
    """A distribution of binary images in which each pixel depends on the pixels before it.

    Args:
        logits: logits before the correction, `[..., C, H, W]`; the batch shape is `[...]`
        context: additional input of the network, `[..., width, H, W]`
        network: network that corrects the logits of a pixel, given the pixels before it
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, context: Tensor, network: LocalAutoregression) -> None:
        self.logits = logits
        self.context = context
        self.network = network
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability `[...]` of binary images `[..., C, H, W]`."""
        pixels = distributions.Bernoulli(logits=self.network(value, self.logits, self.context), validate_args=False)
        return pixels.log_prob(value).sum((-3, -2, -1))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Return binary images, `[*sample_shape, ..., C, H, W]`."""
        return self._draw(torch.Size(sample_shape))[0]

    @property
    def mean(self) -> Tensor:
        """An unbiased estimate of the mean, `[..., C, H, W]`, from one image that each access draws.

        The estimate is the probability of each pixel, given the pixels drawn before it.
        """
        return self._draw(torch.Size())[1].sigmoid()

    def _draw(self, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return images, and the corrected logits of their pixels, each `[*sample_shape, ..., C, H, W]`."""
        shape = self._extended_shape(sample_shape)
        logits = self.logits.expand(shape).reshape(-1, *shape[-3:])
        context = self.context.expand(*sample_shape, *self.context.shape).reshape(-1, *self.context.shape[-3:])
        images, corrected = self.network.draw(logits, context)
        return images.reshape(shape), corrected.reshape(shape)
