"""Tables in files: CSV and Parquet, read by pandas, with their columns as numbers or as text."""

import csv
import importlib.util
from collections.abc import Collection, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from pandas.api import types

from gen_lightning.errors import UserError

SUFFIXES = (".csv", ".tsv", ".parquet")
DTYPES = (
    "bool",
    "str",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "float32",
    "float64",
)
"""The types of columns."""

_INTEGER = r"[+-]?(?:0|[1-9]\d{0,17})"
_SEPARATORS = {";": "';'", "\t": "tab", "|": "'|'"}


def read_table(path: Path, delimiter: str, as_text: Collection[str] = ()) -> pd.DataFrame:
    """Return the table of a file, with columns of the types in `DTYPES`; missing values are NaN or None.

    In a CSV file, a column is int64 if all its values are integers, float64 if all are numbers, and text otherwise. In
    a column of text, values keep their text.

    Args:
        path: the file
        delimiter: character that separates the columns of a .csv file; a .tsv file has tabs
        as_text: names of columns of a CSV file that stay text

    Raises:
        UserError: the file is missing, corrupt or empty, its rows have different lengths, two columns have one name, or
            a column has another type.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} has the ending {path.suffix!r}. Choose a table that ends in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise UserError(f"{path} is missing. Choose a table with --data.path.")
    table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path, delimiter, as_text)
    names = [str(name) for name in table.columns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has several columns `{repeated[0]}`. Give each column a name of its own.")
    if len(table) == 0:
        raise UserError(f"{path} has no rows. Choose a table with a line of names and at least one row.")
    return table.set_axis(names, axis=1)


def write_table(table: pd.DataFrame, file: IO[bytes], suffix: str, delimiter: str) -> None:
    """Write a table as a file of the given ending.

    Raises:
        UserError: it is a Parquet file, and pyarrow is not installed.
    """
    if suffix == ".parquet":
        _require_pyarrow()
        table.to_parquet(file, engine="pyarrow", index=False)
        return
    text = TextIOWrapper(file, encoding="utf-8", newline="")
    table.to_csv(text, sep="\t" if suffix == ".tsv" else delimiter, index=False, lineterminator="\n")
    text.flush()
    text.detach()


def format_names(names: Sequence[str]) -> str:
    """Return names of columns as code, at most ten of them."""
    text = ", ".join(f"`{name}`" for name in names[:10])
    return f"{text} and {len(names) - 10} more" if len(names) > 10 else text


def _read_csv(path: Path, delimiter: str, as_text: Collection[str]) -> pd.DataFrame:
    separator = "\t" if path.suffix == ".tsv" else delimiter
    try:
        # The header is a row like the others: pandas would rename columns of the same name, and take the first column
        # for an index if the rows are longer than the header.
        rows = pd.read_csv(path, sep=separator, header=None, dtype=str, encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8. Save it as CSV in UTF-8.") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty. Choose a table with a line of names and at least one row.") from None
    except (pd.errors.ParserError, csv.Error) as error:
        reason = str(error).strip().rpartition("C error: ")[2].rstrip(".")
        raise UserError(
            f"The rows of {path} have different lengths ({reason}). Correct them, or give the character between the"
            " columns with --data.delimiter."
        ) from None
    # A column without a name, such as an index that pandas has written, gets one, so that it can be left out.
    # `NA` is a name like any other.
    header = pd.read_csv(
        path, sep=separator, header=None, dtype=str, encoding="utf-8-sig", nrows=1, keep_default_na=False
    )
    names = [name or f"unnamed_{place}" for place, name in enumerate(header.iloc[0], 1)]
    if len(names) == 1:
        _check_separator(path, names[0])
    table = rows.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    columns = [table.iloc[:, index] for index in range(table.shape[1])]
    return pd.concat([one if one.name in as_text else _infer_type(one) for one in columns], axis=1)


def _check_separator(path: Path, name: str) -> None:
    for character, spelled in _SEPARATORS.items():
        if character in name:
            advice = "Rename it to end in .tsv" if spelled == "tab" else f"Add --data.delimiter {spelled}"
            raise UserError(f"{path} has one column, `{name}`. {advice} if {spelled} separates its columns.")


def _infer_type(texts: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return a column of text as integers or floating-point numbers if all its values are such, and else as it is."""
    present = texts.dropna().str.strip()
    if len(present) and present.str.fullmatch(_INTEGER).all():
        # With missing values, pandas has no int64.
        return texts.astype("int64" if len(present) == len(texts) else "Int64")
    # A number with leading zeros, such as a postal code, is text.
    if len(present) and not present.str.match(r"[+-]?0\d").any():
        numbers = pd.to_numeric(present, errors="coerce")
        if numbers.notna().all():
            return texts.astype("float64")
    return texts


def _read_parquet(path: Path) -> pd.DataFrame:
    _require_pyarrow()
    try:
        table = pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError, TypeError, NotImplementedError):
        raise UserError(f"{path} is corrupt, or is no Parquet file. Write it with pandas or pyarrow.") from None
    for name, column in table.items():
        if not _is_known(column):
            raise UserError(
                f"The column `{name}` of {path} has the type {column.dtype}, and only numbers, booleans and text can be"
                f" learned. Convert it, or leave it out with --data.exclude '[{name}]'."
            )
    return table.reset_index(drop=True)


def _is_known(column: "pd.Series[Any]") -> bool:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    if types.is_bool_dtype(column) or types.is_integer_dtype(column):
        return True
    if types.is_float_dtype(column):
        return str(column.dtype).lower() in ("float32", "float64")
    return bool(column.dropna().map(lambda value: isinstance(value, str)).all())


def _require_pyarrow() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError("Parquet files need pyarrow. Run `pip install 'gen_lightning[parquet]'`, or use CSV files.")


def get_dtype(column: "pd.Series[Any]") -> str:
    """Return the one of `DTYPES` that a column is stored as."""
    if types.is_bool_dtype(column) or types.is_numeric_dtype(column):
        # pandas' types for missing values have capital letters.
        return str(column.dtype).lower().replace("boolean", "bool")
    return "str"


def count_decimals(numbers: "np.ndarray[Any, Any]", dtype: str) -> int | None:
    """Return how many digits after the point represent all numbers exactly; None if more than 9."""
    for decimals in range(10):
        if (numbers.round(decimals).astype(dtype) == numbers.astype(dtype)).all():
            return decimals
    return None
