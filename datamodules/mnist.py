"""MNIST and its relatives as a LightningDataModule."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.base import DATA_SEED, SplitDataModule, SplitName
from datamodules.loaders import Batch
from datamodules.sources import Source, Split, check_source, download, load
from gen_lightning.errors import UserError


class MNISTDataModule(SplitDataModule):
    """Grey images of ten classes, delivered as (images, labels): float32 `[N, 1, H, W]` in [0, 1] and int64 `[N]`.

    Batches cross to the device as uint8, where they are scaled, and drawn if that is done anew at each read. What is
    dequantized once, for evaluation, crosses as float32.
    The official test split is only ever tested on; validation is carved from the training split.

    Args:
        source: digits (embedded: scikit-learn's 1,797), or mnist, fashion_mnist, kmnist (downloaded once)
        root: the folder of the downloaded files, in torchvision's layout (`root/MNIST/raw/...`)
        batch_size: images per iteration and device
        image_size: 28, or 32 (padded with 2 black pixels on each side)
        binarization: none; static (each pixel drawn once, as Larochelle & Murray 2011); dynamic (each pixel drawn anew
            at each read in training, as Burda et al. 2016, and once for evaluation). Drawn from a Bernoulli with the
            grey value as its probability.
        val_fraction: the part of the training split that is held out, in (0, 1)
        device_resident: keep the splits on the training device
        seed: of the order of the training images, and of what is drawn at each read
        dequantize: for densities: a grey value stands for a level's width of values, and is drawn uniformly from it,
            anew at each read in training and once for evaluation: (n + u) / 256 for level n (Theis et al. 2016, section
            3.1)

    Raises:
        UserError: an argument is out of range; the files are absent and cannot be had, or are corrupt (in
            `prepare_data` and `setup`).
    """

    def __init__(
        self,
        source: Source = "digits",
        root: str = "data",
        batch_size: int = 128,
        image_size: Literal[28, 32] = 28,
        binarization: Literal["none", "static", "dynamic"] = "none",
        val_fraction: float = 1 / 6,
        device_resident: bool = False,
        seed: int = 0,
        dequantize: bool = False,
    ) -> None:
        super().__init__(batch_size, device_resident, seed)
        check_source(source)
        if image_size not in (28, 32):
            raise UserError(f"image_size is {image_size}: choose 28 or 32.")
        if binarization not in ("none", "static", "dynamic"):
            raise UserError(f"binarization is {binarization!r}: choose none, static or dynamic.")
        if dequantize and binarization != "none":
            raise UserError(
                f"Dequantized images are grey, and binarization is {binarization}: set --data.binarization=none, or"
                " leave dequantize out."
            )
        if not 0 < val_fraction < 1:
            raise UserError(f"val_fraction is {val_fraction}: choose a number between 0 and 1.")
        self.source = source
        self.root = Path(root)
        self.image_size = image_size
        self.binarization = binarization
        self.dequantize = dequantize
        self.val_fraction = val_fraction

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image, `(C, H, W)`."""
        return (1, self.image_size, self.image_size)

    @property
    def identity(self) -> str:
        """Which examples the splits hold: the same text on every machine, for any batches and order."""
        drawn = "dequantized" if self.dequantize else self.binarization
        return f"{type(self).__name__} {self.source} {self.image_size} {drawn} {self.val_fraction}"

    def prepare_data(self) -> None:
        """Downloads what is missing."""
        download(self.source, self.root)

    def setup(self, stage: str) -> None:
        """Loads and splits the data, once."""
        if self._splits:
            return
        train, test = load(self.source, self.root)
        generator = torch.Generator().manual_seed(DATA_SEED)
        order = torch.randperm(len(train.data), generator=generator)
        num_val = round(len(order) * self.val_fraction)
        if not 0 < num_val < len(order):
            raise UserError(
                f"val_fraction is {self.val_fraction}, which leaves a split of {len(order):,} images empty."
            )
        self._splits = {
            "train": self._pad(train, order[num_val:].sort().values),
            "val": self._pad(train, order[:num_val].sort().values),
            "test": self._pad(test, torch.arange(len(test.data))),
        }

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """uint8 on the device -> float32 in [0, 1], drawn under dynamic binarization or dequantization."""
        if self.dequantize:
            return _dequantize(batch.data, batch.seed), batch.labels
        images = batch.data.float() / 255
        # A draw leaves the bits of an evaluation as they are.
        if self.binarization == "dynamic":
            generator = torch.Generator(images.device).manual_seed(batch.seed)
            # As `bernoulli`, which takes nearly twice as long on CPUs.
            uniform = torch.rand(images.shape, generator=generator, dtype=images.dtype, device=images.device)
            images = uniform.lt_(images)
        return images, batch.labels

    def images(self, split: SplitName) -> Iterator[Tensor]:
        """A whole split on every rank, never binarized: batches of float32 `[N, 1, H, W]` in [0, 1]."""
        return (images.float() / 255 for images in self._splits[split].data.split(500))

    def examples(self, split: SplitName, n: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The first n examples of a split, by default all, on every rank, as they are evaluated on.

        Batches of (images, labels), whatever `batch_size` is; the images are drawn where the data are.
        """
        images, labels = (tensor[:n] for tensor in self._for_evaluation(split))
        return zip(
            (part if self.dequantize else part.float() / 255 for part in images.split(500)),
            labels.split(500),
            strict=True,
        )

    def _for_training(self) -> Split:
        return self._sample_once("train") if self.binarization == "static" else self._splits["train"]

    def _for_evaluation(self, split: SplitName) -> Split:
        images, labels = self._splits[split]
        if self.dequantize:
            return Split(_dequantize(images, DATA_SEED), labels)
        return self._splits[split] if self.binarization == "none" else self._sample_once(split)

    def _sample_once(self, split: SplitName) -> Split:
        images, labels = self._splits[split]
        generator = torch.Generator().manual_seed(DATA_SEED)
        return Split((images.float() / 255).bernoulli(generator=generator).mul_(255).to(torch.uint8), labels)

    def _pad(self, split: Split, indices: Tensor) -> Split:
        margin = (self.image_size - 28) // 2
        return Split(F.pad(split.data[indices], (margin,) * 4), split.labels[indices])


def _dequantize(images: Tensor, seed: int) -> Tensor:
    """Levels, uint8 -> float32 in [0, 1]; what has been drawn once is left as it is."""
    if images.is_floating_point():
        return images
    generator = torch.Generator(images.device).manual_seed(seed)
    return (images + torch.rand(images.shape, generator=generator, device=images.device)) / 256
