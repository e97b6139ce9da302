"""One-dimensional series as a LightningDataModule."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.arrays import ArrayDataModule
from datamodules.signal_files import SeriesReader, list_files
from datamodules.sources import Split
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError


class SignalDataModule(ArrayDataModule):
    """Series from files, delivered as (data, labels): float32 `[N, C, T]` and int64 `[N]`.

    A file is an array, `[N, T]` for one channel or `[N, C, T]` (.npy, .npz, .pt, .pth or .safetensors), or a text file
    of the UCR archive (.tsv, .txt: a series a line, its label first; .ts). Text labels become the numbers 0, 1, ... in
    sorted order.

    With `window`, series are cut from recordings: an array `[T]`, `[C, T]` or `[N, C, T]`, a WAV file, a directory of
    WAV files, a CSV file with a column for each channel, or a text file. The first part of each recording is for
    training, the next for validation and the last for tests, so no window shares values with one of another split.
    Windows have the label 0.

    Args:
        path: file of the training series, or recordings
        val_path: file of the validation series; default: a part of `path`
        test_path: file of the test series; default: a part of `path`
        data_key: name of the series in a file with several arrays
        labels_key: name of the labels in a file with several arrays; without them, all labels are 0
        columns: names of the columns of a CSV file that are channels; default: all
        window: length T of the series that are cut from recordings; at least 1
        hop: distance between the starts of two training windows, at least 1; default: `window`, so that they do not
            overlap. Those of validation and tests never overlap.
        shape: shape of one series, `[C, T]`; default: that of the file
        channels_last: whether arrays hold `[..., T, C]`
        standardize: whether to standardize each channel by the training mean and standard deviation, which checkpoints
            store
        val_fraction: fraction of `path` that is held out for validation, without `val_path`; above 0 and below 1
        test_fraction: fraction of `path` that is held out for tests, without `test_path`; above 0 and below 1
        batch_size: number of series per iteration and device; at least 1
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training series

    Raises:
        UserError: an argument is out of range or does not fit the file; a file is missing or corrupt; series have gaps
            or unequal lengths; a recording is too short for a window in each split.
    """

    def __init__(
        self,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        data_key: str = "data",
        labels_key: str = "labels",
        columns: list[str] | None = None,
        window: int | None = None,
        hop: int | None = None,
        shape: Sequence[int] | None = None,
        channels_last: bool = False,
        standardize: bool = True,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 128,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        check_range(self, at_least=2, window=window)
        check_range(self, at_least=1, hop=hop)
        if hop is not None and window is None:
            raise UserError(
                f"`hop` is {hop}, and `window` is not given. Give the length of a window with --data.window."
            )
        super().__init__(
            path,
            val_path,
            test_path,
            data_key,
            labels_key,
            shape,
            channels_last,
            standardize=standardize,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            batch_size=batch_size,
            device_resident=device_resident,
            seed=seed,
        )
        self.window = window
        self.hop = hop
        self.columns = columns
        self._reader = SeriesReader(data_key, labels_key, columns, channels_last)

    @cached_property
    def identity(self) -> str:
        """A text that names the series of the splits."""
        return f"{super().identity} {self.window} {self.hop} {self.columns}"

    def signals(self, split: SplitName) -> Iterator[Tensor]:
        """Return a whole split, as models see it, in batches of float32 `[N, C, T]`."""
        return (series for series, _ in self.examples(split))

    def make_splits(self) -> dict[SplitName, Split]:
        """Read the files, and hold out parts of the training file."""
        splits = super().make_splits()
        if self._reader.classes:
            rank_zero_info(f"Labels: {', '.join(f'{i} is {name}' for i, name in enumerate(self._reader.classes))}.")
        return splits

    @cached_property
    def _recordings(self) -> list[Tensor]:
        return self._reader.read_recordings(self._get_path())

    @cached_property
    def _stored(self) -> Split:
        if self.window is None:
            return super()._stored
        return self._check_shape(self._cut(self._recordings, self.window, f"`{self.path}` has"), self._get_path())

    def _list_files(self, path: Path) -> list[Path]:
        return list_files(path)

    def _read(self, path: Path) -> Split:
        if self.window is None:
            return self._check_shape(self._reader.read_series(path), path)
        recordings = self._reader.read_recordings(path)
        return self._check_shape(self._cut(recordings, self.window, f"{path} has"), path)

    def _carve(self, stored: Split) -> dict[SplitName, Split]:
        """Return the training series, and those that are held out of their file: windows by time, others at random."""
        if self.window is None:
            return super()._carve(stored)
        fractions = self._get_fractions()
        shares: dict[SplitName, float] = {"train": 1 - sum(fractions.values()), **fractions}
        if shares["train"] <= 0:
            raise UserError(
                f"`val_fraction` and `test_fraction` are {' and '.join(map(str, fractions.values()))}, which leaves"
                " nothing for training. Choose smaller fractions."
            )
        splits: dict[SplitName, Split] = {}
        start = 0.0
        for name, share in shares.items():
            parts = [_select_time(recording, start, start + share) for recording in self._recordings]
            hop = self.hop or self.window if name == "train" else self.window
            splits[name] = self._cut(parts, hop, f"the {name} part of {self.path} has")
            start += share
        return splits

    def _cut(self, recordings: Sequence[Tensor], hop: int, subject: str) -> Split:
        """Return the windows of recordings `[C, T]` whose starts have a distance, `[N, C, window]`.

        Raises:
            UserError: every recording is shorter than a window.
        """
        assert self.window is not None
        longest = max(recording.shape[-1] for recording in recordings)
        if longest < self.window:
            raise UserError(
                f"`window` is {self.window:,}, and {subject} at most {longest:,} values in a row. Choose a smaller"
                " --data.window, or give longer recordings."
            )
        windows = [
            recording.unfold(-1, self.window, hop).movedim(1, 0)
            for recording in recordings
            if recording.shape[-1] >= self.window
        ]
        # The windows of one recording are a view of it, so overlapping ones need no memory of their own.
        data = windows[0] if len(windows) == 1 else torch.cat(windows)
        return Split(data, torch.zeros(len(data), dtype=torch.int64))

    def _check_shape(self, split: Split, path: Path) -> Split:
        found = tuple(split.data.shape[1:])
        if self._shape is not None and found != self._shape:
            raise UserError(f"The series in {path} have shape {list(found)}, and --data.shape is {list(self._shape)}.")
        return split


def _select_time(recording: Tensor, start: float, end: float) -> Tensor:
    """Return the part of a recording `[C, T]` between two fractions of its length."""
    length = recording.shape[-1]
    return recording[:, round(start * length) : round(end * length)]
