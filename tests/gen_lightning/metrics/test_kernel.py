"""The kernel distance: agreement with torch-fidelity and with a closed form, and no bias."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import mmd2

from gen_lightning.metrics.kernel import kernel_distance


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(real, fake):
    # For sets of equal size.
    real, fake = real.numpy(), fake.numpy()
    kernels = ((a @ b.T / real.shape[1] + 1) ** 3 for a, b in ((real, real), (real, fake), (fake, fake)))
    return mmd2(*kernels)


def test_blocks_agree_with_torch_fidelity():
    real, fake = normal(1000, 8), normal(1003, 8, seed=1) + 0.3
    generator = torch.Generator().manual_seed(0)
    blocks = [
        features[torch.randperm(len(features), generator=generator)][:1000].split(100) for features in (real, fake)
    ]
    expected = [reference(*pair) for pair in zip(*blocks, strict=True)]
    value, error = kernel_distance(real, fake)
    assert value == pytest.approx(np.mean(expected), rel=1e-10)
    assert error == pytest.approx(np.std(expected, ddof=1) / 10**0.5, rel=1e-10)


def test_every_block_of_the_larger_set_changes_the_distance():
    real, fake = normal(200, 4), normal(1000, 4, seed=1)
    expected = kernel_distance(real, fake).value
    for rows in torch.arange(1000).split(100):
        moved = fake.index_fill(0, rows, 5.0) + fake * 1e-9
        assert kernel_distance(real, moved).value > expected + 1
        assert kernel_distance(moved, real).value > expected + 1


def test_the_distance_agrees_with_that_of_the_whole_sets_within_the_error():
    real, fake = normal(2000, 8), normal(2000, 8, seed=1) * 1.2
    estimate = kernel_distance(real, fake)
    assert abs(estimate.value - reference(real, fake)) < 4 * estimate.error < estimate.value


def test_gaussians_with_shifted_means_have_a_closed_form():
    # In one dimension the features of (xy + 1)^3 are 1, sqrt(3) x, sqrt(3) x^2 and x^3.
    real_moments, fake_moments = torch.tensor([0.0, 1, 0]), torch.tensor([1.0, 2, 4])
    exact = (torch.tensor([3.0, 3, 1]) * (real_moments - fake_moments).square()).sum().item()
    estimate = kernel_distance(normal(50_000, 1), normal(50_000, 1, seed=1) + 1, subset_size=100)
    assert abs(estimate.value - exact) < 4 * estimate.error < exact / 10


def test_the_distance_of_equal_distributions_has_no_bias():
    estimates = [kernel_distance(normal(200, 4, seed=2 * i), normal(200, 4, seed=2 * i + 1)) for i in range(100)]
    values, errors = torch.tensor(estimates).T
    assert abs(values.mean()) < 3 * values.std() / 10
    assert (values < 0).float().mean().item() == pytest.approx(0.5, abs=0.2)
    assert errors.square().mean().sqrt().item() == pytest.approx(values.std().item(), rel=0.25)


def test_data_that_are_sorted_by_class_do_not_change_the_distance():
    # Blocks in the order of the data would compare different classes.
    labels = torch.arange(10).repeat_interleave(100)[:, None].double()
    real, fake = normal(1000, 4) + labels, normal(1000, 4, seed=1) + labels.flip(0)
    estimate = kernel_distance(real, fake)
    assert abs(estimate.value) < 4 * estimate.error


def test_the_shuffling_leaves_the_global_random_state_unchanged():
    state = torch.get_rng_state()
    assert kernel_distance(normal(20, 4), normal(20, 4, seed=1)) == kernel_distance(
        normal(20, 4), normal(20, 4, seed=1)
    )
    assert torch.equal(state, torch.get_rng_state())


def test_single_precision_features_are_compared_in_double_precision():
    real, fake = normal(100, 8).float(), normal(100, 8, seed=1).float()
    assert kernel_distance(real, fake) == kernel_distance(real.double(), fake.double())


@pytest.mark.parametrize(("num_real", "num_fake"), [(19, 100), (100, 19)])
def test_too_few_images_are_refused(num_real, num_fake):
    with pytest.raises(
        ValueError, match=f"{num_real} real images and {num_fake} samples, too few for the kernel distance"
    ):
        kernel_distance(normal(num_real, 4), normal(num_fake, 4, seed=1))


def test_unusable_features_and_subset_sizes_are_refused():
    with pytest.raises(ValueError, match="samples contain NaN"):
        kernel_distance(normal(20, 2), normal(20, 2) * torch.inf)
    with pytest.raises(ValueError, match="samples are all equal"):
        kernel_distance(normal(20, 2), torch.ones(20, 2))
    with pytest.raises(ValueError, match=r"`kernel_distance\.subset_size` is 1\. Choose at least 2\."):
        kernel_distance(normal(20, 2), normal(20, 2), subset_size=1)
