"""Checkpoints that are written atomically, often enough, and between two iterations."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gen_lightning.checks import check_range
from gen_lightning.clock import is_between_iterations
from gen_lightning.contracts import get_settings
from gen_lightning.errors import UserError
from gen_lightning.stopping import Stop, begin_deferral, begin_end, check_stop, end_deferral
from gen_lightning.storage import atomic_write, is_intact, name_file_in_errors, save_with_checksum


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that are whole and checked.

    A killed run leaves either the old checkpoint or the new one. A changed bit anywhere in the file is found when the
    checkpoint is loaded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folders: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint atomically, even if TMPDIR is on another file system.

        Its directory is made for the first checkpoint only, so that a run whose directory is removed does not go on
        without a word.

        Raises:
            StorageError: the file cannot be written.
        """
        path = Path(path)
        if path.parent not in self._folders:
            with name_file_in_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        with atomic_write(path) as file:
            save_with_checksum(checkpoint, file)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint, and check the checksum of a local file.

        Raises:
            UserError: the file has been changed since it was written.
        """
        check_checksum(Path(path))
        return super().load_checkpoint(path, *args, **kwargs)


def check_checksum(path: Path) -> None:
    """Check that a local checkpoint is as it was written.

    Raises:
        UserError: its content does not match its checksum.
        OSError: the file cannot be read.
    """
    if path.is_file() and not is_intact(path):
        raise UserError(f"{path} is damaged: its checksum does not match its content. Give another file.")


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run directory: every n iterations, at the end, and on SIGTERM or Ctrl-C.

    The checkpoint before it remains as `previous.ckpt`, for the case that last.ckpt is damaged.

    The checkpoint is saved when the next iteration begins, so that it includes what followed the last iteration, such
    as a validation. A stop within a validation saves that the validation is due, and a resumed run begins with it.
    All ranks stop and save together.

    Args:
        every_n_iterations: number of iterations that a killed run may lose; at least 1
    """

    def __init__(self, every_n_iterations: int = 500) -> None:
        check_range(self, at_least=1, every_n_iterations=every_n_iterations)
        self.every_n_iterations = every_n_iterations
        self._saved_at = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the path of the checkpoint; all ranks do it, because `log_dir` is broadcast."""
        self.path = os.path.join(trainer.log_dir or trainer.default_root_dir, "checkpoints", "last.ckpt")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let SIGTERM and Ctrl-C wait for the moments at which a checkpoint can be saved."""
        begin_deferral()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save a checkpoint if the number of completed iterations is a multiple of `every_n_iterations`.

        Raises:
            Stop: SIGTERM or Ctrl-C has come; `on_exception` saves.
        """
        if trainer.global_step % self.every_n_iterations == 0:
            self._save(trainer)
        check_stop(trainer.global_step)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop the validation if SIGTERM or Ctrl-C has come.

        Raises:
            Stop: SIGTERM or Ctrl-C has come; `on_exception` saves.
        """
        check_stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the trained model."""
        self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the program if SIGTERM or Ctrl-C has come since the last batch."""
        end_deferral()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save a checkpoint on SIGTERM or Ctrl-C, unless an iteration is incomplete."""
        begin_end()
        if trainer.state.fn == "fit" and _may_save_after(exception, trainer):
            self._save(trainer)
        end_deferral()

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self._saved_at or get_settings(trainer).fast_dev_run:
            return
        with _keep_previous(Path(self.path), trainer.is_global_zero):
            trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at = trainer.global_step


@contextmanager
def _keep_previous(path: Path, is_global_zero: bool) -> Iterator[None]:
    """Keep a checkpoint that is replaced within the context under the name `previous.ckpt`, on rank 0."""
    link = path.with_name(".previous.ckpt.tmp")
    # Some file systems have no hard links; their runs keep only the last checkpoint.
    if is_global_zero:
        with suppress(OSError):
            link.unlink(missing_ok=True)
            link.hardlink_to(path)
    yield
    # Renamed only now, because a killed run may have left a damaged checkpoint at `path` and a good previous one.
    if is_global_zero:
        with suppress(OSError):
            link.replace(path.with_name("previous.ckpt"))


def _may_save_after(exception: BaseException, trainer: Trainer) -> bool:
    if isinstance(exception, Stop):
        return exception.agreed
    # Without train.py's handlers, Lightning's end a training. Within an iteration one player may be updated and the
    # other not, so the previous checkpoint is kept. After Ctrl-C the ranks are in different iterations, and saving,
    # which they do together, would wait forever.
    interrupted = isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1
    return is_between_iterations(trainer) and (interrupted or isinstance(exception, SIGTERMException))
