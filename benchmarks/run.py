"""Trains and tests recipes over seeds through the command line, a line of JSON each.

    python -m benchmarks.run --root data
    python -m benchmarks.run --source digits --epochs 2 --recipes vae/vae --seeds 0

What the results hold already is not done again, and a fit that was interrupted goes on where it was. Results know
nothing of what is changed in a recipe or the code: take their lines out of the file then.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

EPOCHS = {"gan/mlp": 50, "gan/dcgan": 5, "vae/vae": 50, "vae/conv": 5}

PROJECT = Path(__file__).resolve().parents[1]
LINES_OF_FAILURE = 20


class Task(NamedTuple):
    """What identifies a line of the results."""

    recipe: str
    seed: int
    source: str
    epochs: int

    @property
    def name(self) -> str:
        """The name of its runs, by which an interrupted one is found again."""
        return f"benchmark-{self.recipe.replace('/', '-')}-{self.source}-{self.epochs}-epochs-seed{self.seed}"


def task_of(row: dict[str, Any]) -> Task:
    """What a line of the results is of."""
    return Task(*(row[field] for field in Task._fields))


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
    done = {task_of(row) for row in read_results(results)}
    return [task for task in tasks if task not in done]


def perform(task: Task, root: str, runs: Path) -> dict[str, Any]:
    """Fits and tests, as far as an earlier call has not, and returns the line of the results.

    Raises:
        CalledProcessError: the fit or the test has failed.
    """
    folder = newest_run(task, runs)
    if folder is None or not is_fitted(folder):
        folder = fit(task, root, runs, folder)
    train_py("test", f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}", f"--data.root={root}")
    minutes = folder / "minutes.txt"
    return task._asdict() | {
        "minutes": float(minutes.read_text()) if minutes.is_file() else None,
        "test": json.loads((folder / "metrics.json").read_text())["test"],
    }


def newest_run(task: Task, runs: Path) -> Path | None:
    """The folder of the newest run of a task that has a checkpoint, if there is one."""
    return max((path.parent.parent for path in runs.glob(f"{task.name}/*/checkpoints/*.ckpt")), default=None)


def is_fitted(folder: Path) -> bool:
    """Whether a run has come to its end: only then does it write what it has measured."""
    path = folder / "metrics.json"
    return path.is_file() and "fit" in json.loads(path.read_text())


def fit(task: Task, root: str, runs: Path, interrupted: Path | None) -> Path:
    """Fits a task, from the start or going on in the folder of an interrupted run, and returns the run's folder."""
    if interrupted:
        train_py("fit", f"--resume={interrupted}", f"--data.root={root}")
        return interrupted
    start = time.perf_counter()
    train_py(
        "fit",
        f"--config={PROJECT / 'configs' / task.recipe}.yaml",
        f"--seed_everything={task.seed}",
        f"--name={task.name}",
        f"--data.source={task.source}",
        f"--data.root={root}",
        f"--trainer.default_root_dir={runs}",
        f"--trainer.max_epochs={task.epochs}",
    )
    folder = newest_run(task, runs)
    assert folder is not None
    # Nobody knows how long the parts of an interrupted run took, so only a whole one's minutes are kept.
    (folder / "minutes.txt").write_text(f"{(time.perf_counter() - start) / 60:.2f}\n")
    return folder


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
    parser.add_argument("--source", default="mnist")
    parser.add_argument("--recipes", nargs="+", default=list(EPOCHS), help="files below configs/, without .yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of every recipe, instead of the recipes' own budgets")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results.jsonl"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args(arguments)
    for recipe in args.recipes:
        if not (PROJECT / "configs" / f"{recipe}.yaml").is_file():
            parser.error(f"there is no configs/{recipe}.yaml: choose from {', '.join(EPOCHS)}")
        if recipe not in EPOCHS and args.epochs is None:
            parser.error(f"{recipe} has no budget: add --epochs N")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Performs what is left to do, the first seed of all recipes first; 1 if something failed, else 0."""
    args = parse(arguments)
    tasks = [
        Task(recipe, seed, args.source, args.epochs or EPOCHS[recipe]) for seed in args.seeds for recipe in args.recipes
    ]
    left, failures = tasks_left(tasks, args.results), 0
    print(f"{len(tasks) - len(left)} of {len(tasks)} are in {args.results}")
    for task in left:
        print(f"{task.recipe}, seed {task.seed}, {task.epochs} epochs on {task.source} ...", flush=True)
        try:
            append_result(args.results, perform(task, args.root, args.runs))
        except subprocess.CalledProcessError as failure:
            failures += 1
            print("failed:", *failure.stdout.splitlines()[-LINES_OF_FAILURE:], sep="\n", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
