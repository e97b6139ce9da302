"""Arrays in files: NumPy's .npy and .npz, PyTorch's .pt and .pth, and .safetensors; none of them may hold code."""

import hashlib
import os
import pickle
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from datamodules.sources import Split
from gen_lightning.errors import UserError
from gen_lightning.storage import find_cache_folder

# What the readers raise for a file that is damaged, or that holds objects other than arrays.
_FAULTS = (
    *(OSError, ValueError, RuntimeError, TypeError, AttributeError, EOFError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, SafetensorError),
)
SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors")


def read_split(path: Path, data_key: str, labels_key: str) -> Split:
    """Return the examples of a file, as they are stored, and their labels; 0 if it has none.

    .npy, .pt and .safetensors files are memory-mapped: only indexed examples are read.

    Args:
        path: the file
        data_key: name of the examples, if the file holds several arrays
        labels_key: name of the labels, if the file holds several arrays

    Raises:
        UserError: the file is missing or corrupt, holds no array of that name, no numbers, no examples, or labels that
            are not one whole number of 0 or more for each example.
    """
    arrays = read_arrays(path)
    data = choose_data(arrays, path, data_key)
    if data.ndim < 2 or data.numel() == 0:
        raise UserError(
            f"The data in {path} have shape {tuple(data.shape)}. Store at least one example in an array [N, ...];"
            " numbers as [N, 1]."
        )
    return Split(data, choose_labels(arrays, path, labels_key, len(data)))


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a file by name; that of a file with one array has the name "data".

    Raises:
        UserError: the file is missing or corrupt, or has another ending.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} has the ending {path.suffix!r}. Choose a file that ends in {', '.join(SUFFIXES)}.")
    check_exists(path)
    try:
        return _READERS[path.suffix](path)
    except _FAULTS as error:
        raise UserError(
            f"{path} is corrupt, or holds something other than arrays of numbers. Write arrays of numbers alone, with"
            " numpy.save, numpy.savez, torch.save or safetensors."
        ) from error


def choose_data(arrays: dict[str, Tensor], path: Path, data_key: str) -> Tensor:
    """Return the array of a file that holds its examples: the only one, or the one that `data_key` names.

    Raises:
        UserError: there is no array of that name, or it is sparse or complex.
    """
    if len(arrays) > 1 and data_key not in arrays:
        raise UserError(f"{path} has no array `{data_key}`. Choose one with --data.data_key: {', '.join(arrays)}.")
    data = arrays[data_key] if data_key in arrays else next(iter(arrays.values()), torch.empty(0))
    if data.layout != torch.strided:
        raise UserError(f"The data in {path} are sparse. Store a dense array.")
    if data.is_complex():
        raise UserError(f"The data in {path} are {data.dtype}. Store real and imaginary parts as two channels.")
    return data


def choose_labels(arrays: dict[str, Tensor], path: Path, labels_key: str, n: int) -> Tensor:
    """Return the labels of n examples, int64 `[n]`; 0 if the file has one array or none of that name.

    Raises:
        UserError: they are not one whole number of 0 or more for each example.
    """
    labels = arrays.get(labels_key) if len(arrays) > 1 else None
    if labels is None:
        return torch.zeros(n, dtype=torch.int64)
    whole = not (labels.is_floating_point() or labels.is_complex())
    if labels.shape != (n,) or not whole or int(labels.min()) < 0:
        raise UserError(
            f"The labels in {path} are {labels.dtype} of shape {tuple(labels.shape)}. Store one whole number of 0 or"
            f" more for each of the {n:,} examples, or choose another array with --data.labels_key."
        )
    return labels.long()


def check_exists(path: Path) -> None:
    """Refuse a file that is missing.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing. Choose a file with --data.path.")


def compute_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        UserError: there is no such file.
    """
    check_exists(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get_marker(path: Path) -> Path:
    """Return the path of an empty file that exists if the user has trained on a file."""
    return find_cache_folder() / "arrays" / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()


def remember(path: Path) -> None:
    """Note that the user has named a file, so that a checkpoint may name it later."""
    with suppress(OSError):
        marker = get_marker(path)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def _read_npy(path: Path) -> dict[str, Tensor]:
    # Copy on write, because PyTorch has no tensors that are read-only.
    return {"data": _to_tensor(np.load(path, mmap_mode="c", allow_pickle=False))}


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    # A file of numbers may hold names or dates beside them.
    return {name: _to_tensor(array) for name, array in arrays.items() if array.dtype.kind in "biufc"}


def _read_pt(path: Path) -> dict[str, Tensor]:
    content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    tensors = {"data": content} if isinstance(content, Tensor) else content
    return {name: value.detach() for name, value in tensors.items() if isinstance(value, Tensor)}


def _to_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    # PyTorch has no numbers in the other byte order.
    return torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))


_READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".safetensors": load_file,
}
