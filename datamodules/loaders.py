"""Loaders that index one tensor a batch at a time, in an order fixed by (seed, epoch)."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.sources import Split
from gen_lightning.clock import Stream, derive_seed

EVALUATION_SEED = 0
"""The seed of batches of an evaluation, for which nothing is drawn."""


class Batch(NamedTuple):
    """A batch as it is moved to the device: data, such as images uint8 `[N, C, H, W]`; labels, int64 `[N]`; a seed.

    The seed is that of everything drawn for this batch.
    """

    data: Tensor
    labels: Tensor
    seed: int


class TrainLoader:
    """Shuffled full batches, disjoint between ranks.

    The order of epoch e is one permutation, a function of (seed, e). Rank r of R takes every R-th index, beginning with
    the r-th. Examples that do not fill a batch on every rank are left out of that epoch.

    `state_dict` holds the epoch and the position, the number of batches delivered in the epoch. A loader that loads
    it continues there.

    Args:
        split: data and labels, on the device on which they are indexed
        batch_size: number of examples per batch and rank
        seed: seed of the order, and of what is drawn for each batch
        rank: rank of this process
        world_size: number of processes
        repeats: whether every epoch has the batches of the first one, and what is drawn for them
    """

    drop_last = True
    """Whether all batches are full, as in torch's DataLoader."""

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        repeats: bool = False,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.repeats = repeats
        self.epoch = 0
        self.position = 0

    @property
    def sampler(self) -> "TrainLoader":
        """The loader itself, because Lightning announces an epoch by `loader.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch from its first batch, unless it is the current epoch."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def __len__(self) -> int:
        return len(self.split.data) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing is drawn before the first batch is requested: set_epoch may come after iter().
        if self.position >= len(self):
            self.set_epoch(self.epoch + 1)
        drawn_epoch = 0 if self.repeats else self.epoch
        batches = self._draw_shard(drawn_epoch).split(self.batch_size)
        # All seeds at once: between two iterations NumPy's code leaves the processor's caches, and a single seed takes
        # about ten times as long.
        seeds = [derive_seed(Stream.DRAWS, self.seed, self.rank, drawn_epoch, i) for i in range(len(self))]
        while self.position < len(self):
            indices, seed = batches[self.position], seeds[self.position]
            self.position += 1
            yield Batch(*self.read_examples(indices), seed)

    def draw_order(self, generator: torch.Generator) -> Tensor:
        """Return the indices of an epoch's examples, `[N, ...]`, in random order."""
        return torch.randperm(len(self.split.data), generator=generator)

    def read_examples(self, indices: Tensor) -> Split:
        """Return the examples at indices `[batch_size, ...]`."""
        # On CPUs index_select is ten times as fast as indexing with brackets.
        return Split(*(tensor.index_select(0, indices) for tensor in self.split))

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that were delivered."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue where the loader that returned `state_dict` was."""
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]

    def _draw_shard(self, epoch: int) -> Tensor:
        """Return this rank's indices of an epoch."""
        generator = torch.Generator().manual_seed(derive_seed(Stream.ORDER, self.seed, epoch))
        return self.draw_order(generator)[self.rank :: self.world_size].to(self.split.data.device)


class EvaluationLoader:
    """Every example once, in order. Ranks share the examples without duplicates, in equal numbers of batches.

    The numbers of batches are equal because a rank with one batch more would wait for the others in DDP's buffer
    broadcast. Nothing may be drawn for a batch, because an evaluation would then depend on the batch size.

    Args:
        split: data and labels, on the device on which they are indexed
        batch_size: number of examples per batch; one more if this rank has one example more than another
        rank: rank of this process
        world_size: number of processes
    """

    def __init__(self, split: Split, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        data, labels = (torch.tensor_split(tensor, world_size)[rank] for tensor in split)
        longest_shard, shortest_shard = -(-len(split.data) // world_size), len(split.data) // world_size
        num_batches = max(1, min(-(-longest_shard // batch_size), shortest_shard))
        self.data = torch.tensor_split(data, num_batches)
        self.labels = torch.tensor_split(labels, num_batches)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Batch]:
        return map(Batch, self.data, self.labels, itertools.repeat(EVALUATION_SEED))
