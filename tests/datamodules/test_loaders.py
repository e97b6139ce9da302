"""Loaders: the order of the examples, their division among ranks, and resuming."""

import pytest
import torch

from datamodules import EvaluationLoader, TrainLoader
from datamodules.sources import Split


def numbered(n: int) -> Split:
    """Return n one-pixel images whose labels are their indices."""
    return Split(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), torch.arange(n))


def labels(loader) -> list[list[int]]:
    return [batch.labels.tolist() for batch in loader]


class TestTrainLoader:
    def test_an_epoch_has_full_batches_without_repeated_images(self):
        batches = labels(TrainLoader(numbered(103), batch_size=10))
        assert [len(batch) for batch in batches] == [10] * 10
        assert len({label for batch in batches for label in batch}) == 100

    def test_order_is_a_function_of_seed_and_epoch(self):
        def order(seed, epoch):
            loader = TrainLoader(numbered(64), batch_size=8, seed=seed)
            loader.set_epoch(epoch)
            return labels(loader)

        assert order(0, 0) == order(0, 0)
        orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
        assert all(one != other for i, one in enumerate(orders) for other in orders[:i])

    @pytest.mark.parametrize(("n", "world_size"), [(64, 2), (67, 2), (100, 3)])
    def test_ranks_have_disjoint_shards_of_equal_length(self, n, world_size):
        ranks = [labels(TrainLoader(numbered(n), 4, rank=rank, world_size=world_size)) for rank in range(world_size)]
        assert {len(batches) for batches in ranks} == {n // (4 * world_size)}
        seen = [label for batches in ranks for batch in batches for label in batch]
        assert len(seen) == len(set(seen))

    def test_a_second_pass_without_set_epoch_is_the_next_epoch(self):
        loader, other = TrainLoader(numbered(16), 4), TrainLoader(numbered(16), 4)
        first, second = labels(loader), labels(loader)
        other.set_epoch(1)
        assert first != second
        assert second == labels(other)

    @pytest.mark.parametrize("position", [0, 1, 3, 4])
    def test_a_loader_continues_exactly_where_its_state_dict_was_saved(self, position):
        uninterrupted = TrainLoader(numbered(40), 10, seed=3)
        whole = [batch for _ in range(2) for batch in uninterrupted]
        stopped = TrainLoader(numbered(40), 10, seed=3)
        iterator = iter(stopped)
        for _ in range(position):
            next(iterator)
        resumed = TrainLoader(numbered(40), 10, seed=3)
        resumed.load_state_dict(stopped.state_dict())
        rest = list(resumed) if position < 4 else []
        rest += list(resumed)
        assert [batch.labels.tolist() for batch in rest] == [batch.labels.tolist() for batch in whole[position:]]
        assert [batch.seed for batch in rest] == [batch.seed for batch in whole[position:]]

    def test_every_batch_has_a_different_seed(self):
        seeds = [
            batch.seed
            for rank in (0, 1)
            for epoch in (0, 1)
            for batch in self.at_epoch(TrainLoader(numbered(40), 5, rank=rank, world_size=2), epoch)
        ]
        assert len(seeds) == len(set(seeds)) == 16

    @staticmethod
    def at_epoch(loader, epoch):
        loader.set_epoch(epoch)
        return loader


class TestEvaluationLoader:
    @pytest.mark.parametrize("n", [3, 7, 64, 65, 100])
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    @pytest.mark.parametrize("batch_size", [1, 8, 200])
    def test_ranks_divide_the_images_exactly_in_equal_numbers_of_batches(self, n, world_size, batch_size):
        ranks = [
            labels(EvaluationLoader(numbered(n), batch_size, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        assert [label for batches in ranks for batch in batches for label in batch] == list(range(n))
        assert len({len(batches) for batches in ranks}) == 1
        assert all(0 < len(batch) <= batch_size + 1 for batches in ranks for batch in batches)

    def test_every_pass_is_the_same(self):
        loader = EvaluationLoader(numbered(20), 6)
        assert labels(loader) == labels(loader)
