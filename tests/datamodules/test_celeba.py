"""CelebADataModule: the official splits, attributes as labels, and refusals, on a small copy of the layout."""

import pytest
import torch
from helpers import write_image

from datamodules import CelebADataModule, ImageFolderDataModule
from gen_lightning.errors import UserError

SPLITS = {"train": (0, 5), "val": (5, 7), "test": (7, 10)}


@pytest.fixture
def root(tmp_path):
    """Ten images of 178 x 218 in torchvision's layout, every other one with the attribute Smiling."""
    folder = tmp_path / "celeba"
    names = [f"{number:06}.jpg" for number in range(1, 11)]
    for seed, name in enumerate(names):
        write_image(folder / "img_align_celeba" / name, (178, 218), seed=seed)
    numbers = [number for number, ends in enumerate(SPLITS.values()) for _ in range(*ends)]
    lines = [f"{name} {number}" for name, number in zip(names, numbers, strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{name}  {1 if index % 2 else -1} -1" for index, name in enumerate(names)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(["10", "Smiling Young", *rows]))
    return tmp_path


def load(root, **arguments):
    data = CelebADataModule(str(root), image_size=32, batch_size=2, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def test_the_splits_are_the_official_ones_and_images_are_cropped_like_those_of_any_folder(root):
    data = load(root)
    expected = ImageFolderDataModule(str(root / "celeba" / "img_align_celeba"), image_size=32, batch_size=2)
    expected.prepare_data()
    expected.setup("fit")
    pixels = {bytes(image.numpy()) for split in expected.splits.values() for image in split.data}
    assert {name: len(split.data) for name, split in data.splits.items()} == {"train": 5, "val": 2, "test": 3}
    assert {bytes(image.numpy()) for split in data.splits.values() for image in split.data} == pixels
    assert all(int(split.labels.sum()) == 0 for split in data.splits.values())


def test_an_attribute_is_the_label(root):
    data = load(root, attribute="Smiling")
    assert data.class_names == ["not Smiling", "Smiling"]
    for name, ends in SPLITS.items():
        assert torch.equal(data.splits[name].labels, torch.arange(*ends) % 2)
    assert data.identity != load(root).identity


def test_an_unknown_attribute_is_refused_with_the_known_ones(root):
    with pytest.raises(UserError, match=r"'Happy'.*Smiling, Young"):
        load(root, attribute="Happy")


def test_absent_files_are_refused_with_the_place_for_them(tmp_path):
    with pytest.raises(UserError, match=r"list_eval_partition.*--data\.root"):
        load(tmp_path)


@pytest.mark.parametrize(("text", "reason"), [("a.jpg 3", "'a.jpg 3'"), ("a.jpg", "'a.jpg'"), ("a.jpg 0", "empty")])
def test_a_damaged_partition_is_refused(root, text, reason):
    (root / "celeba" / "list_eval_partition.txt").write_text(text)
    with pytest.raises(UserError, match=reason):
        load(root)


def test_an_image_that_is_listed_and_absent_is_named(root):
    (root / "celeba" / "img_align_celeba" / "000003.jpg").unlink()
    with pytest.raises(UserError, match=r"000003\.jpg"):
        load(root)
