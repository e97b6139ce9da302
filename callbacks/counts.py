"""The numbers that callbacks are given."""

from lightning.pytorch import Callback

from gen_lightning.errors import UserError


def check_counts(callback: Callback, least: int = 1, **counts: int | None) -> None:
    """Refuses numbers that are too small, before anything is trained.

    Args:
        callback: whose they are
        least: the smallest that will do
        counts: by the names of its arguments; None for one that is not given

    Raises:
        UserError: one of them is less than `least`.
    """
    for name, count in counts.items():
        if count is not None and count < least:
            raise UserError(f"{type(callback).__name__}'s {name} is {count}: choose {least} or more.")
