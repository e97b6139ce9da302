"""Train a feature extractor on the official training split of a source of the data module, and write its weights.

    python -m benchmarks.train_extractor --source fashion_mnist --root data   # writes fashion_mnist_cnn.safetensors
    python -m benchmarks.train_extractor --source mnist --root data           # the settings of the package's extractor
    python -m benchmarks.train_extractor --source digits --epochs 150

It prints the accuracy on the official test split, the SHA-256 of the weights, and the command that evaluates a run with
the extractor. The test split is used once, after the last epoch. `gen_lightning/metrics/extractor.py` checks the
SHA-256 of the package's own weights. 15 epochs of MNIST take 4 minutes on two CPU cores.
"""

import argparse
import hashlib
import math
import time
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from datamodules import TrainLoader
from datamodules.sources import Source, Split, download, load
from gen_lightning.metrics.extractor import DigitClassifier

EXTRACTOR = "gen_lightning.metrics.ClassifierFeatures"


def augment(images: Tensor) -> Tensor:
    """Rotate each image by up to 12 degrees, scale it by up to 10 % and shift it by up to 2 pixels."""
    angle, scale, shift_x, shift_y = (torch.rand(4, len(images)) * 2 - 1).unbind()
    angle, scale = angle * math.radians(12), 1 + scale * 0.1
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    shift = 2 * 2 / images.shape[-1]
    rows = [cosine, -sine, shift_x * shift, sine, cosine, shift_y * shift]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


@torch.no_grad()
def measure_accuracy(classifier: DigitClassifier, split: Split) -> float:
    """Return the fraction of a split that is classified correctly."""
    logits = torch.cat([classifier(images.float() / 255) for images in split.data.split(1000)])
    return (logits.argmax(1) == split.labels).float().mean().item()


def train(classifier: DigitClassifier, split: Split, epochs: int, batch_size: int = 128) -> None:
    """Train by AdamW with a one-cycle learning rate and label smoothing, on augmented images."""
    loader = TrainLoader(split, batch_size)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.006, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        start = time.perf_counter()
        for images, labels, _ in loader:
            loss = F.cross_entropy(classifier(augment(images.float() / 255)), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: last loss {loss.item():.4f}, {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=get_args(Source), default="mnist")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output",
        type=Path,
        help="safetensors file, whose name becomes the extractor's; default: SOURCE_cnn.safetensors",
    )
    args = parser.parse_args()
    output = args.output or Path(f"{args.source}_cnn.safetensors")

    torch.manual_seed(args.seed)
    download(args.source, args.root)
    train_split, test_split = load(args.source, args.root)
    classifier = DigitClassifier()
    train(classifier, train_split, args.epochs)
    classifier.eval()
    save_file(classifier.state_dict(), output)
    print(f"test accuracy {measure_accuracy(classifier, test_split):.4f} ({len(test_split.labels):,} images)")
    print(f"SHA-256 {hashlib.sha256(output.read_bytes()).hexdigest()}, {output.stat().st_size:,} bytes: {output}")
    options = f"--extractor {EXTRACTOR} --extractor.weights {output}"
    print(f"evaluate a run with it: python train.py test --ckpt_path FILE {options}")


if __name__ == "__main__":
    main()
