"""GenerativeModule: the interface of every model for callbacks, evaluation and the command line."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
    ThroughputMonitor,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.optim import Optimizer

from gen_lightning.checks import check_range
from gen_lightning.clock import (
    Stream,
    complete_logged_iteration,
    derive_iteration_seed,
    derive_seed,
    draws_from,
    refresh_logged_step,
    rewind_to_iteration,
    seed_draws,
    set_logged_iteration,
    store_logged_iteration,
)
from gen_lightning.contracts import get_settings, refuse_equal_rows
from gen_lightning.data_check import DataCheck
from gen_lightning.errors import UserError
from gen_lightning.loops import find_due, replace_loops
from gen_lightning.numerics import promote_to_float32
from gen_lightning.optimizers import Rates, change_rates, read_rates
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
    SpikeDetection: "reads one loss in each iteration, and a GAN has several. Remove it; every run has StopOnNaN",
    ThroughputMonitor: (
        "logs a validation at the number of its batch, which is no iteration. Remove it, and set"
        " --trainer.profiler=simple"
    ),
    BackboneFinetuning: "freezes a pretrained network `backbone`, which the models here do not have. Remove it",
}
"""Lightning's callbacks that break a promise of GenerativeModule, each with the reason and what to do."""


class GenerativeModule(LightningModule, ABC):
    """A model that can be sampled from, and whose training is a function of (seed, rank, iteration).

    Batches are `(data, labels)`: data float32 `[N, *data_shape]`; images are `[N, C, H, W]` in [0, 1].

    `num_classes` is the number of classes of a class-conditional model, and None for other models. A class-conditional
    model is trained on labels int64 `[N]` in 0..num_classes-1, and its networks take them as their last argument.

    `optimizer_names` are the names of the optimizers in schedules, in the order of `configure_optimizers`.
    `batch_options` names the options to suggest when gradient accumulation is refused. `batch_sizes` are the numbers of
    examples in the current training batch of each rank. `num_parts` is the number of parts into which a batch is split.

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
    num_parts = 1

    def __init__(self, data_shape: Sequence[int], seed: int, schedules: Mapping[str, Schedule] | None = None) -> None:
        super().__init__()
        check_range(self, at_least=0, seed=seed)
        self.data_shape = tuple(data_shape)
        self.seed = seed
        self.schedules = schedules or {}
        self._scheduled_values: dict[str, float] = {}
        self.data_checked = False
        self.batch_sizes: list[int] = []
        self._checks = {split: DataCheck(split) for split in ("training", "validation", "test")}
        self._loaded_iteration = 0
        self._loaded_metrics: dict[str, Tensor] = {}
        self._configured_rates: Rates = []
        self._loaded_rates: Rates | None = None
        self._images_before: int | None = 0
        self._started_iteration = 0

    @property
    def iteration(self) -> int:
        """The number of completed iterations, of this training or of the loaded checkpoint."""
        return max(self.global_step, self._loaded_iteration)

    @property
    def images_seen(self) -> int:
        """The number of training examples in the completed iterations, summed over all ranks."""
        completed = self.global_step > self._started_iteration
        return (self._images_before or 0) + (sum(self.batch_sizes) if completed else 0)

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
        """Return a batch's data in the model's precision, followed by its condition, on the model's device."""
        return self.cast(batch[0].to(self.device)), *(part.to(self.device) for part in self.get_condition(batch))

    def cast(self, data: Tensor) -> Tensor:
        """Return data or latents in the precision of the model's weights."""
        # Lightning annotates dtype as `str | torch.dtype`, and only ever stores a torch.dtype.
        return data.to(cast(torch.dtype, self.dtype))

    def configure_callbacks(self) -> list[Callback]:
        """Add no callback, and refuse options that would break the clock or change the recorded hyperparameters.

        Raises:
            UserError: gradients are accumulated over batches, a callback is one of `REFUSED_CALLBACKS`, or the weights
                would have 16 bits.
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
        check_precision(self.trainer.precision)
        return []

    def check_data(self, data: Tensor) -> None:
        """Check the data of the first batch, before it is used.

        Raises:
            UserError: the data do not have the shape that the model was built for, or are not floating-point numbers.
        """
        self.check_shape(data)

    def supports(self, data: Tensor) -> Tensor:
        """Return whether all values of a batch can occur in the model, a boolean scalar, without a synchronization."""
        return torch.ones((), dtype=torch.bool, device=data.device)

    def check_extremes(self, lowest: float, highest: float, split: str) -> None:
        """Check the smallest and the largest value of a split so far, whenever they are read from the device.

        Raises:
            UserError: the model cannot generate such values.
        """

    def check_labels(self, batch: Sequence[Tensor]) -> None:
        """Check the labels of a batch for a class-conditional model, before they are used.

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
        """Check the callbacks before anything runs, and replace the loops by exact ones.

        Raises:
            UserError: two callbacks write the same row of the report of `test`.
        """
        replace_loops(self.trainer)
        refuse_equal_rows(get_settings(self.trainer).callbacks)

    def on_fit_start(self) -> None:
        """Check the schedules before training starts.

        Raises:
            UserError: a schedule names an option that no optimizer has.
        """
        check_schedules(self.schedules, self._optimizers_by_name())
        # Lightning restores the optimizers' states after this hook.
        self._configured_rates = read_rates(self.trainer.optimizers)

    def on_train_start(self) -> None:
        """Let optimizers continue with the configured rates, and restore the last logged values for callbacks.

        Raises:
            UserError: the optimizers are others than those of the checkpoint.
        """
        if self._loaded_rates is not None:
            change_rates(self.trainer.optimizers, self._loaded_rates, self._configured_rates)
        self.trainer.callback_metrics.update(self._loaded_metrics)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the batch, and seed the draws and set the options that are functions of (seed, rank, iteration).

        Raises:
            UserError: the model cannot be trained on the batch.
        """
        # To look at the values of each batch would stall a GPU. There it is done for the first batch, and when scalars
        # are logged.
        self._check_batch(batch, "training", not self.data_checked, reads_values=self.device.type == "cpu")
        self.data_checked = True
        self._check_normalization(len(batch[0]) // self.num_parts)
        iteration = self.global_step
        self._count_images(len(batch[0]))
        seed_draws(derive_iteration_seed(iteration, Stream.TRAINING, self.seed, self.global_rank), self.device)
        self._scheduled_values = follow_schedules(self.schedules, self._optimizers_by_name(), iteration)
        set_logged_iteration(self.trainer, iteration)

    def on_train_epoch_end(self) -> None:
        """Check the values of the epoch's training data.

        Raises:
            UserError: a value is not finite, very large, or outside the support.
        """
        self._check_training_values()
        complete_logged_iteration(self.trainer, self.global_step)

    def on_train_end(self) -> None:
        """Check the values of the last training data.

        Raises:
            UserError: a value is not finite, very large, or outside the support.
        """
        self._check_training_values()

    def on_validation_start(self) -> None:
        """Let callbacks log at the number of completed iterations."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            # A resumed run may begin with a validation.
            complete_logged_iteration(self.trainer, self.global_step)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check the batch, and seed its draws, the same in each validation.

        Raises:
            UserError: the model cannot be evaluated on the batch.
        """
        self._start_evaluation_batch(batch, "validation", batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Warn if all values of the validation data are equal."""
        self._checks["validation"].warn()

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Check the batch, and seed its draws, the same in each test.

        Raises:
            UserError: the model cannot be evaluated on the batch.
        """
        self._start_evaluation_batch(batch, "test", batch_idx)

    def on_test_epoch_end(self) -> None:
        """Warn if all values of the test data are equal."""
        self._checks["test"].warn()

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
        if self.is_logged(iteration):
            self._check_training_values()
            for name, value in scalars.items():
                self.log(f"train/{name}", value, prog_bar=name.endswith("loss"), batch_size=batch_size)
            scheduled = {f"train/{name}": value for name, value in self._scheduled_values.items()}
            # float32 has no odd numbers above 16 million.
            images_seen = torch.tensor((self._images_before or 0) + sum(self.batch_sizes), dtype=torch.float64)
            self.log_dict(scheduled | {"images_seen": images_seen}, batch_size=batch_size)
        complete_logged_iteration(self.trainer, iteration)
        if not refresh_logged_step(self.trainer, iteration):
            self.log("step", float(iteration), batch_size=batch_size)

    def log_evaluation(self, scalars: dict[str, Tensor], stage: str, batch_size: int) -> None:
        """Log means over the whole split as `val/...` or `test/...`, at x = completed iterations."""
        values = {f"{stage}/{name}": value for name, value in scalars.items()}
        self.log_dict(values, batch_size=batch_size, sync_dist=True)
        # The mean over many batches would be rounded to another iteration.
        self.log("step", float(self.iteration), batch_size=batch_size, reduce_fx="max")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint's iteration, its number of images, and its last logged values.

        Lightning restores the iteration only in `fit`.
        """
        self._loaded_iteration = checkpoint["global_step"]
        self._loaded_metrics = checkpoint.get("logged_values", {})
        self._loaded_rates = checkpoint.get("optimizer_rates")
        # Checkpoints of earlier versions have no such number; their batches had one size.
        self._images_before, self.batch_sizes = checkpoint.get("images_seen"), []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop hyperparameters that are not JSON, and rewrite the loop's state to that between two iterations.

        The last logged values are stored, because callbacks such as EarlyStopping read them after a resumption.

        Raises:
            UserError: a value of the training data is not finite, very large, or outside the support.
        """
        self._check_training_values()
        checkpoint["images_seen"] = self.images_seen
        checkpoint["optimizer_rates"] = self._configured_rates
        hyperparameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name in [name for name, value in hyperparameters.items() if not _is_json(value)]:
            del hyperparameters[name]
        if not checkpoint.get("loops"):
            return
        fit_loop, batches_per_epoch = checkpoint["loops"]["fit_loop"], self.trainer.num_training_batches
        store_logged_iteration(fit_loop, self.global_step)
        if 0 < batches_per_epoch < float("inf"):
            due = find_due(self.trainer)
            checkpoint["epoch"] = rewind_to_iteration(fit_loop, self.global_step, int(batches_per_epoch), due)
            checkpoint["due"] = due
            checkpoint["logged_values"] = {name: value.cpu() for name, value in self.trainer.callback_metrics.items()}

    def check_shape(self, data: Tensor) -> None:
        """Check the shape and the type of data.

        Raises:
            UserError: the data do not have the shape that the model was built for, or are not floating-point numbers.
        """
        if data.shape[1:] != self.data_shape:
            raise UserError(
                f"The data have shape {tuple(data.shape[1:])}, but the model is built for {self.data_shape}. Set"
                " model.data_shape to the shape of the data."
            )
        if not data.is_floating_point():
            raise UserError(
                f"The data are {data.dtype}. Convert them to float32, such as 8-bit images by `images.float() / 255`."
            )

    def _start_evaluation_batch(self, batch: Sequence[Tensor], split: str, batch_idx: int) -> None:
        self._check_batch(batch, split, is_first=batch_idx == 0, reads_values=True)
        seed_draws(derive_seed(Stream.EVALUATION, self.seed, self.global_rank, batch_idx), self.device)

    def _check_batch(self, batch: Sequence[Tensor], split: str, is_first: bool, reads_values: bool) -> None:
        """Check everything about the first batch, and what any other batch may differ in."""
        if not (isinstance(batch, Sequence) and isinstance(batch[0], Tensor)):
            raise UserError("A batch is no pair of tensors. Return (data, labels) from the data loader.")
        data = batch[0]
        if is_first:
            self.check_data(data)
        self.check_shape(data)
        if is_first or reads_values:
            self.check_labels(batch)
        self._checks[split].add(data, self.supports(data))
        if is_first or reads_values:
            self._check_values(split)

    def _check_normalization(self, size: int) -> None:
        """Refuse a part of a batch with one example if vectors are normalized over the examples."""
        if size < 2 and any(isinstance(module, nn.BatchNorm1d) for module in self.modules()):
            raise UserError(
                "A batch, or a part of it, has 1 example, and batch normalization needs 2. Set drop_last=True in the"
                " data loader, or choose a larger batch."
            )

    def _check_values(self, split: str) -> None:
        """Refuse values so far that the model cannot be trained or evaluated on; waits for the device."""
        self.check_extremes(*self._checks[split].refuse(), split)

    def _check_training_values(self) -> None:
        self._check_values("training")
        self._checks["training"].warn()

    def _count_images(self, batch_size: int) -> None:
        """Set `batch_sizes`, and count the images of the iterations before this one."""
        images = self.images_seen
        self.batch_sizes = self._gather_batch_sizes(batch_size)
        if self.global_step == 0:
            images = 0
        elif self._images_before is None:
            images = self.global_step * sum(self.batch_sizes)
        self._images_before = images
        self._started_iteration = self.global_step

    def _gather_batch_sizes(self, batch_size: int) -> list[int]:
        """Return the number of examples in each rank's batch."""
        # A loader that drops a short last batch has batches of one size, so that the ranks need not ask each other.
        if self.trainer.world_size == 1 or getattr(self.trainer.train_dataloader, "drop_last", False):
            return [batch_size] * self.trainer.world_size
        sizes = self.all_gather(torch.tensor(batch_size, device=self.device))
        assert isinstance(sizes, Tensor)
        return sizes.tolist()

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


def check_precision(precision: str | None) -> None:
    """Refuse weights of 16 bits.

    Raises:
        UserError: the precision is bf16-true or 16-true.
    """
    if precision in ("bf16-true", "16-true"):
        raise UserError(
            f"`--trainer.precision` is {precision}: weights of 16 bits round away the updates of a small learning rate"
            f" and of an average. Set --trainer.precision={precision.replace('true', 'mixed')}, or 32-true."
        )


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
