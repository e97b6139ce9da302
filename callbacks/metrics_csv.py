"""metrics.csv: rows are appended, and nothing that happens to the process or the file loses earlier rows."""

import csv
import io
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger

from gen_lightning.storage import atomic_write, name_file_in_errors


class MetricsCSV(CSVLogger):
    """Lightning's CSVLogger, which writes `metrics.csv`, but a resumed run continues the file instead of deleting it.

    A row is appended in one piece. The file is rewritten, atomically, only at the start of a resumed run and for a row
    with a new column.

    Args:
        save_dir: directory of all runs
        name: name of the recipe
        version: version of the run; its directory is `save_dir/name/version`
        last_step: iteration from which the run is resumed; later rows are dropped, because they are logged again
        validation_due: whether the resumed run begins with the validation of that iteration, whose row is dropped too
    """

    def __init__(
        self, save_dir: str, name: str, version: str, last_step: int = 0, validation_due: bool = False
    ) -> None:
        super().__init__(save_dir, name, version)
        self._last_step = last_step
        self._validation_due = validation_due

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the rows."""
        # CSVLogger reads `_experiment` in `finalize` to see whether anything was logged.
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            path = Path(self.log_dir, "metrics.csv")
            self._experiment = MetricsWriter(path, self._last_step, self._validation_due)  # type: ignore[assignment]
        return self._experiment


class MetricsWriter:
    """Writes rows of metrics to a CSV file; it offers what Lightning's CSVLogger asks of its writer.

    Args:
        path: the file, which may exist
        last_step: the file's rows of later iterations are dropped
        validation_due: whether the row of a validation after `last_step` iterations is dropped too
    """

    def __init__(self, path: Path, last_step: int, validation_due: bool = False) -> None:
        self.path = path
        self.metrics: list[dict[str, Any]] = []
        self._columns: list[str] = []
        # Earlier versions renamed the file while they rewrote it. A killed process left the rows there.
        old = path.with_name("metrics.csv.old")
        source = old if old.is_file() else path
        if source.is_file():
            rows = read_metrics_rows(source)
            if not rows:
                with name_file_in_errors(path):
                    source.replace(path.with_name("metrics.csv.damaged"))
            else:
                end = (last_step, not validation_due)
                self._write_all([row for row in rows if (int(row["step"]), _has_validation(row)) <= end])
                old.unlink(missing_ok=True)

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Add a row, which `save` writes."""
        values = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        self.metrics.append(values | {"step": step})

    def save(self) -> None:
        """Append the rows that were added since the last call.

        Raises:
            StorageError: the file cannot be written, or has been removed.
        """
        if not self.metrics:
            return
        if set().union(*self.metrics) <= set(self._columns):
            self._append(_format_rows(self._columns, self.metrics))
        else:
            with name_file_in_errors(self.path):
                earlier = read_metrics_rows(self.path) if self._columns else []
            self._write_all([*earlier, *self.metrics])
        self.metrics = []

    def _write_all(self, rows: list[dict[str, Any]]) -> None:
        self._columns = sorted({"step"}.union(*rows))
        header = {column: column for column in self._columns}
        with atomic_write(self.path) as file:
            file.write(_format_rows(self._columns, [header, *rows]))

    def _append(self, rows: bytes) -> None:
        # Opened anew for each row and never created: a removed file or directory is an error, not a loss of rows.
        with name_file_in_errors(self.path), self.path.open("r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            rest = memoryview(rows)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(size)
                raise


def read_metrics_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a metrics.csv, each with the number of its iteration as `step`.

    Rows that are damaged are left out with a warning: bytes that are no UTF-8, another number of values than there are
    columns, no iteration. The last row of a killed run may be torn.
    """
    first, *lines = path.read_bytes().split(b"\n")
    columns = _parse_line(first)
    parsed = [values for values in map(_parse_line, lines[:-1]) if len(values) == len(columns)]
    rows = [dict(zip(columns, values, strict=True)) for values in parsed]
    whole = [row for row in rows if is_iteration(row.get("step", ""))]
    damaged = sum(map(bool, lines)) - len(whole)
    if damaged:
        warnings.warn(f"{path} has {damaged} damaged row(s). They are left out.", stacklevel=2)
    return whole


def _has_validation(row: Mapping[str, str]) -> bool:
    return any(name.startswith("val/") and value for name, value in row.items())


def is_iteration(text: str) -> bool:
    """Return whether a text is a whole number in plain digits."""
    return text.isascii() and text.isdigit() and len(text) < 20


def _parse_line(line: bytes) -> list[str]:
    """Return the values of a line; none if the line is no UTF-8 or no CSV."""
    try:
        return next(csv.reader([line.decode()]), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _format_rows(columns: list[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns).writerows(rows)
    return text.getvalue().encode()
