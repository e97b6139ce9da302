"""MNIST and data sets of the same format as a LightningDataModule."""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.base import DATA_SEED, ImageDataModule
from datamodules.loaders import Batch
from datamodules.sources import Source, Split, check_source, download, load
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError


class MNISTDataModule(ImageDataModule):
    """Grey images of ten classes, delivered as (images, labels): float32 `[N, 1, H, W]` in [0, 1] and int64 `[N]`.

    Batches are moved to the device as uint8, then scaled there and, if that is done at each read, binarized or
    dequantized. Images that are dequantized once, for evaluation, are moved as float32. The test split is used for
    tests only; the validation split is a part of the training split. Embedded data have no official splits: mnist_5k
    has 4,500 training images, and digits 1,437, before the validation split is held out.

    Args:
        source: mnist_5k (embedded; 5,000 images of MNIST's training split), digits (embedded; the 1,797 of
            scikit-learn), or mnist, fashion_mnist, kmnist (downloaded once)
        root: directory of the downloaded files, in torchvision's layout (`root/MNIST/raw/...`)
        batch_size: number of images per iteration and device; at least 1
        image_size: 28, or 32 (padded with 2 black pixels on each side)
        binarization: none; static (each pixel is sampled once, as in Larochelle & Murray 2011); or dynamic (each pixel
            is sampled at each read in training, as in Burda et al. 2016, and once for evaluation). A pixel is sampled
            from a Bernoulli distribution with its grey value as the probability.
        val_fraction: fraction of the training split that is held out for validation; above 0 and below 1
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training images, and of what is sampled at each read
        dequantize: whether uniform noise is added to the grey levels, for a likelihood that is a density: level n
            becomes (n + u) / 256, with u sampled at each read in training and once for evaluation (Theis et al. 2016,
            section 3.1)

    Raises:
        UserError: an argument is out of range; in `prepare_data` and `setup`, the files are absent and cannot be
            downloaded, or are corrupt.
    """

    def __init__(
        self,
        source: Source = "mnist_5k",
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
            raise UserError(f"`{type(self).__name__}.image_size` is {image_size}. Choose 28 or 32.")
        if binarization not in ("none", "static", "dynamic"):
            raise UserError(
                f"`{type(self).__name__}.binarization` is {binarization!r}. Choose none, static or dynamic."
            )
        if dequantize and binarization != "none":
            raise UserError(
                f"`dequantize` is true, which needs grey images, and `binarization` is {binarization}. Set"
                " --data.binarization=none or --data.dequantize=false."
            )
        check_range(self, above=0, below=1, val_fraction=val_fraction)
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
        """A text that names the examples of the splits."""
        drawn = "dequantized" if self.dequantize else self.binarization
        return f"{type(self).__name__} {self.source} {self.image_size} {drawn} {self.val_fraction}"

    def prepare_data(self) -> None:
        """Download missing files."""
        download(self.source, self.root)

    def make_splits(self) -> dict[SplitName, Split]:
        """Read the images, and hold out a part of the training split for validation."""
        train, test = load(self.source, self.root)
        order = torch.randperm(len(train.data), generator=torch.Generator().manual_seed(DATA_SEED))
        num_val = round(len(order) * self.val_fraction)
        if not 0 < num_val < len(order):
            raise UserError(
                f"`val_fraction` is {self.val_fraction}, which leaves a split of {len(order):,} images empty. Choose a"
                " fraction nearer to 0.5."
            )
        return {
            "train": self._pad(train, order[num_val:].sort().values),
            "val": self._pad(train, order[:num_val].sort().values),
            "test": self._pad(test, torch.arange(len(test.data))),
        }

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Convert uint8 to float32 in [0, 1]; then binarize or dequantize, if that is done at each read."""
        if self.dequantize:
            return _dequantize(batch.data, batch.seed), batch.labels
        images, labels = super().on_after_batch_transfer(batch, dataloader_idx)
        # In an evaluation the images are already binary, and sampling leaves them as they are.
        if self.binarization == "dynamic":
            generator = torch.Generator(images.device).manual_seed(batch.seed)
            # On CPUs torch.bernoulli takes nearly twice as long.
            uniform = torch.rand(images.shape, generator=generator, dtype=images.dtype, device=images.device)
            images = uniform.lt_(images)
        return images, labels

    def get_training_split(self) -> Split:
        """Return the training split, binarized if binarization is static."""
        return self._binarize("train") if self.binarization == "static" else self.splits["train"]

    def get_evaluation_split(self, split: SplitName) -> Split:
        """Return a split, binarized or dequantized once if the images are binary or dequantized."""
        images, labels = self.splits[split]
        if self.dequantize:
            return Split(_dequantize(images, DATA_SEED), labels)
        return self.splits[split] if self.binarization == "none" else self._binarize(split)

    def _binarize(self, split: SplitName) -> Split:
        images, labels = self.splits[split]
        generator = torch.Generator().manual_seed(DATA_SEED)
        return Split((images.float() / 255).bernoulli(generator=generator).mul_(255).to(torch.uint8), labels)

    def _pad(self, split: Split, indices: Tensor) -> Split:
        margin = (self.image_size - 28) // 2
        return Split(F.pad(split.data[indices], (margin,) * 4), split.labels[indices])


def _dequantize(images: Tensor, seed: int) -> Tensor:
    """Return grey levels, uint8, as float32 in [0, 1]; images that are already dequantized are returned as they are."""
    if images.is_floating_point():
        return images
    generator = torch.Generator(images.device).manual_seed(seed)
    return (images + torch.rand(images.shape, generator=generator, device=images.device)) / 256
