"""Seeds and the loop's state as functions of the iteration."""

import torch

from gen_lightning.clock import derive_iteration_seed, derive_seed, seed_draws


def test_seeds_differ_for_all_small_arguments():
    seeds = {derive_seed(seed, rank, iteration) for seed in range(5) for rank in range(5) for iteration in range(200)}
    assert len(seeds) == 5 * 5 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_of_iterations_are_the_same_in_any_order():
    iterations = [0, 1, 99, 100, 250, 3, 10**9]
    assert [derive_iteration_seed(i, 2, 7) for i in iterations] == [derive_seed(2, 7, i) for i in iterations]
    assert [derive_iteration_seed(i, 2, 8) for i in iterations] == [derive_seed(2, 8, i) for i in iterations]


def test_seeding_draws_is_torchs_own_seeding():
    seed_draws(123, torch.device("cpu"))
    drawn = torch.randn(5)
    torch.manual_seed(123)
    assert torch.equal(drawn, torch.randn(5))
