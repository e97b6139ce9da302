"""Tables of numbers and categories as a LightningDataModule."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_info
from pandas.api import types
from torch import Tensor

from datamodules.array_files import compute_digest, remember
from datamodules.base import SplitDataModule
from datamodules.sources import Split
from datamodules.splits import choose_fractions, draw_splits, refuse_empty_splits
from datamodules.table_columns import (
    Column,
    Numbers,
    check_columns,
    decode_table,
    encode_table,
    find_categories,
    find_scores,
    locate_columns,
    refuse_row_numbers,
)
from datamodules.table_files import SUFFIXES, format_names, read_table, write_table
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName, TableColumn
from gen_lightning.errors import UserError

Missing = Literal["refuse", "drop", "category"]


class TableDataModule(SplitDataModule):
    """Rows of a CSV or Parquet file, delivered as (rows, labels): float32 `[N, D]` and int64 `[N]`.

    Columns of text or booleans, and those of `categories`, are one-hot. Each other column is one number: its normal
    score, which is the quantile of the standard normal distribution at the number's rank among the training rows, or
    its standardized value. Integers and other numbers with few different values keep these values in samples.
    Checkpoints hold what turns samples back into a table.

    Args:
        path: file of the training rows, .csv, .tsv or .parquet, with the names of its columns in the first line
        val_path: file of the validation rows; default: a part of `path`
        test_path: file of the test rows; default: a part of `path`
        columns: names of the columns to use; default: all
        exclude: names of columns to leave out
        categories: names of columns of numbers that are categories, such as codes
        target: name of a column of categories whose classes are the labels; splits are stratified by it
        missing: what is done about missing values: `refuse` names their columns and ends; `drop` leaves out their rows;
            `category` makes them a category of their own in columns of categories, and refuses them in others
        numbers: `quantile` for normal scores, or `standardize` for mean 0 and variance 1
        max_categories: largest number of categories of a column; at least 2
        delimiter: character between the columns of a .csv file
        shape: shape of one row, `(D,)`; checkpoints set it, so that `sample` needs no file
        val_fraction: fraction of `path` that is held out for validation, without `val_path`; above 0 and below 1
        test_fraction: fraction of `path` that is held out for tests, without `test_path`; above 0 and below 1
        batch_size: number of rows per iteration and device; at least 1
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training rows

    Raises:
        UserError: an argument is out of range or does not fit the file; a file is missing, corrupt or no table; a
            column cannot be encoded.
    """

    def __init__(
        self,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        columns: list[str] | None = None,
        exclude: list[str] | None = None,
        categories: list[str] | None = None,
        target: str | None = None,
        missing: Missing = "refuse",
        numbers: Numbers = "quantile",
        max_categories: int = 100,
        delimiter: str = ",",
        shape: Sequence[int] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 128,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, device_resident, seed)
        check_range(self, above=0, below=1, val_fraction=val_fraction, test_fraction=test_fraction)
        check_range(self, at_least=2, max_categories=max_categories)
        if len(delimiter) != 1:
            raise UserError(f"`delimiter` is {delimiter!r}. Choose one character; a .tsv file needs none.")
        self.path = Path(path) if path else None
        self.val_path = Path(val_path) if val_path else None
        self.test_path = Path(test_path) if test_path else None
        self.chosen = columns
        self.exclude = exclude or []
        self.categories = categories or []
        self.target = target
        self.missing = missing
        self.numbers = numbers
        self.max_categories = max_categories
        self.delimiter = delimiter
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self._shape = tuple(shape) if shape else None
        self._columns: list[Column] = []
        self._order: list[str] = []
        self._suffix = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row, `(D,)`."""
        return self._shape or (sum(column.size for column in self._get_columns()),)

    @cached_property
    def identity(self) -> str:
        """A text that names the rows of the splits, and how they are encoded."""
        digests = [compute_digest(path) for path in (self._get_path(), self.val_path, self.test_path) if path]
        selection = (self.chosen, sorted(self.exclude), sorted(self.categories), self.target)
        fractions = (not self.val_path and self.val_fraction, not self.test_path and self.test_fraction)
        return f"{type(self).__name__} {digests} {selection} {self.missing} {self.numbers} {fractions}"

    @property
    def columns(self) -> list[TableColumn]:
        """The columns in the order of their features: numbers, then categories."""
        return locate_columns(self._get_columns())

    @property
    def samples_suffix(self) -> str:
        """The ending of the file of samples: that of the training file."""
        return self._suffix

    def make_splits(self) -> dict[SplitName, Split]:
        """Read the files, hold out parts of the training file, and encode all rows."""
        columns = self._get_columns()
        for path in (self.path, self.val_path, self.test_path):
            if path:
                remember(path)
        splits = {name: self._encode(table, str(path)) for name, (table, path) in self._tables.items()}
        numbers = [column.name for column in columns if not column.categories]
        categories = [column.name for column in columns if column.categories]
        rank_zero_info(
            f"{self.path}: {len(splits['train'].data):,} training rows. Numbers: {format_names(numbers) or 'none'}."
            f" Categories: {format_names(categories) or 'none'}."
        )
        return splits

    def restore_table(self, samples: Tensor) -> pd.DataFrame:
        """Return samples, or other encoded rows `[N, D]`, as a table with the columns and types of the file.

        With normal scores, numbers are within the range of the training rows.
        """
        return decode_table(samples, self._get_columns(), self._order)

    def write_samples(self, samples: Tensor, file: IO[bytes]) -> None:
        """Write samples `[N, D]` as a table in the format of the training file."""
        write_table(self.restore_table(samples), file, self._suffix, self.delimiter)

    def state_dict(self) -> dict[str, Any]:
        """Return the encoding of the columns, for the checkpoint."""
        if not self._columns:
            return {}
        return {"columns": [asdict(one) for one in self._columns], "order": self._order, "suffix": self._suffix}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the encoding of a checkpoint, and encode the rows with it if they are read already.

        Raises:
            UserError: the checkpoint holds no encoding, or one that does not fit the rows.
        """
        try:
            columns = [Column(**one) for one in state_dict["columns"]]
            order, suffix = state_dict["order"], state_dict["suffix"]
            check_columns(columns, order)
            if suffix not in SUFFIXES:
                raise ValueError(suffix)
        except (TypeError, ValueError, KeyError, AttributeError):
            raise UserError("The checkpoint's columns of the table are damaged. Give another checkpoint.") from None
        is_new = columns != self._columns
        self._columns, self._order, self._suffix = columns, order, suffix
        if self.splits and is_new:
            self.splits = {name: self._encode(table, str(path)) for name, (table, path) in self._tables.items()}

    def _encode(self, table: pd.DataFrame, source: str) -> Split:
        data = encode_table(table, self._columns, source)
        located = [one for one in locate_columns(self._columns) if one.name == self.target]
        labels = [data[:, one.first : one.first + one.size].argmax(1) for one in located]
        return Split(data, labels[0] if labels else torch.zeros(len(data), dtype=torch.int64))

    def _get_columns(self) -> list[Column]:
        """Return the encoding of a checkpoint or, without one, that of the training rows."""
        if not self._columns:
            self._find_columns()
        return self._columns

    def _find_columns(self) -> None:
        table, (train, path) = self._table, self._tables["train"]
        if self.chosen is None:
            for name in table.columns.difference([*self._category_names]):
                refuse_row_numbers(table[name])
        found = [
            find_categories(table[name], self.max_categories)
            if name in self._category_names
            else find_scores(train[name], self.numbers, str(path))
            for name in table
        ]
        self._order = [column.name for column in found]
        self._columns = sorted(found, key=lambda column: column.size > 1)
        self._suffix = path.suffix

    def _get_path(self) -> Path:
        if self.path is None:
            raise UserError("`path` is not given. Give the table of the training rows with --data.path.")
        return self.path

    @cached_property
    def _table(self) -> pd.DataFrame:
        """The rows of the training file, with those that are held out of it."""
        return self._read(self._get_path())

    @cached_property
    def _category_names(self) -> set[str]:
        table = self._table
        return {name for name in table if name in self.categories or not _holds_numbers(table[name])}

    @cached_property
    def _tables(self) -> dict[SplitName, tuple[pd.DataFrame, Path]]:
        """The rows of each split, and the file that holds them."""
        path, table = self._get_path(), self._table
        fractions = choose_fractions(self.val_path, self.test_path, self.val_fraction, self.test_fraction)
        indices = draw_splits(self._find_strata(table), fractions)
        refuse_empty_splits({name: len(part) for name, part in indices.items()}, fractions)
        tables = {name: (table.iloc[part.sort().values.numpy()], path) for name, part in indices.items()}
        held_out: dict[SplitName, Path | None] = {"val": self.val_path, "test": self.test_path}
        texts = [str(name) for name in table if not _holds_numbers(table[name])]
        return tables | {name: (self._read(other, texts), other) for name, other in held_out.items() if other}

    def _find_strata(self, table: pd.DataFrame) -> Tensor:
        """Return the class of each row, or zeros without a target, int64 `[N]`."""
        if self.target is None:
            return torch.zeros(len(table), dtype=torch.int64)
        if self.target not in self._category_names:
            raise UserError(
                f"The target `{self.target}` is a column of numbers, and classes are needed. If they are codes of"
                f" classes, add it to --data.categories; else remove --data.target."
            )
        return torch.from_numpy(pd.factorize(table[self.target])[0]).long()

    def _read(self, path: Path, as_text: Sequence[str] = ()) -> pd.DataFrame:
        """Return the chosen columns of a file, without rows that are to be left out.

        Raises:
            UserError: a column is missing, or a value is and is not expected to be.
        """
        table = read_table(path, self.delimiter, as_text)
        named = {"columns": self.chosen, "exclude": self.exclude, "categories": self.categories}
        named |= {"target": [self.target] if self.target else []}
        for option, names in named.items():
            if unknown := [name for name in names or [] if name not in table]:
                raise UserError(
                    f"`--data.{option}` names {format_names(unknown)}, and {path} has the columns"
                    f" {format_names(list(table))}. Correct the name."
                )
        chosen = [name for name in table if name in (self.chosen or table) and name not in self.exclude]
        if self.target and self.target not in chosen:
            raise UserError(f"The target `{self.target}` is left out of the columns. Keep it, or remove --data.target.")
        if not chosen:
            raise UserError("No column is left. Choose other --data.columns, or leave out fewer with --data.exclude.")
        return self._treat_missing(table[chosen], path)

    def _treat_missing(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Return a table without missing values of numbers, or refuse them."""
        counts = table.isna().sum()
        counts = counts[counts > 0]
        if self.missing == "category":
            counts = counts[[_holds_numbers(table[name]) and name not in self.categories for name in counts.index]]
        if self.missing == "drop":
            table = table.dropna().reset_index(drop=True)
            if table.empty:
                raise UserError(
                    f"Each row of {path} has a missing value ({_format_counts(counts)}). Leave columns out with"
                    " --data.exclude."
                )
        elif len(counts):
            category = " or --data.missing category (text only)" if self.missing == "refuse" else ""
            raise UserError(
                f"Values are missing in {path}: {_format_counts(counts)}. Add --data.missing drop (leaves out the"
                f" rows){category}, or --data.exclude."
            )
        return table


def _holds_numbers(column: "pd.Series[Any]") -> bool:
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)


def _format_counts(counts: "pd.Series[int]") -> str:
    """Return how many values are missing in each column."""
    texts = [f"{count:,} in `{name}`" for name, count in counts.items()]
    return ", ".join(texts[:10]) + (f" and more in {len(texts) - 10} other columns" if len(texts) > 10 else "")
