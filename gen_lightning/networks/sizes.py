"""The sizes of a convolutional network's maps, and their numbers of channels."""

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


def compute_widths(width: int, num_stages: int, max_width: int) -> list[int]:
    """Return the number of channels of each map, starting with the largest: doubled at each stage up to a maximum."""
    return [min(width * 2**stage, max_width) for stage in range(num_stages)]


def repeat_per_stage(network: object, name: str, value: int | Sequence[int], num_stages: int) -> list[int]:
    """Return one number for each stage, from one number for all or one for each.

    Args:
        network: network with the argument, for the sentence
        name: name of the argument
        value: value of the argument
        num_stages: number of stages

    Raises:
        UserError: the value has another number of elements, or one is less than 1.
    """
    values = [value] * num_stages if isinstance(value, int) else list(value)
    if len(values) != num_stages or min(values) < 1:
        raise UserError(
            f"`{type(network).__name__}.{name}` is {value}. Choose one number for all stages, or {num_stages} numbers,"
            " one for each map size; at least 1 each."
        )
    return values
