"""Comparison of tested runs: a table of their metrics, and a figure of their samples and validation curves."""

import math
import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from cli.process import find_command
from cli.runs import Curve, RunFolder
from gen_lightning.errors import UserError
from gen_lightning.evaluation import Row
from gen_lightning.metrics.estimates import format_with_error
from gen_lightning.storage import atomic_write, name_file_in_errors

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

# The two-sigma rule: smaller differences may be chance.
STANDARD_ERRORS = 2
PANELS_PER_ROW = 3
TITLE_WIDTH = 32
MAX_LINES = 16
# Metrics of p(x | z) or p(x); of `bound/K` and the like, the part before K.
LIKELIHOOD_METRICS = {
    *("elbo", "distortion", "bound", "nll", "bits_per_dimension", "nats_per_token", "perplexity"),
}
# Values on unknown data, or of an unknown likelihood, are comparable with nothing.
UNKNOWN = "unknown"
ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}


class TestedRun(NamedTuple):
    """A run and its test.

    Args:
        folder: the run
        iteration: iteration of the tested checkpoint
        data: digest of the data's identity, which tells binary images from others
        images: digest of the test images of sample metrics, which are never binarized
        extractor: name and digest of the feature extractor
        likelihood: kind of likelihood
        metrics: rows by name
    """

    folder: RunFolder
    iteration: int
    data: str
    images: str
    extractor: str
    likelihood: str
    metrics: dict[str, Row]

    @property
    def name(self) -> str:
        """NAME/VERSION."""
        return self.folder.name


def compare(run_folders: list[Path], output: Path) -> str:
    """Write `comparison.md` and `comparison.png` of tested runs.

    Args:
        run_folders: directories `runs/NAME/VERSION`; samples and metrics.csv may be missing
        output: directory of the two files, made if it does not exist

    Returns:
        The table and its notes, as in comparison.md.

    Raises:
        UserError: a directory is no run, a run has not been tested, or `output` holds a comparison already.
    """
    runs = [read_run(folder) for folder in run_folders]
    table, picture = output / "comparison.md", output / "comparison.png"
    if os.path.lexists(table) or os.path.lexists(picture):
        raise UserError(f"{output} holds a comparison already: remove it, or choose another folder with --output.")
    text = f"{tabulate_runs(runs)}\n\n{write_notes(runs)}\n"
    with name_file_in_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    with atomic_write(picture) as file:
        draw(runs, file)
    with atomic_write(table) as file:
        figure = f"![Samples and validation curves of the runs]({picture.name})"
        file.write("\n".join([text, figure, *map(quote_samples, runs)]).encode())
    return text


def read_run(path: Path) -> TestedRun:
    """Return a run and what `test` has measured of it.

    Raises:
        UserError: the directory is no run, or the run has not been tested.
    """
    folder = RunFolder(path.resolve())
    if not folder.is_run:
        raise UserError(f"There is no run in {path}. Give a directory runs/NAME/VERSION.")
    test = folder.read_metrics().get("test", {})
    if "metrics" not in test:
        checkpoint = RunFolder(path).last_checkpoint
        raise UserError(f"{path} has not been tested. Run `{find_command()} test --ckpt_path {checkpoint}` first.")
    data, images = (test.get(name, UNKNOWN)[:8] for name in ("data", "images"))
    extractor, likelihood = describe_extractor(test), test.get("likelihood") or UNKNOWN
    return TestedRun(folder, test["iteration"], data, images, extractor, likelihood, read_measurements(test))


def read_measurements(test: dict[str, Any]) -> dict[str, Row]:
    """Return the rows of a `test` block of metrics.json, by metric."""
    return {metric: Row(**entry) for metric, entry in test["metrics"].items()}


def describe_extractor(test: dict[str, Any]) -> str:
    """Return the extractor of a `test` block, as its name and the start of its SHA-256; empty if there is none."""
    extractor = test.get("extractor")
    return f"{extractor['name']} {extractor['sha256'][:8]}" if extractor else ""


def tabulate_runs(runs: list[TestedRun]) -> str:
    """Return a Markdown table with a column for each run, the floor and N, and a row for each metric."""
    rows = [["metric", *(run.name for run in runs), "floor", "N"]]
    rows.append(["iteration", *(f"{run.iteration:,}" for run in runs), "", ""])
    for metric in dict.fromkeys(metric for run in runs for metric in run.metrics):
        row = [run.metrics.get(metric) for run in runs]
        present = [measurement for measurement in row if measurement]
        rivals = [] if find_differences(runs, metric) else present
        floors = [format_with_error(entry.floor, entry.floor_error) for entry in present if entry.floor is not None]
        cells = [format_cell(measurement, rivals) for measurement in row]
        numbers = (f"{entry.n:,}" for entry in present)
        rows.append([format_heading(metric, present[0].better), *cells, join_distinct(floors), join_distinct(numbers)])
    return format_markdown(rows)


def format_cell(measurement: Row | None, rivals: list[Row]) -> str:
    """Return the text of a measurement, bold if it is among the best of two or more rivals."""
    if measurement is None:
        return ""
    text = format_with_error(measurement.value, measurement.error)
    return f"**{text}**" if len(rivals) > 1 and is_best(measurement, rivals) else text


def is_best(measurement: Row, rivals: list[Row]) -> bool:
    """Return whether no rival is better by more than chance."""
    if measurement.better is None or not math.isfinite(measurement.value):
        return False
    sign = 1 if measurement.better == "higher" else -1
    return not any(
        sign * (rival.value - measurement.value) > chance_difference(rival.error, measurement.error) for rival in rivals
    )


def chance_difference(error: float | None, other: float | None) -> float:
    """Return the largest difference of two values that may be chance, from their standard errors."""
    return STANDARD_ERRORS * math.hypot(error or 0, other or 0)


def write_notes(runs: list[TestedRun]) -> str:
    """Return the sentences under the table: how to read it, and which values are not comparable."""
    metrics_by_difference: dict[str, list[str]] = {}
    for metric in dict.fromkeys(metric for run in runs for metric in run.metrics):
        for difference in find_differences(runs, metric):
            metrics_by_difference.setdefault(difference, []).append(metric)
    sentences = [
        f"Value ± standard error. Bold: no other run is better by more than {STANDARD_ERRORS} standard errors of the"
        " difference. Floor: the same metric computed on real examples."
    ]
    sentences += [
        f"Not comparable, and therefore never bold: {', '.join(metrics)}, tested {difference}."
        for difference, metrics in metrics_by_difference.items()
    ]
    return "\n\n".join(sentences)


def quote_samples(run: TestedRun) -> str:
    """Return the newest generated texts of a run as Markdown; empty if it has none."""
    files = run.folder.find_samples("txt")
    if not files:
        return ""
    lines = files[-1].read_text(encoding="utf-8").splitlines()[:MAX_LINES]
    return "\n".join([f"\n{run.name}, {write_caption(files)}:\n", *(f"    {line}" for line in lines), ""])


def find_differences(runs: list[TestedRun], metric: str) -> list[str]:
    """Return why a metric is not comparable between runs: different data, N, extractors or likelihoods."""
    tested = [run for run in runs if metric in run.metrics]
    name, _, subject = metric.partition("/")
    # A feature metric, such as fid/mnist_cnn, is also held against fid/inception of another run. nll/5000 and
    # nll/5000/val are none.
    family = f"{name}/" if subject and not subject.partition("/")[0].isdigit() else None
    feature_runs = [run for run in runs if family and any(other.startswith(family) for other in run.metrics)]
    # Sample metrics compare images, which are the same for all binarizations.
    have_images = family and all(run.images != UNKNOWN for run in tested)
    facts = {
        "on different data": {run.name: run.images if have_images else run.data for run in tested},
        "at different N": {run.name: f"{run.metrics[metric].n:,}" for run in tested},
        "with different extractors": {run.name: run.extractor for run in feature_runs},
        "of different likelihoods": {run.name: run.likelihood for run in tested if name in LIKELIHOOD_METRICS},
    }
    return [
        f"{what} ({'; '.join(f'{run}: {value}' for run, value in values.items())})"
        for what, values in facts.items()
        if len(set(values.values())) > 1 or (len(values) > 1 and UNKNOWN in values.values())
    ]


def format_heading(metric: str, better: str | None) -> str:
    """Return a metric's name with an arrow in the better direction."""
    return metric + ARROWS[better]


def join_distinct(texts: Iterable[str]) -> str:
    """Return each text once, in the order of first appearance."""
    return "; ".join(dict.fromkeys(texts))


def format_markdown(rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table of rows of cells; the first row is the header. Columns are aligned for the terminal."""
    columns = list(zip(*rows, strict=True))
    widths = [max(len(text) for text in column) for column in columns]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in zip(*columns, strict=True)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def draw(runs: list[TestedRun], file: IO[bytes]) -> None:
    """Draw each run's newest samples side by side, and below them the validation metrics that runs share, as PNG."""
    # Imported here, since no other command needs it.
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    curves = find_shared_curves(runs)
    width = max(7.5, 2.4 * len(runs))
    heights = [min(width / len(runs), 3) + 0.8] + [2.6 * math.ceil(len(curves) / PANELS_PER_ROW)] * bool(curves)
    figure = Figure(figsize=(width, sum(heights) + 0.2 * len(runs) + 0.2), layout="constrained", dpi=150)
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for index, (run, part) in enumerate(zip(runs, parts[0].subfigures(1, len(runs), squeeze=False)[0], strict=True)):
        draw_samples(part, run, f"C{index}")
    if curves:
        draw_curves(parts[1], curves)
    lines = [Line2D([], [], color=f"C{index}", label=run.name) for index, run in enumerate(runs)]
    figure.legend(handles=lines, loc="outside lower center", fontsize=8, frameon=False)
    figure.savefig(file, format="png")


def draw_samples(figure: "SubFigure", run: TestedRun, color: str) -> None:
    """Draw a run's newest grid of samples below its name."""
    grids = run.folder.find_samples("png")
    name = textwrap.fill(run.folder.recipe, TITLE_WIDTH)
    caption = write_caption(run.folder.find_samples())
    figure.suptitle("\n".join([name, run.folder.version, caption]), color=color, fontsize=8)
    axes = figure.subplots()
    axes.set_anchor("N")
    axes.set_axis_off()
    if grids:
        with Image.open(grids[-1]) as grid:
            axes.imshow(grid.convert("RGB"))


def write_caption(files: list[Path]) -> str:
    """Return the iteration of the newest of several files of samples."""
    return f"iteration {int(files[-1].stem.removeprefix('iteration_')):,}" if files else "no samples"


def draw_curves(figure: "SubFigure", curves: dict[str, dict[int, Curve]]) -> None:
    """Draw a panel for each metric, with a line for each run."""
    columns = min(len(curves), PANELS_PER_ROW)
    panels = figure.subplots(math.ceil(len(curves) / columns), columns, squeeze=False).flat
    for (metric, curve_by_run), axes in zip(curves.items(), panels, strict=False):
        for index, curve in curve_by_run.items():
            axes.plot(*zip(*curve, strict=True), color=f"C{index}", marker=".", markersize=3, linewidth=1)
        axes.set_title(metric, fontsize=9)
        axes.set_xlabel("iteration", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(alpha=0.3)
    for axes in panels:
        axes.set_axis_off()


def find_shared_curves(runs: list[TestedRun]) -> dict[str, dict[int, Curve]]:
    """Return the curves of validation metrics that at least two runs have (all of a single run), by the run's index."""
    curves: dict[str, dict[int, Curve]] = {}
    for index, run in enumerate(runs):
        for metric, curve in run.folder.read_curves().items():
            curves.setdefault(metric, {})[index] = curve
    return {metric: by_run for metric, by_run in sorted(curves.items()) if len(by_run) >= min(2, len(runs))}
