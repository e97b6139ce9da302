"""Stacked MNIST: three digits as the channels of an RGB image, of 1,000 modes."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from datamodules.base import DATA_SEED, SplitName
from datamodules.loaders import TrainLoader
from datamodules.mnist import MNISTDataModule
from datamodules.sources import Source, Split
from gen_lightning.errors import UserError


def stacked(digits: Split, triples: Tensor) -> Split:
    """Stacks, uint8 `[N, 3, H, W]`, and their modes 100 a + 10 b + c, int64 `[N]`, of triples of indices `[N, 3]`."""
    classes = digits.labels[triples]
    return Split(digits.data[triples].flatten(1, 2), (classes * classes.new_tensor([100, 10, 1])).sum(1))


class StackLoader(TrainLoader):
    """Stacks of digits, put together as they are read.

    Each epoch every digit is once in each channel: the three channels go through permutations of their own.
    """

    def _order(self, generator: torch.Generator) -> Tensor:
        permutation = super()._order
        return torch.stack([permutation(generator) for _ in range(3)], dim=1)

    def _examples(self, indices: Tensor) -> Split:
        return stacked(self.split, indices)


class StackedMNISTDataModule(MNISTDataModule):
    """RGB stacks of digits, delivered as (images, modes): float32 `[N, 3, H, W]` in [0, 1] and int64 `[N]` in 0..999.

    The digits of a stack are drawn from one split (Metz et al. 2017; Lin et al. 2018, PacGAN, section 4.2). Training
    stacks are new in each epoch, which has as many as there are training digits; those of validation and test are
    fixed, and as many as their digits.

    Args:
        source: the digits: digits (embedded), or mnist, fashion_mnist, kmnist (downloaded once)
        root: the folder of the downloaded files
        num_triples: so many fixed training stacks in place of new ones, in 2.3 kB each; PacGAN's are 128,000
        batch_size: images per iteration and device
        image_size: 28, or 32 (padded with 2 black pixels on each side)
        val_fraction: the part of the training digits that is held out, in (0, 1)
        device_resident: keep the splits on the training device
        seed: of the training stacks and their order

    Raises:
        UserError: as `MNISTDataModule`, or num_triples is less than 1.
    """

    def __init__(
        self,
        source: Source = "digits",
        root: str = "data",
        num_triples: int | None = None,
        batch_size: int = 128,
        image_size: Literal[28, 32] = 28,
        val_fraction: float = 1 / 6,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(source, root, batch_size, image_size, "none", val_fraction, device_resident, seed)
        if num_triples is not None and num_triples < 1:
            raise UserError(f"num_triples is {num_triples}: choose 1 or more, or null for new stacks in each epoch.")
        self.num_triples = num_triples
        self._train_loader = TrainLoader if num_triples else StackLoader

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image, `(C, H, W)`."""
        return (3, self.image_size, self.image_size)

    @property
    def identity(self) -> str:
        """Which examples the splits hold: the same text on every machine, for any batches and order."""
        return f"{super().identity} {self.num_triples}"

    @property
    def mode_weights(self) -> Tensor:
        """The share of each mode among the stacks that training draws from, float64 `[1000]`."""
        share = self._digits.labels.bincount(minlength=10).double() / len(self._digits.labels)
        return torch.einsum("a,b,c->abc", share, share, share).flatten()

    def setup(self, stage: str) -> None:
        """Loads and splits the digits, and stacks those that are fixed, once."""
        if self._splits:
            return
        super().setup(stage)
        self._digits = self._splits["train"]
        for split in ("val", "test"):
            self._splits[split] = _fixed(self._splits[split], len(self._splits[split].data))
        if self.num_triples:
            self._splits["train"] = _fixed(self._digits, self.num_triples)

    def images(self, split: SplitName) -> Iterator[Tensor]:
        """A whole split on every rank, in batches of float32 `[N, 3, H, W]` in [0, 1].

        Of training stacks that are new in each epoch, as many fixed ones, as in `examples`.
        """
        return (images.float() / 255 for images in self._for_evaluation(split).data.split(500))

    def _for_evaluation(self, split: SplitName) -> Split:
        new_in_each_epoch = split == "train" and not self.num_triples
        return _fixed(self._digits, len(self._digits.data)) if new_in_each_epoch else self._splits[split]


def _fixed(digits: Split, n: int) -> Split:
    """`n` stacks that are part of the data: the same in every run, whatever its seed."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    return stacked(digits, torch.randint(len(digits.data), (n, 3), generator=generator))
