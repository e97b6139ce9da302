"""Mixtures: their means, the distribution of their points, and the splits of the data module."""

import pytest
import torch

from datamodules import GaussianMixture, GaussianMixtureDataModule, Grid, Ring


def draw_points(mixture, n=100_000):
    return mixture.draw(n, torch.Generator().manual_seed(0))


def make_data(mixture, **arguments) -> GaussianMixtureDataModule:
    data = GaussianMixtureDataModule(mixture, **{"num_samples": 1000, "num_held_out": 100} | arguments)
    data.setup("fit")
    return data


def test_the_ring_has_eight_modes_at_radius_1_with_45_degrees_between_neighbours():
    ring = Ring()
    assert ring.means.norm(dim=1).tolist() == pytest.approx([1.0] * 8)
    cosines = (ring.means * ring.means.roll(1, dims=0)).sum(1)
    assert cosines.tolist() == pytest.approx([0.5**0.5] * 8, abs=1e-6)
    assert ring.sigma == 0.01


def test_the_grid_has_the_published_25_modes():
    grid = Grid()
    ticks = (-4, -2, 0, 2, 4)
    assert {tuple(mean) for mean in grid.means.tolist()} == {(x, y) for x in ticks for y in ticks}
    assert len(grid.means) == 25
    assert grid.sigma == 0.05


def test_points_have_the_mean_and_standard_deviation_of_their_mode():
    points, modes = draw_points(mixture := Grid())
    offsets = points - mixture.means[modes]
    assert offsets.std(dim=0).tolist() == pytest.approx([0.05, 0.05], rel=0.01)
    assert offsets.mean(dim=0).abs().max() < 5 * 0.05 / 100_000**0.5
    assert points.dtype == torch.float32


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_modes_are_drawn_with_their_weights_as_probabilities(weights):
    mixture = GaussianMixture([[0.0], [1.0], [2.0]], 0.1, weights)
    counts = draw_points(mixture).labels.bincount(minlength=3)
    expected = 100_000 * torch.tensor([1 / 3] * 3 if weights is None else [1 / 8, 2 / 8, 5 / 8])
    assert ((counts - expected) ** 2 / expected).sum() < 16  # chi-squared with 2 degrees of freedom: 1 in 3,000


def test_a_scaled_mixture_has_scaled_points():
    """So a recipe can choose the unit."""
    torch.testing.assert_close(4 * draw_points(Grid(spacing=0.5, sigma=0.0125)).data, draw_points(Grid()).data)


def test_splits_share_no_points_and_do_not_depend_on_the_seed():
    one, other = make_data(Ring(), seed=1), make_data(Ring(), seed=2)
    parts = [one.points(split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [1000, 100, 100]
    assert len(torch.cat(parts).unique(dim=0)) == 1200
    for split, part in zip(("train", "val", "test"), parts, strict=True):
        assert torch.equal(part, other.points(split))


def test_an_epoch_is_a_permutation_of_the_training_points_that_depends_on_the_seed():
    orders = []
    for seed in (1, 2):
        data = make_data(Ring(), seed=seed, batch_size=100)
        batches = [data.on_after_batch_transfer(batch, 0)[0] for batch in data.train_dataloader()]
        orders.append(torch.cat(batches))
        assert torch.equal(orders[-1].sort(dim=0).values, data.points("train").sort(dim=0).values)
    assert not torch.equal(*orders)


def test_batches_are_points_with_their_modes():
    data = make_data(Ring())
    points, modes = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert points.shape == (128, *data.shape) == (128, 2)
    assert torch.equal(torch.cdist(points, data.mixture.means).argmin(1), modes)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GaussianMixture([], 1), r"`GaussianMixture\.means` is \[\]\. Give one list of numbers for each mode"),
        (lambda: GaussianMixture([[0.0, 1.0], [1.0]], 1), "Give one list of numbers for each mode, all of one length"),
        (lambda: Ring(sigma=0), r"`Ring\.sigma` is 0\. Choose above 0"),
        (
            lambda: GaussianMixture([[0.0]], 1, [1.0, 1.0]),
            "Give one positive number for each of the 1 modes",
        ),
        (lambda: GaussianMixture([[0.0], [1.0]], 1, [1.0, 0.0]), "Give one positive number for each of the 2 modes"),
        (
            lambda: GaussianMixtureDataModule(Ring(), num_held_out=0),
            r"num_held_out` is 0\. Choose at least 1",
        ),
        (
            lambda: GaussianMixtureDataModule(Ring(), batch_size=0),
            r"batch_size` is 0\. Choose at least 1",
        ),
    ],
)
def test_invalid_arguments_are_refused_with_advice(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
