"""The columns of a table, and their values as features that models see."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri

from datamodules.table_files import DTYPES, count_decimals, format_names, get_dtype
from gen_lightning.contracts import TableColumn
from gen_lightning.errors import UserError

Numbers = Literal["quantile", "standardize"]
Array = np.ndarray[Any, Any]

# A column with more values, or with fewer than two rows for each value, has a density.
_MAX_LEVELS = 1000
# As scikit-learn's QuantileTransformer has by default.
_NUM_QUANTILES = 1000
# Models refuse standardized numbers beyond this.
_LIMIT = 1e6


@dataclass(frozen=True)
class Column:
    """How a column is encoded, in JSON types, as checkpoints store it.

    A category is one-hot. A number is one feature: `values` have the `scores`, and numbers between them are
    interpolated. If the column has `edges`, it has no values other than these, and each has the scores between two
    edges.

    Args:
        name: its name in the header
        dtype: type of its values, one of `table_files.DTYPES`
        categories: text of each category in the order of the features; None for a missing value; empty for numbers
        decimals: number of digits after the point; None for all of them
        values: numbers in ascending order
        scores: what models see of these numbers, in ascending order
        edges: limits between the scores of neighbouring values; empty if the numbers are continuous
    """

    name: str
    dtype: str
    categories: list[str | None]
    decimals: int | None
    values: list[float]
    scores: list[float]
    edges: list[float]

    @property
    def size(self) -> int:
        """The number of features."""
        return len(self.categories) or 1

    def encode(self, column: "pd.Series[Any]", source: str) -> Array:
        """Return the features of a column, `[N, size]`.

        A number that the training rows lack is encoded as the nearest one if the column has edges, and as the smallest
        or the largest if it is outside the range.

        Args:
            column: the column of a table
            source: the file, for the error

        Raises:
            UserError: the column has another type, a missing value, or a category that the training file lacks.
        """
        if self.categories:
            return np.eye(self.size)[self._find_categories(get_texts(column), source)]
        if get_dtype(column) == "str":
            raise UserError(f"The column `{self.name}` of {source} is text, and has numbers in the training data.")
        numbers = get_numbers(column, source)
        values, scores = np.array(self.values), np.array(self.scores)
        if self.edges:
            return scores[np.searchsorted((values[1:] + values[:-1]) / 2, numbers)][:, None]
        return np.interp(numbers, values, scores)[:, None]

    def decode(self, features: Array) -> "pd.Series[Any]":
        """Return the column of features `[N, size]`, in its own type."""
        if self.categories:
            texts = [self.categories[index] for index in features.argmax(1)]
            return _restore_type(pd.Series(texts, name=self.name, dtype=object), self.dtype)
        if self.edges:
            numbers = np.array(self.values)[np.searchsorted(self.edges, features[:, 0])]
        else:
            numbers = np.interp(features[:, 0], self.scores, self.values)
        if self.decimals is not None:
            numbers = numbers.round(self.decimals)
        return pd.Series(numbers, name=self.name).astype(self.dtype)

    def _find_categories(self, texts: Sequence[str | None], source: str) -> list[int]:
        lookup = {text: index for index, text in enumerate(self.categories)}
        for text in dict.fromkeys(texts):
            if text not in lookup:
                fault = "has a missing value" if text is None else f"has the category {text[:50]!r}"
                raise UserError(
                    f"The column `{self.name}` of {source} {fault}, which the training data lack. Remove these rows, or"
                    f" leave the column out with --data.exclude '[{self.name}]'."
                )
        return [lookup[text] for text in texts]


def find_categories(column: "pd.Series[Any]", max_categories: int) -> Column:
    """Return the encoding of a column of categories, which are sorted.

    Raises:
        UserError: there are more than max_categories, or one.
    """
    texts = get_texts(column)
    present = [text for text in texts if text is not None]
    found: list[str | None] = [*sorted(set(present))]
    if len(found) > max_categories:
        raise UserError(
            f"The column `{column.name}` has {len(found):,} categories, such as {str(found[0])[:30]!r}"
            f"{_guess_kind(present)}. Leave it out with --data.exclude '[{column.name}]', or raise"
            " --data.max_categories."
        )
    if len(present) < len(texts):
        found.append(None)
    _refuse_constant(str(column.name), len(found))
    return Column(str(column.name), get_dtype(column), found, None, [], [], [])


def find_scores(column: "pd.Series[Any]", numbers: Numbers, source: str) -> Column:
    """Return the encoding of a column of numbers.

    Args:
        column: the training rows
        numbers: `quantile` for normal scores of the training quantiles, `standardize` for mean 0 and variance 1
        source: the file, for the error

    Raises:
        UserError: a number is infinite, or all are equal.
    """
    dtype, found = get_dtype(column), get_numbers(column, source)
    values, counts = np.unique(found, return_counts=True)
    _refuse_constant(str(column.name), len(values))
    has_levels = len(values) <= _MAX_LEVELS and 2 * len(values) <= len(found)
    if numbers == "quantile":
        # The share of smaller numbers, and that of numbers which are not larger.
        below, above = (counts.cumsum() - counts) / len(found), counts.cumsum() / len(found)
        scores, edges = ndtri((below + above) / 2), ndtri(above[:-1])
        if not has_levels:
            quantiles = np.quantile(found, np.linspace(0, 1, _NUM_QUANTILES), method="inverted_cdf")
            chosen = np.searchsorted(values, np.unique(quantiles))
            values, scores = values[chosen], scores[chosen]
    else:
        if not has_levels:
            values = found.mean() + found.std() * np.array([-_LIMIT, _LIMIT])
        scores = (values - found.mean()) / found.std()
        edges = (scores[1:] + scores[:-1]) / 2
    parts = values, scores, edges if has_levels else edges[:0]
    return Column(str(column.name), dtype, [], count_decimals(found, dtype), *(part.tolist() for part in parts))


def refuse_row_numbers(column: "pd.Series[Any]") -> None:
    """Refuse a column that numbers the rows of a file, in any order.

    Raises:
        UserError: the numbers are integers without gaps, each of them once.
    """
    smallest, largest = column.min(), column.max()
    if column.is_unique and largest - smallest == len(column) - 1 and (column == column.round()).all():
        raise UserError(
            f"The column `{column.name}` numbers the rows, from {smallest:g} to {largest:g}. Leave it out with"
            f" --data.exclude '[{column.name}]', or name all columns to use with --data.columns."
        )


def get_numbers(column: "pd.Series[Any]", source: str) -> Array:
    """Return the numbers of a column in double precision.

    Raises:
        UserError: a number is infinite.
    """
    numbers = column.to_numpy(np.float64)
    if not np.isfinite(numbers).all():
        raise UserError(f"The column `{column.name}` of {source} has an infinite value. Remove it, or replace it.")
    return numbers


def get_texts(column: "pd.Series[Any]") -> list[str | None]:
    """Return the values of a column as text, and None for missing values."""
    return [None if is_missing else str(value) for value, is_missing in zip(column, column.isna(), strict=True)]


def encode_table(table: pd.DataFrame, columns: Sequence[Column], source: str) -> torch.Tensor:
    """Return the features of all columns, float32 `[N, D]`.

    Raises:
        UserError: a column is missing, or does not fit its encoding.
    """
    if missing := [column.name for column in columns if column.name not in table]:
        raise UserError(f"{source} has no column {format_names(missing)}, which the training data have.")
    features = [column.encode(table[column.name], source).astype(np.float32) for column in columns]
    return torch.from_numpy(np.concatenate(features, 1))


def decode_table(features: torch.Tensor, columns: Sequence[Column], order: Sequence[str]) -> pd.DataFrame:
    """Return the table of features `[N, D]`, with its columns in the given order."""
    parts = features.double().numpy()
    starts = np.cumsum([0, *(column.size for column in columns)])
    decoded = {
        column.name: column.decode(parts[:, start : start + column.size])
        for column, start in zip(columns, starts, strict=False)
    }
    return pd.DataFrame({name: decoded[name] for name in order})


def locate_columns(columns: Sequence[Column]) -> list[TableColumn]:
    """Return where the features of the columns are."""
    firsts = np.cumsum([0, *(column.size for column in columns)]).tolist()
    return [
        TableColumn(column.name, first, column.size, *_get_levels(column))
        for column, first in zip(columns, firsts, strict=False)
    ]


def check_columns(columns: Sequence[Column], order: Sequence[str]) -> None:
    """Check columns of a checkpoint, which anyone may have written.

    Raises:
        ValueError: they do not describe a table.
    """
    names = [column.name for column in columns]
    if not names or sorted(order) != sorted(names) or len(set(names)) < len(names):
        raise ValueError("The names differ.")
    sizes = [column.size for column in columns]
    if sizes != sorted(sizes, key=lambda size: size > 1):
        raise ValueError("Numbers come first.")
    if not all(_is_sound(column) for column in columns):
        raise ValueError("A column is damaged.")


def _is_sound(column: Column) -> bool:
    if type(column.name) is not str or column.dtype not in DTYPES:
        return False
    if column.categories:
        *texts, last = column.categories
        return len(texts) > 0 and all(type(text) is str for text in texts) and isinstance(last, str | None)
    lists = (column.values, column.scores, column.edges)
    numbers = [number for part in lists for number in part]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        return False
    n = len(column.values)
    return (
        n > 1
        and len(column.scores) == n
        and len(column.edges) in (0, n - 1)
        and all(list(part) == sorted(part) for part in lists)
        and (column.decimals is None or column.decimals in range(10))
    )


def _get_levels(column: Column) -> tuple[torch.Tensor, torch.Tensor]:
    levels, edges = (column.scores, column.edges) if column.edges else ([], [])
    return torch.tensor(levels, dtype=torch.float32), torch.tensor(edges, dtype=torch.float32)


def _refuse_constant(name: str, num_values: int) -> None:
    if num_values < 2:
        raise UserError(
            f"The column `{name}` has one value in all training rows. Leave it out with --data.exclude '[{name}]'."
        )


def _restore_type(texts: "pd.Series[Any]", dtype: str) -> "pd.Series[Any]":
    if dtype == "str":
        return texts.astype("str")
    restore = (lambda text: text == "True") if dtype == "bool" else float if "float" in dtype else int
    values = texts.map(restore, na_action="ignore")
    # pandas' types that allow missing values have capital letters.
    nullable = {"bool": "boolean"}.get(dtype, dtype.replace("int", "Int").replace("uI", "UI"))
    return values.astype(nullable if texts.isna().any() else dtype)


def _guess_kind(texts: Sequence[str]) -> str:
    """Return what a column of many texts may be, as a part of a sentence; nothing if it is unknown."""
    some = pd.Series(texts[:100])
    if some.str.fullmatch(r"[+-]?\d{1,3}(\.?\d{3})*,\d+").all():
        return ", numbers with a decimal comma: write a point"
    if some.str.contains(r"\d").all() and pd.to_datetime(some, errors="coerce", format="mixed").notna().all():
        return ", dates: write numbers, such as days"
    return ", one for each row" if len(set(texts)) == len(texts) else ""
