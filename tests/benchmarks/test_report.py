"""The table of the benchmarks: its statistics, its lines, and its place in a file."""

import json
import math
import statistics

import pytest

from benchmarks.report import CLOSING, OPENING, main, report
from benchmarks.run import read_results


def result(seed=0, fid=1.0, recipe="vae/vae", **other):
    metrics = {
        "elbo": {"value": -100.0 - seed, "error": 0.2, "n": 10_000, "floor": None, "floor_error": None},
        "fid/mnist_cnn": {"value": fid, "error": 0.03, "n": 10_000, "floor": 0.0059, "floor_error": 0.0005},
        "rate": {"value": 25.0, "error": 0.1, "n": 10_000, "floor": None, "floor_error": None},
    }
    better = {"elbo": "higher", "fid/mnist_cnn": "lower", "rate": None}
    test = {
        "metrics": {name: entry | {"better": better[name]} for name, entry in metrics.items()},
        "extractor": {"name": "mnist_cnn", "sha256": "ba5793e8" * 8},
        "hardware": "a CPU",
        "versions": {"torch": "2.14.1", "lightning": "2.6.6"},
    }
    row = {"recipe": recipe, "seed": seed, "source": "mnist", "epochs": 50, "minutes": 3.0 + seed}
    return row | {"test": test} | other


def lines(table):
    """The rows of a table as lists of cells, without the ruler."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if row[:1] == "|"]
    return [rows[0], *rows[2:]]


def test_cells_are_mean_and_sample_standard_deviation_over_seeds():
    fids = [1.21, 1.35, 1.27]
    header, row, _ = lines(report([result(seed, fid) for seed, fid in enumerate(fids)]))
    mean, deviation = map(float, dict(zip(header, row, strict=True))["fid ↓"].split(" ± "))
    assert mean == round(statistics.mean(fids), 3)
    assert deviation == round(statistics.stdev(fids), 3)


def test_line_has_epochs_mean_minutes_seeds_and_n():
    header, row, _ = lines(report([result(seed) for seed in range(3)]))
    assert header == ["recipe", "data", "epochs", "minutes", "seeds", "N", "fid ↓", "elbo ↑"]
    assert row[:6] == ["vae/vae", "mnist", "50", "4.0", "3", "10,000"]


def test_unknown_minutes_of_an_interrupted_fit_are_left_out_of_the_mean():
    assert lines(report([result(0), result(1, minutes=None)]))[1][3] == "3.0"
    assert lines(report([result(0, minutes=None)]))[1][3] == ""


def test_one_seed_has_no_deviation():
    assert lines(report([result(fid=1.21)]))[1][6] == "1.21"


def test_floor_is_the_last_line():
    assert lines(report([result(0), result(1)]))[-1] == [
        "floor",
        "mnist",
        "",
        "",
        "",
        "10,000",
        "0.00590 ± 0.00050",
        "",
    ]


def test_other_recipes_epochs_and_sources_are_lines_of_their_own():
    rows = [result(), result(recipe="vae/conv"), result(epochs=5), result(source="digits"), result(1)]
    table = lines(report(rows))
    assert [(row[0], row[1], row[2], row[4]) for row in table[1:]] == [
        ("vae/vae", "mnist", "50", "2"),
        ("vae/conv", "mnist", "50", "1"),
        ("vae/vae", "mnist", "5", "1"),
        ("vae/vae", "digits", "50", "1"),
        ("floor", "mnist", "", ""),
        ("floor", "digits", "", ""),
    ]


def test_sentence_below_says_what_made_the_table():
    on_gpu = result(1)
    on_gpu["test"]["hardware"] = "a GPU"
    sentence = report([result(0), on_gpu]).splitlines()[-1]
    for fact in ("2 seeds (0, 1)", "N = 10,000", "mnist_cnn ba5793e8", "a CPU; a GPU", "torch 2.14.1, lightning 2.6.6"):
        assert fact in sentence


def test_no_results_are_refused_with_the_command(tmp_path):
    with pytest.raises(SystemExit, match=r"run `python -m benchmarks\.run` first"):
        main(["--results", str(tmp_path / "none.jsonl")])


def test_torn_last_line_is_ignored_with_a_warning(tmp_path):
    path = tmp_path / "results.jsonl"
    line = json.dumps(result())
    path.write_text(f"{line}\n{line[:100]}")
    with pytest.warns(UserWarning, match="line 2 is torn"):
        assert read_results(path) == [result()]


def test_update_replaces_what_stands_between_the_markers_and_nothing_else(tmp_path):
    results, page = tmp_path / "results.jsonl", tmp_path / "README.md"
    results.write_text(json.dumps(result()) + "\n")
    page.write_text(f"above\n{OPENING}\nold\n{CLOSING}\nbelow\n")
    arguments = ["--results", str(results), "--update", str(page)]
    main(arguments)
    once = page.read_text()
    assert once == f"above\n{OPENING}\n{report([result()])}\n{CLOSING}\nbelow\n"
    main(arguments)
    assert page.read_text() == once


@pytest.mark.parametrize("text", ["no markers", OPENING, f"{CLOSING} {OPENING}"])
def test_page_without_markers_is_refused_and_kept(tmp_path, text):
    results, page = tmp_path / "results.jsonl", tmp_path / "README.md"
    results.write_text(json.dumps(result()) + "\n")
    page.write_text(text)
    with pytest.raises(SystemExit, match=r"no place for the table: write <!-- benchmarks\.report -->"):
        main(["--results", str(results), "--update", str(page)])
    assert page.read_text() == text


def test_a_seed_done_twice_counts_once_and_the_last_time():
    header, row, _ = lines(report([result(0, fid=9.0), result(0, fid=1.21)]))
    assert dict(zip(header, row, strict=True))["fid ↓"] == "1.21"


def test_a_value_that_is_not_a_number_leaves_the_table():
    header, row, _ = lines(report([result(0), result(1, fid=math.nan)]))
    assert dict(zip(header, row, strict=True))["fid ↓"] == "nan"
