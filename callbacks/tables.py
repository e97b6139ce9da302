"""The evaluation of samples of tables."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.example_evaluation import ExampleEvaluation, Examples
from gen_lightning.contracts import TableColumn, TableData, find_datamodule, require
from gen_lightning.metrics import (
    Estimate,
    association_error,
    classifier_two_sample_test,
    column_distances,
    memorization,
    summarize_distances,
    train_on_samples,
)


class TableEvaluation(ExampleEvaluation):
    """Compares generated rows of a table with held-out ones; see `ExampleEvaluation`.

    After each validation:

    - `column_distance`: the mean over the columns of the distance of their distributions, in [0, 1]: the
      Kolmogorov-Smirnov statistic of numbers, and the total variation distance of categories
    - `worst_column_distance`: the largest of these distances
    - `association_error`: the mean absolute difference of the associations of all pairs of columns

    In `test` also:

    - `column_distance/COLUMN`: the distance of each column
    - `two_sample_accuracy`: the accuracy with which a classifier tells samples from test rows; 0.5 is the best
    - `trained_on_samples`: the accuracy on test rows of a classifier of the data module's `target`, which is trained on
      samples; without a target it is left out
    - `memorization`: the share of samples that are nearer to a training row than 99 % of the test rows are

    Numbers and distances are those that models see.

    Args:
        num_samples: number of samples, N; 2 to 100,000, by default as many as there are held-out rows
        seed: seed of the samples

    Raises:
        UserError: num_samples is out of range; in `setup`, the data are no table.
    """

    contract = TableData
    identifying_row = "two_sample_accuracy"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse data that are no table, before training or the test starts.

        Raises:
            UserError: the data module does not fulfil the contract or has no whole splits; num_samples is out of range.
        """
        super().setup(trainer, pl_module, stage)
        # A checkpoint that is loaded after this may bring the columns.
        self._table = require(find_datamodule(trainer), TableData, type(self).__name__)

    def compare(self, samples: Examples, held_out: Examples) -> dict[str, Estimate]:
        """Return the distances of the columns and of their associations."""
        rows, places = (held_out.data, samples.data), self._places
        mean, worst = summarize_distances(*rows, places)
        error = association_error(*rows, places)
        return {"column_distance": mean, "worst_column_distance": worst, "association_error": error}

    def measure(self, samples: Examples, held_out: Examples, training: Examples) -> dict[str, Estimate]:
        """Return all metrics of a test; see `ExampleEvaluation.measure`."""
        rows = held_out.data, samples.data
        names = [f"column_distance/{column.name}" for column in self._table.columns]
        estimates = self.compare(samples, held_out)
        estimates["two_sample_accuracy"] = classifier_two_sample_test(*rows)
        for target in (one for one in self._table.columns if one.name == self._table.target):
            estimates["trained_on_samples"] = train_on_samples(
                *_separate(samples.data, target), *_separate(held_out.data, target)
            )
        estimates["memorization"] = memorization(samples.data, held_out.data, training.data)
        return estimates | dict(zip(names, column_distances(*rows, self._places), strict=True))

    @property
    def _places(self) -> list[tuple[int, int]]:
        return [(column.first, column.size) for column in self._table.columns]


def _separate(rows: Tensor, target: TableColumn) -> tuple[Tensor, Tensor]:
    """Return the other features of rows, and the class of each row."""
    last = target.first + target.size
    return torch.cat([rows[:, : target.first], rows[:, last:]], 1), rows[:, target.first : last].argmax(1)
