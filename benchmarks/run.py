"""Train and test recipes with several seeds through the command line, and append a line of JSON for each.

    python -m benchmarks.run --root data --recipes gan/losses/*
    python -m benchmarks.run --source mnist_5k --epochs 2 --recipes vae/vae --seeds 0
    python -m benchmarks.run --root data --recipes vae/vae --latents gmm

The data and the budget are the recipe's own unless they are given here. Tasks that are in the results are skipped, and
an interrupted fit is resumed. If a recipe or the code has changed, first delete the recipe's lines.
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
from gen_lightning.storage import atomic_write

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = RECIPES
FAILURE_LINES = 20
MINUTES = "minutes.txt"


class Task(NamedTuple):
    """The fields that identify a line of the results.

    Args:
        recipe: recipe, such as `vae/vae`
        seed: seed of the run
        source: name of the data
        epochs: budget in epochs; None if the recipe limits iterations or time
        latents: source of the latents that tested samples are decoded from, `prior` or `gmm`
    """

    recipe: str
    seed: int
    source: str
    epochs: int | None
    latents: str = "prior"

    @property
    def name(self) -> str:
        """Name of the task's run, by which a later call finds it. Tasks that differ only in `latents` share a run."""
        budget = "" if self.epochs is None else f"-{self.epochs}-epochs"
        return f"benchmark-{self.recipe.replace('/', '-')}-{self.source}{budget}-seed{self.seed}"

    def __str__(self) -> str:
        budget = "" if self.epochs is None else f", {self.epochs} epochs"
        latents = "" if self.latents == "prior" else f", latents from {self.latents}"
        return f"{self.recipe}, seed {self.seed}{budget} on {self.source}{latents}"


def match_recipes(patterns: list[str]) -> list[str]:
    """Return the recipes that match patterns such as `gan/mlp`, or `gan/*` with its subfolders.

    Each recipe is returned once, in the order of the patterns.
    """
    return list(dict.fromkeys(recipe for pattern in patterns for recipe in fnmatch.filter(list_recipes(), pattern)))


def read_recipe(recipe: str) -> dict[str, Any]:
    """Return the configuration of a recipe."""
    return yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())


def make_task(recipe: str, seed: int, source: str | None, epochs: int | None, latents: str = "prior") -> Task:
    """Return the task of a recipe. If the source or the epochs are None, they are the recipe's own."""
    config = read_recipe(recipe)
    return Task(recipe, seed, name_data(config["data"], source), epochs or get_epochs(config["trainer"]), latents)


def name_data(data: dict[str, Any], source: str | None) -> str:
    """Return the name of a recipe's data: the source if there is one, else the mixture, else the data module."""
    arguments = data.get("init_args", {})
    if "source" in arguments:
        return source or arguments["source"]
    return arguments.get("mixture", data)["class_path"].rpartition(".")[2].lower()


def get_epochs(trainer: dict[str, Any]) -> int | None:
    """Return a recipe's budget in epochs, or None if it limits iterations or time."""
    return None if {"max_steps", "max_time"} & trainer.keys() else trainer["max_epochs"]


def read_task(row: dict[str, Any]) -> Task:
    """Return the task of a line of the results."""
    return Task(**{field: row[field] for field in Task._fields if field in row})


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the results; skip incomplete lines, which a killed process leaves, with a warning."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            warnings.warn(f"Line {number} of {path} is incomplete and is ignored.", stacklevel=2)
    return rows


def append_result(path: Path, row: dict[str, Any]) -> None:
    """Append a line, which is on the disk when this returns; an incomplete last line is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a") as file:
        file.write("\n" * incomplete + json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def select_open_tasks(tasks: list[Task], results: Path) -> list[Task]:
    """Return the tasks that are not in the results."""
    done = {read_task(row) for row in read_results(results)}
    return [task for task in tasks if task not in done]


def perform(task: Task, root: str, runs: Path) -> dict[str, Any]:
    """Fit a task, unless an earlier call has fitted it, test it, and return the line of the results.

    Raises:
        CalledProcessError: the fit or the test has failed.
    """
    run = find_newest_run(task, runs)
    if run is None or not is_fitted(run):
        run = fit(task, root, runs, run)
    run_train("test", f"--ckpt_path={run.last_checkpoint}", f"--latents={task.latents}", *list_data_options(task, root))
    minutes = run.path / MINUTES
    return task._asdict() | {
        "minutes": float(minutes.read_text()) if minutes.is_file() else None,
        "test": run.read_metrics()["test"],
    }


def find_newest_run(task: Task, runs: Path) -> RunFolder | None:
    """Return the newest run of a task that has a checkpoint, if there is one."""
    paths = (path.parent.parent for path in runs.glob(f"{task.name}/*/checkpoints/*.ckpt"))
    return max(map(RunFolder, paths), key=lambda run: run.path, default=None)


def is_fitted(run: RunFolder) -> bool:
    """Return whether the fit of a run has ended. Only then its metrics are stored."""
    return "fit" in run.read_metrics()


def fit(task: Task, root: str, runs: Path, interrupted: RunFolder | None) -> RunFolder:
    """Fit a task, by resuming an interrupted run if there is one, and return the run."""
    if interrupted:
        run_train("fit", f"--resume={interrupted.path}", *list_data_options(task, root))
        return interrupted
    # Epochs replace the recipe's own budget of iterations or time.
    epochs = [f"--trainer.max_epochs={task.epochs}", "--trainer.max_steps=-1", "--trainer.max_time=null"]
    start = time.perf_counter()
    run_train(
        "fit",
        f"--config={CONFIGS / task.recipe}.yaml",
        f"--seed_everything={task.seed}",
        f"--name={task.name}",
        f"--trainer.default_root_dir={runs}",
        *list_data_options(task, root),
        *([] if task.epochs is None else epochs),
    )
    run = find_newest_run(task, runs)
    assert run is not None
    # Only the minutes of an uninterrupted run are kept, because the time that an interrupted run took is unknown.
    with atomic_write(run.path / MINUTES) as file:
        file.write(f"{(time.perf_counter() - start) / 60:.2f}\n".encode())
    return run


def list_data_options(task: Task, root: str) -> list[str]:
    """Return the options of the data on the command line; none if the data have no source."""
    has_source = "source" in read_recipe(task.recipe)["data"].get("init_args", {})
    return [f"--data.source={task.source}", f"--data.root={root}"] if has_source else []


def run_train(*arguments: str) -> None:
    """Run train.py in a process of its own.

    Raises:
        CalledProcessError: train.py has failed; its output is in `stdout`.
    """
    command = [sys.executable, str(PROJECT / "train.py"), *arguments, "--trainer.enable_progress_bar=false"]
    subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="directory of the data, in torchvision's layout")
    parser.add_argument("--source", help="source of all recipes whose data have one; default: the recipe's own")
    parser.add_argument(
        "--recipes", nargs="+", default=["*"], help="recipes, such as vae/vae, or patterns; default: all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="budget of all recipes; default: the recipe's own")
    parser.add_argument(
        "--latents", choices=["prior", "gmm"], default="prior", help="latents that VAEs decode samples from"
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args(arguments)
    for pattern in args.recipes:
        if not match_recipes([pattern]):
            parser.error(f"There is no recipe {pattern}. Choose from {', '.join(match_recipes(['*']))}.")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Perform the open tasks, with the first seed of all recipes first, and return 1 if one failed, else 0."""
    args = parse(arguments)
    recipes = match_recipes(args.recipes)
    tasks = [
        make_task(recipe, seed, args.source, args.epochs, args.latents) for seed in args.seeds for recipe in recipes
    ]
    open_tasks, failures = select_open_tasks(tasks, args.results), 0
    print(f"{len(tasks) - len(open_tasks)} of {len(tasks)} tasks are in {args.results}")
    for task in open_tasks:
        print(f"{task} ...", flush=True)
        try:
            append_result(args.results, perform(task, args.root, args.runs))
        except subprocess.CalledProcessError as failure:
            failures += 1
            print("failed:", *failure.stdout.splitlines()[-FAILURE_LINES:], sep="\n", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
