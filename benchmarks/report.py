"""Turns the results of benchmarks.run into a table for the terminal, or into those of pages.

python -m benchmarks.report --recipes gan/losses/*
python -m benchmarks.report --update README.md

A page says where a table belongs, and of which recipes, by <!-- results: gan/losses/* vae/vae --> and <!-- end -->.
"""

import argparse
import math
import re
import statistics
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.run import read_results, read_task
from cli.compare import describe_extractor, distinct, heading, markdown, read_measurements
from gen_lightning.errors import UserError
from gen_lightning.evaluation import BETTER, Row
from gen_lightning.metrics.estimates import format_with_error

OPENING, CLOSING = re.compile(r"<!-- results: (.+) -->\n"), "<!-- end -->"

COLUMNS = ("recipe", "latents", "data", "epochs", "iterations", "minutes", "seeds", "N")
# A line has one of them: of a budget of iterations or time, the iterations that it allowed.
BUDGETS = ("epochs", "iterations")

# Their floor is a perfect sampler's; that of all others is real images'.
MODES = ("modes", "high_quality", "reverse_kl")

Result = dict[str, Any]
Line = dict[str, str]


class Group(NamedTuple):
    """What the seeds of one line of the table have in common."""

    recipe: str
    source: str
    epochs: int | None
    latents: str
    n: str
    extractor: str


def report(rows: list[Result], recipes: Sequence[str] = ("*",)) -> str:
    """A Markdown table of mean ± sample standard deviation over seeds, the floors below, and what it was made with.

    Args:
        rows: the results
        recipes: those that the table shows, in its order, as patterns such as `gan/mlp`, or `gan/*` with its subfolders

    Raises:
        UserError: there are no results of them.
    """
    # The last line of a task counts, whoever has written it twice.
    shown = {read_task(row): row for pattern in recipes for row in rows if fnmatchcase(row["recipe"], pattern)}
    if not shown:
        command = f"python -m benchmarks.run --recipes {' '.join(recipes)}"
        raise UserError(f"There are no results of {' '.join(recipes)}: run `{command}` first.")
    rows = list(shown.values())
    groups: dict[Group, list[Result]] = {}
    for row in rows:
        groups.setdefault(group_key(row), []).append(row)
    measured = {metric: entry.better for row in rows for metric, entry in chosen(row).items()}
    metrics = sorted(measured, key=lambda metric: list(BETTER).index(family(metric)))
    lines = [line(group, members, metrics) for group, members in groups.items()] + floor_lines(groups, metrics)
    columns = [name for name in COLUMNS if is_told(name, lines)]
    headings = columns + [heading(short(metric), measured[metric]) for metric in metrics]
    cells = [[cells.get(name, "") for name in (*columns, *metrics)] for cells in lines]
    return f"{markdown([headings, *cells])}\n\n{made_with(rows)}"


def is_told(column: str, lines: list[Line]) -> bool:
    """Whether a column says something: a budget that a line has, or latents that are not the prior's."""
    if column == "latents":
        return any(cells.get(column, "prior") != "prior" for cells in lines)
    return column not in BUDGETS or any(cells.get(column) for cells in lines)


def group_key(row: Result) -> Group:
    """The line of the table that a result belongs to."""
    n = distinct(f"{entry.n:,}" for entry in chosen(row).values())
    task = read_task(row)
    return Group(task.recipe, task.source, task.epochs, task.latents, n, describe_extractor(row["test"]))


def chosen(row: Result) -> dict[str, Row]:
    """The measurements of a result that the table shows, by metric, whatever latents the name ends in."""
    ending = f"/{read_task(row).latents}"
    return {
        metric.removesuffix(ending): entry
        for metric, entry in read_measurements(row["test"]).items()
        if family(metric) in BETTER
    }


def family(metric: str) -> str:
    """A metric's name without that of the extractor."""
    return metric.partition("/")[0]


def short(metric: str) -> str:
    """A metric's name without that of the extractor, and with a number of latents such as nll/5000's."""
    return metric if metric.rpartition("/")[2].isdigit() else family(metric)


def line(group: Group, rows: list[Result], metrics: list[str]) -> Line:
    """The cells of one recipe, by column."""
    minutes = [row["minutes"] for row in rows if row["minutes"] is not None]
    values = {metric: [chosen(row)[metric].value for row in rows if metric in chosen(row)] for metric in metrics}
    if group.epochs is None:
        budget = {"iterations": f"{statistics.mean(row['test']['iteration'] for row in rows):,.0f}"}
    else:
        budget = {"epochs": str(group.epochs)}
    return {
        "recipe": group.recipe,
        "latents": group.latents,
        "data": group.source,
        **budget,
        "minutes": f"{statistics.mean(minutes):.1f}" if minutes else "",
        "seeds": str(len(rows)),
        "N": group.n,
        **{metric: mean_and_deviation(column) for metric, column in values.items()},
    }


def mean_and_deviation(values: list[float]) -> str:
    """Mean ± sample standard deviation; of one value, only the value."""
    if not values:
        return ""
    mean = math.fsum(values) / len(values)
    known = len(values) > 1 and math.isfinite(mean)
    return format_with_error(mean, statistics.stdev(values) if known else None)


def floor_lines(groups: dict[Group, list[Result]], metrics: list[str]) -> list[Line]:
    """The cells of the floors, a line for each source, N and extractor that has any."""
    collect_rows: dict[tuple[str, str, str], list[Result]] = {}
    for group, rows in groups.items():
        collect_rows.setdefault((group.source, group.n, group.extractor), []).extend(rows)
    lines = []
    for (source, n, _), rows in collect_rows.items():
        floors = {metric: mean_floor([chosen(row).get(metric) for row in rows]) for metric in metrics}
        if any(floors.values()):
            lines.append({"recipe": "floor", "data": source, "N": n, **floors})
    return lines


def mean_floor(column: list[Row | None]) -> str:
    """The mean floor of a metric ± the mean of its standard errors."""
    floors = [(entry.floor, entry.floor_error or 0) for entry in column if entry and entry.floor is not None]
    if not floors:
        return ""
    value, error = map(statistics.mean, zip(*floors, strict=True))
    return format_with_error(value, error)


def made_with(rows: list[Result]) -> str:
    """The sentences under the table: seeds, what the floors are of, N, extractor, hardware and versions."""
    seeds = sorted({row["seed"] for row in rows})
    tests = [row["test"] for row in rows]
    entries = [(family(metric), entry) for row in rows for metric, entry in chosen(row).items()]
    floors = [
        "a perfect sampler's" if name in MODES else "real images in place of samples"
        for name, entry in entries
        if entry.floor is not None
    ]
    extractors = distinct(describe_extractor(test) for test in tests if describe_extractor(test))
    facts = [
        f"N = {distinct(f'{entry.n:,}' for _, entry in entries)}",
        *([f"extractor {extractors}"] if extractors else []),
        distinct(test["hardware"] for test in tests),
        distinct(", ".join(f"{name} {version}" for name, version in test["versions"].items()) for test in tests),
    ]
    floor = f"; floor: {distinct(floors)} ± standard error" if floors else ""
    several = f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})"
    of_seeds = several if len(seeds) > 1 else f"Seed {seeds[0]}"
    return f"{of_seeds}{floor}. {'; '.join(facts)}."


def renewed(path: Path, rows: list[Result]) -> str:
    """The text of a page with a new table between each pair of markers.

    Raises:
        UserError: the page is absent or has no markers; one is not closed; there are no results of its recipes.
    """
    text, *blocks = OPENING.split(path.read_text() if path.is_file() else "")
    if not blocks:
        raise UserError(f"{path} has no place for a table: write <!-- results: RECIPES --> and {CLOSING} into it.")
    for recipes, block in zip(blocks[::2], blocks[1::2], strict=True):
        _, closing, after = block.partition(CLOSING)
        opening = f"<!-- results: {recipes} -->"
        if not closing:
            raise UserError(f"{path} has no end of the table behind {opening}: write {CLOSING} there.")
        text += f"{opening}\n{report(rows, recipes.split())}\n{closing}{after}"
    return text


def main(arguments: list[str] | None = None) -> None:
    """Prints a table, or renews those of pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"))
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--recipes", nargs="+", default=["*"], help="of the table, or patterns; by default all")
    shown.add_argument("--update", nargs="+", type=Path, help="pages with markers between which tables belong")
    args = parser.parse_args(arguments)
    try:
        rows = read_results(args.results)
        if args.update:
            for path, text in [(path, renewed(path, rows)) for path in args.update]:
                path.write_text(text)
        else:
            print(report(rows, args.recipes))
    except ValueError as error:
        raise SystemExit(f"benchmarks.report: {error}") from None


if __name__ == "__main__":
    main()
