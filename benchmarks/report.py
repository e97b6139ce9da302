"""Turns the results of benchmarks.run into a table, for the terminal or for the README.

python -m benchmarks.report
python -m benchmarks.report --update README.md
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.run import read_results, task_of
from gen_lightning.metrics.comparison import distinct, extractor_of, heading, markdown, measurements_of
from gen_lightning.metrics.estimates import with_error
from gen_lightning.metrics.report import BETTER, Row

OPENING, CLOSING = "<!-- benchmarks.report -->", "<!-- /benchmarks.report -->"

Result = dict[str, Any]


class Group(NamedTuple):
    """What the seeds of one line of the table have in common."""

    recipe: str
    source: str
    epochs: int
    n: str
    extractor: str


def report(rows: list[Result]) -> str:
    """A Markdown table of mean ± sample standard deviation over seeds, the floors below, and what it was made with.

    Raises:
        ValueError: there are no results.
    """
    if not rows:
        raise ValueError("There are no results: run `python -m benchmarks.run` first.")
    # The last line of a task counts, whoever has written it twice.
    rows = list({task_of(row): row for row in rows}.values())
    groups: dict[Group, list[Result]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    metrics = {metric: entry.better for row in rows for metric, entry in chosen(row).items()}
    ordered = sorted(metrics, key=lambda metric: list(BETTER).index(family(metric)))
    header = [
        "recipe",
        "data",
        "epochs",
        "minutes",
        "seeds",
        "N",
        *(heading(family(name), metrics[name]) for name in ordered),
    ]
    lines = [line(group, members, ordered) for group, members in groups.items()]
    return f"{markdown([header, *lines, *floor_lines(groups, ordered)])}\n\n{made_with(rows)}"


def group_of(row: Result) -> Group:
    """The line of the table that a result belongs to."""
    n = distinct(f"{entry.n:,}" for entry in chosen(row).values())
    return Group(row["recipe"], row["source"], row["epochs"], n, extractor_of(row["test"]))


def chosen(row: Result) -> dict[str, Row]:
    """The measurements of a result that the table shows."""
    return {metric: entry for metric, entry in measurements_of(row["test"]).items() if family(metric) in BETTER}


def family(metric: str) -> str:
    """A metric's name without that of the extractor."""
    return metric.partition("/")[0]


def line(group: Group, rows: list[Result], metrics: list[str]) -> list[str]:
    """The cells of one recipe."""
    minutes = [row["minutes"] for row in rows if row["minutes"] is not None]
    values = [[chosen(row)[metric].value for row in rows if metric in chosen(row)] for metric in metrics]
    return [
        group.recipe,
        group.source,
        str(group.epochs),
        f"{statistics.mean(minutes):.1f}" if minutes else "",
        str(len(rows)),
        group.n,
        *(mean_and_deviation(column) for column in values),
    ]


def mean_and_deviation(values: list[float]) -> str:
    """Mean ± sample standard deviation; of one value, only the value."""
    if not values:
        return ""
    mean = math.fsum(values) / len(values)
    known = len(values) > 1 and math.isfinite(mean)
    return with_error(mean, statistics.stdev(values) if known else None)


def floor_lines(groups: dict[Group, list[Result]], metrics: list[str]) -> list[list[str]]:
    """The cells of the floors, a line for each source, N and extractor."""
    rows_of: dict[tuple[str, str, str], list[Result]] = {}
    for group, rows in groups.items():
        rows_of.setdefault((group.source, group.n, group.extractor), []).extend(rows)
    return [
        ["floor", source, "", "", "", n, *(mean_floor([chosen(row).get(metric) for row in rows]) for metric in metrics)]
        for (source, n, _), rows in rows_of.items()
    ]


def mean_floor(column: list[Row | None]) -> str:
    """The mean floor of a metric ± the mean of its standard errors."""
    floors = [(entry.floor, entry.floor_error or 0) for entry in column if entry and entry.floor is not None]
    if not floors:
        return ""
    value, error = map(statistics.mean, zip(*floors, strict=True))
    return with_error(value, error)


def made_with(rows: list[Result]) -> str:
    """The sentence under the table: seeds, N, extractor, hardware and versions."""
    seeds = sorted({row["seed"] for row in rows})
    tests = [row["test"] for row in rows]
    facts = [
        f"N = {distinct(f'{entry.n:,}' for row in rows for entry in chosen(row).values())}",
        f"extractor {distinct(extractor_of(test) for test in tests if extractor_of(test))}",
        distinct(test["hardware"] for test in tests),
        distinct(", ".join(f"{name} {version}" for name, version in test["versions"].items()) for test in tests),
    ]
    return (
        f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))}); floor: real images in place"
        f" of samples ± standard error. {'; '.join(facts)}."
    )


def update(path: Path, table: str) -> None:
    """Puts the table between the markers of a file, in place of what stands there.

    Raises:
        ValueError: the file is absent, or its markers are.
    """
    before, opening, rest = path.read_text().partition(OPENING) if path.is_file() else ("", "", "")
    _, closing, after = rest.partition(CLOSING)
    if not closing:
        raise ValueError(f"{path} has no place for the table: write {OPENING} and {CLOSING} into it.")
    path.write_text(f"{before}{opening}\n{table}\n{closing}{after}")


def main(arguments: list[str] | None = None) -> None:
    """Prints the table, or puts it into a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"))
    parser.add_argument("--update", type=Path, help="a file with the markers between which the table belongs")
    args = parser.parse_args(arguments)
    try:
        table = report(read_results(args.results))
        if args.update:
            update(args.update, table)
        else:
            print(table)
    except ValueError as error:
        raise SystemExit(f"benchmarks.report: {error}") from None


if __name__ == "__main__":
    main()
