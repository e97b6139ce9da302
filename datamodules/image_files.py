"""The image files of a folder: their splits, their classes, and the digests of their contents."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple, NoReturn, get_args

import torch
from PIL import Image
from tqdm import tqdm

from datamodules.splits import draw_splits, refuse_empty_splits
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError
from gen_lightning.storage import atomic_write, describe_os_error, find_cache_folder, name_file_in_errors

# Pillow does not decode these formats itself. For EPS it would start Ghostscript, a program, on a stranger's file.
_FOREIGN_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "test": "test",
}
# Time stamps of some file systems have steps of 2 seconds.
_STEP = 2_000_000_000


class ImageFile(NamedTuple):
    """One image file: its path relative to the folder, its label, and the SHA-256 of its content."""

    path: str
    label: int
    sha256: str


class ImageListing(NamedTuple):
    """The files of each split, in random order, and the names of the classes; no names without class folders."""

    splits: dict[SplitName, list[ImageFile]]
    class_names: list[str]


@cache
def list_formats() -> dict[str, str]:
    """Return Pillow's names of the formats that are read, by the extension of a file in lower case."""
    Image.init()
    return {
        extension: name
        for extension, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in _FOREIGN_FORMATS
    }


def list_images(root: Path, fractions: Mapping[SplitName, float], show_progress: bool) -> ImageListing:
    """Return the image files of a folder, with their splits, labels and digests.

    The same files have the same listing on every machine, wherever the folder is.

    Args:
        root: folder of the images
        fractions: fractions of the training images that are held out for `val` and `test` if these have no folder
        show_progress: show a progress bar while files are read

    Raises:
        UserError: the folder is missing, holds no images, or is laid out in an unclear way; a split is empty; a file
            cannot be read.
        StorageError: the cache directory cannot be written.
    """
    paths = find_images(root)
    folders = _find_split_folders(root, paths)
    classes = {split: _read_classes(root, paths, folder) for split, folder in folders.items()}
    class_names = _merge_class_names(folders, classes)
    numbers = {name: label for label, name in enumerate(class_names)}
    labels = {path: numbers.get(name, 0) for names in classes.values() for path, name in names.items()}
    splits = {split: _draw(list(names), labels, {})["train"] for split, names in classes.items()}
    drawn = {split: fraction for split, fraction in fractions.items() if split not in folders}
    splits |= _draw(list(classes["train"]), labels, drawn)
    refuse_empty_splits({split: len(paths) for split, paths in splits.items()}, fractions)
    return build_listing(root, splits, labels, class_names, show_progress)


def build_listing(
    root: Path,
    splits: Mapping[SplitName, Sequence[str]],
    labels: Mapping[str, int],
    class_names: list[str],
    show_progress: bool,
) -> ImageListing:
    """Return a listing of files, with the digests of their contents.

    Args:
        root: folder of the images
        splits: paths of the images of each split, relative to the folder
        labels: label of each path
        class_names: names of the classes, in the order of the labels
        show_progress: show a progress bar while files are read

    Raises:
        UserError: a file cannot be read.
        StorageError: the cache directory cannot be written.
    """
    digests = digest_files(root, [path for paths in splits.values() for path in paths], show_progress)
    return ImageListing(
        {name: [ImageFile(path, labels[path], digests[path]) for path in splits[name]] for name in get_args(SplitName)},
        class_names,
    )


def _draw(
    paths: Sequence[str], labels: Mapping[str, int], fractions: Mapping[SplitName, float]
) -> dict[SplitName, list[str]]:
    """Return the paths of each drawn split and of `train`, in random order."""
    indices = draw_splits(torch.tensor([labels[path] for path in paths]), fractions)
    return {split: [paths[index] for index in part.tolist()] for split, part in indices.items()}


def find_images(root: Path) -> list[str]:
    """Return the sorted paths of the image files of a folder, relative to it, with "/" between their parts.

    Files are known by their extensions. Hidden files and folders are ignored. Links are followed, but no folder is read
    twice.

    Raises:
        UserError: the folder is missing or cannot be read, or holds no images.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder. Give the folder of the images with --data.root.")
    paths, visited = [], set()
    for folder, subfolders, names in os.walk(root, onerror=_refuse_unreadable, followlinks=True):
        # A link to a folder above it would lead round in circles.
        if (place := os.path.realpath(folder)) in visited:
            subfolders.clear()
            continue
        visited.add(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = "" if Path(folder) == root else f"{Path(folder).relative_to(root).as_posix()}/"
        images = [name for name in names if os.path.splitext(name)[1].lower() in list_formats()]
        paths += [prefix + name for name in images if not name.startswith(".")]
    if not paths:
        raise UserError(f"{root} holds no images that Pillow reads. Give the folder of the images with --data.root.")
    return sorted(paths)


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise UserError(
        f"{error.filename} cannot be read: {describe_os_error(error)}. Repair it, or move it out of the folder."
    ) from error


def _find_split_folders(root: Path, paths: Sequence[str]) -> dict[SplitName, str]:
    """Return the folder of each split that has one; the training split's is "" if no split has one."""
    top_folders = dict.fromkeys(path.partition("/")[0] for path in paths if "/" in path)
    folders: dict[SplitName, str] = {}
    for name in top_folders:
        split = _SPLIT_FOLDERS.get(name.lower())
        if split in folders:
            raise UserError(f"{root} has two folders for one split, {folders[split]} and {name}. Keep one of them.")
        if split:
            folders[split] = name
    if not folders:
        return {"train": ""}
    if "train" not in folders:
        (name, *_) = folders.values()
        raise UserError(
            f"{root} has images in a folder {name}, but none in a folder train. Name the folder of the training images"
            f" train, or rename {name} if it is a class."
        )
    outside = [path for path in paths if path.partition("/")[0] not in folders.values() or "/" not in path]
    if outside:
        raise UserError(
            f"{root} has images beside its folders of splits, such as {outside[0]}. Move them into"
            f" {', '.join(folders.values())}, or out of {root}."
        )
    return folders


def _read_classes(root: Path, paths: Sequence[str], folder: str) -> dict[str, str]:
    """Return the class folder of each image below a folder of the root; "" for all if there are no class folders."""
    start = f"{folder}/" if folder else ""
    rests = {path: path.removeprefix(start) for path in paths if path.startswith(start)}
    classes = {path: rest.partition("/")[0] if "/" in rest else "" for path, rest in rests.items()}
    if "" in (names := set(classes.values())) and len(names) > 1:
        loose = next(path for path, name in classes.items() if not name)
        raise UserError(
            f"{root / folder} holds class folders, such as {max(names)}, and images beside them, such as"
            f" {Path(loose).name}. Move the images into class folders, or out of the folder."
        )
    return classes


def _merge_class_names(folders: Mapping[SplitName, str], classes: Mapping[SplitName, Mapping[str, str]]) -> list[str]:
    """Return the sorted names of the classes, the same in all splits; none without class folders."""
    expected = set(classes["train"].values())
    for split, names in classes.items():
        if different := sorted((expected ^ set(names.values())) - {""}):
            raise UserError(
                f"The class folders of {folders['train']} and {folders[split]} differ in {', '.join(different[:5])}."
                " Give each class a folder with images in both."
            )
    return sorted(expected - {""})


def digest_files(root: Path, paths: Sequence[str], show_progress: bool) -> dict[str, str]:
    """Return the SHA-256 of the content of each file.

    The cache keeps the digests with the files' sizes, time stamps and inode numbers. A file whose status is the same is
    not read again: a program can set the time of modification, but not that of the last change of the status (ctime).

    Raises:
        UserError: a file cannot be read.
        StorageError: the cache directory cannot be written.
    """
    index_path = find_index(root)
    known = _read_index(index_path)
    start = time.time_ns()
    stamps = {path: _read_stamp(root / path) for path in paths}
    digests = {path: known[path][1] for path in paths if path in known and known[path][0] == stamps[path]}
    unknown = [path for path in paths if path not in digests]
    silent = not show_progress or not unknown
    with ThreadPoolExecutor() as pool:
        contents = pool.map(lambda path: hashlib.sha256(read_file(root / path)).hexdigest(), unknown)
        bar = tqdm(contents, "Checksums", len(unknown), mininterval=1, unit="image", disable=silent)
        digests |= zip(unknown, bar, strict=True)
    # A file that changed only now could change again within the same step of its time stamp.
    settled = {path: (stamp, digests[path]) for path, stamp in stamps.items() if max(stamp[1:3]) < start - _STEP}
    if settled != known or not index_path.is_file():
        _write_index(index_path, root, settled)
    return digests


def find_index(root: Path) -> Path:
    """Return the path of the file with the digests of a folder; it exists if the folder has been read before."""
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()
    return find_image_cache() / f"{name}.json"


def find_image_cache() -> Path:
    """Return the directory of the machine's cache of image folders."""
    return find_cache_folder() / "image_folders"


_Stamp = list[int]
_Index = dict[str, tuple[_Stamp, str]]


def _read_index(path: Path) -> _Index:
    try:
        files = json.loads(path.read_text())["files"]
        return {name: (list(stamp), str(sha256)) for name, (stamp, sha256) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Without the index, or with a damaged one, the files are read again.
        return {}


def _write_index(path: Path, root: Path, index: _Index) -> None:
    with name_file_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps({"root": str(root.resolve()), "files": index}).encode())


def _read_stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        _refuse_unreadable(error)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a file. Move it out of the folder.")
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def read_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        _refuse_unreadable(error)
