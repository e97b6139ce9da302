"""Several runs side by side: a table of what `test` measured, and a picture of samples and validation curves."""

import csv
import json
import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from gen_lightning.errors import UserError
from gen_lightning.evaluation import Row
from gen_lightning.metrics.estimates import format_with_error

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

# Differences of up to so many standard errors may be chance.
CHANCE = 2
PANELS_IN_A_ROW = 3
LETTERS_IN_A_TITLE = 32
# What is measured of p(x | z) or p(x): metrics, or what stands before a K in their names.
OF_LIKELIHOODS = {"elbo", "distortion", "bound", "nll", "bits_per_dimension"}
# On such data, and of such likelihoods, nothing is comparable.
UNKNOWN = "unknown"
ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}

Curve = list[tuple[int, float]]


class Run(NamedTuple):
    """A run's folder, and what `test` measured in it.

    After which iteration, on which data, with which extractor, and of what a likelihood is, as metrics.json has it.
    """

    folder: Path
    iteration: int
    data: str
    extractor: str
    likelihood: str
    metrics: dict[str, Row]

    @property
    def name(self) -> str:
        """NAME/VERSION."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def compare(run_folders: list[Path], output: Path) -> str:
    """Writes `comparison.md` and `comparison.png` of runs that have been tested.

    Args:
        run_folders: folders `runs/NAME/VERSION`; a run without samples or metrics.csv is compared without them
        output: the folder of the two files, made if it does not exist

    Returns:
        The table and its notes, as they stand in comparison.md.

    Raises:
        UserError: a folder is no run, a run has not been tested, or `output` holds a comparison already.
    """
    runs = [read_run(folder) for folder in run_folders]
    table, picture = output / "comparison.md", output / "comparison.png"
    if table.exists() or picture.exists():
        raise UserError(f"{output} holds a comparison already: remove it, or choose another folder with --output.")
    text = f"{tabulate_runs(runs)}\n\n{notes(runs)}\n"
    output.mkdir(parents=True, exist_ok=True)
    draw(runs, picture)
    table.write_text(f"{text}\n![Samples and validation curves of the runs]({picture.name})\n")
    return text


def read_run(folder: Path) -> Run:
    """What `test` has left in a run's folder.

    Raises:
        UserError: the folder is no run, or has not been tested; the sentence gives the command.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(f"There is no run in {folder}: give a folder runs/NAME/VERSION.")
    path = folder / "metrics.json"
    try:
        test = json.loads(path.read_text()).get("test", {}) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is corrupt: remove it, and run `python train.py test` again.") from error
    if "metrics" not in test:
        checkpoint = folder / "checkpoints" / "last.ckpt"
        raise UserError(f"{folder} has not been tested: run `python train.py test --ckpt_path {checkpoint}` first.")
    data, likelihood = test.get("data", UNKNOWN)[:8], test.get("likelihood") or UNKNOWN
    return Run(folder.resolve(), test["iteration"], data, describe_extractor(test), likelihood, read_measurements(test))


def read_measurements(test: dict[str, Any]) -> dict[str, Row]:
    """The measurements by metric in the `test` block of a metrics.json."""
    return {metric: Row(**entry) for metric, entry in test["metrics"].items()}


def describe_extractor(test: dict[str, Any]) -> str:
    """The extractor of a `test` block: its name and the first digits of its SHA-256, or nothing."""
    extractor = test.get("extractor")
    return f"{extractor['name']} {extractor['sha256'][:8]}" if extractor else ""


def tabulate_runs(runs: list[Run]) -> str:
    """A Markdown table: one column a run, one row a metric, and beside them the floors and N."""
    rows = [["metric", *(run.name for run in runs), "floor", "N"]]
    rows.append(["iteration", *(f"{run.iteration:,}" for run in runs), "", ""])
    for metric in dict.fromkeys(metric for run in runs for metric in run.metrics):
        row = [run.metrics.get(metric) for run in runs]
        present = [measurement for measurement in row if measurement]
        rivals = [] if differences(runs, metric) else present
        floors = [format_with_error(entry.floor, entry.floor_error) for entry in present if entry.floor is not None]
        cells = [cell(measurement, rivals) for measurement in row]
        numbers = (f"{entry.n:,}" for entry in present)
        rows.append([heading(metric, present[0].better), *cells, distinct(floors), distinct(numbers)])
    return markdown(rows)


def cell(measurement: Row | None, rivals: list[Row]) -> str:
    """A measurement in its row, bold where it is among the best of two or more rivals."""
    if measurement is None:
        return ""
    text = format_with_error(measurement.value, measurement.error)
    return f"**{text}**" if len(rivals) > 1 and is_best(measurement, rivals) else text


def is_best(measurement: Row, rivals: list[Row]) -> bool:
    """Whether no rival is better by more than chance."""
    if measurement.better is None or not math.isfinite(measurement.value):
        return False
    sign = 1 if measurement.better == "higher" else -1
    return not any(
        sign * (rival.value - measurement.value) > chance(rival.error, measurement.error) for rival in rivals
    )


def chance(error: float | None, other: float | None) -> float:
    """The largest difference of two values that may be chance, by their standard errors."""
    return CHANCE * math.hypot(error or 0, other or 0)


def notes(runs: list[Run]) -> str:
    """The sentences under the table: how to read it, and which of its values are not comparable."""
    metrics_by_difference: dict[str, list[str]] = {}
    for metric in dict.fromkeys(metric for run in runs for metric in run.metrics):
        for difference in differences(runs, metric):
            metrics_by_difference.setdefault(difference, []).append(metric)
    sentences = [
        f"Value ± standard error. Bold: no other run is better by more than {CHANCE} standard errors of the difference."
        " Floor: real images in place of samples."
    ]
    sentences += [
        f"Not comparable, and so never bold: {', '.join(metrics)}, tested {difference}."
        for difference, metrics in metrics_by_difference.items()
    ]
    return "\n\n".join(sentences)


def differences(runs: list[Run], metric: str) -> list[str]:
    """What makes the values of a metric incomparable between runs: data, N, extractors or likelihoods."""
    tested = [run for run in runs if metric in run.metrics]
    name, _, subject = metric.partition("/")
    # A metric of features, such as fid/mnist_cnn, is compared with fid/inception of another run too. nll/5000 is none.
    family = f"{name}/" if subject and not subject.isdigit() else None
    of_features = [run for run in runs if family and any(other.startswith(family) for other in run.metrics)]
    facts = {
        "on different data": {run.name: run.data for run in tested},
        "at different N": {run.name: f"{run.metrics[metric].n:,}" for run in tested},
        "with different extractors": {run.name: run.extractor for run in of_features},
        "of different likelihoods": {run.name: run.likelihood for run in tested if name in OF_LIKELIHOODS},
    }
    return [
        f"{what} ({'; '.join(f'{run}: {value}' for run, value in values.items())})"
        for what, values in facts.items()
        if len(set(values.values())) > 1 or (len(values) > 1 and UNKNOWN in values.values())
    ]


def heading(metric: str, better: str | None) -> str:
    """A metric's name, with an arrow that says which direction is better."""
    return metric + ARROWS[better]


def distinct(texts: Iterable[str]) -> str:
    """Each text once, in the order of the first appearances."""
    return "; ".join(dict.fromkeys(texts))


def markdown(rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table of rows of cells, the first row its header, aligned for the terminal too."""
    columns = list(zip(*rows, strict=True))
    widths = [max(len(text) for text in column) for column in columns]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in zip(*columns, strict=True)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def draw(runs: list[Run], path: Path) -> None:
    """Draws each run's newest samples side by side, and below them the validation metrics that runs share."""
    # Imported here, since whatever else the command line does needs none of it.
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    curves = shared_curves(runs)
    width = max(7.5, 2.4 * len(runs))
    heights = [min(width / len(runs), 3) + 0.8] + [2.6 * math.ceil(len(curves) / PANELS_IN_A_ROW)] * bool(curves)
    figure = Figure(figsize=(width, sum(heights) + 0.2 * len(runs) + 0.2), layout="constrained", dpi=150)
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for index, (run, part) in enumerate(zip(runs, parts[0].subfigures(1, len(runs), squeeze=False)[0], strict=True)):
        draw_samples(part, run, f"C{index}")
    if curves:
        draw_curves(parts[1], curves)
    lines = [Line2D([], [], color=f"C{index}", label=run.name) for index, run in enumerate(runs)]
    figure.legend(handles=lines, loc="outside lower center", fontsize=8, frameon=False)
    figure.savefig(path)


def draw_samples(figure: "SubFigure", run: Run, color: str) -> None:
    """Draws a run's newest grid of samples below its name."""
    grids = sorted((run.folder / "samples").glob("iteration_*.png"), key=lambda grid: (len(grid.name), grid.name))
    name = textwrap.fill(run.folder.parent.name, LETTERS_IN_A_TITLE)
    figure.suptitle("\n".join([name, run.folder.name, caption(grids)]), color=color, fontsize=8)
    axes = figure.subplots()
    axes.set_anchor("N")
    axes.set_axis_off()
    if grids:
        with Image.open(grids[-1]) as grid:
            axes.imshow(grid.convert("RGB"))


def caption(grids: list[Path]) -> str:
    """The iteration of the newest of several grids."""
    return f"iteration {int(grids[-1].stem.removeprefix('iteration_')):,}" if grids else "no samples"


def draw_curves(figure: "SubFigure", curves: dict[str, dict[int, Curve]]) -> None:
    """Draws one panel a metric, one line a run."""
    columns = min(len(curves), PANELS_IN_A_ROW)
    panels = figure.subplots(math.ceil(len(curves) / columns), columns, squeeze=False).flat
    for (metric, curve_of_run), axes in zip(curves.items(), panels, strict=False):
        for index, curve in curve_of_run.items():
            axes.plot(*zip(*curve, strict=True), color=f"C{index}", marker=".", markersize=3, linewidth=1)
        axes.set_title(metric, fontsize=9)
        axes.set_xlabel("iteration", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(alpha=0.3)
    for axes in panels:
        axes.set_axis_off()


def shared_curves(runs: list[Run]) -> dict[str, dict[int, Curve]]:
    """The curves of each validation metric that two or more runs have (of one run, all), by the run's index."""
    curves: dict[str, dict[int, Curve]] = {}
    for index, run in enumerate(runs):
        for metric, curve in read_curves(run.folder).items():
            curves.setdefault(metric, {})[index] = curve
    return {metric: of_run for metric, of_run in sorted(curves.items()) if len(of_run) >= min(2, len(runs))}


def read_curves(folder: Path) -> dict[str, Curve]:
    """The validation metrics in a run's metrics.csv, as (iteration, value)."""
    path = folder / "metrics.csv"
    curves: dict[str, Curve] = {}
    for row in csv.DictReader(path.read_text().splitlines()) if path.is_file() else []:
        # The last row of a killed run may be torn.
        if not (row["step"] or "").isdigit():
            continue
        for name, value in row.items():
            if name and name.startswith("val/") and value:
                curves.setdefault(name, []).append((int(row["step"]), float(value)))
    return curves
