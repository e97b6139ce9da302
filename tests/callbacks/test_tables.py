"""TableEvaluation: what real rows, shuffled columns and copies score, and which data it refuses."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import GivenModel, run_test

from callbacks import TableEvaluation
from datamodules import GaussianMixtureDataModule, Ring, TableDataModule
from gen_lightning.errors import UserError


class Rows(GivenModel):
    """Returns rows of a tensor, in order."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.data_shape = tuple(rows.shape[1:])

    def sample(self, n, *, generator, labels=None):
        return self.rows[:n]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return a data module of 2,000 rows, of which 400 are for tests, in which a class depends on two numbers."""
    rng = np.random.default_rng(0)
    length, width = rng.normal(size=(2, 2000)).round(2)
    kind = np.where(length + width + 0.1 * rng.normal(size=2000) > 0, "large", "small")
    path = tmp_path_factory.mktemp("table") / "table.csv"
    pd.DataFrame({"length": length, "width": width, "kind": kind}).to_csv(path, index=False)

    def build(target="kind"):
        data = TableDataModule(str(path), target=target, val_fraction=0.2, test_fraction=0.2, batch_size=50)
        data.setup("test")
        return data

    return build


def measure(data, rows):
    return run_test(TableEvaluation(), Rows(rows), data)


def test_real_rows_score_like_the_floor(table):
    data = table()
    rows = measure(data, data.splits["val"].data)
    for name, row in rows.items():
        assert (row.n, row.floor_n) == (400, 400)
        assert abs(row.value - row.floor) < 5 * np.hypot(row.error, row.floor_error) + 1e-9, name
    assert abs(rows["two_sample_accuracy"].value - 0.5) < 0.06
    assert rows["trained_on_samples"].value > 0.9
    assert rows["trained_on_samples"].better == "higher"
    assert all(rows[name].better == "lower" for name in rows if "distance" in name or "error" in name)


def test_independent_columns_have_no_distance_but_the_wrong_associations(table):
    data = table()
    train = data.splits["train"].data
    parts = [train[torch.randperm(len(train))][:, part] for part in (slice(0, 1), slice(1, 2), slice(2, 4))]
    rows = measure(data, torch.cat(parts, 1))
    assert rows["column_distance"].value < 0.06
    assert rows["association_error"].value > 0.3
    assert rows["two_sample_accuracy"].value > 0.6
    assert rows["trained_on_samples"].value < 0.7


def test_copies_of_two_rows_are_far_from_all_columns(table):
    data = table()
    rows = measure(data, data.splits["train"].data[:2].repeat(200, 1))
    assert rows["worst_column_distance"].value > 0.5
    assert rows["column_distance"].value == pytest.approx(
        np.mean([rows[f"column_distance/{name}"].value for name in ("length", "width", "kind")])
    )
    assert rows["memorization"].value > 0.4


def test_without_a_target_no_classifier_is_trained(table):
    data = table(target=None)
    rows = measure(data, data.splits["train"].data)
    assert "trained_on_samples" not in rows
    assert "two_sample_accuracy" in rows


def test_data_that_are_no_table_are_refused():
    data = GaussianMixtureDataModule(Ring(), num_samples=100, num_held_out=100)
    with pytest.raises(UserError, match=r"TableEvaluation needs a data module with the encoded rows of a table"):
        run_test(TableEvaluation(), Rows(torch.randn(100, 2)), data)
