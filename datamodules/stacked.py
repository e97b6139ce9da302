"""Stacked MNIST: three digits as the channels of an RGB image, with 1,000 modes."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from datamodules.base import DATA_SEED
from datamodules.loaders import TrainLoader
from datamodules.mnist import MNISTDataModule
from datamodules.sources import Source, Split
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName


def stack(digits: Split, triples: Tensor) -> Split:
    """Return stacks of digits, uint8 `[N, 3, H, W]`, and their modes 100 a + 10 b + c, int64 `[N]`.

    Args:
        digits: grey digits, uint8 `[M, 1, H, W]`, and their classes
        triples: indices of the digits in each stack, `[N, 3]`
    """
    classes = digits.labels[triples]
    return Split(digits.data[triples].flatten(1, 2), (classes * classes.new_tensor([100, 10, 1])).sum(1))


class StackLoader(TrainLoader):
    """Stacks of digits, which are made as they are read.

    In each epoch every digit occurs once in each channel, because each of the three channels has its own permutation.
    """

    def draw_order(self, generator: torch.Generator) -> Tensor:
        """Return the digits of an epoch's stacks, `[N, 3]`."""
        return torch.stack([super(StackLoader, self).draw_order(generator) for _ in range(3)], dim=1)

    def read_examples(self, indices: Tensor) -> Split:
        """Return the stacks of the digits at indices `[batch_size, 3]`."""
        return stack(self.split, indices)


class StackedMNISTDataModule(MNISTDataModule):
    """RGB stacks of digits, delivered as (images, modes): float32 `[N, 3, H, W]` in [0, 1] and int64 `[N]` in 0..999.

    The digits of a stack come from one split (Metz et al. 2017; Lin et al. 2018, PacGAN, section 4.2). By default
    training stacks are new in each epoch, which has as many stacks as there are training digits. The validation and
    test stacks are fixed, and as many as the digits of their split.

    Args:
        source: mnist_5k, digits (embedded), or mnist, fashion_mnist, kmnist (downloaded once)
        root: directory of the downloaded files
        num_triples: number of fixed training stacks, which replace new ones; at least 1. A stack takes 2.3 kB; PacGAN
            uses 128,000.
        batch_size: number of images per iteration and device; at least 1
        image_size: 28, or 32 (padded with 2 black pixels on each side)
        val_fraction: fraction of the training digits that is held out for validation; above 0 and below 1
        device_resident: whether the splits are kept on the training device
        seed: seed of the training stacks and their order

    Raises:
        UserError: as for `MNISTDataModule`, or num_triples is less than 1.
    """

    def __init__(
        self,
        source: Source = "mnist_5k",
        root: str = "data",
        num_triples: int | None = None,
        batch_size: int = 128,
        image_size: Literal[28, 32] = 28,
        val_fraction: float = 1 / 6,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(source, root, batch_size, image_size, "none", val_fraction, device_resident, seed)
        check_range(self, at_least=1, num_triples=num_triples)
        self.num_triples = num_triples
        self.train_loader_class = TrainLoader if num_triples else StackLoader

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image, `(C, H, W)`."""
        return (3, self.image_size, self.image_size)

    @property
    def identity(self) -> str:
        """A text that names the examples of the splits."""
        return f"{super().identity} {self.num_triples}"

    @property
    def mode_weights(self) -> Tensor:
        """The probability of each mode among the stacks that training draws from, float64 `[1000]`."""
        share = self._digits.labels.bincount(minlength=10).double() / len(self._digits.labels)
        return torch.einsum("a,b,c->abc", share, share, share).flatten()

    def make_splits(self) -> dict[SplitName, Split]:
        """Read the digits, and make the fixed stacks; the training split is digits if its stacks are new."""
        splits = super().make_splits()
        self._digits = splits["train"]
        return {
            "train": _fix_stacks(self._digits, self.num_triples) if self.num_triples else self._digits,
            "val": _fix_stacks(splits["val"], len(splits["val"].data)),
            "test": _fix_stacks(splits["test"], len(splits["test"].data)),
        }

    def images(self, split: SplitName) -> Iterator[Tensor]:
        """Return a whole split, the same on every rank, in batches of float32 `[N, 3, H, W]` in [0, 1].

        If training stacks are new in each epoch, the training split is as many fixed ones, the same as in `examples`.
        """
        return (images for images, _ in self.examples(split))

    def get_evaluation_split(self, split: SplitName) -> Split:
        """Return a split of fixed stacks."""
        new_in_each_epoch = split == "train" and not self.num_triples
        return _fix_stacks(self._digits, len(self._digits.data)) if new_in_each_epoch else self.splits[split]


def _fix_stacks(digits: Split, n: int) -> Split:
    """Return n stacks that are a part of the data: they are the same in every run, for any seed."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    return stack(digits, torch.randint(len(digits.data), (n, 3), generator=generator))
