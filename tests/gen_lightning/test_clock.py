"""Seeds and the loop's state as functions of the iteration."""

import torch

from gen_lightning.clock import seed_draws, seed_of


def test_seeds_differ_for_all_small_arguments():
    seeds = {seed_of(seed, rank, iteration) for seed in range(5) for rank in range(5) for iteration in range(200)}
    assert len(seeds) == 5 * 5 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeding_draws_is_torchs_own_seeding():
    seed_draws(123, torch.device("cpu"))
    drawn = torch.randn(5)
    torch.manual_seed(123)
    assert torch.equal(drawn, torch.randn(5))
