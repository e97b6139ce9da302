"""Random changes of images through which gradients flow (Zhao et al. 2020, section 3 and appendix).

Each takes images `[N, C, H, W]`, draws anew for each of them from torch's default generators, and returns the shape.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.errors import UserError


class Translation(nn.Module):
    """Shifts each image by whole pixels, up and down, left and right; what comes in from outside is 0.

    Args:
        ratio: the largest shift as a part of the image's height and width, rounded down to pixels, from 0 to 1

    Raises:
        UserError: the ratio is not between 0 and 1.
    """

    def __init__(self, ratio: float = 0.125) -> None:
        super().__init__()
        self.ratio = _checked(ratio, self)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C, H, W]`, in the same range if that includes 0."""
        count, _, height, width = images.shape
        largest_down, largest_right = int(height * self.ratio), int(width * self.ratio)
        padded = F.pad(images, (largest_right, largest_right, largest_down, largest_down))
        rows = _integers(2 * largest_down + 1, images) + torch.arange(height, device=images.device)
        columns = _integers(2 * largest_right + 1, images) + torch.arange(width, device=images.device)
        examples = torch.arange(count, device=images.device)[:, None, None]
        return padded[examples, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


class Affine(nn.Module):
    """Turns, scales and slants each image about its centre, by bilinear interpolation; what comes in from outside is 0.

    PyTorch has no second derivative of it, which a penalty through a discriminator would need.

    Args:
        degrees: the largest angle, either way
        scale: the largest change of size, as a part of it, from 0 to less than 1
        shear: the largest shift of columns per row, 0 or more

    Raises:
        UserError: one of them is out of its range.
    """

    def __init__(self, degrees: float = 15.0, scale: float = 0.15, shear: float = 0.3) -> None:
        super().__init__()
        if degrees < 0 or shear < 0 or not 0 <= scale < 1:
            raise UserError(
                f"Affine's degrees is {degrees}, scale {scale} and shear {shear}: choose 0 or more, and a scale below"
                " 1."
            )
        self.radians = math.radians(degrees)
        self.scale = scale
        self.shear = shear

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C, H, W]`, in the same range if that includes 0."""
        angle, size, slant = (
            limit * (2 * torch.rand(len(images), device=images.device, dtype=images.dtype) - 1)
            for limit in (self.radians, self.scale, self.shear)
        )
        cos, sin, zero = angle.cos() / (1 + size), angle.sin() / (1 + size), torch.zeros_like(angle)
        # From the changed image's coordinates to the given one's.
        matrices = torch.stack([cos, cos * slant - sin, zero, sin, sin * slant + cos, zero], 1).view(-1, 2, 3)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


class Thickness(nn.Module):
    """Makes the strokes of each image thicker or thinner: a part of the way to its dilation or to its erosion.

    Grey dilation and erosion are the largest and the smallest value of the 3 x 3 pixels about each (Gonzalez & Woods
    2018, section 9.8). How much ink there is, which turns and shifts leave as it was, is of no use behind it.

    Args:
        ratio: the largest part of the way, from 0 to 1

    Raises:
        UserError: the ratio is not between 0 and 1.
    """

    def __init__(self, ratio: float = 1.0) -> None:
        super().__init__()
        self.ratio = _checked(ratio, self)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C, H, W]`, in the same range."""
        part = _uniform(-self.ratio, self.ratio, images)
        dilated, eroded = _largest_about(images), -_largest_about(-images)
        return torch.lerp(images, torch.where(part > 0, dilated, eroded), part.abs())


class Cutout(nn.Module):
    """Sets a rectangle of each image to 0, whose centre is anywhere in the image.

    Args:
        ratio: its height and width as a part of the image's, rounded down to pixels, from 0 to 1

    Raises:
        UserError: the ratio is not between 0 and 1.
    """

    def __init__(self, ratio: float = 0.5) -> None:
        super().__init__()
        self.ratio = _checked(ratio, self)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C, H, W]`, in the same range if that includes 0."""
        rows, columns = (self._cut(size, images) for size in images.shape[2:])
        return images.masked_fill((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), 0)

    def _cut(self, size: int, images: Tensor) -> Tensor:
        length = int(size * self.ratio)
        first = _integers(size + 1 - length % 2, images) - length // 2
        positions = torch.arange(size, device=images.device)
        return (first <= positions) & (positions < first + length)


class Color(nn.Module):
    """Brightness by -1/4 to 1/4, saturation by the factor 0 to 2, and contrast by the factor 1/2 to 3/2.

    The paper's ranges for images in [-1, 1], said of images in [0, 1]. Grey images have no saturation to change.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C, H, W]`, not clipped to [0, 1], which would stop gradients."""
        images = images + _uniform(-0.25, 0.25, images)
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * _uniform(0, 2, images)
        mean = images.mean((1, 2, 3), keepdim=True)
        return mean + (images - mean) * _uniform(0.5, 1.5, images)


def _largest_about(images: Tensor) -> Tensor:
    return F.max_pool2d(images, 3, stride=1, padding=1)


def _integers(count: int, images: Tensor) -> Tensor:
    return torch.randint(count, (len(images), 1), device=images.device)


def _uniform(low: float, high: float, images: Tensor) -> Tensor:
    return torch.empty(len(images), 1, 1, 1, device=images.device, dtype=images.dtype).uniform_(low, high)


def _checked(ratio: float, augmentation: nn.Module) -> float:
    if not 0 <= ratio <= 1:
        raise UserError(f"{type(augmentation).__name__}'s ratio is {ratio}: choose 0 to 1.")
    return ratio
