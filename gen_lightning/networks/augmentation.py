"""Differentiable random augmentations of images (Zhao et al. 2020, section 3 and appendix).

Each maps images `[N, C, H, W]` to images of the same shape, with random parameters for each image, drawn from torch's
default generators.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.checks import check_range


class Translation(nn.Module):
    """A random shift of each image by whole pixels, vertically and horizontally, padded with 0.

    Args:
        ratio: maximum shift as a fraction of the image's height and width, in [0, 1]; rounded down to pixels

    Raises:
        UserError: ratio is not in [0, 1].
    """

    def __init__(self, ratio: float = 0.125) -> None:
        super().__init__()
        check_range(self, at_least=0, at_most=1, ratio=ratio)
        self.ratio = ratio

    def forward(self, images: Tensor) -> Tensor:
        """Return images `[N, C, H, W]`, in the range of the input if it includes 0."""
        count, _, height, width = images.shape
        largest_down, largest_right = int(height * self.ratio), int(width * self.ratio)
        padded = F.pad(images, (largest_right, largest_right, largest_down, largest_down))
        rows = _draw_integers(2 * largest_down + 1, images) + torch.arange(height, device=images.device)
        columns = _draw_integers(2 * largest_right + 1, images) + torch.arange(width, device=images.device)
        examples = torch.arange(count, device=images.device)[:, None, None]
        return padded[examples, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


class Affine(nn.Module):
    """A random rotation, scaling and shear of each image about its centre, by bilinear interpolation, padded with 0.

    PyTorch does not implement its second derivative, which a gradient penalty on the discriminator needs.

    Args:
        degrees: maximum angle in both directions, in degrees; at least 0
        scale: maximum change of size as a fraction of the size, in [0, 1)
        shear: maximum horizontal shift in columns per row; at least 0

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(self, degrees: float = 15.0, scale: float = 0.15, shear: float = 0.3) -> None:
        super().__init__()
        check_range(self, at_least=0, degrees=degrees, shear=shear)
        check_range(self, at_least=0, below=1, scale=scale)
        self.radians = math.radians(degrees)
        self.scale = scale
        self.shear = shear

    def forward(self, images: Tensor) -> Tensor:
        """Return images `[N, C, H, W]`, in the range of the input if it includes 0."""
        angle, size, slant = (
            limit * (2 * torch.rand(len(images), device=images.device, dtype=images.dtype) - 1)
            for limit in (self.radians, self.scale, self.shear)
        )
        cos, sin, zero = angle.cos() / (1 + size), angle.sin() / (1 + size), torch.zeros_like(angle)
        # affine_grid maps the coordinates of the output to those of the input.
        matrices = torch.stack([cos, cos * slant - sin, zero, sin, sin * slant + cos, zero], 1).view(-1, 2, 3)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


class Thickness(nn.Module):
    """A random interpolation between each image and its dilation or its erosion: thicker or thinner strokes.

    Grey-scale dilation and erosion are the maximum and the minimum over 3 x 3 pixels (Gonzalez & Woods 2018, section
    9.8). With this augmentation a network cannot use the amount of ink, which rotations and shifts leave unchanged.

    Args:
        ratio: maximum fraction of the way from the image to its dilation or erosion, in [0, 1]

    Raises:
        UserError: ratio is not in [0, 1].
    """

    def __init__(self, ratio: float = 1.0) -> None:
        super().__init__()
        check_range(self, at_least=0, at_most=1, ratio=ratio)
        self.ratio = ratio

    def forward(self, images: Tensor) -> Tensor:
        """Return images `[N, C, H, W]`, in the range of the input."""
        fraction = _draw_uniform(-self.ratio, self.ratio, images)
        dilated, eroded = _dilate(images), -_dilate(-images)
        return torch.lerp(images, torch.where(fraction > 0, dilated, eroded), fraction.abs())


class Cutout(nn.Module):
    """A rectangle of zeros in each image, centred at a random pixel.

    Args:
        ratio: height and width of the rectangle as a fraction of the image's, in [0, 1]; rounded down to pixels

    Raises:
        UserError: ratio is not in [0, 1].
    """

    def __init__(self, ratio: float = 0.5) -> None:
        super().__init__()
        check_range(self, at_least=0, at_most=1, ratio=ratio)
        self.ratio = ratio

    def forward(self, images: Tensor) -> Tensor:
        """Return images `[N, C, H, W]`, in the range of the input if it includes 0."""
        rows, columns = (self._draw_interval(size, images) for size in images.shape[2:])
        return images.masked_fill((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), 0)

    def _draw_interval(self, size: int, images: Tensor) -> Tensor:
        length = int(size * self.ratio)
        first = _draw_integers(size + 1 - length % 2, images) - length // 2
        positions = torch.arange(size, device=images.device)
        return (first <= positions) & (positions < first + length)


class Color(nn.Module):
    """A random change of brightness by -1/4 to 1/4, saturation by a factor of 0 to 2, and contrast by 1/2 to 3/2.

    These are the paper's ranges, converted from images in [-1, 1] to images in [0, 1]. The saturation of grey images
    does not change.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return images `[N, C, H, W]`, not clipped to [0, 1] because clipping would stop gradients."""
        images = images + _draw_uniform(-0.25, 0.25, images)
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * _draw_uniform(0, 2, images)
        mean = images.mean((1, 2, 3), keepdim=True)
        return mean + (images - mean) * _draw_uniform(0.5, 1.5, images)


def _dilate(images: Tensor) -> Tensor:
    return F.max_pool2d(images, 3, stride=1, padding=1)


def _draw_integers(count: int, images: Tensor) -> Tensor:
    return torch.randint(count, (len(images), 1), device=images.device)


def _draw_uniform(low: float, high: float, images: Tensor) -> Tensor:
    return torch.empty(len(images), 1, 1, 1, device=images.device, dtype=images.dtype).uniform_(low, high)
