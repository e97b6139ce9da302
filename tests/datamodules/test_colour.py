"""Colour data sets: absent files, and files in torchvision's layout."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from datamodules import ColourDataModule
from gen_lightning.contracts import ExampleData, IdentifiedData, ImageData, offers
from gen_lightning.errors import UserError


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Small files in the layout of CIFAR-10, whose checksums replace the published ones."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3072)).astype(np.uint8)
    checksums = {}
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = slice(10 * index, 10 * index + 10)
        content = pickle.dumps({"data": pixels[rows], "labels": list(range(10))})
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": [str(digit) for digit in range(10)]})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": hashlib.md5(meta).hexdigest()})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[n, c] for n, c in checksums.items() if n != "test_batch"])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", checksums["test_batch"]]])
    return tmp_path, pixels.reshape(60, 3, 32, 32)


def test_cifar10_is_read_with_the_official_test_split(cifar):
    root, pixels = cifar
    data = ColourDataModule("cifar10", str(root), val_fraction=0.2, batch_size=8)
    data.prepare_data()
    data.setup("fit")
    splits = data.splits
    assert {name: len(split.data) for name, split in splits.items()} == {"train": 40, "val": 10, "test": 10}
    assert torch.equal(splits["test"].data, torch.from_numpy(pixels[50:]))
    assert torch.equal(splits["test"].labels, torch.arange(10))
    training = torch.cat([splits["train"].data, splits["val"].data])
    assert sorted(map(bytes, training.numpy())) == sorted(map(bytes, pixels[:50]))
    images, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape == (8, *data.shape)
    assert 0 <= images.min() <= images.max() <= 1
    assert all(offers(data, contract) for contract in (ImageData, ExampleData, IdentifiedData))


def test_svhn_is_read_with_0_for_the_digit_0(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20)).astype(np.uint8)
    # In the published files the digit 0 has the label 10.
    labels = np.tile(np.arange(1, 11), 2)[:, None]
    lists = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": pixels, "y": labels})
        lists[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    data = ColourDataModule("svhn", str(tmp_path))
    data.setup("fit")
    assert torch.equal(data.splits["test"].data, torch.from_numpy(pixels.transpose(3, 2, 0, 1)))
    assert data.splits["test"].labels.tolist() == [*range(1, 10), 0] * 2


@pytest.mark.parametrize("source", ["cifar10", "cifar100", "svhn"])
def test_absent_files_are_named_in_one_sentence(source, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", refuse)
    monkeypatch.setattr(datasets.SVHN, "download", refuse)
    with pytest.raises(UserError, match=rf"The files of {source} are not in .* Put the .* there\.$"):
        ColourDataModule(source, str(tmp_path)).prepare_data()


def test_a_changed_file_is_not_unpickled(cifar, monkeypatch):
    root, _ = cifar
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: None)
    path = root / "cifar-10-batches-py/data_batch_3"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="or are corrupt"):
        ColourDataModule("cifar10", str(root)).prepare_data()


def test_an_unknown_source_is_refused():
    with pytest.raises(UserError, match="Choose one of cifar10, cifar100, svhn"):
        ColourDataModule("celeba")
