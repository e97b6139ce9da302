"""Iterations, seeds and the state of Lightning's loop. Besides loops.py, no module uses internals of Lightning.

An iteration is one generator update (with its discriminator updates) or one VAE update. Lightning's `global_step`,
checkpoints, scalars and images all count iterations, and everything drawn in an iteration is a function of
(seed, rank, iteration). So a resumed run equals an uninterrupted one.

Each function below that uses an internal of Lightning or torch names the behaviour and the version that make it
necessary. tests/gen_lightning/test_clock.py fails with a sentence on a version that behaves differently.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.optim import Optimizer

# Number of seeds that are made at once, in about a millisecond.
_BLOCK = 100


class Stream(IntEnum):
    """The independent streams of random numbers; the first part of every derived seed."""

    TRAINING = 0
    """Draws of a model in a training iteration."""
    EVALUATION = 1
    """Draws of a model in validation and test."""
    ORDER = 2
    """Order of the training examples."""
    DRAWS = 3
    """Draws of a data module for a training batch, such as binary pixels."""
    LIKELIHOOD = 4
    """Latents of the importance-sampled likelihood."""
    LATENTS = 5
    """Latents of the latent metrics."""
    LOADING = 6
    """Draws of a user's data set or data loader in training, such as the order of the examples."""
    EVALUATION_LOADING = 7
    """Draws of a user's data set or data loader in validation and test."""


def derive_seed(*parts: int) -> int:
    """Return a 63-bit seed that is a function of non-negative integers, such as (stream, seed, rank, iteration)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def derive_iteration_seed(iteration: int, *parts: int) -> int:
    """Return `derive_seed(*parts, iteration)`, fast if iterations follow one another."""
    block, place = divmod(iteration, _BLOCK)
    return _derive_block_seeds(block, *parts)[place]


@lru_cache(maxsize=1)
def _derive_block_seeds(block: int, *parts: int) -> list[int]:
    # A seed takes 7 us in a loop, but about 100 us between two iterations, because NumPy's code has then left the
    # processor's caches.
    return [derive_seed(*parts, iteration) for iteration in range(block * _BLOCK, (block + 1) * _BLOCK)]


def derive_batch_seed(batch: int, *parts: int) -> int:
    """Return a seed that is a function of a batch's number and of `parts`, fast if batches share their parts."""
    # torch's DataLoader seeds its workers by such a sum.
    return _derive_first_seed(*parts) + batch


@lru_cache(maxsize=1)
def _derive_first_seed(*parts: int) -> int:
    return derive_seed(*parts)


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the default generators of Python, NumPy, and torch on the CPU and on `device`.

    Layers and distributions draw from torch's, and a user's data set may draw from any of them.
    """
    random.seed(seed)
    # From the same 32 bits, NumPy's generator would draw the same numbers as torch's.
    np.random.seed(~seed & 0xFFFFFFFF)
    # torch.manual_seed seeds every device of the machine and takes 100 times as long.
    for generator in _default_generators(device):
        generator.manual_seed(seed)


@contextmanager
def draws_from(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the same default generators within the context, and restore their states after it."""
    generators = _default_generators(device)
    states = [generator.get_state() for generator in generators]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        seed_draws(seed, device)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _default_generators(device: torch.device) -> list[torch.Generator]:
    """Return torch's default generator of the CPU and that of `device`, which need not be the current device."""
    if device.type == "cpu":
        return [torch.default_generator]
    if device.type == "mps":
        return [torch.default_generator, torch.mps._get_default_mps_generator()]
    module = torch.get_device_module(device)
    index = module.current_device() if device.index is None else device.index
    return [torch.default_generator, module.default_generators[index]]


def exclude_from_global_step(optimizer: LightningOptimizer) -> None:
    """Keep this optimizer's next steps out of `global_step`, until Lightning's manual loop runs the next batch.

    Lightning 2.6 counts the steps of every optimizer under manual optimization: a GAN's `max_steps` and checkpoints
    would count each iteration at least twice (Lightning issue 17958).
    """
    optimizer._on_before_step = do_nothing_closure
    optimizer._on_after_step = do_nothing_closure


def set_logged_iteration(trainer: Trainer, iteration: int) -> None:
    """Set the count by which Lightning decides when scalars are written.

    Lightning 2.6 counts batches for this apart from `global_step`. After a resumption from a checkpoint that was saved
    within an iteration, the count is one too high: the resumed run would write its scalars at other iterations than an
    uninterrupted one.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = iteration


class _Completed(int):
    """A number of completed iterations, to which nothing is added for an iteration that is under way."""

    def __add__(self, other: int) -> int:
        return int(self)

    def __sub__(self, other: int) -> int:
        return self


def complete_logged_iteration(trainer: Trainer, iteration: int) -> None:
    """Set the same count at the end of an iteration, for what is logged until the next one begins.

    Lightning 2.6 adds 1 to the count after the hooks at the end of a batch and after the validation, and subtracts 1
    for the logs at the end of an epoch, so that `DeviceStatsMonitor`, for one, would log at the iteration before. It
    also adds 1 to decide whether scalars are written.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = _Completed(iteration)


def refresh_logged_step(trainer: Trainer, iteration: int) -> bool:
    """Set the metric `step` of the training loop, and return whether it has been logged in this epoch.

    Loggers take `step` as their x, and Lightning's checkpoint names print it as `{step}`. Lightning 2.6 keeps the value
    of the last `self.log`, which takes 0.5 ms, so that it would be that of the last logged iteration.
    """
    metric = trainer.fit_loop.epoch_loop._results.get("training_step.step")
    if metric is None or metric.has_reset:
        return False
    metric._forward_cache = torch.tensor(float(iteration))
    return True


def is_between_iterations(trainer: Trainer) -> bool:
    """Return whether no iteration is under way: as many batches were started as iterations were completed.

    Lightning 2.6 calls `on_exception` within an iteration too. A GAN that is saved then may have an updated
    discriminator and an old generator, and a resumed run would not equal an uninterrupted one.
    """
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready == trainer.global_step


def allow_unused_parameters(strategy: Strategy) -> None:
    """Let plain DDP train a model whose backward passes use only some of its parameters, such as a GAN.

    The backward pass of one player leaves the other player's parameters unused. DDP refuses this unless
    `find_unused_parameters` is set, and Lightning 2.6 sets it only for the name `ddp_find_unused_parameters_true`.
    """
    if isinstance(strategy, DDPStrategy):
        strategy._ddp_kwargs["find_unused_parameters"] = True


def unscales_in_step(optimizer: Optimizer) -> bool:
    """Return whether an optimizer divides gradients by the scale of 16-mixed precision within its own step.

    Torch's fused optimizers do, and their gradients are still scaled when they are clipped. Torch 2.11 to 2.15 mark
    them by an attribute, which its GradScaler reads too.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def rewind_to_iteration(
    fit_loop: dict[str, Any], iterations: int, batches_per_epoch: int, due: str | None = None
) -> int:
    """Rewrite the saved state of Lightning's fit loop to the state between two iterations, and return its epoch.

    Lightning 2.6 resumes differently from a checkpoint within an iteration, at an epoch's end or in a validation: it
    may skip a validation, count a batch twice, or train one batch too many (Lightning issues 19617, 19815). After
    this, a checkpoint of iteration t resumes with batch t mod B of epoch t div B, whenever it was saved. If the
    validation after iteration t or the epoch's end is due, it comes first, still within the epoch of iteration t.

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`, changed in place
        iterations: number of completed iterations, t
        batches_per_epoch: number of batches in an epoch, B
        due: what follows iteration t and is not done yet, from `gen_lightning.loops.find_due`
    """
    epochs, batches = divmod(iterations, batches_per_epoch)
    if due and batches == 0:
        epochs, batches = epochs - 1, batches_per_epoch
    started = epochs + (batches > 0)
    _set_progress(fit_loop["epoch_progress"], ready=started, started=started, processed=epochs, completed=epochs)
    # Lightning counts a batch here after the validation that follows it.
    fit_loop["epoch_loop.state_dict"].update(due=due, _batches_that_stepped=iterations - (due is not None))

    batch_progress = fit_loop["epoch_loop.batch_progress"]
    batch_progress["is_last_batch"] = batches == batches_per_epoch
    _set_progress(batch_progress, iterations, iterations, iterations, iterations)
    _set_counts(batch_progress["current"], batches, batches, batches, batches)

    for loader_state in fit_loop["state_dict"].get("combined_loader", []):
        if loader_state.keys() == {"epoch", "position"}:
            loader_state.update(epoch=epochs, position=batches)
    return epochs


def store_logged_iteration(fit_loop: dict[str, Any], iterations: int) -> None:
    """Set the count of `set_logged_iteration` in a checkpoint, for callbacks that log at the start of an epoch.

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`, changed in place
        iterations: number of completed iterations
    """
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = iterations


def _set_progress(progress: dict[str, Any], ready: int, started: int, processed: int, completed: int) -> None:
    _set_counts(progress["total"], ready, started, processed, completed)
    _set_counts(progress["current"], ready, started, processed, completed)


def _set_counts(counts: dict[str, int], ready: int, started: int, processed: int, completed: int) -> None:
    counts.update(ready=ready, started=started, processed=processed, completed=completed)
