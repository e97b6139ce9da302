"""RunFolder: the paths of a run, and the only reader and writer of its metrics and summary."""

import json
import os
import re
import secrets
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from lightning.pytorch.utilities import rank_zero_only

from callbacks import read_metrics_rows
from cli.damage import find_damaged_metric
from cli.process import find_command
from gen_lightning.errors import UserError
from gen_lightning.storage import acquire_lock, atomic_write, check_space, describe_os_error, remove_stale_files

Curve = list[tuple[int, float]]
"""(iteration, value) pairs of one metric."""

IDENTITY_MARK = "# run "
"""The start of config.yaml's first line, which the run's identity follows."""

MAX_METRICS = 2**26
"""Number of bytes beyond which metrics.json is not read."""

SPACE_FOR_METRICS = 2**18
"""Number of bytes that a long measurement finds free before it begins; a report has some thousands."""


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
        """Return a directory that no other run has: its version is the time and four random hexadecimal digits.

        Raises:
            UserError: the name would lead out of `root`, or is no plain path.
        """
        check_name(name)
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
    def identity(self) -> str:
        """The name that the run began with, which config.yaml and its checkpoints keep when the directory is moved."""
        if not self.is_run:
            return self.name
        try:
            with self.config.open(encoding="utf-8") as file:
                mark, _, identity = file.readline().strip().partition(IDENTITY_MARK)
        except (OSError, UnicodeDecodeError):
            return self.name
        return identity if identity and not mark else self.name

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
            reason = describe_os_error(error)
            raise UserError(f"{self.path} cannot be made: {reason}. Set --trainer.default_root_dir.") from error

    @rank_zero_only
    def remove_if_empty(self) -> None:
        """Remove the directory, on rank 0, if it holds nothing but its lock."""
        with suppress(OSError):
            if [path.name for path in self.path.iterdir()] == [".lock"]:
                (self.path / ".lock").unlink()
                self.path.rmdir()

    def lock(self) -> IO[str]:
        """Lock the directory for this process, and remove what killed processes of the run have left half-written.

        Returns:
            The open file that holds the lock.

        Raises:
            UserError: another process trains the run.
            StorageError: the directory cannot be written.
        """
        path = self.path / ".lock"
        lock = acquire_lock(path, wait=False)
        if lock is None:
            raise UserError(f"{self.path} is in use by {path.read_text()}. Wait for its end, or start a new run.")
        for folder in (self.path, *(path for path in self.path.iterdir() if path.is_dir())):
            remove_stale_files(folder)
        return lock

    def write_config(self, text: str) -> None:
        """Write config.yaml, whose first line names the run."""
        data = f"{IDENTITY_MARK}{self.identity}\n{text}".encode()
        with atomic_write(self.config) as file:
            file.write(data)

    def find_checkpoints(self) -> list[Path]:
        """Return the run's checkpoints by name."""
        return sorted(self.checkpoints.glob("*.ckpt"))

    def find_samples(self, suffix: str = "*") -> list[Path]:
        """Return the files of samples with a suffix, such as png, in the order of their iterations."""
        files = self.path.glob(f"samples/iteration_*.{suffix}")
        return sorted(files, key=lambda file: (len(file.name), file.name))

    def read_metrics(self) -> dict[str, Any]:
        """Return metrics.json: the metrics of each verb; empty if there is no file.

        Raises:
            UserError: the file is corrupt or cannot be read.
        """
        advice = f"Remove it and run `{find_command()} test` again."
        if not os.path.lexists(self.metrics_json):
            return {}
        try:
            # Reading a pipe would wait for a writer.
            if not self.metrics_json.is_file():
                raise UserError(f"{self.metrics_json} is not a regular file. Remove it.")
            if self.metrics_json.stat().st_size > MAX_METRICS:
                raise UserError(f"{self.metrics_json} has more than {MAX_METRICS:,} bytes. {advice}")
            metrics = json.loads(self.metrics_json.read_text())
        except OSError as error:
            raise UserError(f"{self.metrics_json} cannot be read: {describe_os_error(error)}.") from error
        except RecursionError:
            raise UserError(f"{self.metrics_json} is nested too deeply. {advice}") from None
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{self.metrics_json} is corrupt. {advice}") from error
        if place := find_damaged_metric(metrics):
            raise UserError(f"{self.metrics_json} is damaged: {place} is not what train.py writes. {advice}")
        return metrics

    def check_metrics(self) -> None:
        """Check that `write_metrics` will be able to read and write metrics.json, before a long measurement.

        Raises:
            UserError: the file is corrupt or cannot be read.
            StorageError: it cannot be written, or the disk is full.
        """
        self.read_metrics()
        check_space(self.metrics_json, SPACE_FOR_METRICS)

    @rank_zero_only
    def write_metrics(self, verb: str, values: dict[str, Any]) -> None:
        """Store values under a verb in metrics.json, on rank 0; a different earlier test moves to `earlier_tests`.

        Two processes may do this at once, and neither loses what the other has stored.

        Raises:
            UserError: the file is corrupt or cannot be read.
            StorageError: it cannot be written.
        """
        with acquire_lock(self.path / ".metrics.lock", wait=True) or nullcontext():
            self._write_metrics(verb, values)

    def _write_metrics(self, verb: str, values: dict[str, Any]) -> None:
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
        curves: dict[str, Curve] = {}
        for row in read_metrics_rows(self.metrics_csv) if self.metrics_csv.is_file() else ():
            for name, value in row.items():
                with suppress(ValueError):
                    if name.startswith("val/") and value:
                        curves.setdefault(name, []).append((int(row["step"]), float(value)))
        return curves

    @rank_zero_only
    def write_summary(self, iteration: int) -> None:
        """Print the paths of the run's files and store them as summary.txt, on rank 0."""
        shown = RunFolder(os.path.relpath(self.path))
        samples = shown.find_samples()
        metrics = self.read_metrics().get("fit", {})
        rows: dict[str, Any] = {
            "Run": f"{shown.path} ({iteration:,} iterations)",
            "Samples": samples[-1] if samples else "none",
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
        with atomic_write(self.summary) as file:
            file.write(text.encode())
        print(f"\n{text}")


def check_name(name: str) -> None:
    """Check that the name of a run is one or more plain path parts.

    Raises:
        UserError: it is not.
    """
    if not all(re.fullmatch(r"\w[\w.+=@ -]*", part) for part in name.split("/")):
        raise UserError(f"`--name` is {name!r}. Choose letters, digits, _ and -, such as dcgan or mnist/dcgan.")


def test_key(test: dict[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a test: extractor, data, latents, iteration and the N of each metric."""
    numbers = {name: row["n"] for name, row in test.get("metrics", {}).items()}
    return test.get("extractor"), test.get("data"), test.get("latents", "prior"), test.get("iteration"), numbers
