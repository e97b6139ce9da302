"""ExampleEvaluation: its samples, its floors and what it refuses."""

import pytest
import torch
from helpers import GivenModel, run_test
from torch import Tensor

from callbacks import ExampleEvaluation
from callbacks.example_evaluation import Examples
from datamodules import Split, SplitDataModule
from gen_lightning.contracts import ExampleData
from gen_lightning.errors import UserError
from gen_lightning.metrics import Estimate


class Numbers(SplitDataModule):
    """Splits of 40, 10 and 20 numbers that count up."""

    shape = (1,)
    identity = "Numbers"

    def make_splits(self):
        sizes = {"train": (0, 40), "val": (100, 110), "test": (200, 220)}
        return {
            name: Split(torch.arange(*ends).float()[:, None], torch.arange(*ends) % 2) for name, ends in sizes.items()
        }


class Means(ExampleEvaluation):
    """The mean of the samples, and how many examples there are."""

    contract = ExampleData
    identifying_row = "mean"

    def compare(self, samples: Examples, held_out: Examples) -> dict[str, Estimate]:
        return {"mean": Estimate(samples.data.mean().item(), 0.0)}

    def measure(self, samples, held_out, training):
        counts = {"held_out": len(held_out.data), "training": len(training.data)}
        return self.compare(samples, held_out) | {name: Estimate(float(n), 0.0) for name, n in counts.items()}


class Model(GivenModel):
    def __init__(self, value: float, num_classes=None) -> None:
        super().__init__()
        self.data_shape, self.value, self.num_classes = (1,), value, num_classes

    def sample(self, n: int, *, generator, labels=None) -> Tensor:
        return torch.full((n, 1), self.value) if labels is None else labels[:, None].float()


def measure(model, **options):
    return run_test(Means(**options), model, Numbers(batch_size=5))


def test_samples_are_compared_with_the_test_split_and_real_examples_give_the_floor():
    rows = measure(Model(7.0))
    assert (rows["mean"].value, rows["mean"].n, rows["mean"].floor_n) == (7.0, 20, 20)
    assert (rows["held_out"].value, rows["training"].value) == (20, 40)
    assert rows["training"].floor == 20, "the training examples that replace the samples are left out"
    assert 0 < rows["mean"].floor < 39, "the floor is that of training examples, which are 0 to 39"


def test_the_floor_leaves_half_of_the_training_examples():
    assert measure(Model(7.0), num_samples=30)["mean"].floor_n == 20
    assert measure(Model(7.0), num_samples=6)["training"].floor == 34


def test_a_class_conditional_model_samples_the_classes_of_the_test_examples():
    assert measure(Model(7.0, num_classes=2))["mean"].value == 0.5


def test_few_samples_have_random_classes_of_sorted_test_examples():
    class Sorted(Numbers):
        def make_splits(self):
            splits = super().make_splits()
            return {name: Split(split.data, (split.labels).sort().values) for name, split in splits.items()}

    rows = run_test(Means(num_samples=10), Model(7.0, num_classes=2), Sorted(batch_size=5))
    assert 0 < rows["mean"].value < 1


def test_samples_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="diverged"):
        measure(Model(float("nan")))


@pytest.mark.parametrize("num_samples", [1, 100_001])
def test_too_few_or_too_many_samples_are_refused(num_samples):
    with pytest.raises(UserError, match="num_samples"):
        Means(num_samples=num_samples)
