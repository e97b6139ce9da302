"""Binary images whose pixels depend on those drawn before them, row by row, in a small window."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.types import _size

from gen_lightning.networks.residual import apply_to_maps, zero_init
from gen_lightning.numerics import promote_to_float32
from gen_lightning.vae import distributions


class CausalConv2d(nn.Conv2d):
    """Images `[N, C, H, W]` -> maps `[N, width, H, W]`, each pixel's of those before it (van den Oord et al. 2016).

    They are those above it and those left of it, in a square window around it; outside the image they are 0.

    Args:
        channels: of the images, C
        width: channels of the maps
        window: height and width of the window, an odd number
    """

    mask: Tensor

    def __init__(self, channels: int, width: int, window: int) -> None:
        super().__init__(channels, width, window, padding=window // 2)
        before = torch.arange(window**2) < window**2 // 2
        self.register_buffer("mask", before.view(window, window).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps `[N, width, H, W]`."""
        return F.conv2d(images, self.weight * self.mask, self.bias, padding=self.padding)

    def at_pixel(self, window: Tensor) -> Tensor:
        """What `forward` is at one pixel, of the window around it: `[N, C, window, window]` -> `[N, width]`."""
        return F.linear(window.flatten(1), (self.weight * self.mask).flatten(1), self.bias)


class LocalAutoregression(nn.Module):
    """Corrects the logits of binary images, at each pixel by the pixels before it (Chen et al. 2017, section 3.2).

    The window is small, so that what is not local is left to the logits. At first it corrects nothing.

    Args:
        channels: of the images, C; those of one pixel are independent given the pixels before it
        width: channels of the hidden layer
        window: height and width of what a pixel sees of the image, an odd number
    """

    def __init__(self, channels: int, width: int, window: int) -> None:
        super().__init__()
        self.before = CausalConv2d(channels, width, window)
        self.head = nn.Sequential(nn.SiLU(), zero_init(nn.Conv2d(width, channels, 1)))

    def forward(self, images: Tensor, logits: Tensor, context: Tensor) -> Tensor:
        """The corrected logits of all pixels.

        Args:
            images: `[..., C, H, W]`
            logits: `[..., C, H, W]`, with the same leading dimensions or more of them
            context: what is added to the hidden layer before its activation, `[..., width, H, W]`, as many as logits
        """
        features = apply_to_maps(self.before, images) + context
        return logits + promote_to_float32(apply_to_maps(self.head, features))

    @torch.no_grad()
    def draw(self, logits: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Images, pixel by pixel, and the corrected logits that each pixel was drawn with, `[N, C, H, W]` both.

        Args:
            logits: `[N, C, H, W]`
            context: `[N, width, H, W]`
        """
        height, width = logits.shape[-2:]
        reach = self.before.kernel_size[0] // 2
        images, corrected = F.pad(torch.zeros_like(logits), (reach,) * 4), torch.empty_like(logits)
        for row in range(height):
            for column in range(width):
                window = images[..., row : row + 2 * reach + 1, column : column + 2 * reach + 1]
                features = self.before.at_pixel(window) + context[..., row, column]
                correction = promote_to_float32(self.head(features[..., None, None]))[..., 0, 0]
                corrected[..., row, column] = logits[..., row, column] + correction
                images[..., row + reach, column + reach] = corrected[..., row, column].sigmoid().bernoulli()
        return images[..., reach : reach + height, reach : reach + width], corrected


class Autoregressive(Distribution):
    """Binary images, of which each pixel is drawn given those before it.

    Args:
        logits: `[..., C, H, W]`; the batch shape is `[...]`
        context: what the network is to know beside them, `[..., width, H, W]`
        network: corrects them by the pixels before each
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, context: Tensor, network: LocalAutoregression) -> None:
        self.logits = logits
        self.context = context
        self.network = network
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability `[...]` of images of values 0 and 1, `[..., C, H, W]`."""
        pixels = distributions.Bernoulli(logits=self.network(value, self.logits, self.context), validate_args=False)
        return pixels.log_prob(value).sum((-3, -2, -1))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Images of values 0 and 1, `[*sample_shape, ..., C, H, W]`."""
        return self._draw(torch.Size(sample_shape))[0]

    @property
    def mean(self) -> Tensor:
        """An estimate of the mean without bias, `[..., C, H, W]`: each pixel's probability given those drawn before it.

        It is of one image, which it draws.
        """
        return self._draw(torch.Size())[1].sigmoid()

    def _draw(self, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Images, and the corrected logits that they were drawn with, `[*sample_shape, ..., C, H, W]` both."""
        shape = self._extended_shape(sample_shape)
        logits = self.logits.expand(shape).reshape(-1, *shape[-3:])
        context = self.context.expand(*sample_shape, *self.context.shape).reshape(-1, *self.context.shape[-3:])
        images, corrected = self.network.draw(logits, context)
        return images.reshape(shape), corrected.reshape(shape)
