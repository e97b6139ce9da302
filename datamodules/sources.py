"""What the pixels are: the data sets, as uint8 tensors with their official splits."""

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

Source = Literal["mnist", "fashion_mnist", "kmnist", "digits"]

_TORCHVISION = {
    "mnist": datasets.MNIST,
    "fashion_mnist": datasets.FashionMNIST,
    "kmnist": datasets.KMNIST,
}

# The three torchvision sources share one layout: 60,000 + 10,000 images of 28 x 28 in the IDX format.
_IDX_FILES = {
    "train-images-idx3-ubyte": (2051, 16 + 60_000 * 28 * 28),
    "train-labels-idx1-ubyte": (2049, 8 + 60_000),
    "t10k-images-idx3-ubyte": (2051, 16 + 10_000 * 28 * 28),
    "t10k-labels-idx1-ubyte": (2049, 8 + 10_000),
}


class Split(NamedTuple):
    """Data `[N, *shape]`, such as images, uint8 `[N, 1, H, W]` in 0..255, and their labels, int64 `[N]`."""

    data: Tensor
    labels: Tensor


def check_source(source: str) -> None:
    """Raises UserError unless `source` names a data set that `load` knows."""
    if source not in get_args(Source):
        raise UserError(f"Unknown data source {source!r}: choose one of {', '.join(get_args(Source))}.")


def download(source: Source, root: Path) -> None:
    """Puts the files of `source` below `root`, with torchvision's mirrors and checksums, unless they are there.

    Raises:
        UserError: the files are absent and cannot be downloaded; the sentence names both ways out.
    """
    if source == "digits" or _files_exist(source, root):
        return
    try:
        _TORCHVISION[source](root, download=True)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"The files of {source} are not in {_raw_folder(source, root)} and cannot be downloaded: put the four"
            f" IDX files ({', '.join(_IDX_FILES)}) there, or train on embedded data with --data.source=digits."
        ) from error


def load(source: Source, root: Path) -> tuple[Split, Split]:
    """The official (train, test) splits of `source`, 28 x 28.

    Raises:
        UserError: a file is absent, truncated or corrupt; the sentence names it.
    """
    if source == "digits":
        return _load_digits()
    for name in _IDX_FILES:
        _check_idx_file(_raw_folder(source, root) / name)
    return _load_torchvision(source, root, train=True), _load_torchvision(source, root, train=False)


def _load_torchvision(source: str, root: Path, train: bool) -> Split:
    dataset = _TORCHVISION[source](root, train=train)
    return Split(dataset.data.unsqueeze(1), dataset.targets)


def _load_digits() -> tuple[Split, Split]:
    """scikit-learn's 1,797 handwritten digits, split 1,437 / 360, stratified by class.

    The 8 x 8 images are resized to 20 x 20 and centred in 28 x 28, as MNIST's digits are.
    """
    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.float32)).unsqueeze(1) / 16
    images = F.interpolate(images, size=20, mode="bicubic", align_corners=False).clamp(0, 1)
    images = F.pad(images * 255, (4, 4, 4, 4)).round().to(torch.uint8)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = train_test_split(np.arange(len(labels)), test_size=360, random_state=0, stratify=digits.target)
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def _raw_folder(source: str, root: Path) -> Path:
    return root / _TORCHVISION[source].__name__ / "raw"


def _files_exist(source: str, root: Path) -> bool:
    return all((_raw_folder(source, root) / name).is_file() for name in _IDX_FILES)


def _check_idx_file(path: Path) -> None:
    # torchvision checks the downloaded archives only, and reads a short file as a tensor error without a name.
    magic_number, size = _IDX_FILES[path.name]
    if not path.is_file():
        raise UserError(f"{path} is missing: run once with a network, or put the file there.")
    if path.stat().st_size != size:
        raise UserError(
            f"{path} is truncated or corrupt ({path.stat().st_size:,} bytes instead of {size:,}): delete it and run"
            " again to download it anew."
        )
    with path.open("rb") as file:
        if int.from_bytes(file.read(4), "big") != magic_number:
            raise UserError(f"{path} is corrupt (not an IDX file): delete it and run again to download it anew.")
