"""Stops a training that has diverged before NaN weights replace a good checkpoint."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils import get_total_norm

from callbacks.checkpoint import LastCheckpoint
from callbacks.loggers import alert
from gen_lightning.contracts import get_settings


class DivergenceError(Exception):
    """The training has diverged. The sentence names the iteration, the last good checkpoint, and what to try."""


class StopOnNaN(Callback):
    """Stops all ranks with a `DivergenceError` and a W&B alert if a loss, gradient, weight or state is not finite.

    Losses, the scalars named `train/...loss`, and gradients are checked whenever scalars are logged. Weights, buffers
    and the optimizers' states are checked before any callback writes a checkpoint of the full training state. A step
    that mixed precision skips because its gradients overflow is not a divergence: its loss is finite.

    A validation metric that is not finite does not stop the training, since the cause may be the validation data. It is
    reported once, and no `ModelCheckpoint` saves a checkpoint for it.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep every `ModelCheckpoint` from choosing a checkpoint by a score that is not finite."""
        self._reported: set[str] = set()
        # Such as the -inf of a mask.
        buffers = pl_module.named_buffers()
        self._infinite_buffers = {name for name, buffer in buffers if not _are_finite([buffer])}
        for callback in get_settings(trainer).callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor:
                self._guard(callback)

    def _guard(self, checkpoint: ModelCheckpoint) -> None:
        # Lightning 2.6 takes NaN for the worst score, with which the first checkpoint is saved, and an infinite score
        # may be the best for ever.
        choose = checkpoint.check_monitor_top_k

        def check_monitor_top_k(trainer: Trainer, current: Tensor | None = None) -> bool:
            infinite = current is not None and not _are_finite([torch.as_tensor(current)])
            if _holds_on_any_rank(infinite, trainer):
                self._report([str(checkpoint.monitor)], trainer)
                return False
            return choose(trainer, current)

        checkpoint.check_monitor_top_k = check_monitor_top_k  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the losses and the gradients if this iteration has logged scalars.

        Raises:
            DivergenceError: a loss or a gradient is not finite, on any rank.
        """
        if trainer.global_step % get_settings(trainer).log_every_n_steps:
            return
        metrics = trainer.callback_metrics.items()
        scalars = {name: value.item() for name, value in metrics if name.startswith("train/")}
        losses = {name: value for name, value in scalars.items() if name.endswith("loss")}
        reasons = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        # The steps that a scaler skips have such gradients, too.
        if trainer.precision != "16-mixed" and not _are_finite(gradients):
            reasons.append("some gradients are not finite")
        if _holds_on_any_rank(bool(reasons), trainer):
            # Lightning would log them after this hook.
            for logger in trainer.loggers:
                logger.log_metrics(scalars, trainer.global_step)
            _stop(" and ".join(reasons) or "a loss or a gradient of another rank is not finite", trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report which validation metrics are not finite."""
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics.items()
        self._report([name for name, value in metrics if name.startswith("val/") and not _are_finite([value])], trainer)

    def _report(self, names: list[str], trainer: Trainer) -> None:
        new = [name for name in names if name in trainer.callback_metrics and name not in self._reported]
        self._reported.update(new)
        for name in new:
            rank_zero_warn(
                f"{name} is {trainer.callback_metrics[name]:.3g} at iteration {trainer.global_step:,}. No checkpoint"
                " is chosen by such a value. Check the validation data and the samples."
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the weights and the optimizers' states that are about to be saved.

        Raises:
            DivergenceError: one is not finite, on any rank.
        """
        self.check_states(trainer, pl_module)

    def check_states(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the weights, the buffers and the optimizers' states.

        Lightning calls no hook of a callback for a checkpoint of weights alone: the command line's Trainer calls this.

        Raises:
            DivergenceError: one is not finite, on any rank.
        """
        weights = [value for name, value in pl_module.state_dict().items() if name not in self._infinite_buffers]
        parts = {
            "weights": weights,
            "states of an optimizer": list(_walk_tensors([one.state_dict() for one in trainer.optimizers])),
        }
        reasons = [f"some {name} are not finite" for name, tensors in parts.items() if not _are_finite(tensors)]
        if _holds_on_any_rank(bool(reasons), trainer):
            _stop(" and ".join(reasons) or "some weights of another rank are not finite", trainer)


def _are_finite(tensors: Iterable[Any]) -> bool:
    floats = [one.detach() for one in tensors if isinstance(one, Tensor) and one.is_floating_point() and one.numel()]
    # The largest absolute value is NaN if there is a NaN. One transfer from the device tells of all tensors.
    return not floats or bool(get_total_norm(floats, math.inf).isfinite())


def _walk_tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _walk_tensors(value)


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
