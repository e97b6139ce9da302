"""Atomic writing of files, and tensors that are computed once and kept on disk."""

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
    """Open a binary file that replaces `path` when the context ends without an exception.

    The file is written in the directory of `path`, which is made if it does not exist, and then renamed. A reader finds
    the old file or the complete new one, even if this process is killed, and wherever TMPDIR is.
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


def find_cache_folder() -> Path:
    """Return the directory of the machine's cache, `$XDG_CACHE_HOME/gen_lightning`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gen_lightning"


def fingerprint(batches: Iterable[Tensor]) -> str:
    """Return the SHA-256 of examples `[N, ...]` with their dtype and shape; the batch size does not change it."""
    digest, example = hashlib.sha256(), ""
    for batch in batches:
        example = f"{batch.dtype} {tuple(batch.shape[1:])}"
        digest.update(batch.cpu().contiguous().numpy().tobytes())
    digest.update(example.encode())
    return digest.hexdigest()


def load_or_compute_cached(key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return tensors by name from the machine's cache, or compute them and add them to the cache.

    Args:
        key: text that names everything that the tensors depend on, with fingerprints of data and weights
        compute: function that returns the tensors
    """
    return load_or_compute(find_cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors", compute)


def load_or_compute(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return tensors by name from a file, or compute them and write the file if it is missing or damaged.

    Several processes may do this at once: each writes a file of its own and renames it when it is complete. If the
    directory cannot be written, a warning is issued.

    Args:
        path: safetensors file; its name identifies what the tensors depend on
        compute: function that returns the tensors
    """
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError):
        tensors = compute()
    try:
        with atomic_write(path) as file:
            file.write(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    except OSError as error:
        warnings.warn(
            f"{path.parent} cannot be written ({error}). {path.name} will be computed anew each time.", stacklevel=2
        )
    return tensors
