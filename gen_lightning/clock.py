"""One clock: an iteration is one generator update (with its discriminator updates) or one VAE update.

Lightning's `global_step`, checkpoints, scalars and images all count iterations here, and everything drawn in an
iteration is a function of (seed, rank, iteration), which is what makes a resumed run equal to an uninterrupted one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure

# The seeds that are made at once: few enough to take a millisecond.
_BLOCK = 100


def derive_seed(*parts: int) -> int:
    """A 63-bit seed that is a function of non-negative integers, such as (seed, rank, iteration)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def derive_iteration_seed(iteration: int, *parts: int) -> int:
    """`derive_seed(*parts, iteration)`, for iterations that follow on each other."""
    block, place = divmod(iteration, _BLOCK)
    return _derive_block_seeds(block, *parts)[place]


@lru_cache(maxsize=1)
def _derive_block_seeds(block: int, *parts: int) -> list[int]:
    # Between two iterations NumPy's code leaves the processor's caches, so that a seed alone takes ten times as long.
    return [derive_seed(*parts, iteration) for iteration in range(block * _BLOCK, (block + 1) * _BLOCK)]


def seed_draws(seed: int, device: torch.device) -> None:
    """Seeds the default generators of the CPU and of `device`, from which layers and distributions draw."""
    # torch.manual_seed does the same for every device of the machine, and takes 100 times as long.
    for generator in _default_generators(device):
        generator.manual_seed(seed)


@contextmanager
def draws_from(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the default generators within the context, and puts their states back behind it."""
    generators = _default_generators(device)
    states = [generator.get_state() for generator in generators]
    try:
        seed_draws(seed, device)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _default_generators(device: torch.device) -> list[torch.Generator]:
    """The CPU's, and that of `device`, which need not be the current one."""
    if device.type == "cpu":
        return [torch.default_generator]
    if device.type == "mps":
        return [torch.default_generator, torch.mps._get_default_mps_generator()]
    module = torch.get_device_module(device)
    index = module.current_device() if device.index is None else device.index
    return [torch.default_generator, module.default_generators[index]]


def exclude_from_global_step(optimizer: LightningOptimizer) -> None:
    """Keeps this optimizer's next steps out of `global_step`, until Lightning's manual loop runs the next batch."""
    # Lightning counts the steps of every optimizer, so that max_steps and checkpoints would see a GAN's twice.
    optimizer._on_before_step = do_nothing_closure
    optimizer._on_after_step = do_nothing_closure


def rewind_to_iteration(fit_loop: dict[str, Any], iterations: int, batches_per_epoch: int) -> int:
    """Rewrites the saved state of Lightning's fit loop to that between two iterations, and returns its epoch.

    Where in an iteration, an epoch or a validation a checkpoint is saved, Lightning 2.6 resumes differently: it may
    skip a validation, count a batch twice, or train one batch too many (Lightning issues 19617, 19815). After this, a
    checkpoint of iteration t resumes with batch t mod B of epoch t div B, whenever it was saved.

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`, changed in place
        iterations: the number of completed iterations, t
        batches_per_epoch: B
    """
    epochs, batches = divmod(iterations, batches_per_epoch)
    started = epochs + (batches > 0)
    _set_progress(fit_loop["epoch_progress"], ready=started, started=started, processed=epochs, completed=epochs)

    batch_progress = fit_loop["epoch_loop.batch_progress"]
    batch_progress["is_last_batch"] = False
    _set_progress(batch_progress, iterations, iterations, iterations, iterations)
    _set_counts(batch_progress["current"], batches, batches, batches, batches)

    for loader_state in fit_loop["state_dict"].get("combined_loader", []):
        if loader_state.keys() == {"epoch", "position"}:
            loader_state.update(epoch=epochs, position=batches)
    return epochs


def _set_progress(progress: dict[str, Any], ready: int, started: int, processed: int, completed: int) -> None:
    _set_counts(progress["total"], ready, started, processed, completed)
    _set_counts(progress["current"], ready, started, processed, completed)


def _set_counts(counts: dict[str, int], ready: int, started: int, processed: int, completed: int) -> None:
    counts.update(ready=ready, started=started, processed=processed, completed=completed)
