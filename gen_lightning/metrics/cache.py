"""Tensors that are kept on disk, so that what takes long is computed once."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gen_lightning.metrics.files import whole_file


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/gen_lightning`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gen_lightning"


def fingerprint(batches: Iterable[Tensor]) -> str:
    """The SHA-256 of examples `[N, ...]` and of what one of them is, however they are divided into batches."""
    digest, example = hashlib.sha256(), ""
    for batch in batches:
        example = f"{batch.dtype} {tuple(batch.shape[1:])}"
        digest.update(batch.cpu().contiguous().numpy().tobytes())
    digest.update(example.encode())
    return digest.hexdigest()


def cached(what: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name, from the machine's cache where they are there, else computed and put there.

    Args:
        what: everything that the tensors depend on, fingerprints of data and weights among it
        compute: makes them
    """
    return stored(cache_folder() / f"{hashlib.sha256(what.encode()).hexdigest()}.safetensors", compute)


def stored(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name, from a file where it is there and whole, else computed and put there.

    Processes may ask for the same at once: each writes a file of its own, and renames it when it is whole. A folder
    that cannot be written is warned of.

    Args:
        path: a safetensors file, whose name says what the tensors depend on
        compute: makes them
    """
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError):
        tensors = compute()
    try:
        with whole_file(path) as file:
            file.write(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    except OSError as error:
        warnings.warn(f"{path.parent} cannot be written ({error}): {path.name} will be computed anew.", stacklevel=2)
    return tensors
