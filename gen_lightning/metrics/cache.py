"""What is known of real images, kept on disk so that a machine computes it once."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/gen_lightning`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gen_lightning"


def fingerprint(batches: Iterable[Tensor]) -> str:
    """The SHA-256 of examples `[N, ...]`, however they are divided into batches."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def cached(what: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name, from the cache where they are there, else computed and put there.

    Processes may ask for the same at once: each writes a file of its own, and renames it when it is whole.

    Args:
        what: everything that the tensors depend on, fingerprints of data and weights among it
        compute: makes them
    """
    path = cache_folder() / f"{hashlib.sha256(what.encode()).hexdigest()}.safetensors"
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError):
        tensors = compute()
    try:
        _write(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    except OSError as error:
        warnings.warn(f"{path.parent} cannot be written ({error}), so real images are measured anew.", stacklevel=2)
    return tensors


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
