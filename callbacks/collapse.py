"""Warnings about a GAN's failures: a discriminator that has won or overfits, and samples that have collapsed."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.loggers import alert
from gen_lightning.checks import check_range
from gen_lightning.contracts import AdversarialModel, get_settings, require


class CollapseMonitor(Callback):
    """Warns in the log and by a W&B alert, once for each occurrence of one of these events.

    - The discriminator has won: it separates real from generated examples, and the generator's gradient has vanished.
    - The discriminator overfits: it is far more accurate on the training examples than on held-out ones.
    - The samples have collapsed: they are far closer to each other than real examples are. The ratio of the mean
      distances is logged as `val/sample_diversity`: about 1 for a perfect model, 0 for equal samples.

    The first is checked whenever scalars are logged, the others after each validation. In a model with latent codes,
    the generator's gradient includes that of the codes, which need not vanish when the discriminator has won. Distances
    do not detect samples that miss some modes but vary within the others; counting modes does (`ModeCoverage`).
    Divergence is left to `StopOnNaN`.

    Args:
        accuracy: "has won": minimum accuracy on real and on generated examples; in [0, 1]
        vanishing: "has won": maximum norm of the generator's gradient, as a fraction of the largest norm logged so far;
            in [0, 1]
        patience: "has won": number of consecutive logged iterations in which it must hold; at least 1
        overfitting: "overfits": minimum difference between the accuracy on the training examples of one batch, which
            should have at least about 100, and the accuracy on held-out examples; in [0, 1]
        diversity: "have collapsed": maximum ratio of the mean distances; in [0, 1]
        validations: "have collapsed": number of consecutive validations in which it must hold; at least 1. The first
            validation may come before a model has learned to vary its samples.
        num_samples: number of samples, and of real examples, between which distances are computed; at least 2, and at
            most one batch is used
        seed: seed of the samples
        stop: whether training stops on an event, with its last checkpoint saved

    Raises:
        UserError: an argument is out of range.
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
        fractions = {"accuracy": accuracy, "vanishing": vanishing, "overfitting": overfitting, "diversity": diversity}
        check_range(self, at_least=0, at_most=1, **fractions)
        check_range(self, at_least=1, patience=patience, validations=validations)
        check_range(self, at_least=2, num_samples=num_samples)
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
        self._consecutive: dict[str, int] = {}
        self._largest_norm = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse models that are not GANs.

        Raises:
            UserError: the model has no discriminator.
        """
        require(pl_module, AdversarialModel, "CollapseMonitor")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the training scalars if this iteration has logged them."""
        if trainer.global_step % get_settings(trainer).log_every_n_steps:
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        norm = metrics["train/generator_gradient_norm"]
        # Under 16-mixed precision, a step whose gradients overflow is skipped; it is not a divergence.
        if math.isfinite(norm):
            self._check_victory(trainer, norm, metrics["train/real_accuracy"], metrics["train/fake_accuracy"])

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compare the diversity of samples with that of the first validation batch."""
        if batch_idx or not _is_fitting(trainer):
            return
        real = batch[0][: self.num_samples]
        model = require(pl_module, AdversarialModel, "CollapseMonitor")
        samples = model.sample(len(real), generator=torch.Generator().manual_seed(self.seed))
        ratio = _mean_distance(samples) / _mean_distance(real)
        pl_module.log("val/sample_diversity", ratio.to(pl_module.device), batch_size=len(real), sync_dist=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation scalars."""
        if not _is_fitting(trainer):
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        held_out = metrics["val/real_accuracy"]
        self._check_diversity(trainer, metrics["val/sample_diversity"])
        self._check_overfitting(trainer, metrics.get("train/real_accuracy", held_out), held_out)

    def state_dict(self) -> dict[str, Any]:
        """Return the events so far, so that a resumed run does not warn again."""
        return {"events": sorted(self._events), "consecutive": self._consecutive, "largest_norm": self._largest_norm}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the events of a checkpoint."""
        self._events = set(state_dict["events"])
        self._consecutive = dict(state_dict["consecutive"])
        self._largest_norm = state_dict["largest_norm"]

    def _check_victory(self, trainer: Trainer, norm: float, real_accuracy: float, fake_accuracy: float) -> None:
        self._largest_norm = max(self._largest_norm, norm)
        self._report(
            trainer,
            "The discriminator has won",
            min(real_accuracy, fake_accuracy) >= self.accuracy and norm <= self.vanishing * self._largest_norm,
            f"it is right on {real_accuracy:.1%} of real and {fake_accuracy:.1%} of generated examples, and the norm of"
            f" the generator's gradient has gone from {self._largest_norm:.2g} to {norm:.2g}. Add a regularizer such as"
            " R1, or lower the discriminator's learning rate.",
            patience=self.patience,
        )

    def _check_diversity(self, trainer: Trainer, diversity: float) -> None:
        self._report(
            trainer,
            "The samples have collapsed",
            diversity <= self.diversity,
            f"their mean distance is {diversity:.3f} of that between real examples. Add a regularizer such as R1.",
            patience=self.validations,
        )

    def _check_overfitting(self, trainer: Trainer, training: float, held_out: float) -> None:
        self._report(
            trainer,
            "The discriminator overfits",
            training - held_out >= self.overfitting,
            f"it is right on {training:.1%} of the real training examples and {held_out:.1%} of held-out ones. Augment"
            " the examples, or add a regularizer such as R1.",
        )

    def _report(self, trainer: Trainer, event: str, observed: bool, reason: str, patience: int = 1) -> None:
        """Warn when an event begins, and stop if `stop` is set.

        Args:
            trainer: the running Trainer
            event: name of the event
            observed: whether its condition holds now
            reason: what was observed, and what to do
            patience: number of consecutive observations with which the event begins
        """
        self._consecutive[event] = self._consecutive.get(event, 0) + 1 if observed else 0
        happens = self._consecutive[event] >= patience
        if happens and event not in self._events:
            text = f"{event} at iteration {trainer.global_step}: {reason}"
            rank_zero_warn(text)
            alert(trainer, event, text)
        (self._events.add if happens else self._events.discard)(event)
        # Ranks have different batches, but must stop together.
        if self.stop and trainer.strategy.reduce_boolean_decision(happens, all=False):
            trainer.should_stop = True


def _is_fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _mean_distance(data: Tensor) -> Tensor:
    """Return the mean distance between two examples of data `[N, ...]`."""
    return torch.pdist(data.cpu().float().flatten(1)).mean()
