"""metrics.csv: no row is lost, whatever happens to the process or to the file."""

import csv
import os

import pytest

from callbacks import MetricsCSV, read_metrics_rows
from gen_lightning.errors import StorageError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vae/1/metrics.csv"


@pytest.fixture
def open_logger(tmp_path):
    """Returns a function of the last iteration that returns the run's logger, as at the start of a process."""
    return lambda last_step=0: MetricsCSV(str(tmp_path), "vae", "1", last_step)


def log(logger, step, **metrics):
    logger.log_metrics(metrics, step)
    logger.save()


def write(path, content):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_a_torn_last_row_is_left_out_and_told(path, open_logger):
    """The row was cut off within its iteration: 12 of 120."""
    write(path, b"a,step\r\n1,1\r\n2,12")
    logger = open_logger(200)
    with pytest.warns(UserWarning, match=rf"{path} has 1 damaged row\(s\)\. They are left out\."):
        log(logger, 2, a=2)
    assert path.read_text().split() == ["a,step", "1,1", "2,2"]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    "row", [b"\xff,2", b"1,2,3", b"1", b"1,x", b"1,-2", b"1,\xc2\xb2", b'"1,2', b"1,2" + b"0" * 200_000]
)
def test_a_damaged_row_is_left_out_and_the_others_are_kept(path, open_logger, row):
    write(path, b"a,step\r\n1,1\r\n" + row + b"\r\n3,3\r\n")
    with pytest.warns(UserWarning, match="1 damaged row"):
        log(open_logger(5), 6, a=6)
    assert path.read_text().split() == ["a,step", "1,1", "3,3", "6,6"]


def test_a_file_without_a_whole_row_is_kept_under_another_name(path, open_logger):
    write(path, b"\xff\xfe\0\r\n1,1\r\n")
    with pytest.warns(UserWarning, match="damaged"):
        log(open_logger(5), 6, a=6)
    assert path.read_text().split() == ["a,step", "6,6"]
    assert path.with_name("metrics.csv.damaged").read_bytes() == b"\xff\xfe\0\r\n1,1\r\n"


def test_a_resumed_run_continues_after_the_last_step(path, open_logger):
    first = open_logger()
    for step in (1, 2, 3):
        log(first, step, a=step)
    log(open_logger(2), 3, a=30, b=1)
    assert path.read_text().split() == ["a,b,step", "1,,1", "2,,2", "30,1,3"]


def test_the_rows_that_an_earlier_version_had_set_aside_are_continued(path, open_logger):
    write(path.with_name("metrics.csv.old"), b"a,step\r\n1,1\r\n2,2\r\n")
    path.write_bytes(b"a,step\r\n")
    log(open_logger(2), 3, a=3)
    assert path.read_text().split() == ["a,step", "1,1", "2,2", "3,3"]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]


def test_a_row_adds_its_own_bytes_and_rewrites_nothing(path, open_logger):
    """So a row costs the same at any length of the file. Only a new column replaces the file."""
    logger = open_logger()
    log(logger, 0, a=0)
    inode = path.stat().st_ino
    for step in range(1, 1000):
        log(logger, step, a=step)
    assert path.stat().st_ino == inode
    assert logger.experiment.metrics == []
    log(logger, 1000, b=1)
    assert path.stat().st_ino != inode
    assert [row["step"] for row in read_metrics_rows(path)] == [str(step) for step in range(1001)]


def test_a_reader_finds_all_rows_while_a_column_is_added(path, open_logger, monkeypatch):
    """The process is killed just before the file is replaced."""
    logger = open_logger()
    log(logger, 1, a=1)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        log(logger, 2, b=2)
    assert [row["step"] for row in read_metrics_rows(path)] == ["1"]


@pytest.mark.parametrize("metrics", [{"a": 2}, {"b": 2}], ids=["a row", "a column"])
def test_a_removed_file_is_told(path, open_logger, metrics):
    logger = open_logger()
    log(logger, 1, a=1)
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(StorageError, match=rf"{path} cannot be written: the file or its directory has been removed\."):
        log(logger, 2, **metrics)


def test_the_file_is_a_plain_csv_file(path, open_logger):
    logger = open_logger()
    log(logger, 1, **{"a, b": 1.5, 'quoted "name"': 2})
    log(logger, 2, **{"a, b": 2.5})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == read_metrics_rows(path)
    assert rows[0] == {"a, b": "1.5", 'quoted "name"': "2", "step": "1"}
