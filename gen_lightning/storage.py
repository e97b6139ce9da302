"""Files that are written whole, locks, checksums, and tensors that are computed once and kept on disk."""

import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import socket
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gen_lightning.errors import StorageError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is exhausted",
    errno.EFBIG: "the file would exceed the size that this process may write",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOENT: "the file or its directory has been removed",
    errno.ENOTDIR: "a file is in the place of its directory",
    errno.EEXIST: "a file is in the place of its directory",
    errno.EISDIR: "a directory is in its place",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the network file system has lost it",
    errno.ENAMETOOLONG: "its name is too long",
}
_LOCKED = (errno.EACCES, errno.EAGAIN)
_TEMPORARY = ".tmp"

# The end-of-directory record of a ZIP file without a comment, its last part.
_ZIP_END_SIZE = 22
_ZIP_END = b"PK\5\6"
_MARK = b"gen_lightning sha256 "
_COMMENT_SIZE = len(_MARK) + 2 * hashlib.sha256().digest_size


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` within the context into a StorageError that names `path` and the reason in plain words."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {describe_os_error(error)}.") from error


def describe_os_error(error: OSError) -> str:
    """Return the reason of an `OSError` in plain words, such as "the disk is full"."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


class _Output(io.FileIO):
    """A file whose errors name the file that it will replace, and that keeps the first of them.

    Writers in C++, such as torch.save's, replace an exception of `write` by one of their own.
    """

    def __init__(self, temporary: Path, target: Path) -> None:
        super().__init__(temporary, "x+b")
        self.target = target
        self.error: StorageError | None = None

    def write(self, data: Any) -> int:
        try:
            with name_file_in_errors(self.target):
                return super().write(data)
        except StorageError as error:
            self.error = self.error or error
            raise


_unfinished: set[Path] = set()


def remove_unfinished_files() -> None:
    """Remove the temporary files of this process, before it ends without leaving its contexts."""
    for temporary in list(_unfinished):
        with suppress(OSError):
            os.unlink(temporary)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` when the context ends without an exception.

    The file is written in the directory of `path`, which must exist, and then renamed. A reader finds the old file or
    the complete new one, even if this process is killed, and wherever TMPDIR is. The file's mode follows the umask. A
    symbolic link at `path` is replaced, not followed.

    Raises:
        StorageError: the file cannot be written.
    """
    with name_file_in_errors(path):
        temporary, raw = _create_temporary_file(path)
    file = io.BufferedRandom(raw)
    _unfinished.add(temporary)
    try:
        try:
            yield file
            with name_file_in_errors(path):
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(temporary)
            if raw.error and raw.error is not error:
                raise raw.error from error
            raise
    finally:
        _unfinished.discard(temporary)
        # After a failed write, closing tries once more to write what is left.
        with suppress(OSError):
            file.close()


def _create_temporary_file(path: Path) -> tuple[Path, _Output]:
    """Return a new hidden file beside `path`, and the locked file object."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        raw = _Output(temporary, path)
        # A file system without locks also keeps `remove_stale_files` from removing the file.
        with suppress(OSError):
            # Such a lock excludes another thread, too, unlike those of fcntl.lockf.
            fcntl.flock(raw, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, raw
        # remove_stale_files came between creation and lock.
        raw.close()


def remove_stale_files(directory: Path) -> None:
    """Remove the temporary files that killed processes have left in a directory.

    A process that is writing a file holds a lock on it, so that its file is left alone.
    """
    for path in directory.glob(f".*{_TEMPORARY}"):
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def check_space(path: Path, num_bytes: int) -> None:
    """Check that a file of `num_bytes` could be written at `path`.

    Raises:
        StorageError: the directory is missing or read-only, or the disk is full.
    """
    with name_file_in_errors(path):
        temporary, raw = _create_temporary_file(path)
        try:
            with raw:
                raw.write(bytes(num_bytes))
                os.fsync(raw.fileno())
        finally:
            temporary.unlink(missing_ok=True)


def acquire_lock(path: Path, wait: bool) -> IO[str] | None:
    """Lock a file for this process, and return the open file that holds the lock; None if another process holds it.

    The lock ends when the returned file is closed and when the process ends, even by SIGKILL: the kernel keeps it. It
    is a POSIX lock, which NFS passes on to its server, and which forked workers do not inherit, so that none of them
    holds it after a killed parent. It does not exclude threads of one process. The file remains, with the host and the
    number of the last process that locked it.

    Args:
        path: the lock's file, made if it does not exist
        wait: wait for another process instead of returning None

    Raises:
        StorageError: the file cannot be opened for writing.
    """
    with name_file_in_errors(path):
        file = path.open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            file.close()
            return None
        warnings.warn(
            f"{path} cannot be locked: {describe_os_error(error)}. Nothing keeps two processes from writing there.",
            stacklevel=2,
        )
    with suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    return file


def save_with_checksum(content: Any, file: IO[bytes]) -> None:
    """Save with torch.save, and add the SHA-256 of the file as the comment of the ZIP file.

    torch.load reads the file as any other.
    """
    output = _HashingWriter(file)
    torch.save(content, cast(IO[bytes], output))
    comment = _MARK + output.digest.hexdigest().encode()
    # The size of the comment is the last field of a ZIP file.
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", len(comment)) + comment)


class _HashingWriter:
    """The part of a file that torch.save needs, with the SHA-256 of what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def is_intact(path: Path) -> bool:
    """Return whether a file of `save_with_checksum` is as it was written; True for files of a plain torch.save.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(2) != b"PK" or size < _ZIP_END_SIZE + _COMMENT_SIZE:
            return True
        file.seek(-_ZIP_END_SIZE, os.SEEK_END)
        end = file.read()
        if end.startswith(_ZIP_END) and end.endswith(b"\0\0"):
            return True
        file.seek(-_COMMENT_SIZE - 2, os.SEEK_END)
        stored = file.read()
        digest = hashlib.sha256()
        file.seek(0)
        _update_from_file(digest, file, size - len(stored))
        digest.update(b"\0\0")
    return stored == struct.pack("<H", _COMMENT_SIZE) + _MARK + digest.hexdigest().encode()


def _update_from_file(digest: Any, file: IO[bytes], num_bytes: int) -> None:
    while num_bytes and (block := file.read(min(num_bytes, 2**20))):
        digest.update(block)
        num_bytes -= len(block)


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


Shapes = Mapping[str, tuple[int | None, ...]]
"""Shapes of tensors by name; None stands for any size."""


def load_or_compute_cached(
    key: str, compute: Callable[[], dict[str, Tensor]], shapes: Shapes | None = None
) -> dict[str, Tensor]:
    """Return tensors by name from the machine's cache, or compute them and add them to the cache.

    Args:
        key: text that names everything that the tensors depend on, with fingerprints of data and weights
        compute: function that returns the tensors
        shapes: shapes of the tensors; a file with other ones is damaged; default: any
    """
    path = find_cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    return load_or_compute(path, compute, shapes)


def load_or_compute(
    path: Path, compute: Callable[[], dict[str, Tensor]], shapes: Shapes | None = None
) -> dict[str, Tensor]:
    """Return tensors by name from a file, or compute them and write the file if it is missing or damaged.

    Several processes may do this at once: each writes a file of its own and renames it when it is complete. If the
    directory cannot be written, a warning is issued. The file holds a checksum of the tensors; a file of an earlier
    version, which has none, is used.

    Args:
        path: safetensors file; its name identifies what the tensors depend on
        compute: function that returns the tensors
        shapes: shapes of the tensors; a file with other ones is damaged; default: any
    """
    try:
        return _load_tensors(path, shapes)
    except FileNotFoundError:
        pass
    except OSError as error:
        warnings.warn(f"{path} cannot be read: {describe_os_error(error)}. It is computed anew.", stacklevel=2)
    except (SafetensorError, ValueError):
        warnings.warn(f"{path} is damaged. It is computed anew.", stacklevel=2)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in compute().items()}
    try:
        with name_file_in_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_files(path.parent)
        with atomic_write(path) as file:
            file.write(save(tensors, {"sha256": _digest_tensors(tensors)}))
    except StorageError as error:
        warnings.warn(f"{error} It will be computed anew each time.", stacklevel=2)
    return tensors


def _load_tensors(path: Path, shapes: Shapes | None) -> dict[str, Tensor]:
    data = path.read_bytes()
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    stored = header.get("__metadata__", {}).get("sha256")
    if stored is not None and stored != _digest_tensors(tensors):
        raise ValueError("the checksum does not match the tensors")
    # Somebody else may have written the file, with a checksum of its own.
    if shapes is not None and tensors.keys() != shapes.keys():
        raise ValueError("the tensors have other names")
    if not all(_fits(tensors[name], shape) for name, shape in (shapes or {}).items()):
        raise ValueError("the tensors have other shapes")
    return tensors


def _fits(tensor: Tensor, shape: tuple[int | None, ...]) -> bool:
    """Return whether a tensor is floating-point and of a shape."""
    if len(tensor.shape) != len(shape) or not tensor.is_floating_point():
        return False
    return all(wanted in (None, size) for size, wanted in zip(tensor.shape, shape, strict=True))


def _digest_tensors(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of tensors with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
