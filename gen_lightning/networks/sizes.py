"""The sizes of a convolutional network's maps."""

from collections.abc import Sequence

from gen_lightning.errors import UserError


def factor_image_size(data_shape: Sequence[int], min_stages: int = 1) -> tuple[int, int]:
    """Return the size of the smallest map, 4 to 7, and how often it must be doubled to give the image size.

    Args:
        data_shape: shape of one image, `(C, H, W)` with H = W
        min_stages: how many times the image size must be divisible by 2; at least 1

    Raises:
        UserError: the image size is not 4 to 7 times a power of 2 with at least this exponent.
    """
    size, num_stages = data_shape[-1], 0
    while size % 2 == 0 and size > 4:
        size, num_stages = size // 2, num_stages + 1
    if len(data_shape) != 3 or data_shape[1] != data_shape[2] or not 4 <= size <= 7 or num_stages < min_stages:
        raise UserError(
            f"The data have shape {tuple(data_shape)}. Convolutional networks need square images of at least"
            f" {4 * 2**min_stages} pixels, 4 to 7 times a power of 2. Pad the images, or choose other networks."
        )
    return size, num_stages
