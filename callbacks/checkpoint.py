"""Checkpoints that are written atomically, often enough, and between two iterations."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gen_lightning.checks import check_range
from gen_lightning.clock import is_between_iterations
from gen_lightning.contracts import get_settings
from gen_lightning.storage import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that are never half-written: a killed run leaves either the old checkpoint or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint atomically, even if TMPDIR is on another file system."""
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run directory: every n iterations, at the end, and on SIGTERM or Ctrl-C.

    The checkpoint is saved when the next iteration begins, so that it includes what followed the last iteration, such
    as a validation. SIGTERM during a validation ends the validation; its metrics are not logged after a resume.

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

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save a checkpoint if the number of completed iterations is a multiple of `every_n_iterations`."""
        if trainer.global_step % self.every_n_iterations == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the trained model."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save a checkpoint on SIGTERM or Ctrl-C, unless an iteration is incomplete."""
        # Within an iteration one player may be updated and the other not, so the previous checkpoint is kept.
        if trainer.state.fn == "fit" and is_between_iterations(trainer) and _may_save_after(exception, trainer):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self._saved_at or get_settings(trainer).fast_dev_run:
            return
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at = trainer.global_step


def _may_save_after(exception: BaseException, trainer: Trainer) -> bool:
    # After Ctrl-C the ranks are in different iterations, and saving, which they do together, would wait forever.
    interrupted = isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1
    return interrupted or isinstance(exception, SIGTERMException)
