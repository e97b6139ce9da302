"""Images of one size in a memory-mapped file, which is built once from a folder of image files.

The file is in the format safetensors, with two tensors: `states`, uint8 `[F]`, tells for each of F image files whether
it is decoded (1) or broken (2); `images`, uint8 `[N, C, H, W]`, holds the N decoded images, in the order of the files.
Until it is complete, the file has another name and no header, and state 0 is that of a file that is not decoded yet.
"""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from datamodules.image_files import ImageFile, find_image_cache, list_formats, read_file
from gen_lightning.errors import UserError
from gen_lightning.storage import acquire_lock, name_file_in_errors

Background = Literal["black", "white"]

# A change of what `decode` returns changes this number, so that no older file is used.
_VERSION = 1
_DECODED, _BROKEN = 1, 2
_HEADER_SIZE = 1024
# Number of bytes of the decoded images that are written at once.
_BLOCK_SIZE = 2**24


class CachedImages(NamedTuple):
    """Images uint8 `[N, C, H, W]` on a memory map, and the states of the F files that they are from, uint8 `[F]`."""

    images: Tensor
    states: Tensor

    @property
    def decoded(self) -> Tensor:
        """Whether each file has an image, bool `[F]`."""
        return self.states == _DECODED


class ImageCache:
    """The cached images of a sequence of files.

    Args:
        root: folder of the files
        files: the files, in the order of their images
        shape: shape of one image, `(C, H, W)` with H = W
        background: colour under transparent pixels
        skip_broken: leave out files that cannot be decoded, instead of refusing them
        identity: text that names the files' contents, their order, the shape and the background
        show_progress: show a progress bar while files are decoded
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[ImageFile],
        shape: tuple[int, int, int],
        background: Background,
        skip_broken: bool,
        identity: str,
        show_progress: bool,
    ) -> None:
        self.root = root
        self.files = files
        self.shape = shape
        self.background = background
        self.skip_broken = skip_broken
        self.show_progress = show_progress
        # Versions of Pillow may decode and resize differently.
        key = f"{_VERSION} {PIL.__version__} {identity}"
        self.path = find_image_cache() / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def load(self) -> CachedImages:
        """Return the images; build the file first if it is missing or damaged.

        If another process builds it, this one waits. A build that was interrupted continues after its last block.

        Raises:
            UserError: a file is broken and is not to be skipped, or changes while it is read.
            StorageError: the cache directory cannot be written.
        """
        cached = self._open()
        if cached is None:
            with name_file_in_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock():
                cached = self._open() or self._build()
        self._refuse_broken(cached.states.numpy().tobytes())
        return cached

    def _open(self) -> CachedImages | None:
        """Return the images of the complete file; None if it is missing or damaged."""
        try:
            with safe_open(self.path, "pt") as tensors, self.path.open("rb") as file:
                cached = CachedImages(tensors.get_tensor("images"), tensors.get_tensor("states"))
                # Somebody else may have written the file, with a checksum of its own.
                fits = cached.states.shape == (len(self.files),)
                fits = fits and cached.images.shape == (int(cached.decoded.sum()), *self.shape)
                if fits and _digest(file) == tensors.metadata()["sha256"]:
                    return cached
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError):
            pass
        warnings.warn(f"{self.path} is damaged. It is built anew.", stacklevel=2)
        return None

    def _lock(self) -> IO[str]:
        path = self.path.with_suffix(".lock")
        lock = acquire_lock(path, wait=False)
        if lock is None:
            warnings.warn(f"Another process builds {self.path}. This one waits for it.", stacklevel=2)
            lock = acquire_lock(path, wait=True)
        assert lock is not None
        return lock

    def _build(self) -> CachedImages:
        partial = self.path.with_suffix(".partial")
        with name_file_in_errors(self.path):
            partial.touch()
            with partial.open("r+b") as file:
                num_images = self._decode_files(file)
                self._complete(file, num_images)
            os.replace(partial, self.path)
        cached = self._open()
        assert cached is not None
        return cached

    def _decode_files(self, file: IO[bytes]) -> int:
        """Write the images and states of the files that are not decoded yet, and return the number of images."""
        states = self._read_states(file)
        image_size = int(np.prod(self.shape))
        block = max(1, _BLOCK_SIZE // image_size)
        bar = tqdm(
            total=len(self.files),
            desc="Images",
            initial=len(states),
            mininterval=1,
            unit="image",
            disable=not self.show_progress,
        )
        # Threads are as fast as processes, because Pillow decodes and resizes without the interpreter's lock.
        with bar, ThreadPoolExecutor() as pool:
            self._refuse_broken(states)
            while len(states) < len(self.files):
                files = self.files[len(states) : len(states) + block]
                images = list(pool.map(self._decode, files))
                start = _HEADER_SIZE + len(self.files) + states.count(_DECODED) * image_size
                # The images are on the disk before their states say so.
                _write(file, start, b"".join(image for image in images if image is not None))
                added = bytes(_BROKEN if image is None else _DECODED for image in images)
                _write(file, _HEADER_SIZE + len(states), added)
                states += added
                bar.update(len(files))
                self._refuse_broken(states)
        return states.count(_DECODED)

    def _read_states(self, file: IO[bytes]) -> bytes:
        """Return the states of the files that an interrupted build has decoded."""
        file.seek(_HEADER_SIZE)
        return file.read(len(self.files)).partition(b"\0")[0]

    def _decode(self, file: ImageFile) -> bytes | None:
        """Return the pixels of a file, uint8 `[C, H, W]`; None if it is broken."""
        content = read_file(self.root / file.path)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise UserError(f"{self.root / file.path} was changed while the images were read. Start again.")
        try:
            return decode(content, self.shape, self.background)
        except MemoryError:
            raise
        except Exception:
            # For a broken file, Pillow's decoders raise exceptions of many types.
            return None

    def _complete(self, file: io.BufferedRandom, num_images: int) -> None:
        """Write the header, with the checksum of the tensors."""
        num_states = len(self.files)
        end = num_states + num_images * int(np.prod(self.shape))
        file.truncate(_HEADER_SIZE + end)
        header = {
            "__metadata__": {"sha256": _digest(file)},
            "states": {"dtype": "U8", "shape": [num_states], "data_offsets": [0, num_states]},
            "images": {"dtype": "U8", "shape": [num_images, *self.shape], "data_offsets": [num_states, end]},
        }
        text = json.dumps(header).encode().ljust(_HEADER_SIZE - 8)
        _write(file, 0, len(text).to_bytes(8, "little") + text)

    def _refuse_broken(self, states: bytes) -> None:
        """Refuse the first broken file by name, unless broken files are to be skipped."""
        first = states.find(_BROKEN)
        if first >= 0 and not self.skip_broken:
            path = self.root / self.files[first].path
            raise UserError(
                f"{path} cannot be read as an image{self._describe(path)}. Replace or remove the file, or skip such"
                " files with --data.skip_broken=true."
            )

    def _describe(self, path: Path) -> str:
        """Return the reason for which a file cannot be decoded, in brackets."""
        try:
            decode(read_file(path), self.shape, self.background)
        except UnidentifiedImageError:
            # Its message names an object of Python.
            return ""
        except Exception as error:
            return f" ({str(error).rstrip('.')})" if str(error) else ""
        return ""


def decode(content: bytes, shape: tuple[int, int, int], background: Background) -> bytes:
    """Return the pixels of an image file, uint8 `[C, H, W]`: the largest centred square, resized to H x W.

    The image is turned upright as its EXIF data say, transparent pixels are laid over the background, and resizing is
    bicubic with antialiasing.

    Raises:
        Exception: the file is broken.
    """
    channels, height, width = shape
    with Image.open(io.BytesIO(content), formats=sorted(set(list_formats().values()))) as image:
        ImageOps.exif_transpose(image, in_place=True)
        flat = _flatten(image, background).convert("L" if channels == 1 else "RGB")
    return b"".join(band.tobytes() for band in ImageOps.fit(flat, (width, height)).split())


def _flatten(image: Image.Image, background: Background) -> Image.Image:
    """Return an image without transparency, and with 8 bits for each channel."""
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        # 16-bit images may have the mode of 32 bits.
        if levels.min() < 0 or levels.max() > 65_535:
            raise ValueError("its levels are outside 0 to 65,535")
        # Pillow's own conversion clips levels at 255.
        return Image.fromarray((levels / 257).round().astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown")
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA"))
    return image


def _digest(file: io.BufferedReader | io.BufferedRandom) -> str:
    """Return the SHA-256 of the tensors in a file."""
    file.seek(_HEADER_SIZE)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _write(file: IO[bytes], start: int, data: bytes) -> None:
    """Write at a position, and return when the data are on the disk."""
    file.seek(start)
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
