"""Series in files: WAV, CSV with a column for each channel, and the text formats of the UCR and UEA archives."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.io import wavfile
from torch import Tensor

from datamodules.array_files import SUFFIXES, choose_data, choose_labels, read_arrays
from datamodules.sources import Split
from gen_lightning.errors import UserError

_SERIES_PER_PASS = 4096
_ENDINGS = (".wav", ".csv", ".tsv", ".txt", ".ts", *SUFFIXES)


def list_files(path: Path) -> list[Path]:
    """Return a file, or the WAV files of a directory, in the order of their names.

    Raises:
        UserError: the file is missing or has another ending, or a directory holds no WAV file.
    """
    if not path.exists():
        raise UserError(f"{path} is missing. Choose a file of series, or a directory of .wav files, with --data.path.")
    if not path.is_dir():
        if path.suffix not in _ENDINGS and not _is_recording(path):
            raise UserError(f"{path} has the ending {path.suffix!r}. Choose a file that ends in {', '.join(_ENDINGS)}.")
        return [path]
    files = sorted(one for one in path.rglob("*") if one.suffix.lower() == ".wav" and one.is_file())
    if not files:
        raise UserError(
            f"{path} holds no .wav file. Choose another directory, or a file that ends in {', '.join(_ENDINGS)}."
        )
    return files


class SeriesReader:
    """Reads files of series alike: text labels have the same numbers in all of them.

    Args:
        data_key: name of the series in a file with several arrays
        labels_key: name of the labels in a file with several arrays
        columns: names of the columns of CSV files that are channels; None: all
        channels_last: whether arrays hold `[..., T, C]`
    """

    def __init__(self, data_key: str, labels_key: str, columns: Sequence[str] | None, channels_last: bool) -> None:
        self.columns = columns
        self.data_key = data_key
        self.labels_key = labels_key
        self.channels_last = channels_last
        self.classes: list[str] = []
        """The text labels of the first file, sorted; a label's position is its number."""
        self.rates: dict[int, Path] = {}
        """The sampling rates of WAV files, in hertz, each with the first file that has it."""

    def read_series(self, path: Path) -> Split:
        """Return series of equal length, `[N, C, T]`, and their labels, int64 `[N]`; 0 if there are none.

        Raises:
            UserError: the file is missing or corrupt, or its series have gaps or unequal lengths.
        """
        list_files(path)
        if _is_recording(path):
            data = _stack(self.read_recordings(path), path)
            return Split(data, torch.zeros(len(data), dtype=torch.int64))
        if path.suffix in _TEXT_READERS:
            series, names = _read_text(path)
            return Split(_stack(series, path), self._number(names, path))
        arrays = read_arrays(path)
        data = choose_data(arrays, path, self.data_key)
        if data.ndim == 1 and len(data):
            raise _build_recording_error(path, len(data))
        if data.ndim not in (2, 3) or data.numel() == 0:
            raise UserError(f"The data in {path} have shape {tuple(data.shape)}. Store series as [N, T] or [N, C, T].")
        labels = choose_labels(arrays, path, self.labels_key, len(data))
        data = data.movedim(-1, 1) if self.channels_last and data.ndim == 3 else data
        return Split(_refuse_gaps(data[:, None] if data.ndim == 2 else data, path), labels)

    def read_recordings(self, path: Path) -> list[Tensor]:
        """Return recordings of any lengths, `[C, T]` each.

        Arrays are recordings `[T]` or `[C, T]`, or several of them, `[N, C, T]`.

        Raises:
            UserError: a file is missing or corrupt, or the recordings have gaps or different numbers of channels.
        """
        files = list_files(path)
        if _is_recording(path):
            return _check_alike([self._read_recording(file) for file in files], files)
        if path.suffix in _TEXT_READERS:
            return _read_text(path)[0]
        data = choose_data(read_arrays(path), path, self.data_key)
        if not 1 <= data.ndim <= 3 or data.numel() == 0:
            raise UserError(
                f"The data in {path} have shape {tuple(data.shape)}. Store a recording as [T] or [C, T], or several as"
                " [N, C, T]."
            )
        data = data.movedim(-1, -2) if self.channels_last and data.ndim > 1 else data
        return list(_refuse_gaps(data.reshape(-1, *data.shape[-2:]) if data.ndim > 1 else data[None, None], path))

    def _read_recording(self, file: Path) -> Tensor:
        if file.suffix.lower() != ".wav":
            return _read_csv(file, self.columns)
        rate, samples = _read_wav(file)
        self.rates.setdefault(rate, file)
        if len(self.rates) > 1:
            named = " and ".join(f"{path} has {one:,} Hz" for one, path in self.rates.items())
            raise UserError(f"The sampling rates differ: {named}. Resample one of them.")
        return samples

    def _number(self, names: Sequence[str], path: Path) -> Tensor:
        """Return labels as numbers, int64 `[N]`: the positions in the sorted labels of the first file."""
        if not self.classes:
            self.classes = sorted(set(names), key=_make_sort_key)
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise UserError(
                f"The labels in {path} contain {unknown[0]!r}, and the training file has"
                f" {', '.join(self.classes[:10])}. Remove these series, or add the class to the training file."
            )
        return torch.tensor([self.classes.index(name) for name in names])


def _is_recording(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in (".wav", ".csv")


def _read_wav(path: Path) -> tuple[int, Tensor]:
    """Return the sampling rate of a WAV file, in hertz, and its channels, `[C, T]`, in the type of its samples."""
    try:
        with warnings.catch_warnings():
            # SciPy warns of metadata that it skips.
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as WAV: {str(error).rstrip('.')}. Convert it to PCM or floats, or remove it."
        ) from error
    return rate, _refuse_gaps(torch.from_numpy(np.atleast_2d(samples.T))[None], path)[0]


def _read_csv(path: Path, columns: Sequence[str] | None) -> Tensor:
    """Return columns of a CSV file as channels, `[C, T]`."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}. Store a column for each channel.") from error
    if missing := [name for name in columns or () if name not in table]:
        raise UserError(
            f"{path} has no column `{missing[0]}`. Choose --data.columns among {', '.join(map(str, table))}."
        )
    table = table if columns is None else table[list(columns)]
    texts = [str(name) for name, column in table.items() if not pd.api.types.is_numeric_dtype(column)]
    if texts or table.empty:
        described = f"a column `{texts[0]}` that holds no numbers" if texts else "no values"
        raise UserError(f"{path} has {described}. Name the columns that are channels with --data.columns.")
    return _refuse_gaps(torch.from_numpy(table.to_numpy(dtype=np.float64).T.copy())[None], path)[0]


def _read_text(path: Path) -> tuple[list[Tensor], list[str]]:
    """Return the series `[C, T]` of a text file, and their labels."""
    try:
        series, names = _TEXT_READERS[path.suffix](path.read_text().splitlines())
        recordings = [torch.tensor(channels, dtype=torch.float64) for channels in series]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. Store a line for each series, the label first and then its values, or a"
            " .ts file without times."
        ) from error
    for number, recording in enumerate(recordings):
        _refuse_gaps(recording[None], path, number)
    if not recordings:
        raise UserError(f"{path} holds no series. Store a line for each series, the label first.")
    channels = {len(recording) for recording in recordings}
    if len(channels) > 1:
        raise UserError(f"The series in {path} have {min(channels)} to {max(channels)} channels. Make them equal.")
    return recordings, names


def _parse_ucr(lines: Sequence[str]) -> tuple[list[list[list[float]]], list[str]]:
    """Return the series of the UCR archive (Dau et al. 2019): one a line, the label first.

    Values are separated by tabs, commas or spaces. Missing values at the end of a line mean a shorter series.
    """
    rows = [line.replace(",", " ").split() for line in lines if line.strip()]
    for row in rows:
        while row[-1].lower() == "nan":
            row.pop()
    return [[[float(value) for value in row[1:]]] for row in rows], [_simplify(row[0]) for row in rows]


def _parse_ts(lines: Sequence[str]) -> tuple[list[list[list[float]]], list[str]]:
    """Return the series of a .ts file of the UEA archive: channels and the label are separated by colons."""
    header = [line.strip().lower() for line in lines if line.startswith("@")]
    labelled = any(line.startswith("@classlabel true") for line in header)
    rows = [line.strip().split(":") for line in lines if line.strip() and line[0] not in "@#"]
    channels = [row[:-1] if labelled else row for row in rows]
    names = [_simplify(row[-1]) if labelled else "0" for row in rows]
    # "?" is a missing value.
    return [
        [[float(value.replace("?", "nan")) for value in channel.split(",")] for channel in row] for row in channels
    ], names


_TEXT_READERS: dict[str, Callable[[Sequence[str]], tuple[list[list[list[float]]], list[str]]]] = {
    ".tsv": _parse_ucr,
    ".txt": _parse_ucr,
    ".ts": _parse_ts,
}


def _simplify(label: str) -> str:
    """Return a label without the decimals of a whole number, as older files of the UCR archive have them."""
    try:
        number = float(label)
    except ValueError:
        return label
    return str(int(number)) if number.is_integer() else label


def _make_sort_key(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label


def _stack(series: Sequence[Tensor], path: Path) -> Tensor:
    """Return series as one tensor `[N, C, T]`.

    Raises:
        UserError: there is only one, or they have different lengths.
    """
    lengths = {one.shape[1] for one in series}
    if len(series) == 1:
        raise _build_recording_error(path, max(lengths))
    if len(lengths) > 1:
        raise UserError(
            f"The series in {path} have unequal lengths, from {min(lengths):,} to {max(lengths):,}. Cut them into"
            f" windows with --data.window, at most {min(lengths):,} to use all of them, or resample them to one length."
        )
    return torch.stack(list(series))


def _build_recording_error(path: Path, length: int) -> UserError:
    return UserError(
        f"{path} holds one recording of {length:,} values. Cut it into series with --data.window, their length."
    )


def _check_alike(recordings: list[Tensor], files: Sequence[Path]) -> list[Tensor]:
    """Refuse recordings that differ in the number of channels or in the type of their values."""
    for recording, file in zip(recordings, files, strict=True):
        kinds = [(len(one), str(one.dtype).removeprefix("torch.")) for one in (recordings[0], recording)]
        if kinds[0] != kinds[1]:
            raise UserError(
                f"{files[0]} has {kinds[0][0]} channel(s) of {kinds[0][1]}, and {file} has {kinds[1][0]} of"
                f" {kinds[1][1]}. Choose files that are alike."
            )
    return recordings


def _refuse_gaps(data: Tensor, path: Path, first: int = 0) -> Tensor:
    """Return series `[N, C, T]`; refuse values that are not finite.

    Args:
        data: series
        path: their file, for the sentence
        first: number of the first series
    """
    for start, part in zip(range(0, len(data), _SERIES_PER_PASS), data.split(_SERIES_PER_PASS), strict=True):
        gaps = ~part.isfinite()
        if gaps.any():
            number, channel, time = gaps.nonzero()[0].tolist()
            raise UserError(
                f"{path} has a gap: {int(gaps[number].sum()):,} value(s) of series {first + start + number:,} are not"
                f" finite, the first in channel {channel} at time {time:,}. Interpolate them, or remove the series."
            )
    return data
