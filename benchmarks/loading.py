"""Compare the images per second of a data module with those of torchvision's dataset in a DataLoader.

    python -m benchmarks.loading                          # a folder of 10,000 generated RGB images of 64 x 64
    python -m benchmarks.loading --data mnist --root data

Both sides deliver shuffled float32 batches of 128 images in [0, 1]. They take turns, and their medians are compared.
The cache of the folder's images is built before.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import ToTensor

from datamodules import ImageDataModule, ImageFolderDataModule, MNISTDataModule

BATCH_SIZE = 128
NUM_IMAGES = 10_000

Side = Callable[[], Iterable]


def measure_rate(batches: Iterable) -> float:
    """Return the images per second of batches (images, ...)."""
    start = time.perf_counter()
    count = sum(len(images) for images, *_ in batches)
    return count / (time.perf_counter() - start)


def load_with_data_module(data: ImageDataModule) -> Side:
    """Return a function that iterates over the batches of an epoch of the data module."""
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    return lambda: (data.on_after_batch_transfer(batch, 0) for batch in loader)


def load_with_torchvision(dataset: Dataset, num_workers: int) -> Side:
    """Return a function that iterates over the batches of an epoch of torchvision's dataset."""
    return lambda: DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=num_workers)


def make_sides(data: ImageDataModule, dataset: Dataset) -> dict[str, Side]:
    """Return the sides of a comparison by name, the data module last."""
    return {
        "torchvision, 0 workers": load_with_torchvision(dataset, 0),
        "torchvision, 2 workers": load_with_torchvision(dataset, 2),
        type(data).__name__: load_with_data_module(data),
    }


def write_images(root: Path) -> None:
    """Write JPEG files of smooth random images of 64 x 64, in two classes."""
    random = np.random.default_rng(0)
    for index in range(NUM_IMAGES):
        path = root / f"class_{index % 2}" / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64)).save(path)


def compare(sides: dict[str, Side], repeats: int) -> None:
    """Measure the sides in turns, and print their medians."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, batches in sides.items():
            rates[name].append(measure_rate(batches()))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:<24}{rate:>12,.0f} images/s")
    *others, own = medians.values()
    print(f"ratio to the faster torchvision: {own / max(others):.0f}")
    print(f"median of {repeats}, batch {BATCH_SIZE}, torch {torch.__version__}, {torch.get_num_threads()} threads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["images", "mnist"], default="images")
    parser.add_argument("--root", default="data", help="directory of MNIST")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.data == "mnist":
        dataset: Dataset = datasets.MNIST(args.root, train=False, transform=ToTensor())
        compare(make_sides(MNISTDataModule("mnist", args.root, BATCH_SIZE), dataset), args.repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        root = Path(folder, "images")
        write_images(root)
        data = ImageFolderDataModule(str(root), batch_size=BATCH_SIZE)
        compare(make_sides(data, datasets.ImageFolder(str(root), ToTensor())), args.repeats)


if __name__ == "__main__":
    main()
