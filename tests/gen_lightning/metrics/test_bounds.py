"""Bounds of known log-weights."""

import numpy as np
import pytest
import torch

from gen_lightning.metrics.bounds import importance_weighted_bound, mean_bound

LOG_WEIGHTS = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("k", [1, 3, 5, 10])
def test_mean_bound_is_the_mean_over_all_complete_groups(k):
    weights = np.exp(LOG_WEIGHTS.numpy())
    groups = [weights[start : start + k] for start in range(0, 10 - k + 1, k)]
    expected = np.mean([np.log(group.mean(0)) for group in groups], 0)
    torch.testing.assert_close(mean_bound(LOG_WEIGHTS, k), torch.tensor(expected))


def test_the_mean_bound_of_each_example_increases_with_the_size_of_nested_groups():
    """By Jensen's inequality (Burda et al. 2016, theorem 1)."""
    one, five, ten = (mean_bound(LOG_WEIGHTS, k) for k in (1, 5, 10))
    assert (one < five).all()
    assert (five < ten).all()
    assert torch.equal(ten, importance_weighted_bound(LOG_WEIGHTS))
