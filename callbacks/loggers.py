"""Loggers that lose nothing and never stop a run."""

import csv
import os
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn


class MetricsCSV(CSVLogger):
    """Lightning's CSVLogger, writing `metrics.csv`, that goes on in the file of a resumed run instead of deleting it.

    Args:
        save_dir: the folder of all runs
        name: of the run's recipe
        version: of the run: its folder is `save_dir/name/version`
        last_step: the iteration that the run is resumed from; later rows are logged again
    """

    def __init__(self, save_dir: str, name: str, version: str, last_step: int = 0) -> None:
        super().__init__(save_dir, name, version)
        self._last_step = last_step

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer, holding the rows that are kept."""
        if self._experiment is None:
            metrics, old = Path(self.log_dir, "metrics.csv"), Path(self.log_dir, "metrics.csv.old")
            if metrics.exists() and not old.exists():
                metrics.rename(old)
            kept = self._rows_to_keep(old)
            with warnings.catch_warnings():
                # Lightning's writer warns of the run's other files, and would delete this one.
                warnings.simplefilter("ignore")
                writer = super().experiment
            writer.metrics = kept
            writer.save()
            old.unlink(missing_ok=True)
        return self._experiment

    def _rows_to_keep(self, path: Path) -> list[dict[str, str]]:
        if not path.exists():
            return []
        with path.open(newline="") as file:
            # The last row of a killed run may be torn.
            rows = [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
        return [row for row in rows if int(row["step"]) <= self._last_step]


class SafeWandbLogger(WandbLogger):
    """Lightning's WandbLogger, offline unless asked otherwise, that never stops a run and never asks anything.

    Online is asked for by `mode=online` here or `WANDB_MODE=online` in the environment. Without a key, a network or an
    answer in time the run is logged offline, and a warning names the command that uploads it. When W&B's own process
    has been killed, the run goes on without W&B.

    Args:
        project: the W&B project
        mode: online, offline or disabled; None follows WANDB_MODE, and is offline without it
        init_timeout: the longest wait for the server when the run begins, in seconds
        finish_timeout: the longest wait for the upload when the run ends, in seconds
        **kwargs: further arguments of `lightning.pytorch.loggers.WandbLogger`
    """

    def __init__(
        self,
        project: str = "gen_lightning",
        mode: str | None = None,
        init_timeout: float = 30.0,
        finish_timeout: float = 60.0,
        **kwargs: Any,
    ) -> None:
        # A copy of the progress bar for the console's log would cost as much as a small network's forward pass.
        settings = wandb.Settings(init_timeout=init_timeout, finish_timeout=finish_timeout, console="off")
        mode = mode or os.environ.get("WANDB_MODE") or "offline"
        super().__init__(project=project, mode=mode, settings=settings, **kwargs)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, offline where online fails."""
        if self._experiment is None and self._wandb_init["mode"] == "online":
            try:
                if not wandb.login(prompt=False, verify=False):
                    raise wandb.errors.UsageError("no API key is configured")
                return super().experiment
            except (wandb.errors.UsageError, wandb.errors.CommError) as error:
                rank_zero_warn(f"W&B cannot be used online ({error}): logging offline; upload later with `wandb sync`.")
                # The service of the failed start still holds the run's id.
                wandb.teardown(exit_code=0)
                self._wandb_init["mode"] = "offline"
        return super().experiment

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Logs a configuration."""
        with tolerate_wandb_crash(self):
            super().log_hyperparams(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs values, and all that Lightning makes values of: images and tables."""
        with tolerate_wandb_crash(self):
            super().log_metrics(metrics, step)


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """The W&B loggers of a run."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


@contextmanager
def tolerate_wandb_crash(logger: WandbLogger) -> Iterator[None]:
    """Within it, a run outlives W&B's service: a process of its own, which memory's end or a cluster may kill."""
    try:
        yield
    except ConnectionError as error:
        rank_zero_warn(
            f"W&B's service has died ({error}): this run goes on without W&B, and its metrics in metrics.csv;"
            " `wandb sync` uploads what W&B has of it."
        )
        with suppress(ConnectionError):
            wandb.teardown()
        logger._experiment = wandb.init(mode="disabled")


def alert(trainer: Trainer, title: str, text: str) -> None:
    """Sends an alert by each W&B logger."""
    for logger in wandb_loggers(trainer):
        with tolerate_wandb_crash(logger):
            logger.experiment.alert(title=title, text=text)


def finish_wandb_runs(trainer: Trainer, exit_code: int = 0) -> None:
    """Ends the W&B runs, as failed where the exit code is not 0, so that nothing of them is left in this process."""
    for logger in wandb_loggers(trainer):
        with tolerate_wandb_crash(logger):
            logger.experiment.finish(exit_code=exit_code)
