"""Collapse is seen, not guessed: warnings when a GAN's game is over."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.counts import check_counts
from callbacks.loggers import alert
from gen_lightning.errors import UserError


class CollapseMonitor(Callback):
    """Warns, in the log and by a W&B alert, once each time that one of these begins.

    - The discriminator has won: it tells real from generated examples, and the generator's gradient has vanished.
    - The discriminator overfits: it is far more accurate on the training examples than on held-out ones.
    - The samples have collapsed: they are far closer to each other than real examples are. The ratio of the mean
      distances is logged as `val/sample_diversity`: about 1 for a perfect model, 0 for equal samples.

    The first is looked at whenever scalars are logged, the others after each validation. The gradient of a model with
    codes has theirs in it, which need not vanish where the discriminator has won. That samples lack some modes and vary
    within the others, distances do not see: counting modes does. What diverges is `StopOnNaN`'s affair.

    Args:
        accuracy: has won: the least accuracy on real and on generated examples, in [0, 1]
        vanishing: has won: the largest norm of the generator's gradient, as a fraction of the largest one logged so far
        patience: has won: in how many logged iterations in a row, 1 or more
        overfitting: overfits: the least difference between the accuracies on the training examples of one batch, which
            has about 100 of them or more, and on held-out examples
        diversity: have collapsed: the largest ratio of the mean distances
        validations: have collapsed: in how many validations in a row, 1 or more; the first may come before a model has
            learnt to vary its samples
        num_samples: real examples, at most those of one batch, and samples between which distances are taken, 2 or more
        seed: of the samples
        stop: whether training stops, and its last checkpoint is saved, instead of going on

    Raises:
        UserError: a share, fraction, difference or ratio is not in [0, 1], or a number is too small.
    """

    def __init__(
        self,
        accuracy: float = 0.99,
        vanishing: float = 0.01,
        patience: int = 5,
        overfitting: float = 0.4,
        diversity: float = 0.2,
        validations: int = 2,
        num_samples: int = 256,
        seed: int = 0,
        stop: bool = False,
    ) -> None:
        limits = {"accuracy": accuracy, "vanishing": vanishing, "overfitting": overfitting, "diversity": diversity}
        for name, value in limits.items():
            if not 0 <= value <= 1:
                raise UserError(f"CollapseMonitor's {name} is {value}: choose 0 to 1.")
        check_counts(self, patience=patience, validations=validations)
        check_counts(self, 2, num_samples=num_samples)
        self.accuracy = accuracy
        self.vanishing = vanishing
        self.patience = patience
        self.overfitting = overfitting
        self.diversity = diversity
        self.validations = validations
        self.num_samples = num_samples
        self.seed = seed
        self.stop = stop
        self._events: set[str] = set()
        self._in_a_row: dict[str, int] = {}
        self._largest_norm = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses models without a game.

        Raises:
            UserError: the model has no discriminator.
        """
        if not hasattr(pl_module, "discriminator"):
            raise UserError(f"{type(pl_module).__name__} has no discriminator: leave CollapseMonitor out.")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the training's scalars when they have been logged."""
        if trainer.global_step % trainer.log_every_n_steps:
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        norm = metrics["train/generator_gradient_norm"]
        # Under 16-mixed precision, a step whose gradients overflow is left out, and no divergence.
        if math.isfinite(norm):
            self._look_for_a_winner(trainer, norm, metrics["train/real_accuracy"], metrics["train/fake_accuracy"])

    def _look_for_a_winner(self, trainer: Trainer, norm: float, real_accuracy: float, fake_accuracy: float) -> None:
        self._largest_norm = max(self._largest_norm, norm)
        self._tell(
            trainer,
            "The discriminator has won",
            min(real_accuracy, fake_accuracy) >= self.accuracy and norm <= self.vanishing * self._largest_norm,
            f"it is right on {real_accuracy:.1%} of real and {fake_accuracy:.1%} of generated examples, and the norm of"
            f" the generator's gradient has gone from {self._largest_norm:.2g} to {norm:.2g}; add a regularizer such as"
            " R1, or lower the discriminator's learning rate",
            patience=self.patience,
        )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compares samples with the first batch."""
        if batch_idx or not _is_in_fit(trainer):
            return
        real = batch[0][: self.num_samples]
        samples = pl_module.sample(len(real), generator=torch.Generator().manual_seed(self.seed))
        ratio = _mean_distance(samples) / _mean_distance(real)
        pl_module.log("val/sample_diversity", ratio.to(pl_module.device), batch_size=len(real), sync_dist=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the validation's scalars."""
        if not _is_in_fit(trainer):
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        diversity, held_out = metrics["val/sample_diversity"], metrics["val/real_accuracy"]
        self._tell(
            trainer,
            "The samples have collapsed",
            diversity <= self.diversity,
            f"their mean distance is {diversity:.3f} of that between real examples; add a regularizer such as R1",
            patience=self.validations,
        )
        trained_on = metrics.get("train/real_accuracy", held_out)
        self._tell(
            trainer,
            "The discriminator overfits",
            trained_on - held_out >= self.overfitting,
            f"it is right on {trained_on:.1%} of the real examples that it is trained on and {held_out:.1%} of others;"
            " augment its examples, or add a regularizer such as R1",
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know, so that it warns of nothing twice."""
        return {"events": sorted(self._events), "in_a_row": self._in_a_row, "largest_norm": self._largest_norm}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self._events = set(state_dict["events"])
        self._in_a_row, self._largest_norm = dict(state_dict.get("in_a_row", {})), state_dict["largest_norm"]

    def _tell(self, trainer: Trainer, event: str, seen: bool, reason: str, patience: int = 1) -> None:
        """Warns where an event begins, which is seen so many times in a row, and stops if that was asked for."""
        self._in_a_row[event] = self._in_a_row.get(event, 0) + 1 if seen else 0
        happens = self._in_a_row[event] >= patience
        if happens and event not in self._events:
            text = f"{event} at iteration {trainer.global_step}: {reason}."
            rank_zero_warn(text)
            alert(trainer, event, text)
        (self._events.add if happens else self._events.discard)(event)
        # Ranks see batches of their own, and stop together.
        if self.stop and trainer.strategy.reduce_boolean_decision(happens, all=False):
            trainer.should_stop = True


def _is_in_fit(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _mean_distance(data: Tensor) -> Tensor:
    """Between two examples of data `[N, ...]`."""
    return torch.pdist(data.cpu().float().flatten(1)).mean()
