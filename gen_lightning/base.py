"""GenerativeModule: the interface of every model for callbacks, evaluation and the command line."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor
from torch.optim import Optimizer

from gen_lightning.checks import check_range
from gen_lightning.clock import (
    Stream,
    derive_iteration_seed,
    derive_seed,
    draws_from,
    rewind_to_iteration,
    seed_draws,
    set_logged_iteration,
)
from gen_lightning.contracts import get_settings, refuse_equal_rows
from gen_lightning.errors import UserError
from gen_lightning.loops import find_due, resume_exactly
from gen_lightning.numerics import promote_to_float32
from gen_lightning.schedules import Schedule, check_schedules, follow_schedules

_SEARCH = (
    "would train before the first iteration and change hyperparameters that the configuration records. Remove it, and"
    " compare runs with different options instead"
)
_AVERAGING = (
    "replaces the trained weights by their average when training ends, so that a resumed run would differ from an"
    " uninterrupted one. Remove it; a GAN has model.ema instead"
)
REFUSED_CALLBACKS: dict[type[Callback], str] = {
    LearningRateFinder: _SEARCH,
    BatchSizeFinder: _SEARCH,
    WeightAveraging: _AVERAGING,
    StochasticWeightAveraging: _AVERAGING,
    ModelPruning: "stores no masks in a checkpoint, so that a resumed run would train pruned weights. Remove it",
    BackboneFinetuning: "freezes a pretrained network `backbone`, which the models here do not have. Remove it",
}
"""Lightning's callbacks that break a promise of GenerativeModule, each with the reason and what to do."""


class GenerativeModule(LightningModule, ABC):
    """A model that can be sampled from, and whose training is a function of (seed, rank, iteration).

    Batches are `(data, labels)`: data float32 `[N, *data_shape]`; images are `[N, C, H, W]` in [0, 1].

    `num_classes` is the number of classes of a class-conditional model, and None for other models. A class-conditional
    model is trained on labels int64 `[N]` in 0..num_classes-1, and its networks take them as their last argument.

    `optimizer_names` are the names of the optimizers in schedules, in the order of `configure_optimizers`.
    `batch_options` names the options to suggest when gradient accumulation is refused.

    Args:
        data_shape: shape of one example, such as `(1, 28, 28)` or `(2,)`
        seed: seed of all draws in training and evaluation; at least 0
        schedules: schedules of the optimizers' options by name, such as `optimizer.lr` or `optimizer.beta2`

    Raises:
        UserError: the seed is negative.
    """

    optimizer_names: tuple[str, ...] = ("optimizer",)
    num_classes: int | None = None
    batch_options = "data.batch_size"

    def __init__(self, data_shape: Sequence[int], seed: int, schedules: Mapping[str, Schedule] | None = None) -> None:
        super().__init__()
        check_range(self, at_least=0, seed=seed)
        self.data_shape = tuple(data_shape)
        self.seed = seed
        self.schedules = schedules or {}
        self._scheduled_values: dict[str, float] = {}
        self.data_checked = False
        self._loaded_iteration = 0
        self._loaded_metrics: dict[str, Tensor] = {}

    @property
    def iteration(self) -> int:
        """The number of completed iterations, of this training or of the loaded checkpoint."""
        return max(self.global_step, self._loaded_iteration)

    @abstractmethod
    def draw(self, n: int, *condition: Tensor) -> Tensor:
        """Return `n` samples `[n, *data_shape]`, drawn from torch's default generators; `sample` wraps this.

        Args:
            n: number of samples
            condition: labels `[n]` of a class-conditional model; nothing for other models
        """

    def sample(self, n: int, *, generator: torch.Generator, labels: Tensor | None = None) -> Tensor:
        """Return samples `[n, *data_shape]`, drawn in evaluation mode and from `generator` alone.

        The module's mode and buffers, and torch's default generators, are left unchanged.

        Args:
            n: number of samples
            generator: source of all randomness, on any device
            labels: classes to sample from, int64 `[n]`; default: a class-conditional model draws them uniformly

        Raises:
            UserError: labels are given to an unconditional model, or they are not among the model's classes.
        """
        if labels is not None:
            self._check_classes(labels, n)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        labels = self.draw_labels(n, generator) if labels is None else labels
        condition = () if labels is None else (labels.to(self.device),)
        with self.evaluating(seed):
            return promote_to_float32(self.draw(n, *condition))

    @contextmanager
    def evaluating(self, seed: int) -> Iterator[None]:
        """Switch to evaluation mode without gradients and seed all draws; restore mode and generators afterwards."""
        training_modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad(), draws_from(seed, self.device):
                yield
        finally:
            for module, mode in training_modes.items():
                module.training = mode

    def draw_labels(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Return uniformly drawn classes, int64 `[n]`; None, without a draw, if the model is unconditional."""
        if self.num_classes is None:
            return None
        return torch.randint(self.num_classes, (n,), generator=generator, device=generator.device)

    def get_condition(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the condition of a batch: its labels if the model is class-conditional, otherwise nothing."""
        return () if self.num_classes is None else (batch[1],)

    def get_inputs(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a batch's data, followed by its condition, on the model's device."""
        return tuple(part.to(self.device) for part in (batch[0], *self.get_condition(batch)))

    def configure_callbacks(self) -> list[Callback]:
        """Add no callback, and refuse options that would break the clock or change the recorded hyperparameters.

        Raises:
            UserError: gradients are accumulated over batches, or a callback is one of `REFUSED_CALLBACKS`.
        """
        # Between this hook and `setup`, Lightning refuses accumulation with two optimizers without saying what to do.
        callbacks = get_settings(self.trainer).callbacks
        schedules = [one.scheduling for one in callbacks if isinstance(one, GradientAccumulationScheduler)]
        factors = {self.trainer.accumulate_grad_batches, *(factor for one in schedules for factor in one.values())}
        if factors != {1}:
            raise UserError(
                "Gradients are accumulated over several batches, but an iteration is one batch. Remove"
                f" accumulate_grad_batches and GradientAccumulationScheduler, and raise {self.batch_options}."
            )
        check_callbacks(callbacks)
        return []

    def check_data(self, data: Tensor) -> None:
        """Check the data of the first batch, before it is used.

        Raises:
            UserError: the data do not have the shape that the model was built for.
        """
        self.check_shape(data)

    def check_labels(self, batch: Sequence[Tensor]) -> None:
        """Check the labels of the first batch of a class-conditional model, before they are used.

        Raises:
            UserError: there are no labels, or they are not among the model's classes.
        """
        if self.num_classes is not None:
            if len(batch) < 2:
                raise UserError(
                    "The model is class-conditional, but the data have no labels. Choose labelled data or unconditional"
                    " networks."
                )
            self._check_classes(batch[1], len(batch[0]))

    def setup(self, stage: str) -> None:
        """Check the callbacks before anything runs.

        Raises:
            UserError: two callbacks write the same row of the report of `test`.
        """
        refuse_equal_rows(get_settings(self.trainer).callbacks)

    def on_fit_start(self) -> None:
        """Check the schedules before training starts, and let it resume exactly.

        Raises:
            UserError: a schedule names an option that no optimizer has.
        """
        resume_exactly(self.trainer)
        check_schedules(self.schedules, self._optimizers_by_name())

    def on_train_start(self) -> None:
        """Restore the last logged values, which callbacks monitor."""
        self.trainer.callback_metrics.update(self._loaded_metrics)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the iteration's draws and set the scheduled options, as functions of (seed, rank, iteration)."""
        if not self.data_checked:
            self.check_data(batch[0])
            self.check_labels(batch)
            self.data_checked = True
        iteration = self.global_step
        seed_draws(derive_iteration_seed(iteration, Stream.TRAINING, self.seed, self.global_rank), self.device)
        self._scheduled_values = follow_schedules(self.schedules, self._optimizers_by_name(), iteration)
        set_logged_iteration(self.trainer, iteration)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check the first batch, and seed the draws of this batch, the same in each validation."""
        if batch_idx == 0:
            self.check_data(batch[0])
            self.check_labels(batch)
        seed_draws(derive_seed(Stream.EVALUATION, self.seed, self.global_rank, batch_idx), self.device)

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check the first batch, and seed the draws of this batch, the same in each test."""
        self.on_validation_batch_start(batch, batch_idx)

    def is_logged(self, iteration: int) -> bool:
        """Return whether scalars are logged after `iteration` completed iterations."""
        return iteration % get_settings(self.trainer).log_every_n_steps == 0

    def log_iteration(self, scalars: dict[str, Tensor], iteration: int, batch_size: int) -> None:
        """Log `train/...` scalars and scheduled values every `log_every_n_steps` iterations, at x = `iteration`.

        Args:
            scalars: values by name, without the prefix
            iteration: number of completed iterations
            batch_size: number of examples in this rank's batch
        """
        # Each self.log takes about 0.5 ms, as long as a small network's training step.
        if not self.is_logged(iteration):
            return
        for name, value in scalars.items():
            self.log(f"train/{name}", value, prog_bar=name.endswith("loss"))
        self.log_dict({f"train/{name}": value for name, value in self._scheduled_values.items()})
        images_seen = iteration * batch_size * self.trainer.world_size
        self.log_dict({"images_seen": float(images_seen), "step": float(iteration)})

    def log_evaluation(self, scalars: dict[str, Tensor], stage: str, batch_size: int) -> None:
        """Log means over the whole split as `val/...` or `test/...`, at x = completed iterations."""
        values = {f"{stage}/{name}": value for name, value in scalars.items()}
        self.log_dict(values, batch_size=batch_size, sync_dist=True)
        self.log("step", float(self.iteration), batch_size=batch_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint's iteration, which Lightning restores only in `fit`, and its last logged values."""
        self._loaded_iteration = checkpoint["global_step"]
        self._loaded_metrics = checkpoint.get("logged_values", {})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop hyperparameters that are not JSON, and rewrite the loop's state to that between two iterations.

        The last logged values are stored, because callbacks such as EarlyStopping read them after a resumption.
        """
        hyperparameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name in [name for name, value in hyperparameters.items() if not _is_json(value)]:
            del hyperparameters[name]
        batches_per_epoch = self.trainer.num_training_batches
        if checkpoint.get("loops") and 0 < batches_per_epoch < float("inf"):
            fit_loop, due = checkpoint["loops"]["fit_loop"], find_due(self.trainer)
            checkpoint["epoch"] = rewind_to_iteration(fit_loop, self.global_step, int(batches_per_epoch), due)
            checkpoint["due"] = due
            checkpoint["logged_values"] = {name: value.cpu() for name, value in self.trainer.callback_metrics.items()}

    def check_shape(self, data: Tensor) -> None:
        """Check the shape of data.

        Raises:
            UserError: the data do not have the shape that the model was built for.
        """
        if data.shape[1:] != self.data_shape:
            raise UserError(
                f"The data have shape {tuple(data.shape[1:])}, but the model is built for {self.data_shape}. Set"
                " model.data_shape to the shape of the data."
            )

    def _check_classes(self, labels: Tensor, n: int) -> None:
        if self.num_classes is None:
            raise UserError(f"{type(self).__name__} is not class-conditional. Sample without labels.")
        if labels.dtype != torch.int64 or labels.shape != (n,):
            raise UserError(
                f"The labels are {labels.dtype} {list(labels.shape)}. Give one class per example, int64 [{n}]."
            )
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(wrong):
            raise UserError(
                f"There is a label {wrong[0]}, but the model's classes are 0 to {self.num_classes - 1}. Choose labels"
                " among them, or set num_classes of the networks to the number of classes of the data."
            )

    def _optimizers_by_name(self) -> dict[str, Optimizer]:
        return dict(zip(self.optimizer_names, self.trainer.optimizers, strict=False))


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse Lightning's callbacks that break a promise of GenerativeModule.

    Raises:
        UserError: a callback is one of `REFUSED_CALLBACKS`.
    """
    for callback in callbacks:
        for refused, reason in REFUSED_CALLBACKS.items():
            if isinstance(callback, refused):
                raise UserError(f"{type(callback).__name__} {reason}.")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
