"""The sizes of networks: of their maps, from that of an image, and of their layers."""

from collections.abc import Sequence

from gen_lightning.errors import UserError


def map_size_and_stages(data_shape: Sequence[int], least_stages: int = 1) -> tuple[int, int]:
    """The size of the smallest map, 4 to 7, and how often it is doubled to give the image.

    Args:
        data_shape: `(C, H, W)` with H = W
        least_stages: how many times the image must be divisible by 2

    Raises:
        UserError: the image size is not 4 to 7 times a power of 2 of at least that exponent.
    """
    size, num_stages = data_shape[-1], 0
    while size % 2 == 0 and size > 4:
        size, num_stages = size // 2, num_stages + 1
    if len(data_shape) != 3 or data_shape[1] != data_shape[2] or not 4 <= size <= 7 or num_stages < least_stages:
        raise UserError(
            "Convolutional networks take square images whose size is 4 to 7 times a power of 2 (28, 32, 64), and at"
            f" least {4 * 2**least_stages}, not {tuple(data_shape)}: pad the images, or choose other networks."
        )
    return size, num_stages


def check_sizes(network: object, **sizes: int) -> None:
    """Refuses sizes below 1, of which a network cannot be made.

    Args:
        network: whose they are
        sizes: by the names of its arguments

    Raises:
        UserError: one of them is less than 1.
    """
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{type(network).__name__}'s {name} is {size}: choose 1 or more.")
