"""Stops a training that has diverged before NaN weights replace a good checkpoint."""

import math
import os
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.checkpoint import LastCheckpoint
from callbacks.loggers import alert
from gen_lightning.contracts import get_settings


class DivergenceError(Exception):
    """The training has diverged. The sentence names the iteration, the last good checkpoint, and what to try."""


class StopOnNaN(Callback):
    """Stops all ranks with a `DivergenceError` and a W&B alert if a loss or a weight is not finite.

    Losses, the scalars named `train/...loss`, are checked whenever scalars are logged. Weights are checked before any
    callback writes a checkpoint of the full training state. A step that mixed precision skips because its gradients
    overflow is not a divergence: its loss is finite.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the losses if this iteration has logged them.

        Raises:
            DivergenceError: a loss is not finite, on any rank.
        """
        if trainer.global_step % get_settings(trainer).log_every_n_steps:
            return
        metrics = trainer.callback_metrics.items()
        scalars = {name: value.item() for name, value in metrics if name.startswith("train/")}
        losses = {name: value for name, value in scalars.items() if name.endswith("loss")}
        reasons = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        if _holds_on_any_rank(bool(reasons), trainer):
            # Lightning would log them after this hook.
            for logger in trainer.loggers:
                logger.log_metrics(scalars, trainer.global_step)
            _stop(" and ".join(reasons) or "a loss of another rank is not finite", trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the weights that are about to be saved.

        Raises:
            DivergenceError: a weight is not finite, on any rank.
        """
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in pl_module.parameters()]).all()
        if _holds_on_any_rank(not finite.item(), trainer):
            _stop("some weights are not finite", trainer)


def _holds_on_any_rank(condition: bool, trainer: Trainer) -> bool:
    return trainer.strategy.reduce_boolean_decision(condition, all=False)


def _stop(reason: str, trainer: Trainer) -> NoReturn:
    event = "The training has diverged"
    text = f"{event} at iteration {trainer.global_step:,}: {reason}. {_suggest_remedy(trainer)}"
    alert(trainer, event, text)
    raise DivergenceError(text)


def _suggest_remedy(trainer: Trainer) -> str:
    callbacks = get_settings(trainer).callbacks
    paths = [callback.path for callback in callbacks if isinstance(callback, LastCheckpoint)]
    saved = [os.path.relpath(path) for path in paths if _holds_training_state(path)]
    if not saved:
        return "There is no checkpoint to resume from. Start a new run with clipped gradients or a lower learning rate."
    # A resumed optimizer has the checkpoint's learning rate unless a schedule sets it.
    return (
        f"Resume from the last good checkpoint, {saved[0]}, with clipped gradients or with model.schedules that lower"
        " the learning rate."
    )


def _holds_training_state(path: str) -> bool:
    """Return whether a file is a whole checkpoint; a ModelCheckpoint may have replaced it by weights alone."""
    try:
        return "optimizer_states" in torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:
        # Any error that the unpickler raises for a truncated file is not the reason why the training stops.
        return False
