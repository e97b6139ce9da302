"""Atomic files, and tensors that are computed once and kept on disk."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write, which takes the place of `path` once the context has ended well.

    It is written beside `path` and renamed, so that a reader or a killed process finds the old file or the new one,
    wherever TMPDIR is. Makes the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


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
        with atomic_write(path) as file:
            file.write(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    except OSError as error:
        warnings.warn(f"{path.parent} cannot be written ({error}): {path.name} will be computed anew.", stacklevel=2)
    return tensors
