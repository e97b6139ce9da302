"""The table of the benchmarks: its statistics, its lines, and its place in a page."""

import json
import math
import statistics

import pytest

from benchmarks.report import CLOSING, main, report
from benchmarks.run import read_results

OPENING = "<!-- results: vae/* -->"


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
        "iteration": 1000 + seed,
    }
    row = {"recipe": recipe, "seed": seed, "source": "mnist", "epochs": 50, "minutes": 3.0 + seed}
    return row | {"test": test} | other


def ring(seed=0):
    """Return a result on a mixture: without an extractor, and with a budget of iterations."""
    row = result(seed, recipe="gan/mixtures/ring", source="ring", epochs=None)
    del row["test"]["extractor"]
    metrics = {
        "modes": {"value": 7.0, "error": 0.0, "n": 2500, "floor": 8.0, "floor_error": 0.0, "better": "higher"},
        "reverse_kl": {"value": 0.2, "error": 0.01, "n": 2500, "floor": 0.001, "floor_error": 0.001, "better": "lower"},
    }
    return row | {"test": row["test"] | {"metrics": metrics}}


def lines(table):
    """Return the rows of a table as lists of cells, without the line below the header."""
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


def test_unknown_minutes_of_an_interrupted_fit_are_excluded_from_the_mean():
    assert lines(report([result(0), result(1, minutes=None)]))[1][3] == "3.0"
    assert lines(report([result(0, minutes=None)]))[1][3] == ""


def test_one_seed_has_no_deviation():
    table = report([result(fid=1.21)])
    assert lines(table)[1][6] == "1.21"
    assert "Seed 0; floor" in table
    assert "deviation over 2 seeds (0, 1); floor" in report([result(0), result(1)])


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


def test_each_recipe_budget_and_source_has_its_own_line():
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


def test_samples_from_other_latents_have_their_own_line_in_the_same_columns():
    mixture = result(fid=0.5, latents="gmm")
    metrics = mixture["test"]["metrics"]
    metrics["fid/mnist_cnn/gmm"] = metrics.pop("fid/mnist_cnn")
    header, *rows, floor = lines(report([result(), mixture]))
    assert header == ["recipe", "latents", "data", "epochs", "minutes", "seeds", "N", "fid ↓", "elbo ↑"]
    assert [(row[1], row[7], row[8]) for row in rows] == [("prior", "1", "-100"), ("gmm", "0.5", "-100")]
    assert (floor[1], floor[7]) == ("", "0.00590 ± 0.00050")


def test_a_recipe_without_a_budget_of_epochs_shows_its_mean_iterations():
    header, row, floor = lines(report([ring(0), ring(2)]))
    assert header == ["recipe", "data", "iterations", "minutes", "seeds", "N", "modes ↑", "reverse_kl ↓"]
    assert row[:6] == ["gan/mixtures/ring", "ring", "1,001", "4.0", "2", "2,500"]
    assert floor[:6] == ["floor", "ring", "", "", "", "2,500"]


def test_sentence_about_a_mixture_names_its_own_floor_and_no_extractor():
    sentence = report([ring()]).splitlines()[-1]
    assert "floor: a perfect sampler's ± standard error. N = 2,500; a CPU; torch" in sentence


def test_values_without_floors_have_no_floor_line():
    row = result()
    row["test"]["metrics"] = {"nll/5000": row["test"]["metrics"]["elbo"] | {"better": "lower"}}
    header, *rows = lines(report([row]))
    assert header[-1] == "nll/5000 ↓"
    assert [cells[0] for cells in rows] == ["vae/vae"]
    assert "floor" not in report([row])


def test_recipes_are_shown_in_the_order_of_their_patterns():
    rows = [result(), ring(), result(recipe="gan/mlp")]
    assert [row[0] for row in lines(report(rows, ["gan/mlp", "gan/*"]))[1:3]] == ["gan/mlp", "gan/mixtures/ring"]
    assert report(rows, ["vae/*"]) == report([result()])


def test_sentence_below_the_table_says_what_produced_it():
    on_gpu = result(1)
    on_gpu["test"]["hardware"] = "a GPU"
    sentence = report([result(0), on_gpu]).splitlines()[-1]
    for fact in ("2 seeds (0, 1)", "N = 10,000", "mnist_cnn ba5793e8", "a CPU; a GPU", "torch 2.14.1, lightning 2.6.6"):
        assert fact in sentence


def test_no_results_are_refused_with_the_command(tmp_path):
    with pytest.raises(SystemExit, match=r"Run `python -m benchmarks\.run --recipes gan/\*` first"):
        main(["--results", str(tmp_path / "none.jsonl"), "--recipes", "gan/*"])


def test_an_incomplete_last_line_is_ignored_with_a_warning(tmp_path):
    path = tmp_path / "results.jsonl"
    line = json.dumps(result())
    path.write_text(f"{line}\n{line[:100]}")
    with pytest.warns(UserWarning, match="Line 2 of .* is incomplete"):
        assert read_results(path) == [result()]


def test_update_replaces_only_the_text_between_the_comments(tmp_path):
    results, page, other = (tmp_path / name for name in ("results.jsonl", "README.md", "other.md"))
    results.write_text(f"{json.dumps(result())}\n{json.dumps(ring())}\n")
    mixtures = "<!-- results: gan/mixtures/* gan/none -->"
    page.write_text(f"above\n{OPENING}\nold\n{CLOSING}\nbetween\n{mixtures}\n{CLOSING}\nbelow\n")
    other.write_text(f"{mixtures}\n{CLOSING}")
    arguments = ["--results", str(results), "--update", str(page), str(other)]
    main(arguments)
    once = page.read_text()
    table = f"{mixtures}\n{report([ring()])}\n{CLOSING}"
    assert once == f"above\n{OPENING}\n{report([result()])}\n{CLOSING}\nbetween\n{table}\nbelow\n"
    assert other.read_text() == table
    main(arguments)
    assert page.read_text() == once


MISTAKES = {
    "no markers": r"no place for a table\. Write <!-- results: RECIPES -->",
    f"{CLOSING} {OPENING}": r"no place for a table",
    f"{OPENING}\n": r"no end of the table after <!-- results: vae/\* -->",
    f"{OPENING}\n{OPENING}\n{CLOSING}": r"no end of the table",
    f"<!-- results: gan/mlp -->\n{CLOSING}": r"no results of gan/mlp",
    f"<!-- results: vae/*; columns: fidd -->\n{CLOSING}": r"no column fidd\. Choose from recipe, .*elbo, fid",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_page_with_a_mistake_is_refused_and_every_page_stays_unchanged(tmp_path, text):
    results, page, right = (tmp_path / name for name in ("results.jsonl", "README.md", "right.md"))
    results.write_text(json.dumps(result()) + "\n")
    page.write_text(text)
    right.write_text(f"{OPENING}\n{CLOSING}")
    with pytest.raises(SystemExit, match=MISTAKES[text]):
        main(["--results", str(results), "--update", str(right), str(page)])
    assert page.read_text() == text
    assert right.read_text() == f"{OPENING}\n{CLOSING}"


def test_of_two_results_with_one_seed_the_last_counts():
    header, row, _ = lines(report([result(0, fid=9.0), result(0, fid=1.21)]))
    assert dict(zip(header, row, strict=True))["fid ↓"] == "1.21"


def test_nan_makes_the_mean_nan_without_a_deviation():
    header, row, _ = lines(report([result(0), result(1, fid=math.nan)]))
    assert dict(zip(header, row, strict=True))["fid ↓"] == "nan"


def test_given_columns_are_shown_in_their_order_after_the_recipe():
    header, row, floor = lines(report([result(), result(1)], tables=[["elbo", "seeds", "fid"]]))
    assert header == ["recipe", "elbo ↑", "seeds", "fid ↓"]
    assert row == ["vae/vae", "-100.50 ± 0.71", "2", "1"]
    assert floor == ["floor", "", "", "0.00590 ± 0.00050"]


def test_given_columns_leave_out_recipes_and_floors_that_have_none_of_their_metrics():
    table = report([result(), ring()], tables=[["N", "modes"]])
    assert [row[:2] for row in lines(table)[1:]] == [["gan/mixtures/ring", "2,500"], ["floor", "2,500"]]
    assert "N = 2,500;" in table
    assert "mnist_cnn" not in table


def test_columns_without_a_metric_make_a_table_without_floors():
    rows = lines(report([result(), result(1)], tables=[["epochs", "seeds", "N"]]))
    assert rows == [["recipe", "epochs", "seeds", "N"], ["vae/vae", "50", "2", "10,000"]]


def test_lines_that_differ_in_columns_that_are_not_shown_are_shown_once():
    rows = lines(report([result(), result(latents="gmm")], tables=[["elbo"]]))
    assert rows == [["recipe", "elbo ↑"], ["vae/vae", "-100"]]


def test_several_tables_share_one_sentence():
    first, second, sentence = report([result()], tables=[["fid"], ["seeds", "elbo"]]).split("\n\n")
    assert lines(first)[0] == ["recipe", "fid ↓"]
    assert lines(second)[0] == ["recipe", "seeds", "elbo ↑"]
    assert sentence == report([result()], tables=[["fid", "elbo"]]).splitlines()[-1]


def test_a_page_names_the_columns_of_its_tables(tmp_path):
    results, page = tmp_path / "results.jsonl", tmp_path / "results.md"
    results.write_text(json.dumps(result()) + "\n")
    opening = "<!-- results: vae/*; columns: epochs fid | elbo -->"
    page.write_text(f"{opening}\n{CLOSING}")
    for _ in range(2):
        main(["--results", str(results), "--update", str(page)])
        assert page.read_text() == f"{opening}\n{report([result()], tables=[['epochs', 'fid'], ['elbo']])}\n{CLOSING}"
