"""RunFolder: the paths of a run, and the only reader and writer of its metrics and summary."""

import csv
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from cli.process import find_command
from gen_lightning.errors import UserError
from gen_lightning.storage import atomic_write

Curve = list[tuple[int, float]]
"""(iteration, value) pairs of one metric."""


class RunFolder:
    """The directory runs/NAME/VERSION of one run.

    Args:
        path: the directory, which need not exist
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.metrics_csv = self.path / "metrics.csv"
        self.metrics_json = self.path / "metrics.json"
        self.summary = self.path / "summary.txt"

    @classmethod
    def new(cls, root: str | Path, name: str) -> "RunFolder":
        """Return a directory that no other run has: its version is the time and four random hexadecimal digits."""
        version = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        return cls(Path(root).resolve() / name / version)

    @classmethod
    def containing(cls, checkpoint: str | Path) -> "RunFolder":
        """Return the run directory of a checkpoint, or the checkpoint's own directory if it lies in no run."""
        folder = Path(checkpoint).resolve().parent
        run = cls(folder.parent)
        return run if run.is_run else cls(folder)

    @property
    def is_run(self) -> bool:
        """Whether a run was started in the directory."""
        return self.config.is_file()

    @property
    def recipe(self) -> str:
        """The name of the run's recipe, NAME."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """The version of the run, VERSION."""
        return self.path.name

    @property
    def name(self) -> str:
        """NAME/VERSION."""
        return f"{self.recipe}/{self.version}"

    @property
    def root(self) -> Path:
        """The directory of all runs."""
        return self.path.parent.parent

    @rank_zero_only
    def make(self) -> None:
        """Make the directory, which must not exist, on rank 0.

        Raises:
            UserError: the file system does not allow it.
        """
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"The run's directory cannot be made: {error}. Set --trainer.default_root_dir.") from error

    def find_checkpoints(self) -> list[Path]:
        """Return the run's checkpoints, the newest first."""
        return sorted(self.checkpoints.glob("*.ckpt"), key=os.path.getmtime, reverse=True)

    def find_sample_grids(self) -> list[Path]:
        """Return the pictures of samples in the order of their iterations."""
        grids = self.path.glob("samples/iteration_*.png")
        return sorted(grids, key=lambda grid: (len(grid.name), grid.name))

    def read_metrics(self) -> dict[str, Any]:
        """Return metrics.json: the metrics of each verb; empty if there is no file.

        Raises:
            UserError: the file is corrupt.
        """
        try:
            return json.loads(self.metrics_json.read_text()) if self.metrics_json.is_file() else {}
        except json.JSONDecodeError as error:
            raise UserError(
                f"{self.metrics_json} is corrupt. Remove it and run `{find_command()} test` again."
            ) from error

    @rank_zero_only
    def write_metrics(self, verb: str, values: dict[str, Any]) -> None:
        """Store values under a verb in metrics.json, on rank 0; a different earlier test moves to `earlier_tests`."""
        metrics = self.read_metrics()
        if verb == "fit":
            # A divergence belongs to an earlier part of the run, which was resumed from before it.
            metrics.pop("diverged", None)
        earlier = metrics.get(verb)
        if verb == "test" and earlier and test_key(earlier) != test_key(values):
            tests = [test for test in metrics.get("earlier_tests", []) if test_key(test) != test_key(earlier)]
            metrics["earlier_tests"] = [*tests, earlier]
        metrics[verb] = values if verb == "test" else metrics.get(verb, {}) | values
        with atomic_write(self.metrics_json) as file:
            file.write(f"{json.dumps(metrics, indent=2)}\n".encode())

    def read_curves(self) -> dict[str, Curve]:
        """Return the validation metrics in metrics.csv by name."""
        rows = csv.DictReader(self.metrics_csv.read_text().splitlines()) if self.metrics_csv.is_file() else []
        curves: dict[str, Curve] = {}
        for row in rows:
            # The last row of a killed run may be torn.
            if not (row["step"] or "").isdigit():
                continue
            for name, value in row.items():
                if name and name.startswith("val/") and value:
                    curves.setdefault(name, []).append((int(row["step"]), float(value)))
        return curves

    @rank_zero_only
    def write_summary(self, iteration: int) -> None:
        """Print the paths of the run's files and store them as summary.txt, on rank 0."""
        shown = RunFolder(os.path.relpath(self.path))
        grids = shown.find_sample_grids()
        metrics = self.read_metrics().get("fit", {})
        rows: dict[str, Any] = {
            "Run": f"{shown.path} ({iteration:,} iterations)",
            "Samples": grids[-1] if grids else "none",
            "Metrics": ", ".join(map(str, sorted(shown.path.glob("metrics.*")))),
            **{f"FID ({name})": f"{value:.2f}" for name, value in metrics.items() if "/fid/" in name},
        }
        if shown.last_checkpoint.is_file():
            rows |= {
                "Checkpoint": shown.last_checkpoint,
                "Measure": f"{find_command()} test --ckpt_path {shown.last_checkpoint}",
                "Continue": f"{find_command()} fit --resume {shown.path} --trainer.max_epochs N",
            }
        text = "".join(f"{name + ':':<32}{value}\n" for name, value in rows.items())
        self.summary.write_text(text)
        print(f"\n{text}")


def test_key(test: dict[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a test: extractor, data, latents, iteration and the N of each metric."""
    numbers = {name: row["n"] for name, row in test.get("metrics", {}).items()}
    return test.get("extractor"), test.get("data"), test.get("latents", "prior"), test.get("iteration"), numbers
