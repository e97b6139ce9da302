"""The W&B logger, which never stops a run."""

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn


class SafeWandbLogger(WandbLogger):
    """Lightning's WandbLogger, but offline by default; it never stops a run and never asks for input.

    It logs online if `mode=online` is given here, or `WANDB_MODE=online` in the environment. Without an API key, a
    network or a timely answer the run is logged offline, and a warning names the command that uploads it. If W&B's
    own process is killed, the run continues without W&B.

    Args:
        project: W&B project
        mode: online, offline or disabled; None means the value of WANDB_MODE, or offline if it is not set
        init_timeout: maximum wait for the server at the start of the run, in seconds
        finish_timeout: maximum wait for the upload at the end of the run, in seconds
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
        # With the console log on, W&B copies each refresh of the progress bar, which costs as much as the forward pass
        # of a small network.
        settings = wandb.Settings(init_timeout=init_timeout, finish_timeout=finish_timeout, console="off")
        mode = mode or os.environ.get("WANDB_MODE") or "offline"
        super().__init__(project=project, mode=mode, settings=settings, **kwargs)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; it is offline if online fails."""
        # `_experiment` is None until WandbLogger starts the run, and `_wandb_init` holds the arguments of wandb.init:
        # WandbLogger has no public attribute for either (Lightning 2.6).
        if self._experiment is None and self._wandb_init["mode"] == "online":
            try:
                # wandb.init would ask for a missing key at the terminal; login with prompt=False does not.
                if not wandb.login(prompt=False, verify=False):
                    raise wandb.errors.UsageError("no API key is configured")
                return super().experiment
            except (wandb.errors.UsageError, wandb.errors.CommError) as error:
                rank_zero_warn(f"W&B cannot be used online ({error}). Logging offline; upload later with `wandb sync`.")
                # The service of the failed start still holds the run's id.
                wandb.teardown(exit_code=0)
                # The mode is read again when the run is started below.
                self._wandb_init["mode"] = "offline"
        return super().experiment

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log a configuration."""
        with tolerate_wandb_crash(self):
            super().log_hyperparams(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values; Lightning's `log_image` and `log_table` call this method, too."""
        with tolerate_wandb_crash(self):
            super().log_metrics(metrics, step)


def find_wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the W&B loggers of a Trainer."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


@contextmanager
def tolerate_wandb_crash(logger: WandbLogger) -> Iterator[None]:
    """Continue without W&B if its service has died within the context.

    The service is a process of its own, which a cluster may kill, or a machine that runs out of memory.
    """
    try:
        yield
    except ConnectionError as error:
        rank_zero_warn(
            f"W&B's service has died ({error}). The run continues without W&B, and its metrics are in metrics.csv;"
            " `wandb sync` uploads what W&B has received."
        )
        with suppress(ConnectionError):
            wandb.teardown()
        # WandbLogger has no public way to replace its run, and every later call would use the dead service.
        logger._experiment = wandb.init(mode="disabled")


def alert(trainer: Trainer, title: str, text: str) -> None:
    """Send an alert with each W&B logger."""
    for logger in find_wandb_loggers(trainer):
        with tolerate_wandb_crash(logger):
            logger.experiment.alert(title=title, text=text)


def finish_wandb_runs(trainer: Trainer, exit_code: int = 0) -> None:
    """End the W&B runs, so that none is left in this process; a non-zero exit code marks them as failed."""
    for logger in find_wandb_loggers(trainer):
        with tolerate_wandb_crash(logger):
            logger.experiment.finish(exit_code=exit_code)
