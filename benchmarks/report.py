"""Report the results of benchmarks.run as a table in the terminal, or update the tables of pages.

python -m benchmarks.report --recipes gan/losses/*
python -m benchmarks.report --update docs/results.md docs/all_metrics.md

In a page, tables belong between two comments. The first one names the recipes, as patterns, and may name the columns of
one or more tables:

    <!-- results: gan/losses/* vae/vae; columns: epochs seeds fid | precision recall -->
    <!-- end -->
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
from cli.compare import describe_extractor, format_heading, format_markdown, join_distinct, read_measurements
from gen_lightning.errors import UserError
from gen_lightning.evaluation import BETTER, Row
from gen_lightning.metrics.estimates import format_with_error

OPENING, CLOSING = re.compile(r"<!-- results: ([^;\n]+?)(?:; columns: (.+?))? -->\n"), "<!-- end -->"

COLUMNS = ("recipe", "latents", "data", "epochs", "iterations", "minutes", "seeds", "N")
# Each line has one of these: the iterations, if the recipe limits iterations or time.
BUDGETS = ("epochs", "iterations")

# The floor of these metrics is a perfect sampler's. The floor of all other metrics is computed on real images.
MODES = ("modes", "high_quality", "reverse_kl")

Result = dict[str, Any]
Line = dict[str, str]
Measurements = dict[str, Row]


class Group(NamedTuple):
    """What the seeds of one line of the table have in common."""

    recipe: str
    source: str
    epochs: int | None
    latents: str
    n: str
    extractor: str


def report(results: list[Result], recipes: Sequence[str] = ("*",), tables: Sequence[Sequence[str]] = ((),)) -> str:
    """Return Markdown tables of mean ± sample standard deviation over seeds, their floors, and what produced them.

    Args:
        results: the results
        recipes: recipes to show, in this order, as patterns such as `gan/mlp`, or `gan/*` with its subfolders
        tables: for each table, its columns after the recipe; default: one table with all columns that are not empty.
            Metrics are named without their extractor, such as `fid` or `nll/5000`.

    Raises:
        UserError: there are no results for the recipes, or no such column.
    """
    results = select_results(results, recipes)
    check_columns([name for columns in tables for name in columns], results)
    texts = [tabulate(results, columns) for columns in tables]
    return "\n\n".join([*texts, describe(results, [name for columns in tables for name in columns])])


def tabulate(results: list[Result], columns: Sequence[str] = ()) -> str:
    """Return one Markdown table with a line for each recipe that has a value, and the floors below."""
    measured = [(result, select_measurements(result, columns)) for result in results]
    better = {metric: row.better for _, rows in measured for metric, row in rows.items()}
    metrics = sorted(better, key=lambda metric: list(BETTER).index(get_family(metric)))
    groups: dict[Group, list[tuple[Result, Measurements]]] = {}
    for result, rows in measured:
        if rows:
            groups.setdefault(find_group(result, rows), []).append((result, rows))
    lines = [make_line(group, members, metrics) for group, members in groups.items()] + make_floors(groups, metrics)
    shown = order_columns(columns, metrics) if columns else [*find_filled_columns(lines), *metrics]
    lines = lines if set(shown) & set(metrics) else lines[: len(groups)]
    header = [format_heading(shorten(name), better[name]) if name in better else name for name in shown]
    # Samples from other latents have the same likelihood, which is shown once if the latents are not.
    cells = dict.fromkeys(tuple(line.get(name, "") for name in shown) for line in lines)
    return format_markdown([header, *cells])


def select_results(results: list[Result], recipes: Sequence[str]) -> list[Result]:
    """Return the results of recipes in the order of their patterns; if a task occurs twice, its last result.

    Raises:
        UserError: there are none.
    """
    selected = {read_task(one): one for pattern in recipes for one in results if fnmatchcase(one["recipe"], pattern)}
    if not selected:
        names = " ".join(recipes)
        raise UserError(f"There are no results of {names}. Run `python -m benchmarks.run --recipes {names}` first.")
    return list(selected.values())


def select_measurements(result: Result, columns: Sequence[str] = ()) -> Measurements:
    """Return the measurements of a result by metric, without the source of the latents in its name.

    They are those of the given columns, or all if no column is a metric.
    """
    chosen = set(columns) - set(COLUMNS)
    ending = f"/{read_task(result).latents}"
    rows = {metric.removesuffix(ending): row for metric, row in read_measurements(result["test"]).items()}
    return {
        metric: row
        for metric, row in rows.items()
        if get_family(metric) in BETTER and (not chosen or shorten(metric) in chosen)
    }


def check_columns(columns: Sequence[str], results: list[Result]) -> None:
    """Refuse columns that no line can have.

    Raises:
        UserError: a name is neither a column nor a metric of the results.
    """
    names = [*COLUMNS, *dict.fromkeys(shorten(metric) for one in results for metric in select_measurements(one))]
    for name in columns:
        if name not in names:
            raise UserError(f"There is no column {name}. Choose from {', '.join(names)}.")


def order_columns(columns: Sequence[str], metrics: list[str]) -> list[str]:
    """Return the recipe and the given columns, in their order, with the full names of the metrics."""
    names = [
        [name] if name in COLUMNS else [metric for metric in metrics if shorten(metric) == name] for name in columns
    ]
    return ["recipe", *(name for group in names for name in group)]


def find_filled_columns(lines: list[Line]) -> list[str]:
    """Return the columns that carry information: not an unused budget, and not latents that are all the prior's."""
    empty = {"latents": {"", "prior"}} | {budget: {""} for budget in BUDGETS}
    return [name for name in COLUMNS if not {line.get(name, "") for line in lines} <= empty.get(name, set())]


def find_group(result: Result, rows: Measurements) -> Group:
    """Return the line of the table that a result belongs to."""
    n = join_distinct(f"{row.n:,}" for row in rows.values())
    task = read_task(result)
    return Group(task.recipe, task.source, task.epochs, task.latents, n, describe_extractor(result["test"]))


def get_family(metric: str) -> str:
    """Return a metric's name without its extractor or number of latents."""
    return metric.partition("/")[0]


def shorten(metric: str) -> str:
    """Return a metric's name without its extractor, but with a number of latents such as that of nll/5000."""
    return metric if metric.rpartition("/")[2].isdigit() else get_family(metric)


def make_line(group: Group, members: list[tuple[Result, Measurements]], metrics: list[str]) -> Line:
    """Return the cells of one recipe by column."""
    minutes = [result["minutes"] for result, _ in members if result["minutes"] is not None]
    values = {metric: [rows[metric].value for _, rows in members if metric in rows] for metric in metrics}
    if group.epochs is None:
        budget = {"iterations": f"{statistics.mean(result['test']['iteration'] for result, _ in members):,.0f}"}
    else:
        budget = {"epochs": str(group.epochs)}
    return {
        "recipe": group.recipe,
        "latents": group.latents,
        "data": group.source,
        **budget,
        "minutes": f"{statistics.mean(minutes):.1f}" if minutes else "",
        "seeds": str(len(members)),
        "N": group.n,
        **{metric: format_mean(column) for metric, column in values.items()},
    }


def format_mean(values: list[float]) -> str:
    """Return mean ± sample standard deviation; the value alone if there is only one."""
    if not values:
        return ""
    mean = math.fsum(values) / len(values)
    known = len(values) > 1 and math.isfinite(mean)
    return format_with_error(mean, statistics.stdev(values) if known else None)


def make_floors(groups: dict[Group, list[tuple[Result, Measurements]]], metrics: list[str]) -> list[Line]:
    """Return the cells of the floors: one line for each combination of source, N and extractor that has a floor."""
    tested: dict[tuple[str, str, str], list[Measurements]] = {}
    for group, members in groups.items():
        tested.setdefault((group.source, group.n, group.extractor), []).extend(rows for _, rows in members)
    lines = []
    for (source, n, _), measurements in tested.items():
        floors = {metric: format_floor([rows.get(metric) for rows in measurements]) for metric in metrics}
        if any(floors.values()):
            lines.append({"recipe": "floor", "data": source, "N": n, **floors})
    return lines


def format_floor(column: list[Row | None]) -> str:
    """Return the mean floor of a metric ± the mean of its standard errors."""
    floors = [(row.floor, row.floor_error) for row in column if row and row.floor is not None]
    if not floors:
        return ""
    errors = [error for _, error in floors if error is not None]
    return format_with_error(statistics.mean(value for value, _ in floors), statistics.mean(errors) if errors else None)


def describe(results: list[Result], columns: Sequence[str] = ()) -> str:
    """Return the sentences below the tables: seeds, kind of floor, N, extractor, hardware and versions."""
    measured = [(result, select_measurements(result, columns)) for result in results]
    shown = [result for result, rows in measured if rows]
    seeds = sorted({result["seed"] for result in shown})
    tests = [result["test"] for result in shown]
    entries = [(get_family(metric), row) for _, rows in measured for metric, row in rows.items()]
    floors = [
        "a perfect sampler's" if name in MODES else "the same metric of real images"
        for name, row in entries
        if row.floor is not None
    ]
    extractors = join_distinct(describe_extractor(test) for test in tests if describe_extractor(test))
    facts = [
        f"N = {join_distinct(f'{row.n:,}' for _, row in entries)}",
        *([f"extractor {extractors}"] if extractors else []),
        join_distinct(test["hardware"] for test in tests),
        join_distinct(", ".join(f"{name} {version}" for name, version in test["versions"].items()) for test in tests),
    ]
    floor = f"; floor: {join_distinct(floors)} ± standard error" if floors else ""
    several = f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})"
    return f"{several if len(seeds) > 1 else f'Seed {seeds[0]}'}{floor}. {'; '.join(facts)}."


def renew_tables(path: Path, results: list[Result]) -> str:
    """Return the text of a page with new tables between each pair of comments.

    Raises:
        UserError: the page is missing or has no comments; a table has no end; there are no results for its recipes.
    """
    text, *blocks = OPENING.split(path.read_text() if path.is_file() else "")
    if not blocks:
        raise UserError(f"{path} has no place for a table. Write <!-- results: RECIPES --> and {CLOSING} into it.")
    for recipes, columns, block in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
        _, closing, after = block.partition(CLOSING)
        opening = f"<!-- results: {recipes}{f'; columns: {columns}' if columns else ''} -->"
        if not closing:
            raise UserError(f"{path} has no end of the table after {opening}. Write {CLOSING} there.")
        tables = [names.split() for names in (columns or "").split("|")]
        text += f"{opening}\n{report(results, recipes.split(), tables)}\n{closing}{after}"
    return text


def main(arguments: list[str] | None = None) -> None:
    """Print a table, or update the tables of pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"))
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--recipes", nargs="+", default=["*"], help="recipes of the table, or patterns; default: all")
    shown.add_argument("--update", nargs="+", type=Path, help="pages whose tables are updated")
    args = parser.parse_args(arguments)
    try:
        results = read_results(args.results)
        if args.update:
            for path, text in [(path, renew_tables(path, results)) for path in args.update]:
                path.write_text(text)
        else:
            print(report(results, args.recipes))
    except UserError as error:
        raise SystemExit(f"benchmarks.report: {error}") from None


if __name__ == "__main__":
    main()
