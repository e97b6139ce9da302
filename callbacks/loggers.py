"""The W&B logger, which never stops a run."""

import atexit
import math
import os
import signal
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

from gen_lightning.errors import StorageError, UserError
from gen_lightning.storage import check_space, name_file_in_errors

MODES = ("online", "offline", "disabled")
# What W&B raises if its service, its disk or its server fails. A killed service is a ConnectionError, an OSError.
WANDB_FAILURES = (OSError, wandb.errors.Error, HandleAbandonedError, MailboxClosedError)
CALL_TIMEOUT = 30.0
SPACE_FOR_WANDB = 2**18


class SafeWandbLogger(WandbLogger):
    """Lightning's WandbLogger, but offline by default; it never stops a run and never asks for input.

    It logs online if `mode=online` is given here, or `WANDB_MODE=online` in the environment. Without an API key, a
    network or a timely answer the run is logged offline, and a warning names the command that uploads it. If W&B's
    directory cannot be written, or W&B's own process is killed or answers no more, the run continues without W&B.

    Args:
        project: W&B project
        mode: online, offline or disabled; None means the value of WANDB_MODE, or offline if it is not set
        init_timeout: maximum wait for the server at the start of the run, in seconds
        finish_timeout: maximum wait for the upload at the end of the run, in seconds
        call_timeout: maximum wait for W&B's own process, in seconds; at the start and end of the run it is added
        **kwargs: further arguments of `lightning.pytorch.loggers.WandbLogger`

    Raises:
        UserError: W&B refuses an argument or an environment variable.
    """

    def __init__(
        self,
        project: str = "gen_lightning",
        mode: str | None = None,
        init_timeout: float = 20.0,
        finish_timeout: float = 60.0,
        call_timeout: float = CALL_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        source = "WANDB_MODE" if mode is None else "--trainer.logger.mode"
        mode = mode or os.environ.get("WANDB_MODE") or "offline"
        if mode not in MODES:
            raise UserError(f"`{source}` is {mode}. Choose online, offline or disabled.")
        check_wandb_settings(project)
        # With the console log on, W&B copies each refresh of the progress bar, which costs as much as the forward pass
        # of a small network.
        settings = wandb.Settings(init_timeout=init_timeout, finish_timeout=finish_timeout, console="off")
        super().__init__(project=project, mode=mode, settings=settings, **kwargs)
        # W&B warns that the argument has no effect, even for None.
        self._wandb_init.pop("anonymous", None)
        self._init_timeout = init_timeout
        self.finish_timeout = finish_timeout
        self.call_timeout = call_timeout

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; it is offline if online fails, and disabled if offline fails, too."""
        # `_experiment` is None until WandbLogger starts the run, and `_wandb_init` holds the arguments of wandb.init:
        # WandbLogger has no public attribute for either (Lightning 2.6).
        if self._experiment is None:
            with tolerate_wandb_failure(self, self._init_timeout):
                if self._wandb_init["mode"] != "disabled":
                    self._check_folder()
                if self._wandb_init["mode"] == "online":
                    self._start_online()
                return super().experiment
        return self._experiment

    def _start_online(self) -> None:
        try:
            # wandb.init would ask for a missing key at the terminal; login with prompt=False does not.
            if not wandb.login(prompt=False, verify=False):
                raise wandb.errors.UsageError("no API key is configured")
            server = wandb.setup().settings.base_url
            rank_zero_info(f"Waiting for W&B's server {server}, for at most {self._init_timeout:g} s.")
            _ = super().experiment
        except (wandb.errors.UsageError, wandb.errors.CommError) as error:
            reason = str(error).partition("\n")[0]
            rank_zero_warn(f"W&B cannot be used online ({reason}). Logging offline; upload later with `wandb sync`.")
            # The service of the failed start still holds the run's id.
            wandb.teardown(exit_code=0)
            # The mode is read again when the run is started.
            self._wandb_init["mode"] = "offline"

    def _check_folder(self) -> None:
        # W&B would write to TMPDIR instead.
        folder = Path(self.save_dir or ".", "wandb")
        with name_file_in_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            check_space(folder / "run.wandb", SPACE_FOR_WANDB)

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log a configuration."""
        with tolerate_wandb_failure(self):
            super().log_hyperparams(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values; Lightning's `log_image` and `log_table` call this method, too."""
        with tolerate_wandb_failure(self):
            super().log_metrics(metrics, step)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Log images."""
        # W&B reads and copies the images before it logs them.
        with tolerate_wandb_failure(self):
            super().log_image(key, images, step, **kwargs)


def check_wandb_settings(project: str) -> None:
    """Check the environment variables and the project's name before W&B reads them.

    Raises:
        UserError: W&B refuses one.
    """
    variables = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    try:
        wandb.Settings(project=project)
    except wandb.errors.UsageError as error:
        raise UserError(f"`--trainer.logger.project` is {project}, which W&B refuses: {error}.") from error
    for name, value in variables.items():
        try:
            wandb.Settings().update_from_env_vars({name: value})
        except (ValueError, wandb.errors.UsageError) as error:
            raise UserError(f"`{name}` is {value}, which W&B refuses. Correct the variable, or unset it.") from error


def find_wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the W&B loggers of a Trainer."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


@contextmanager
def tolerate_wandb_failure(logger: WandbLogger, extra_time: float = 0) -> Iterator[None]:
    """Continue without W&B if it fails within the context.

    W&B's service is a process of its own. A cluster may kill it, a machine that runs out of memory may freeze it, and
    its disk may be full. A service that does not answer in time is killed.

    Args:
        logger: the logger, which is disabled after a failure
        extra_time: time that the context may take beyond the logger's `call_timeout`, in seconds
    """
    timeout = getattr(logger, "call_timeout", CALL_TIMEOUT) + extra_time
    try:
        with _watchdog.limit(timeout):
            yield
    except WANDB_FAILURES as error:
        what = str(error) if isinstance(error, StorageError) else f"W&B's service has died ({error})."
        rank_zero_warn(
            f"{what} The run continues without W&B. metrics.csv and the pictures in the run's directory are complete;"
            " what W&B has not written yet is missing in its own files."
        )
        with suppress(*WANDB_FAILURES), _watchdog.limit(timeout):
            wandb.teardown()
        # WandbLogger has no public way to replace its run, and every later call would use the dead service.
        logger._experiment = wandb.init(mode="disabled")


class _Watchdog:
    """Kills W&B's service if a call takes too long. The call, which waits for an answer, then ends with an error."""

    def __init__(self) -> None:
        self._deadline = math.inf
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Limit the time in the context; of nested contexts, the outermost limit holds."""
        # A forked process has none of its parent's threads.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._watch, name="wandb-watchdog", daemon=True)
            self._thread.start()
            # W&B waits for its service at the end of the process, too.
            atexit.register(self._start, 2 * CALL_TIMEOUT)
        if self._deadline < math.inf:
            yield
            return
        self._start(seconds)
        try:
            yield
        finally:
            self._deadline = math.inf

    def _start(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            if time.monotonic() > self._deadline:
                self._deadline = math.inf
                _kill_wandb_service()


_watchdog = _Watchdog()


def _kill_wandb_service() -> None:
    """Kill W&B's service, a child of this process for which W&B has no public handle."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, _, rest = path.read_text().partition(" (")
            name, _, fields = rest.rpartition(") ")
            if name == "wandb-core" and int(fields.split()[1]) == os.getpid():
                os.kill(int(number), signal.SIGKILL)


def alert(trainer: Trainer, title: str, text: str) -> None:
    """Send an alert with each W&B logger."""
    for logger in find_wandb_loggers(trainer):
        with tolerate_wandb_failure(logger):
            logger.experiment.alert(title=title, text=text)


def finish_wandb_runs(trainer: Trainer, exit_code: int = 0) -> None:
    """End the W&B runs, so that none is left in this process; a non-zero exit code marks them as failed."""
    for logger in find_wandb_loggers(trainer):
        finish_timeout = getattr(logger, "finish_timeout", 0)
        with tolerate_wandb_failure(logger, finish_timeout):
            run = logger.experiment
            run.finish(exit_code=exit_code)
            if not run.disabled and not Path(run.dir).is_dir():
                rank_zero_warn(f"{run.dir} has been removed, and what W&B had logged there is lost.")
