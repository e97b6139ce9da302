"""Training that has diverged stops, before what is not a number takes the place of a good checkpoint."""

import math
import os
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.checkpoint import LastCheckpoint
from callbacks.loggers import alert


class DivergenceError(Exception):
    """The training has diverged: one sentence says when, which checkpoint is good, and what to try."""


class StopOnNaN(Callback):
    """Stops all ranks by a `DivergenceError`, and by a W&B alert, where a loss or a weight is not finite.

    The losses, scalars named `train/...loss`, are looked at whenever scalars are logged, and the weights before any
    checkpoint of the whole training state is written, whichever callback writes it. A step that mixed precision leaves
    out because its gradients overflow is no divergence: its loss is finite.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the losses when they have been logged.

        Raises:
            DivergenceError: one of them is not finite, on any rank.
        """
        if trainer.global_step % trainer.log_every_n_steps:
            return
        metrics = trainer.callback_metrics.items()
        scalars = {name: value.item() for name, value in metrics if name.startswith("train/")}
        losses = {name: value for name, value in scalars.items() if name.endswith("loss")}
        reasons = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        if _on_any_rank(bool(reasons), trainer):
            # Lightning's own turn to log them would be after this hook.
            for logger in trainer.loggers:
                logger.log_metrics(scalars, trainer.global_step)
            _stop(" and ".join(reasons) or "a loss of another rank is not finite", trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Looks at the weights that are to be saved.

        Raises:
            DivergenceError: one of them is not finite, on any rank.
        """
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in pl_module.parameters()]).all()
        if _on_any_rank(not finite.item(), trainer):
            _stop("there are weights that are not finite", trainer)


def _on_any_rank(decision: bool, trainer: Trainer) -> bool:
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


def _stop(reason: str, trainer: Trainer) -> NoReturn:
    event = "The training has diverged"
    text = f"{event} at iteration {trainer.global_step:,}, where {reason}: {_way_out(trainer)}."
    alert(trainer, event, text)
    raise DivergenceError(text)


def _way_out(trainer: Trainer) -> str:
    paths = [callback.path for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)]
    saved = [os.path.relpath(path) for path in paths if _holds_training_state(path)]
    if not saved:
        return "there is no checkpoint to resume from, so train anew with clipped gradients or a lower learning rate"
    # A resumed optimizer has the checkpoint's learning rate, unless a schedule sets it.
    return (
        f"resume from the last good checkpoint, {saved[0]}, with clipped gradients or with model.schedules that lower"
        " the learning rate"
    )


def _holds_training_state(path: str) -> bool:
    """Whether a file is a checkpoint that is whole; a ModelCheckpoint may have put weights alone in its place."""
    try:
        return "optimizer_states" in torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:
        # Whatever a truncated file makes of the unpickler, it is not why the training stops.
        return False
