"""Images of any folder as a LightningDataModule."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.image_cache import Background, ImageCache
from datamodules.image_files import ImageFile, ImageListing, list_images
from datamodules.loaders import EVALUATION_SEED, Batch
from datamodules.sources import Split
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError


class ImageFolderDataModule(ImageDataModule):
    """The images of a folder, delivered as (images, labels): float32 `[N, C, H, W]` in [0, 1] and int64 `[N]`.

    Each image is cropped to its largest centred square and resized once, by Pillow's bicubic filter with antialiasing.
    The results are kept in one file in `~/.cache/gen_lightning/image_folders`, from which batches are read without
    loading it into memory. It is built when the images, the size, the channels or the background are new.

    Folders `train`, `val` (or `validation`, `valid`) and `test` in the root are the splits. Without a folder, the
    validation and the test split are drawn from the training images, stratified by class. Folders in a split are its
    classes, in alphabetical order. Without class folders, all labels are 0.

    Args:
        root: folder of the images
        image_size: height and width of the images; 28 to 256
        channels: 1 (grey) or 3 (RGB)
        batch_size: number of images per iteration and device; at least 1
        horizontal_flip: whether each training image is mirrored with probability 1/2 at each read
        background: colour under transparent pixels, black or white
        skip_broken: whether files that cannot be read as images are left out, with a warning, instead of refused
        val_fraction: fraction of the images that is held out for validation if there is no folder `val`; above 0 and
            below 1
        test_fraction: fraction of the images that is held out for tests if there is no folder `test`; above 0 and below
            1
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training images, and of the flips

    Raises:
        UserError: an argument is out of range; in `prepare_data` and `setup`, the folder is missing or holds too few
            images, its layout is unclear, or an image is broken.
        StorageError: in `prepare_data` and `setup`, the cache directory cannot be written.
    """

    def __init__(
        self,
        root: str | None = None,
        image_size: int = 64,
        channels: Literal[1, 3] = 3,
        batch_size: int = 128,
        horizontal_flip: bool = False,
        background: Background = "white",
        skip_broken: bool = False,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, device_resident, seed)
        check_range(self, at_least=28, at_most=256, image_size=image_size)
        if channels not in (1, 3):
            raise UserError(f"`{type(self).__name__}.channels` is {channels}. Choose 1 (grey) or 3 (RGB).")
        if background not in get_args(Background):
            raise UserError(f"`{type(self).__name__}.background` is {background!r}. Choose black or white.")
        check_range(self, above=0, below=1, val_fraction=val_fraction, test_fraction=test_fraction)
        self.root = root
        self.image_size = image_size
        self.channels = channels
        self.horizontal_flip = horizontal_flip
        self.background = background
        self.skip_broken = skip_broken
        self.fractions: dict[SplitName, float] = {"val": val_fraction, "test": test_fraction}

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image, `(C, H, W)`."""
        return (self.channels, self.image_size, self.image_size)

    @property
    def class_names(self) -> list[str]:
        """The names of the class folders, in the order of the labels; empty without class folders."""
        return self._listing.class_names

    @cached_property
    def identity(self) -> str:
        """A text that names the examples of the splits, by the contents of their files."""
        digest = hashlib.sha256()
        for split, files in self._listing.splits.items():
            for file in files:
                digest.update(f"{split} {file.label} {file.sha256}\n".encode())
        return f"{type(self).__name__} {digest.hexdigest()} {self.image_size} {self.channels} {self.background}"

    def prepare_data(self) -> None:
        """Build the cache in one process while the others wait."""
        self.setup("fit")

    def make_splits(self) -> dict[SplitName, Split]:
        """Return the splits, slices of the memory-mapped images."""
        listing = self._listing.splits
        files = [file for part in listing.values() for file in part]
        cache = ImageCache(
            self._get_root(),
            files,
            self.shape,
            self.background,
            self.skip_broken,
            self.identity,
            self._shows_progress(),
        )
        cached = cache.load()
        decoded = cached.decoded
        self._report_broken_files([file for file, intact in zip(files, decoded.tolist(), strict=True) if not intact])
        labels = torch.tensor([file.label for file in files])[decoded]
        sizes = [int(part.sum()) for part in decoded.split([len(part) for part in listing.values()])]
        if 0 in sizes:
            empty = list(listing)[sizes.index(0)]
            raise UserError(f"All images of the split {empty} in {self.root} are broken. Replace them.")
        parts = zip(cached.images.split(sizes), labels.split(sizes), strict=True)
        return {name: Split(*part) for name, part in zip(listing, parts, strict=True)}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Mirror training images at random, if that is asked for, and convert uint8 to float32 in [0, 1]."""
        if self.horizontal_flip and batch.seed != EVALUATION_SEED:
            batch = Batch(_flip_at_random(batch.data, batch.seed), batch.labels, batch.seed)
        return super().on_after_batch_transfer(batch, dataloader_idx)

    @cached_property
    def _listing(self) -> ImageListing:
        return list_images(self._get_root(), self.fractions, self._shows_progress())

    def _get_root(self) -> Path:
        if not self.root:
            raise UserError("`root` is not given. Give the folder of the images with --data.root.")
        return Path(self.root)

    def _shows_progress(self) -> bool:
        return self.trainer is None or self.trainer.progress_bar_callback is not None

    def _report_broken_files(self, broken: list[ImageFile]) -> None:
        if broken:
            names = ", ".join(sorted(file.path for file in broken)[:5])
            more = ", ..." if len(broken) > 5 else ""
            rank_zero_warn(f"{len(broken)} broken image(s) in {self.root} are left out: {names}{more}.")


def _flip_at_random(images: Tensor, seed: int) -> Tensor:
    """Return images `[N, C, H, W]`, each mirrored with probability 1/2."""
    generator = torch.Generator(images.device).manual_seed(seed)
    mirrored = torch.rand((len(images), 1, 1, 1), generator=generator, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)
