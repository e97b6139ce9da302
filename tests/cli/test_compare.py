"""The comparison of runs: its table, its notes and its picture."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image

from cli.compare import compare, format_with_error, is_best
from gen_lightning.evaluation import make_row
from gen_lightning.metrics.manifold import manifold_metrics

MAGENTA, CYAN, YELLOW = (255, 0, 255), (0, 255, 255), (255, 255, 0)
DIRECTIONS = {"fid": "lower", "recall": "higher", "rate": None}


def make_measurement(value, error=0.1, better="lower", n=10_000, floor=0.5, floor_error=0.01):
    return {
        "value": value,
        "error": error,
        "n": n,
        "floor": floor,
        "floor_error": floor_error,
        "better": better,
    }


@pytest.fixture
def make_run(tmp_path):
    """A function that makes the directory of a tested run."""

    def make(name, metrics, color=MAGENTA, sha256="ba5793e8" * 8, extractor="mnist_cnn", data="da7a" * 16, **more):
        folder = tmp_path / "runs" / name / "20260101-000000-abcd"
        (folder / "samples").mkdir(parents=True)
        Image.new("RGB", (64, 64), color).save(folder / "samples" / "iteration_0000900.png")
        Image.new("RGB", (64, 64), YELLOW).save(folder / "samples" / "iteration_0000100.png")
        (folder / "config.yaml").touch()
        facts = {"extractor": {"name": extractor, "sha256": sha256}, "data": data, "iteration": 900}
        facts |= {"likelihood": "a probability of 2 levels"} | more
        test = {"metrics": metrics} | facts
        (folder / "metrics.json").write_text(json.dumps({"fit": {}, "test": test}))
        return folder

    return make


def find_cells(text, heading):
    """Return the cells of a column of the table, by metric."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    metrics, *columns = zip(*lines, strict=True)
    (found,) = [column for column in columns if column[0] == heading]
    return dict(zip(metrics[1:], found[1:], strict=True))


def count_pixels(picture, color):
    with Image.open(picture) as image:
        return int((np.asarray(image.convert("RGB")) == color).all(-1).sum())


def test_the_best_is_bold_in_the_direction_of_its_metric(make_run, tmp_path):
    low = make_run("low", {name: make_measurement(1.0, better=better) for name, better in DIRECTIONS.items()})
    high = make_run("high", {name: make_measurement(9.0, better=better) for name, better in DIRECTIONS.items()})
    text = compare([low, high], tmp_path / "out")
    low, high = (find_cells(text, f"{name}/20260101-000000-abcd") for name in ("low", "high"))
    assert (low["fid ↓"], high["fid ↓"]) == ("**1.00 ± 0.10**", "9.00 ± 0.10")
    assert (low["recall ↑"], high["recall ↑"]) == ("1.00 ± 0.10", "**9.00 ± 0.10**")
    assert (low["rate"], high["rate"]) == ("1.00 ± 0.10", "9.00 ± 0.10")


def test_runs_within_two_standard_errors_of_the_difference_are_bold_together(make_run, tmp_path):
    # The standard error of the difference is hypot(0.3, 0.4) = 0.5.
    runs = [
        make_run("best", {"fid": make_measurement(1.0, error=0.3)}),
        make_run("near", {"fid": make_measurement(1.9, error=0.4)}),
        make_run("far", {"fid": make_measurement(2.1, error=0.4)}),
    ]
    text = compare(runs, tmp_path / "out")
    bold = ["**" in find_cells(text, f"{name}/20260101-000000-abcd")["fid ↓"] for name in ("best", "near", "far")]
    assert bold == [True, True, False]
    assert "2 standard errors of the difference" in text


def test_nan_is_never_bold_and_does_not_hide_the_best(make_run, tmp_path):
    runs = [make_run(name, {"fid": make_measurement(value)}) for name, value in (("a", float("nan")), ("b", 2.0))]
    text = compare(runs, tmp_path / "out")
    assert find_cells(text, "a/20260101-000000-abcd")["fid ↓"] == "nan ± 0.10"
    assert find_cells(text, "b/20260101-000000-abcd")["fid ↓"] == "**2.00 ± 0.10**"


def test_the_floor_and_n_are_columns(make_run, tmp_path):
    metrics = {"fid/mnist_cnn": make_measurement(1.0), "elbo": make_measurement(-99.0, floor=None, floor_error=None)}
    text = compare([make_run("a", metrics), make_run("b", metrics)], tmp_path / "out")
    assert find_cells(text, "floor") == {
        "iteration": "",
        "fid/mnist_cnn ↓": "0.500 ± 0.010",
        "elbo ↓": "",
    }
    assert find_cells(text, "N")["fid/mnist_cnn ↓"] == "10,000"


def test_a_metric_that_one_run_lacks_leaves_its_cell_empty_and_is_never_bold(make_run, tmp_path):
    gan = make_run("gan", {"fid": make_measurement(1.0)})
    vae = make_run("vae", {"fid": make_measurement(9.0), "elbo": make_measurement(-99.0)})
    text = compare([gan, vae], tmp_path / "out")
    assert find_cells(text, "gan/20260101-000000-abcd")["elbo ↓"] == ""
    assert find_cells(text, "vae/20260101-000000-abcd")["elbo ↓"] == "-99.00 ± 0.10"


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"metrics": {"fid/mnist_cnn": make_measurement(9.0, n=1000)}},
            "at different N (a/20260101-000000-abcd: 10,000; b/",
        ),
        ({"sha256": "00" * 32}, "with different extractors (a/20260101-000000-abcd: mnist_cnn ba5793e8; b/"),
        ({"data": "0123" * 16}, "on different data (a/20260101-000000-abcd: da7ada7a; b/"),
        (
            {"metrics": {"fid/inception": make_measurement(9.0)}, "extractor": "inception"},
            "with different extractors (a/20260101-000000-abcd: mnist_cnn ba5793e8; b/",
        ),
    ],
    ids=["n", "sha256", "data", "extractor"],
)
def test_incomparable_values_are_named_and_not_bold(make_run, tmp_path, other, sentence):
    a = make_run("a", {"fid/mnist_cnn": make_measurement(1.0)})
    b = make_run("b", **{"metrics": {"fid/mnist_cnn": make_measurement(9.0)}} | other)
    text = compare([a, b], tmp_path / "out")
    assert "Not comparable, and therefore never bold: fid/mnist_cnn" in text
    assert sentence in text
    assert "**" not in text


def test_bounds_of_different_likelihoods_are_named_and_not_bold(make_run, tmp_path):
    """The nats of a density can have either sign. Distances of samples remain comparable."""
    bits = {"elbo": make_measurement(-99.0), "nll/5000": make_measurement(95.0), "fid/mnist_cnn": make_measurement(1.0)}
    density = {
        "elbo": make_measurement(1500.0),
        "nll/5000": make_measurement(-1600.0),
        "fid/mnist_cnn": make_measurement(9.0),
    }
    a = make_run("a", bits, likelihood="a probability of 2 levels")
    b = make_run("b", density, likelihood="a density")
    text = compare([a, b], tmp_path / "out")
    assert (
        "never bold: elbo, nll/5000, tested of different likelihoods"
        " (a/20260101-000000-abcd: a probability of 2 levels; b/20260101-000000-abcd: a density)."
    ) in text
    assert find_cells(text, "a/20260101-000000-abcd")["fid/mnist_cnn ↓"] == "**1.00 ± 0.10**"


def test_bounds_do_not_depend_on_the_extractor(make_run, tmp_path):
    """The suffix of these names is the number of latents or the layer, and no extractor."""
    names = ("nll/5000", "nll/5000/val", "active_units/1")
    rows = {name: make_measurement(1.0) for name in names}
    a, b = make_run("a", rows), make_run("b", {name: make_measurement(9.0) for name in rows}, extractor="inception")
    text = compare([a, b], tmp_path / "out")
    assert "Not comparable" not in text
    assert find_cells(text, "a/20260101-000000-abcd")["nll/5000 ↓"] == "**1.00 ± 0.10**"


def test_different_binarizations_make_bounds_incomparable_but_not_sample_metrics(make_run, tmp_path):
    """Sample metrics compare images that are never binarized; bounds are those of the binary images."""
    rows = {"elbo": make_measurement(9.0), "fid/mnist_cnn": make_measurement(9.0)}
    better = {"elbo": make_measurement(1.0), "fid/mnist_cnn": make_measurement(1.0)}
    a = make_run("a", better, data="0123" * 16, images="1a9e" * 16)
    b = make_run("b", rows, data="da7a" * 16, images="1a9e" * 16)
    text = compare([a, b], tmp_path / "out")
    assert "never bold: elbo, tested on different data (a/20260101-000000-abcd: 01230123; b/" in text
    assert find_cells(text, "a/20260101-000000-abcd")["fid/mnist_cnn ↓"] == "**1.00 ± 0.10**"


def test_a_run_without_an_evaluation_has_comparable_bounds(make_run, tmp_path):
    a = make_run("a", {"elbo": make_measurement(1.0)}, images="1a9e" * 16)
    b = make_run("b", {"elbo": make_measurement(9.0)})
    text = compare([a, b], tmp_path / "out")
    assert find_cells(text, "a/20260101-000000-abcd")["elbo ↓"] == "**1.00 ± 0.10**"


def test_two_sample_sets_from_one_model_seldom_differ():
    """Standard errors over images alone would call most pairs different, since few samples have large balls."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(500, 16, generator=generator)
    sets = []
    for _ in range(8):
        outlying = torch.rand(500, 1, generator=generator) < 0.01
        samples = torch.randn(500, 16, generator=generator) * (0.6 + 3.4 * outlying)
        sets.append({name: make_row(name, estimate, 500) for name, estimate in manifold_metrics(real, samples).items()})
    for name in ("precision", "recall", "density", "coverage"):
        pairs = [(one[name], other[name]) for one, other in combinations(sets, 2)]
        different = sum(not (is_best(one, [other]) and is_best(other, [one])) for one, other in pairs)
        assert different <= 4, (name, len(pairs))


def test_runs_on_unknown_data_are_not_comparable(make_run, tmp_path):
    runs = [make_run(name, {"modes": make_measurement(value)}) for name, value in (("a", 1.0), ("b", 9.0))]
    for run in runs:
        metrics = json.loads((run / "metrics.json").read_text())
        del metrics["test"]["data"], metrics["test"]["extractor"]
        (run / "metrics.json").write_text(json.dumps(metrics))
    text = compare(runs, tmp_path / "out")
    assert find_cells(text, "a/20260101-000000-abcd")["modes ↓"] == "1.00 ± 0.10"
    assert "modes, tested on different data (a/20260101-000000-abcd: unknown; b/20260101-000000-abcd: unknown)" in text


def test_comparable_runs_are_not_named_as_incomparable(make_run, tmp_path):
    runs = [make_run(name, {"fid/mnist_cnn": make_measurement(1.0)}) for name in ("a", "b")]
    assert "Not comparable" not in compare(runs, tmp_path / "out")


@pytest.mark.parametrize("metrics", [None, {"fit": {}}, {"test": {"test/fid/mnist_cnn/10000": 1.2}}])
def test_a_run_without_a_test_is_refused_with_the_command(tmp_path, metrics):
    folder = tmp_path / "vae" / "1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match=r"python train\.py test --ckpt_path .*/vae/1/checkpoints/last\.ckpt"):
        compare([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no run in .*nowhere"):
        compare([tmp_path / "nowhere"], tmp_path / "out")


def test_an_earlier_comparison_is_not_overwritten(make_run, tmp_path):
    run = make_run("a", {"fid": make_measurement(1.0)})
    compare([run], tmp_path / "out")
    before = (tmp_path / "out" / "comparison.md").read_text()
    with pytest.raises(ValueError, match="choose another folder with --output"):
        compare([run, run], tmp_path / "out")
    assert (tmp_path / "out" / "comparison.md").read_text() == before


def test_the_file_holds_the_returned_table_and_the_picture(make_run, tmp_path):
    text = compare([make_run("a", {"fid": make_measurement(1.0)})], tmp_path / "out")
    written = (tmp_path / "out" / "comparison.md").read_text()
    assert written.startswith(text)
    assert written.endswith("(comparison.png)\n")


def test_the_picture_holds_the_newest_grid_of_each_run(make_run, tmp_path):
    runs = [make_run(name, {"fid": make_measurement(1.0)}, color) for name, color in (("a", MAGENTA), ("b", CYAN))]
    compare(runs, tmp_path / "out")
    counts = [count_pixels(tmp_path / "out" / "comparison.png", color) for color in (MAGENTA, CYAN, YELLOW)]
    assert min(counts[:2]) > 10_000
    assert counts[2] == 0


def test_the_picture_has_one_more_panel_only_for_a_shared_metric(make_run, tmp_path):
    def measure_height(name, *headers):
        runs = [make_run(f"{name}{index}", {"fid": make_measurement(1.0)}) for index in range(len(headers))]
        for run, header in zip(runs, headers, strict=True):
            # The last row is incomplete.
            (run / "metrics.csv").write_text(f"epoch,step,train/loss,{header}\n0,100,0.5,\n1,200,,3.5\n1,30\n,")
        compare(runs, tmp_path / name)
        with Image.open(tmp_path / name / "comparison.png") as picture:
            return picture.height

    without = measure_height("without", "val/elbo", "val/loss")
    assert measure_height("shared", "val/elbo", "val/elbo") > without
    assert measure_height("trained", "train/elbo", "train/elbo") == without


def test_a_run_without_samples_is_drawn(make_run, tmp_path):
    run = make_run("a", {"fid": make_measurement(1.0)})
    for grid in (run / "samples").iterdir():
        grid.unlink()
    (run / "samples").rmdir()
    compare([run], tmp_path / "out")
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.2345, 0.0312, "1.234 ± 0.031"),
        (-99.931, 0.25, "-99.93 ± 0.25"),
        (0.5, 0.0996, "0.50 ± 0.10"),
        (1234.5, 12.3, "1234 ± 12"),
        (0.123456, None, "0.1235"),
        (0.123456, 0.0, "0.1235"),
    ],
)
def test_values_have_the_decimals_of_their_errors_two_significant_digits(value, error, text):
    assert format_with_error(value, error) == text


def test_drawing_leaves_no_open_figure(make_run, tmp_path):
    compare([make_run("a", {"fid": make_measurement(1.0)})], tmp_path / "out")
    assert pyplot.get_fignums() == []


def test_the_newest_generated_texts_are_quoted(make_run, tmp_path):
    runs = [make_run(name, {"perplexity/1": make_measurement(9.0)}) for name in ("a", "b")]
    for iteration, lines in ((100, "earlier\n"), (900, "größer | kleiner\n*second*\n")):
        (runs[0] / f"samples/iteration_{iteration:07d}.txt").write_text(lines, encoding="utf-8")
    compare(runs, tmp_path / "out")
    written = (tmp_path / "out/comparison.md").read_text(encoding="utf-8")
    heading = "a/20260101-000000-abcd, iteration 900:"
    assert f"\n{heading}\n\n    größer | kleiner\n    *second*\n" in written
    assert "earlier" not in written


def test_perplexities_of_different_likelihoods_are_not_comparable(make_run, tmp_path):
    runs = [
        make_run(name, {"perplexity/100": make_measurement(value)}, likelihood=f"a probability of {levels} levels")
        for name, value, levels in (("a", 9.0, 80), ("b", 5.0, 90))
    ]
    assert "perplexity/100, tested of different likelihoods" in compare(runs, tmp_path / "out")
