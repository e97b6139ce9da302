"""Arrays of any shape as a LightningDataModule."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.array_files import compute_digest, read_split, remember
from datamodules.base import SplitDataModule
from datamodules.sources import Split
from datamodules.splits import choose_fractions, hold_out
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError

_EXAMPLES_PER_PASS = 4096
_WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)
_DTYPES = {
    *("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "bool"),
}
"""The types that a checkpoint may name."""


@dataclass(frozen=True)
class _Units:
    """Models see (x - offset) / scale for stored values x. Both have one number, or one for each feature."""

    offset: list[float]
    scale: list[float]
    dtype: str


class ArrayDataModule(SplitDataModule):
    """Examples from files of arrays, delivered as (data, labels): float32 `[N, *shape]` and int64 `[N]`.

    A file is .npy, .npz, .pt, .pth or .safetensors. uint8 arrays become float32 in [0, 1]. Other arrays keep their
    values unless `value_range` or `standardize` is given. uint8 data, and data with `value_range`, are images for the
    callbacks if their shape is `[1, H, W]` or `[3, H, W]`.

    Args:
        path: file of the training examples, `[N, *shape]`
        val_path: file of the validation examples; default: a part of `path`
        test_path: file of the test examples; default: a part of `path`
        data_key: name of the examples in a file with several arrays
        labels_key: name of the labels in a file with several arrays; without them, all labels are 0
        shape: shape of one example; default: that of the file. It may add or remove dimensions of size 1
        channels_last: whether examples are stored as `[H, W, C]`
        value_range: the smallest and the largest value that the data may have, which are mapped to [0, 1]
        standardize: whether to standardize each feature or channel, the first dimension of an example, by the training
            mean and standard deviation, which checkpoints store
        val_fraction: fraction of `path` that is held out for validation, without `val_path`; above 0 and below 1
        test_fraction: fraction of `path` that is held out for tests, without `test_path`; above 0 and below 1
        batch_size: number of examples per iteration and device; at least 1
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training examples

    Raises:
        UserError: an argument is out of range or does not fit the file; a file is missing or corrupt; in `setup`, a
            value is not finite or outside `value_range`.
    """

    def __init__(
        self,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        data_key: str = "data",
        labels_key: str = "labels",
        shape: Sequence[int] | None = None,
        channels_last: bool = False,
        value_range: tuple[float, float] | None = None,
        standardize: bool = False,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 128,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, device_resident, seed)
        check_range(self, above=0, below=1, val_fraction=val_fraction, test_fraction=test_fraction)
        if value_range is not None and not value_range[0] < value_range[1]:
            raise UserError(f"`value_range` is {list(value_range)}. Give the smallest value, then the largest.")
        if value_range is not None and standardize:
            raise UserError("`value_range` and `standardize` are both given. Choose one of them.")
        self.path = Path(path) if path else None
        self.val_path = Path(val_path) if val_path else None
        self.test_path = Path(test_path) if test_path else None
        self.data_key = data_key
        self.labels_key = labels_key
        self.channels_last = channels_last
        self.value_range = value_range
        self.standardize = standardize
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self._shape = tuple(shape) if shape else None
        self._units: _Units | None = None
        self._tensors: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self._shape or tuple(self._stored.data.shape[1:])

    @cached_property
    def identity(self) -> str:
        """A text that names the examples of the splits."""
        paths = [self._get_path(), *(path for path in (self.val_path, self.test_path) if path)]
        digests = [compute_digest(file) for path in paths for file in self._list_files(path)]
        fractions = (not self.val_path and self.val_fraction, not self.test_path and self.test_fraction)
        return f"{type(self).__name__} {digests} {self.shape} {self.value_range} {self.standardize} {fractions}"

    @property
    def images(self) -> Callable[[SplitName], Iterator[Tensor]]:
        """A function that returns a whole split, in batches of float32 `[N, C, H, W]` in [0, 1].

        Raises:
            AttributeError: the examples are not images, so that `contracts.offers` finds none.
        """
        if len(self.shape) != 3 or self.shape[0] not in (1, 3) or not self._is_bounded:
            raise AttributeError(
                f"Examples of shape {self.shape} are images if they are [1, H, W] or [3, H, W], and uint8 or mapped to"
                " [0, 1] by --data.value_range."
            )
        return lambda split: (images for images, _ in self.examples(split))

    @cached_property
    def _stored(self) -> Split:
        return self._read(self._get_path())

    def _list_files(self, path: Path) -> list[Path]:
        """Return the files that hold the examples of a path."""
        return [path]

    def _get_path(self) -> Path:
        if self.path is None:
            raise UserError("`path` is not given. Give the file of the training examples with --data.path.")
        return self.path

    @property
    def _is_bounded(self) -> bool:
        return self.value_range is not None or (self._stored.data.dtype == torch.uint8 and not self.standardize)

    def make_splits(self) -> dict[SplitName, Split]:
        """Read the files, and hold out parts of the training file."""
        splits = self._carve(self._stored)
        for path in (self.path, self.val_path, self.test_path):
            if path:
                remember(path)
        held_out: dict[SplitName, Path | None] = {"val": self.val_path, "test": self.test_path}
        splits |= {name: self._read_like(splits["train"], path) for name, path in held_out.items() if path}
        lowest, highest = self._check_values(splits)
        data = splits["train"].data
        rank_zero_info(
            f"{self.path}: {len(data):,} training examples of shape {self.shape}, {data.dtype}, from {lowest:.4g} to"
            f" {highest:.4g}."
        )
        if self._units is None or not self.standardize:
            self._set_units(self._find_units(data))
        return splits

    def convert(self, data: Tensor) -> Tensor:
        """Return stored data as models see them: float32, scaled as the arguments say."""
        # float32 holds neither large integers nor the small differences of large float64 values.
        wide = data.double() if data.dtype in _WIDE else data.float()
        offset, scale = self._get_units(wide)
        return ((wide - offset) / scale).float()

    def restore_units(self, data: Tensor) -> Tensor:
        """Return samples, or other data as models see them, in the file's units; integers if it stores integers.

        With `channels_last`, the channels come last.
        """
        assert self._units is not None
        stored = getattr(torch, self._units.dtype)
        wide = data.double() if stored in _WIDE else data.float()
        offset, scale = self._get_units(wide)
        wide = wide * scale + offset
        if self.channels_last:
            wide = wide.movedim(1, -1)
        if stored.is_floating_point:
            return wide
        # Beyond its range, an integer would wrap around. The limits of 64 bits are no float64.
        if stored not in (torch.bool, torch.int64, torch.uint64):
            wide = wide.clamp(torch.iinfo(stored).min, torch.iinfo(stored).max)
        return wide.round().to(stored)

    def state_dict(self) -> dict[str, Any]:
        """Return the units of the data, for the checkpoint."""
        return asdict(self._units) if self._units else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the units of a checkpoint.

        Raises:
            UserError: the checkpoint holds no units.
        """
        try:
            units = _Units(**state_dict)
            torch.tensor([units.offset, units.scale], dtype=torch.float64)
            if units.dtype not in _DTYPES:
                raise ValueError(units.dtype)
        except (TypeError, ValueError, RuntimeError):
            raise UserError("The checkpoint's units of the data are damaged. Give another checkpoint.") from None
        self._set_units(units)

    def _set_units(self, units: _Units) -> None:
        self._units = units
        self._tensors.clear()

    def _find_units(self, train: Tensor) -> _Units:
        dtype = str(train.dtype).removeprefix("torch.")
        if self.standardize:
            mean, stddev = _measure(train)
            return _Units(mean.tolist(), stddev.tolist(), dtype)
        lowest, highest = self.value_range or ((0.0, 255.0) if train.dtype == torch.uint8 else (0.0, 1.0))
        return _Units([lowest], [highest - lowest], dtype)

    def _get_units(self, data: Tensor) -> tuple[Tensor, Tensor]:
        """Return the offset and the scale, in a shape that fits examples, of the data's type and on their device."""
        assert self._units is not None
        # A tensor that is made for each batch would make a GPU wait.
        key = data.device, data.dtype
        if key not in self._tensors:
            shape = (-1, *[1] * (len(self.shape) - 1))
            offset, scale = (
                torch.tensor(numbers, dtype=data.dtype, device=data.device).view(shape)
                for numbers in (self._units.offset, self._units.scale)
            )
            self._tensors[key] = offset, scale
        return self._tensors[key]

    def _read(self, path: Path) -> Split:
        data, labels = read_split(path, self.data_key, self.labels_key)
        if self.channels_last:
            data = data.movedim(-1, 1)
        found = tuple(data.shape[1:])
        if self._shape is None:
            return Split(data, labels)
        if min(self._shape) < 1:
            raise UserError(f"`shape` is {list(self._shape)}. Choose sizes of at least 1.")
        if [size for size in found if size > 1] != [size for size in self._shape if size > 1]:
            raise UserError(f"The examples in {path} have shape {found}, and --data.shape is {list(self._shape)}.")
        return Split(data.reshape(-1, *self._shape), labels)

    def _read_like(self, train: Split, path: Path) -> Split:
        """Return the examples of a file, which must be like the training examples."""
        split = self._read(path)
        found, expected = ((tuple(one.data.shape[1:]), one.data.dtype) for one in (split, train))
        if found != expected:
            raise UserError(
                f"The examples in {path} have shape {found[0]} and type {found[1]}, and those in {self.path} have"
                f" {expected[0]} and {expected[1]}. Choose files that are alike."
            )
        return split

    def _carve(self, stored: Split) -> dict[SplitName, Split]:
        """Return the training examples, and the parts that are held out of their file, by a fixed seed."""
        fractions = self._get_fractions()
        return hold_out(stored, fractions) if fractions else {"train": stored}

    def _get_fractions(self) -> dict[SplitName, float]:
        """Return the fractions of the training file that are held out, by split."""
        return choose_fractions(self.val_path, self.test_path, self.val_fraction, self.test_fraction)

    def _check_values(self, splits: dict[SplitName, Split]) -> tuple[float, float]:
        """Refuse values that are not finite or outside the range; return the extremes of the training split."""
        extremes = {name: _find_extremes(split.data) for name, split in splits.items()}
        for name, (lowest, highest) in extremes.items():
            if not (-torch.inf < lowest <= highest < torch.inf):
                raise UserError(f"The {name} data have a value that is not finite. Remove it, or replace it.")
            if self.value_range and not (self.value_range[0] <= lowest and highest <= self.value_range[1]):
                raise UserError(
                    f"The {name} data reach from {lowest:.4g} to {highest:.4g}, outside `value_range`"
                    f" {list(self.value_range)}. Choose a wider range."
                )
        return extremes["train"]


def _find_extremes(data: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN if one is NaN."""
    passes = [part.double().aminmax() for part in data.split(_EXAMPLES_PER_PASS)]
    lowest, highest = (torch.stack(values) for values in zip(*passes, strict=True))
    return float(lowest.min()), float(highest.max())


def _measure(data: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation, `[D]` each, over all but the first dimension of an example.

    The standard deviation of a constant feature is 1, which leaves it at 0.
    """
    dims = [0, *range(2, data.ndim)]
    count = data.numel() / data.shape[1]
    parts = data.split(_EXAMPLES_PER_PASS)
    mean = torch.stack([part.double().sum(dims) for part in parts]).sum(0) / count
    centre = mean.view(-1, *[1] * (data.ndim - 2))
    variance = torch.stack([(part.double() - centre).square().sum(dims) for part in parts]).sum(0) / count
    stddev = variance.sqrt()
    # Of equal values, rounding leaves a mean that differs in its last digits.
    return mean, torch.where(stddev > 1e-12 * mean.abs(), stddev, 1.0)
