"""Checkpoints that are whole, recent, and taken between two iterations."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gen_lightning.errors import UserError
from gen_lightning.storage import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a killed run leaves the old checkpoint or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves `checkpoint` as the file `path`, atomically wherever TMPDIR is."""
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run's folder: every n iterations, at the end, and on SIGTERM or Ctrl-C.

    It is saved when the next iteration begins, so that whatever followed the last one, such as a validation, is in it.
    SIGTERM within a validation ends it: that validation's metrics are not logged after a resume.

    Args:
        every_n_iterations: how many iterations a killed run may lose, 1 or more
    """

    def __init__(self, every_n_iterations: int = 500) -> None:
        if every_n_iterations < 1:
            raise UserError(f"every_n_iterations is {every_n_iterations}: choose 1 or more.")
        self.every_n_iterations = every_n_iterations
        self._saved_at = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resolves the folder on all ranks together."""
        self.path = os.path.join(trainer.log_dir or trainer.default_root_dir, "checkpoints", "last.ckpt")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Saves when an iteration in `every_n_iterations` has been completed."""
        if trainer.global_step % self.every_n_iterations == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what has been trained."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves on SIGTERM, and on Ctrl-C between two iterations."""
        # Within an iteration one player may have been updated and the other not: the checkpoint before it stands.
        # After Ctrl-C the ranks are in different iterations, and saving together would wait for ever.
        between_iterations = trainer.fit_loop.epoch_loop.batch_progress.total.ready == trainer.global_step
        interrupted = isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1
        if (
            trainer.state.fn == "fit"
            and between_iterations
            and (interrupted or isinstance(exception, SIGTERMException))
        ):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self._saved_at or trainer.fast_dev_run:
            return
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at = trainer.global_step
