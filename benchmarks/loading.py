"""Compare the images per second of the data module with those of torchvision's dataset in a DataLoader.

    python -m benchmarks.loading --root data

Both sides deliver shuffled float32 batches of 128 images in [0, 1]. They take turns, and their medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import ToTensor

from datamodules import MNISTDataModule

BATCH_SIZE = 128


def measure_rate(batches: Iterable) -> float:
    """Return the images per second of batches (images, ...)."""
    start = time.perf_counter()
    count = sum(len(images) for images, *_ in batches)
    return count / (time.perf_counter() - start)


def load_with_data_module(root: str) -> Callable[[], Iterable]:
    """Return a function that iterates over the batches of an epoch of the data module."""
    data = MNISTDataModule("mnist", root, BATCH_SIZE)
    data.setup("fit")
    loader = data.train_dataloader()
    return lambda: (data.on_after_batch_transfer(batch, 0) for batch in loader)


def load_with_torchvision(root: str, num_workers: int) -> Callable[[], Iterable]:
    """Return a function that iterates over the batches of an epoch of torchvision's dataset."""
    dataset = datasets.MNIST(root, train=False, transform=ToTensor())
    return lambda: DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=num_workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    sides = {
        "torchvision, 0 workers": load_with_torchvision(args.root, 0),
        "torchvision, 2 workers": load_with_torchvision(args.root, 2),
        "MNISTDataModule": load_with_data_module(args.root),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, batches in sides.items():
            rates[name].append(measure_rate(batches()))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:<24}{rate:>12,.0f} images/s")
    best = max(rate for name, rate in medians.items() if name != "MNISTDataModule")
    print(f"ratio to the faster torchvision: {medians['MNISTDataModule'] / best:.0f}")
    print(f"median of {args.repeats}, batch {BATCH_SIZE}, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
