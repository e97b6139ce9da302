"""What is known of real images, kept on disk so that a machine computes it once."""

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
        with whole_file(path) as file:
            file.write(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    except OSError as error:
        warnings.warn(f"{path.parent} cannot be written ({error}), so real images are measured anew.", stacklevel=2)
    return tensors
