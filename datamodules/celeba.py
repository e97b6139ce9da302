"""CelebA as a LightningDataModule."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from datamodules.image_files import ImageListing, build_listing
from datamodules.image_folder import ImageFolderDataModule
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError

_IMAGES = "celeba/img_align_celeba"
_PARTITION = "celeba/list_eval_partition.txt"
_ATTRIBUTES = "celeba/list_attr_celeba.txt"
_SPLITS: dict[str, SplitName] = {"0": "train", "1": "val", "2": "test"}


class CelebADataModule(ImageFolderDataModule):
    """The 202,599 faces of CelebA (Liu et al. 2015), delivered like those of `ImageFolderDataModule`, in RGB.

    The files are those of torchvision's layout: `celeba/img_align_celeba/*.jpg`, `celeba/list_eval_partition.txt` and,
    with `attribute`, `celeba/list_attr_celeba.txt`. They are not downloaded. The splits are the official ones. Each
    image of 178 x 218 is cropped to its central 178 x 178 and resized.

    Args:
        root: directory that holds the directory `celeba`
        image_size: height and width of the images; 28 to 256
        attribute: name of the attribute that is the label, such as Smiling: 0 without it, 1 with it; default: all
            labels are 0
        batch_size: number of images per iteration and device; at least 1
        horizontal_flip: whether each training image is mirrored with probability 1/2 at each read
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training images, and of the flips

    Raises:
        UserError: an argument is out of range; in `prepare_data` and `setup`, a file is absent or in another form, or
            there is no such attribute.
        StorageError: in `prepare_data` and `setup`, the cache directory cannot be written.
    """

    def __init__(
        self,
        root: str = "data",
        image_size: int = 64,
        attribute: str | None = None,
        batch_size: int = 128,
        horizontal_flip: bool = False,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            image_size,
            batch_size=batch_size,
            horizontal_flip=horizontal_flip,
            device_resident=device_resident,
            seed=seed,
        )
        self.attribute = attribute

    @cached_property
    def _listing(self) -> ImageListing:
        root = self._get_root()
        splits = _read_partition(root / _PARTITION)
        labels = dict.fromkeys((path for paths in splits.values() for path in paths), 0)
        names = []
        if self.attribute is not None:
            found = _read_attribute(root / _ATTRIBUTES, self.attribute)
            if missing := labels.keys() - found.keys():
                raise UserError(
                    f"{root / _ATTRIBUTES} lacks the row of {Path(min(missing)).name}. Replace it by CelebA's file."
                )
            labels = {path: found[path] for path in labels}
            names = [f"not {self.attribute}", self.attribute]
        return build_listing(root, splits, labels, names, self._shows_progress())


def _read_partition(path: Path) -> dict[SplitName, list[str]]:
    """Return the paths of the images of each split."""
    splits: dict[SplitName, list[str]] = {"train": [], "val": [], "test": []}
    for name, *numbers in _read_rows(path):
        if len(numbers) != 1 or numbers[0] not in _SPLITS:
            raise UserError(
                f"{path} has the line {' '.join((name, *numbers))!r}, which is no file name with 0, 1 or 2. Replace the"
                " file by CelebA's."
            )
        splits[_SPLITS[numbers[0]]].append(f"{_IMAGES}/{name}")
    if not all(splits.values()):
        raise UserError(f"{path} leaves a split empty. Replace the file by CelebA's.")
    return splits


def _read_attribute(path: Path, attribute: str) -> dict[str, int]:
    """Return 1 for each image that has an attribute, and 0 for the others, by path."""
    rows = iter(_read_rows(path))
    # The first line is the number of images, the second one the names of the attributes.
    next(rows, None)
    names = next(rows, [])
    if attribute not in names:
        raise UserError(f"`attribute` is {attribute!r}, which {path} does not list. Choose one of {', '.join(names)}.")
    column = 1 + names.index(attribute)
    return {f"{_IMAGES}/{row[0]}": int(row[column] == "1") for row in rows if len(row) > column}


def _read_rows(path: Path) -> Iterable[list[str]]:
    """Return the words of each line that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"The file {path} of CelebA is not there, or cannot be read. Put torchvision's directory celeba, with"
            " img_align_celeba and the lists, into --data.root."
        ) from error
    return [line.split() for line in lines if line.strip()]
