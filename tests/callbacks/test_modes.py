"""ModeCoverage: for samples with known modes, of points and of stacks, compared with the pure functions."""

import math

import pytest
import torch
from helpers import GivenModel, run_test
from lightning.pytorch import Trainer

from callbacks import ModeCoverage
from datamodules import GaussianMixtureDataModule, Grid, MNISTDataModule, Ring, StackedMNISTDataModule
from gen_lightning.metrics import gaussian_high_quality, simulate_perfect_sampler


class Sampler(GivenModel):
    """A model that samples from given examples with replacement."""

    def __init__(self, examples):
        super().__init__()
        self.data_shape = examples.shape[1:]
        self.examples = examples
        self.largest = 0

    def sample(self, n, *, generator, labels=None):
        self.largest = max(self.largest, n)
        return self.examples[torch.randint(len(self.examples), (n,), generator=generator)]


def set_up(data):
    data.setup("test")
    return data


@pytest.fixture(scope="module")
def grid():
    return set_up(GaussianMixtureDataModule(Grid(), num_samples=10_000, num_held_out=10_000))


@pytest.fixture(scope="module")
def stacks():
    return set_up(StackedMNISTDataModule("digits"))


def run(verb, data, examples, **arguments):
    callback, module = ModeCoverage(**arguments), Sampler(examples)
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False)
    getattr(trainer, verb)(module, data, verbose=False)
    return callback.rows, trainer.callback_metrics, module


def test_points_of_the_mixture_are_near_the_floor(grid):
    rows, logged, _ = run("test", grid, grid.points("test"))
    assert rows.keys() == {"modes", "high_quality", "reverse_kl"}
    assert rows["modes"].value == rows["modes"].floor == 25
    for row in rows.values():
        assert abs(row.value - row.floor) <= 5 * row.floor_error
        assert row.n == 2500
    expected = simulate_perfect_sampler(2500, grid.mixture.weights, gaussian_high_quality(2))
    assert {name: (row.floor, row.floor_error) for name, row in rows.items()} == expected
    assert logged["test/reverse_kl/2500"] == pytest.approx(rows["reverse_kl"].value)
    assert [row.better for row in rows.values()] == ["higher", "higher", "lower"]


def test_the_source_of_other_latents_is_in_the_names_of_the_rows(grid):
    callback = ModeCoverage()
    callback.latents = "gmm"
    rows = run_test(callback, Sampler(grid.points("test")), grid)
    assert rows.keys() == {"modes/gmm", "high_quality/gmm", "reverse_kl/gmm"}


def test_missing_modes_are_counted(grid):
    points, modes = grid.test_dataloader().data, grid.test_dataloader().labels
    kept = torch.cat([part[label % 5 != 0] for part, label in zip(points, modes, strict=True)])
    _, logged, _ = run("validate", grid, kept)
    assert logged["val/modes"] == 20
    assert logged["val/reverse_kl"] == pytest.approx(math.log(25 / 20), abs=0.02)
    for name in ("modes", "high_quality", "reverse_kl"):
        assert logged[f"val/{name}/2500"] == logged[f"val/{name}"]


def test_points_between_the_modes_have_low_quality(grid):
    between = torch.cat([grid.points("test"), grid.points("test") + 1])
    _, logged, _ = run("validate", grid, between)
    assert logged["val/high_quality"] == pytest.approx(gaussian_high_quality(2) / 2, abs=0.05)


def test_a_diverged_model_covers_no_mode_and_stops_no_training(grid):
    _, logged, _ = run("validate", grid, torch.full((5, 2), torch.nan))
    assert [logged[f"val/{name}"] for name in ("modes", "high_quality", "reverse_kl")] == [0, 0, math.inf]


def test_samples_are_drawn_in_blocks_and_are_a_function_of_the_seed(grid):
    runs = [run("test", grid, grid.points("test"), num_samples=1300, seed=seed) for seed in (0, 0, 1)]
    assert runs[0][0]["modes"].n == 1300
    assert runs[0][2].largest == 500
    assert runs[0][0] == runs[1][0] != runs[2][0]


@pytest.mark.slow
def test_stacks_are_classified_for_each_channel(stacks):
    """The classifier was trained on other digits than the embedded ones, but is accurate enough on them."""
    batches = stacks.test_dataloader()
    images, modes = torch.cat(list(batches.data)).float() / 255, torch.cat(list(batches.labels))
    chosen = torch.isin(modes // 100, torch.tensor([0, 6])) & torch.isin(modes % 10, torch.tensor([0, 6]))
    rows, logged, _ = run("test", stacks, images[chosen], num_samples=1000)
    assert rows.keys() == {"modes/mnist_cnn", "reverse_kl/mnist_cnn"}
    assert rows["modes/mnist_cnn"].value == pytest.approx(len(modes[chosen].unique()), rel=0.3)
    # At most 40 of 1,000 modes: a fifth in each of two channels.
    assert rows["reverse_kl/mnist_cnn"].value > 2 * math.log(10 / 2) - 0.5
    assert rows["modes/mnist_cnn"].floor == simulate_perfect_sampler(1000, stacks.mode_weights)["modes"].value
    assert logged["test/modes/mnist_cnn/1000"] == rows["modes/mnist_cnn"].value


def test_data_without_known_modes_are_refused():
    with pytest.raises(
        ValueError, match="ModeCoverage needs data with known modes, but MNISTDataModule has no `mixture`"
    ):
        run("validate", MNISTDataModule("digits"), torch.zeros(1, 1, 28, 28))


def test_zero_samples_are_refused():
    with pytest.raises(ValueError, match=r"`ModeCoverage\.num_samples` is 0\. Choose at least 1"):
        ModeCoverage(num_samples=0)


def test_points_of_the_ring_cover_its_eight_modes():
    data = set_up(GaussianMixtureDataModule(Ring(), num_samples=1000))
    assert run("validate", data, data.points("val"))[1]["val/modes"] == 8
