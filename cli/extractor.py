"""Train the feature extractor of the sample metrics on the images of a recipe or of a run."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from safetensors.torch import save
from torch import Tensor, nn

from datamodules import Split, TrainLoader
from gen_lightning.contracts import ExampleData, ImageData, SplitName, require
from gen_lightning.errors import UserError
from gen_lightning.metrics import ImageClassifier
from gen_lightning.metrics.extractor import DESCRIPTION
from gen_lightning.storage import atomic_write

NUM_ROTATIONS = 4
_SPLITS: tuple[SplitName, SplitName] = ("train", "test")


def train_extractor(
    datamodule: LightningDataModule, epochs: int, seed: int, output: Path, device: torch.device | None = None
) -> None:
    """Train a classifier of the training images, write it, and print its accuracy on the test images.

    The classes are the labels, or four rotations of each image if all labels are equal (Gidaris et al. 2018).

    Args:
        datamodule: data with images, and labels for them
        epochs: number of passes over the training images
        seed: seed of the weights, the order and the augmentation
        output: safetensors file
        device: device of the training; default: the CPU

    Raises:
        UserError: the data are not images of at least 16 x 16, or their labels are not classes.
    """
    datamodule.prepare_data()
    datamodule.setup("fit")
    train, test = (_read_split(datamodule, name) for name in _SPLITS)
    shape = tuple(train.data.shape[1:])
    num_classes = _count_classes(train.labels)
    rotates = num_classes == 1
    if min(shape[1:]) < 16 or (rotates and shape[1] != shape[2]):
        raise UserError(
            f"The images have shape {shape}. `train_extractor` needs at least 16 x 16, and squares if there are no"
            " labels."
        )
    torch.manual_seed(seed)
    classifier = ImageClassifier(shape, NUM_ROTATIONS if rotates else num_classes).to(device)
    fit_classifier(classifier, train, epochs, seed=seed, prepare=rotate_randomly if rotates else None)
    classifier.eval()
    accuracy = measure_accuracy(classifier, _rotate_all(test) if rotates else test)
    task = "rotations" if rotates else "classes"
    description = {"data_shape": shape, "task": task, "accuracy": round(accuracy, 4)}
    with atomic_write(output) as file:
        # With several keys, the order of safetensors' metadata would be random.
        file.write(save(classifier.cpu().state_dict(), {DESCRIPTION: json.dumps(description)}))
    print(f"Test accuracy: {accuracy:.4f} ({len(test.data):,} images, {classifier.head.out_features} {task})")
    if rotates:
        print(
            "The data have no labels, so the features are those of four rotations. Compare their FID only between"
            " models of these data; classes are not measured."
        )
    print(f"Extractor:     {output}")


def _count_classes(labels: Tensor) -> int:
    """Return the number of classes; 1 if all labels are equal."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise UserError(f"The labels are {labels.dtype} of shape {list(labels.shape)}. Return one class per image.")
    found = labels.unique()
    largest = int(found[-1])
    if len(found) > 1 and (int(found[0]) < 0 or largest >= len(labels)):
        raise UserError(f"The labels are from {int(found[0])} to {largest}. Number the classes from 0.")
    return 1 if len(found) == 1 else largest + 1


Prepare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def fit_classifier(
    classifier: nn.Module,
    split: Split,
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
    prepare: Prepare | None = None,
) -> None:
    """Train by AdamW with a one-cycle learning rate and label smoothing, on augmented images.

    Args:
        classifier: network that returns logits of images in [0, 1]
        split: training images, uint8 `[N, C, H, W]`, and labels
        epochs: number of passes over them
        batch_size: number of images in a batch
        seed: seed of the order
        prepare: function of the images and labels of a batch that returns others to train on
    """
    device = next(classifier.parameters()).device
    loader = TrainLoader(split, min(batch_size, len(split.data)), seed)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.006, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        start = time.perf_counter()
        for images, labels, _ in loader:
            if prepare:
                images, labels = prepare(images, labels)
            logits = classifier(augment(images.float() / 255).to(device))
            loss = F.cross_entropy(logits, labels.to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {epochs}: last loss {loss.item():.4f}, {seconds:.0f} s", flush=True)


def rotate_randomly(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image rotated by a random multiple of 90 degrees, and the multiples as labels."""
    multiples = torch.randint(NUM_ROTATIONS, labels.shape)
    rotations = torch.stack([images.rot90(multiple, (2, 3)) for multiple in range(NUM_ROTATIONS)])
    return rotations[multiples, torch.arange(len(images))], multiples


def _rotate_all(split: Split) -> Split:
    rotations = [split.data.rot90(multiple, (2, 3)) for multiple in range(NUM_ROTATIONS)]
    return Split(torch.cat(rotations), torch.arange(NUM_ROTATIONS).repeat_interleave(len(split.data)))


def _read_split(datamodule: LightningDataModule, name: SplitName) -> Split:
    """Return the images of a split as uint8, and their labels."""
    images = require(datamodule, ImageData, "train_extractor").images(name)
    examples = require(datamodule, ExampleData, "train_extractor").examples(name)
    levels = torch.cat([(batch * 255).round().to(torch.uint8) for batch in images])
    return Split(levels, torch.cat([labels for _, labels in examples]))


def augment(images: Tensor) -> Tensor:
    """Rotate each image by up to 12 degrees, scale it by up to 10 % and shift it by up to 2 of 28 pixels."""
    angle, scale, shift_x, shift_y = (torch.rand(4, len(images)) * 2 - 1).unbind()
    angle, scale = angle * math.radians(12), 1 + scale * 0.1
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    shift = 4 / 28
    rows = [cosine, -sine, shift_x * shift, sine, cosine, shift_y * shift]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


@torch.no_grad()
def measure_accuracy(classifier: nn.Module, split: Split) -> float:
    """Return the fraction of a split that is classified correctly."""
    device = next(classifier.parameters()).device
    logits = torch.cat([classifier((images.float() / 255).to(device)).cpu() for images in split.data.split(500)])
    return (logits.argmax(1) == split.labels).float().mean().item()
