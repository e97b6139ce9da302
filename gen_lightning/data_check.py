"""The check of every batch's values, which does not wait for the device."""

import math

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from gen_lightning.errors import UserError

# At a million, float32 resolves 0.06, and no network whose weights are initialized for data of about 1 can be trained.
_LARGEST = 1e6


class DataCheck:
    """The range of the values of a split, and whether they are in the support of the model's likelihood.

    `add` only queues work on the device of the data. `refuse` and `warn` wait for the result, which stalls a GPU.

    Args:
        split: name of the split, for the sentences
    """

    def __init__(self, split: str) -> None:
        self.split = split
        self._extremes: Tensor | None = None
        self._warned = False

    def add(self, data: Tensor, supported: Tensor) -> None:
        """Take the values of a batch into account.

        Args:
            data: batch, `[N, ...]`
            supported: whether its values are in the support, a boolean scalar
        """
        lowest, highest = data.aminmax()
        # NaN is passed on by all of these operations.
        extremes = torch.stack([-lowest, highest, (~supported).to(data.dtype)])
        self._extremes = extremes if self._extremes is None else torch.maximum(self._extremes, extremes)

    def refuse(self) -> tuple[float, float]:
        """Refuse values that no model can be trained on; return the smallest and the largest value so far.

        Raises:
            UserError: a value is not finite, very large, or outside the support.
        """
        lowest, highest, unsupported = self._read()
        if not math.isfinite(highest - lowest):
            raise UserError(f"The {self.split} data have a value that is not finite. Remove it, or replace it.")
        if max(-lowest, highest) > _LARGEST:
            raise UserError(
                f"The {self.split} data reach from {lowest:.3g} to {highest:.3g}. Scale them, such as to [0, 1]."
            )
        if unsupported:
            raise UserError(
                f"The {self.split} data have values outside the support of the likelihood, although the first batch has"
                " none. Correct them, or choose another likelihood."
            )
        return lowest, highest

    def warn(self) -> None:
        """Warn once if all values so far are equal."""
        lowest, highest, _ = self._read()
        if lowest == highest and not self._warned:
            self._warned = True
            rank_zero_warn(f"All values of the {self.split} data so far are {lowest:.3g}. Check how they are read.")

    def _read(self) -> list[float]:
        """Return the smallest value, the largest value, and whether a value is outside the support."""
        if self._extremes is None:
            return [0.0, 1.0, 0.0]
        negative, highest, unsupported = self._extremes.tolist()
        return [-negative, highest, unsupported]
