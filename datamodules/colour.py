"""torchvision's data sets of small colour images as a LightningDataModule."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torchvision import datasets

from datamodules.base import ImageDataModule
from datamodules.sources import Split
from datamodules.splits import hold_out
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError

ColourSource = Literal["cifar10", "cifar100", "svhn"]

_FILES = {
    "cifar10": "the directory cifar-10-batches-py",
    "cifar100": "the directory cifar-100-python",
    "svhn": "the files train_32x32.mat and test_32x32.mat",
}


class ColourDataModule(ImageDataModule):
    """CIFAR-10, CIFAR-100 or SVHN, delivered as (images, labels): float32 `[N, 3, 32, 32]` in [0, 1] and int64 `[N]`.

    The official test split is used for tests only; the validation split is a part of the official training split.
    torchvision checks the MD5 of each file before it is read.

    Args:
        source: cifar10 or svhn, of 10 classes, or cifar100; downloaded once
        root: directory of the files, in torchvision's layout
        batch_size: number of images per iteration and device; at least 1
        val_fraction: fraction of the training split that is held out for validation; above 0 and below 1
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training images

    Raises:
        UserError: an argument is out of range; in `prepare_data`, the files are absent and cannot be downloaded, or are
            corrupt.
    """

    shape = (3, 32, 32)

    def __init__(
        self,
        source: ColourSource = "cifar10",
        root: str = "data",
        batch_size: int = 128,
        val_fraction: float = 0.1,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, device_resident, seed)
        if source not in get_args(ColourSource):
            raise UserError(f"`source` is {source!r}, which is unknown. Choose one of {', '.join(_FILES)}.")
        check_range(self, above=0, below=1, val_fraction=val_fraction)
        self.source = source
        self.root = Path(root)
        self.val_fraction = val_fraction

    @property
    def identity(self) -> str:
        """A text that names the examples of the splits."""
        return f"{type(self).__name__} {self.source} {self.val_fraction}"

    def prepare_data(self) -> None:
        """Download missing files."""
        for train in (True, False):
            _open(self.source, self.root, train)

    def make_splits(self) -> dict[SplitName, Split]:
        """Read the images, and hold out a part of the training split for validation, stratified by class."""
        train, test = (_open(self.source, self.root, is_train) for is_train in (True, False))
        return hold_out(train, {"val": self.val_fraction}) | {"test": test}


def _open(source: ColourSource, root: Path, train: bool) -> Split:
    """Return the official training or test split; download it if it is missing."""
    try:
        try:
            found = _build(source, root, train, download=False)
        except RuntimeError:
            found = _build(source, root, train, download=True)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"The files of {source} are not in {root} and cannot be downloaded, or are corrupt. Put"
            f" {_FILES[source]} there."
        ) from error
    return found


def _build(source: ColourSource, root: Path, train: bool, download: bool) -> Split:
    if source == "svhn":
        svhn = datasets.SVHN(root, split="train" if train else "test", download=download)
        return Split(torch.from_numpy(svhn.data), torch.from_numpy(svhn.labels).long())
    kind = datasets.CIFAR10 if source == "cifar10" else datasets.CIFAR100
    cifar = kind(root, train=train, download=download)
    images = torch.from_numpy(np.ascontiguousarray(cifar.data.transpose(0, 3, 1, 2)))
    return Split(images, torch.tensor(cifar.targets))
