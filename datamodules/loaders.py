"""How the data arrive: whole-batch indexing of one tensor, in an order fixed by (seed, epoch)."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.sources import Split
from gen_lightning.clock import Stream, derive_seed


class Batch(NamedTuple):
    """Data as they cross to the device, such as images, uint8 `[N, C, H, W]`; labels, int64 `[N]`; and the seed of
    everything drawn for this batch.
    """

    data: Tensor
    labels: Tensor
    seed: int


class TrainLoader:
    """Shuffled full batches, disjoint between ranks.

    Epoch e is one permutation, a function of (seed, e); rank r of R takes every R-th index from the r-th on.
    What does not fill a batch on every rank is left out of that epoch.

    `state_dict` holds the epoch and the position (batches delivered in it); a loader that loads it goes on there.

    Args:
        split: the data and labels, on the device they are to be indexed on
        batch_size: examples per batch and rank
        seed: of the order, and of what is drawn for each batch
        rank: of this process
        world_size: number of processes
    """

    def __init__(self, split: Split, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0

    @property
    def sampler(self) -> "TrainLoader":
        """Itself: Lightning announces the epoch by `loader.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Starts `epoch` from its first batch, unless it is the one under way."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def __len__(self) -> int:
        return len(self.split.data) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing is drawn before the first batch is asked for: set_epoch may come after iter().
        if self.position >= len(self):
            self.set_epoch(self.epoch + 1)
        batches = self._epoch_shard().split(self.batch_size)
        # All at once: between two iterations NumPy's code leaves the processor's caches.
        seeds = [derive_seed(Stream.DRAWS, self.seed, self.rank, self.epoch, position) for position in range(len(self))]
        while self.position < len(self):
            indices, seed = batches[self.position], seeds[self.position]
            self.position += 1
            yield Batch(*self._examples(indices), seed)

    def _epoch_shard(self) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(Stream.ORDER, self.seed, self.epoch))
        return self._order(generator)[self.rank :: self.world_size].to(self.split.data.device)

    def _order(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self.split.data), generator=generator)

    def _examples(self, indices: Tensor) -> Split:
        # On CPUs ten times as quick as an index in brackets.
        return Split(*(tensor.index_select(0, indices) for tensor in self.split))

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches delivered."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on where the loader that gave `state_dict` stood."""
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]


class EvaluationLoader:
    """Every example once, in order: ranks share them exactly, without padding duplicates, in equally many batches.

    Equally many, because a rank with one batch more would wait for the others in DDP's buffer broadcast. Nothing is to
    be drawn for a batch, which would make what is evaluated depend on the batches' size.

    Args:
        split: the data and labels, on the device they are to be indexed on
        batch_size: examples in a batch, one more where a shard is that much longer than another
        rank: of this process
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
        return map(Batch, self.data, self.labels, itertools.repeat(0))
