"""Trains and tests recipes over seeds through the command line, a line of JSON each.

    python -m benchmarks.run --root data --recipes gan/losses/*
    python -m benchmarks.run --source digits --epochs 2 --recipes vae/vae --seeds 0
    python -m benchmarks.run --root data --recipes vae/vae --latents gmm

Data and budget are the recipe's own unless they are given here. What the results hold already is not done again, and a
fit that was interrupted goes on where it was. Results know nothing of what is changed in a recipe or the code: take
their lines out of the file then.
"""

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cli.recipes import RECIPES, list_recipes
from cli.runs import RunFolder

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = RECIPES
FAILURE_LINES = 20
MINUTES = "minutes.txt"


class Task(NamedTuple):
    """What identifies a line of the results.

    `source` is the data's name; `epochs` is None where the recipe has a budget of iterations or of time; `latents` are
    what the tested samples are decoded from.
    """

    recipe: str
    seed: int
    source: str
    epochs: int | None
    latents: str = "prior"

    @property
    def name(self) -> str:
        """The name of its runs, by which a finished or an interrupted one is found again, whatever its latents."""
        budget = "" if self.epochs is None else f"-{self.epochs}-epochs"
        return f"benchmark-{self.recipe.replace('/', '-')}-{self.source}{budget}-seed{self.seed}"

    def __str__(self) -> str:
        budget = "" if self.epochs is None else f", {self.epochs} epochs"
        latents = "" if self.latents == "prior" else f", latents from {self.latents}"
        return f"{self.recipe}, seed {self.seed}{budget} on {self.source}{latents}"


def recipes_like(patterns: list[str]) -> list[str]:
    """The recipes of patterns such as `gan/mlp`, or `gan/*` with its subfolders, each once, in the patterns' order."""
    return list(dict.fromkeys(recipe for pattern in patterns for recipe in fnmatch.filter(list_recipes(), pattern)))


def read_recipe(recipe: str) -> dict[str, Any]:
    """The configuration of a recipe."""
    return yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())


def plan(recipe: str, seed: int, source: str | None, epochs: int | None, latents: str = "prior") -> Task:
    """The task of a recipe, with the data and the budget that are given, or else its own."""
    config = read_recipe(recipe)
    return Task(recipe, seed, name_data(config["data"], source), epochs or own_epochs(config["trainer"]), latents)


def name_data(data: dict[str, Any], source: str | None) -> str:
    """The name of a recipe's data: the source where they have one, else the mixture, else the data module."""
    arguments = data.get("init_args", {})
    if "source" in arguments:
        return source or arguments["source"]
    return arguments.get("mixture", data)["class_path"].rpartition(".")[2].lower()


def own_epochs(trainer: dict[str, Any]) -> int | None:
    """A recipe's budget in epochs, unless it is one of iterations or time."""
    return None if {"max_steps", "max_time"} & trainer.keys() else trainer["max_epochs"]


def read_task(row: dict[str, Any]) -> Task:
    """What a line of the results is of."""
    return Task(**{field: row[field] for field in Task._fields if field in row})


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of the results; one that a killed process has torn is skipped with a warning."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            warnings.warn(f"{path}: line {number} is torn, and is ignored.", stacklevel=2)
    return rows


def append_result(path: Path, row: dict[str, Any]) -> None:
    """Adds one line, which is on the disk when this returns, below whatever a killed process has left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a") as file:
        file.write("\n" * torn + json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def tasks_left(tasks: list[Task], results: Path) -> list[Task]:
    """The tasks that the results do not hold."""
    done = {read_task(row) for row in read_results(results)}
    return [task for task in tasks if task not in done]


def perform(task: Task, root: str, runs: Path) -> dict[str, Any]:
    """Fits and tests, as far as an earlier call has not, and returns the line of the results.

    Raises:
        CalledProcessError: the fit or the test has failed.
    """
    run = newest_run(task, runs)
    if run is None or not is_fitted(run):
        run = fit(task, root, runs, run)
    train_py("test", f"--ckpt_path={run.last_checkpoint}", f"--latents={task.latents}", *data_options(task, root))
    minutes = run.path / MINUTES
    return task._asdict() | {
        "minutes": float(minutes.read_text()) if minutes.is_file() else None,
        "test": run.read_metrics()["test"],
    }


def newest_run(task: Task, runs: Path) -> RunFolder | None:
    """Return the newest run of a task that has a checkpoint, if there is one."""
    paths = (path.parent.parent for path in runs.glob(f"{task.name}/*/checkpoints/*.ckpt"))
    return max(map(RunFolder, paths), key=lambda run: run.path, default=None)


def is_fitted(run: RunFolder) -> bool:
    """Return whether a run has finished: only then it stores its metrics."""
    return "fit" in run.read_metrics()


def fit(task: Task, root: str, runs: Path, interrupted: RunFolder | None) -> RunFolder:
    """Fit a task, from the start or by resuming an interrupted run, and return the run."""
    if interrupted:
        train_py("fit", f"--resume={interrupted.path}", *data_options(task, root))
        return interrupted
    # Epochs replace the recipe's own budget of iterations or time.
    epochs = [f"--trainer.max_epochs={task.epochs}", "--trainer.max_steps=-1", "--trainer.max_time=null"]
    start = time.perf_counter()
    train_py(
        "fit",
        f"--config={CONFIGS / task.recipe}.yaml",
        f"--seed_everything={task.seed}",
        f"--name={task.name}",
        f"--trainer.default_root_dir={runs}",
        *data_options(task, root),
        *([] if task.epochs is None else epochs),
    )
    run = newest_run(task, runs)
    assert run is not None
    # The time of an interrupted run's parts is unknown, so only the minutes of an uninterrupted run are kept.
    (run.path / MINUTES).write_text(f"{(time.perf_counter() - start) / 60:.2f}\n")
    return run


def data_options(task: Task, root: str) -> list[str]:
    """What the command line is told of the data: nothing where they have no source."""
    has_source = "source" in read_recipe(task.recipe)["data"].get("init_args", {})
    return [f"--data.source={task.source}", f"--data.root={root}"] if has_source else []


def train_py(*arguments: str) -> None:
    """Runs train.py in a process of its own.

    Raises:
        CalledProcessError: it has failed; what it printed is in `stdout`.
    """
    command = [sys.executable, str(PROJECT / "train.py"), *arguments, "--trainer.enable_progress_bar=false"]
    subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of the data, as torchvision lays it out")
    parser.add_argument("--source", help="of every recipe whose data have one, instead of the recipes' own")
    parser.add_argument(
        "--recipes", nargs="+", default=["*"], help="files below configs/, without .yaml, or patterns; by default all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of every recipe, instead of the recipes' own budgets")
    parser.add_argument("--latents", choices=["prior", "gmm"], default="prior", help="what VAEs decode samples from")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args(arguments)
    for pattern in args.recipes:
        if not recipes_like([pattern]):
            parser.error(f"there is no configs/{pattern}.yaml: choose from {', '.join(recipes_like(['*']))}")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Performs what is left to do, the first seed of all recipes first; 1 if something failed, else 0."""
    args = parse(arguments)
    recipes = recipes_like(args.recipes)
    tasks = [plan(recipe, seed, args.source, args.epochs, args.latents) for seed in args.seeds for recipe in recipes]
    left, failures = tasks_left(tasks, args.results), 0
    print(f"{len(tasks) - len(left)} of {len(tasks)} are in {args.results}")
    for task in left:
        print(f"{task} ...", flush=True)
        try:
            append_result(args.results, perform(task, args.root, args.runs))
        except subprocess.CalledProcessError as failure:
            failures += 1
            print("failed:", *failure.stdout.splitlines()[-FAILURE_LINES:], sep="\n", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
