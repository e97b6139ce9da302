"""Lightning's loops, launcher and signal handlers, with the behaviour that exact data, resumptions and stops need.

Like clock.py, this module uses internals of Lightning, and names the behaviour and the version that make it necessary.
tests/gen_lightning/test_loops.py fails with a sentence on a version that behaves differently.
"""

import os
import secrets
from typing import Any

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from gen_lightning.clock import Stream, derive_batch_seed, derive_seed, draws_from, seed_draws
from gen_lightning.ranks import Ranks
from gen_lightning.stopping import get_watch

VALIDATION = "validation"
"""What follows an iteration and is not done yet: a validation, if there is one, and the epoch's end, if it is one."""

EPOCH_END = "epoch end"
"""The validation after an iteration is done, but not the epoch's end."""


class EvaluationLoop(_EvaluationLoop):
    """Lightning's loop of a validation or a test, which leaves all random generators as they were.

    Lightning 2.6 makes the iterator of a loader before the first hook of the loop, and a DataLoader draws from torch's
    default generator for it. So no pair of hooks could restore the generators.
    """

    def run(self) -> list[Any]:
        """Evaluate, with draws that are the same in each evaluation."""
        model: Any = self.trainer.lightning_module
        seed = derive_seed(Stream.EVALUATION_LOADING, model.seed, model.global_rank)
        with draws_from(seed, model.device):
            return super().run()


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, whose data are the same whatever was drawn before.

    It seeds the default generators whenever a user's data set or data loader may draw from them: Lightning 2.6 makes
    the loader's iterator in `FitLoop.setup_data` and in `on_run_start`, and requests a batch in `advance`.

    It can also resume with what follows an iteration. Lightning 2.6 resumes a validation at the batch that it was
    stopped in, without the values of the batches before.
    """

    due: str | None = None

    def seed_loading(self) -> None:
        """Seed what is drawn to load the next batch, as a function of (seed, rank, epoch, number of the batch)."""
        model: Any = self.trainer.lightning_module
        parts = Stream.LOADING, model.seed, model.global_rank, self.trainer.current_epoch
        seed_draws(derive_batch_seed(self.batch_progress.current.ready, *parts), model.device)

    def on_run_start(self, data_fetcher: Any) -> None:
        """Make the loader's iterator, from which the workers get their seeds."""
        self.seed_loading()
        super().on_run_start(data_fetcher)

    @property
    def done(self) -> bool:
        """Whether the epoch is over."""
        return self.due is None and super().done

    def advance(self, data_fetcher: Any) -> None:
        """Train one batch; nothing if only what follows the last iteration is due, which Lightning runs next."""
        if self.due is None:
            self.seed_loading()
            super().advance(data_fetcher)
            return
        self._skip_next_val = self.due == EPOCH_END
        self.due = None
        self.val_loop.restarting = False

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Restore what is due."""
        super().on_load_checkpoint(state_dict)
        self.due = state_dict.get("due")

    def _broadcast_sigterm_tensor(self) -> None:
        # Lightning 2.6 broadcasts rank 0's signals before each batch, and waits for the result, on the GPU too.
        pass


class FitLoop(_FitLoop):
    """Lightning's loop over epochs, in which a stop within an epoch is not the epoch's end.

    Lightning 2.6 calls the hooks of an epoch's end when `max_steps` or a callback stops a run within an epoch. A
    resumed run would call them again at the true end, where EarlyStopping counts a second time.
    """

    epoch_loop: EpochLoop

    @property
    def done(self) -> bool:
        """Whether the training is over; not before what a stop has left undone."""
        return self.epoch_loop.due is None and super().done

    def _load_combined_loader_states(self) -> None:
        # Lightning calls this after it has built the loaders, which may split a data set at random, and before it makes
        # their iterators.
        super()._load_combined_loader_states()
        self.epoch_loop.seed_loading()

    def on_advance_end(self) -> None:
        """End the epoch, if it is complete."""
        stopped = self.trainer.should_stop or self.epoch_loop.global_step == self.max_steps
        if self.epoch_loop._num_ready_batches_reached() or not stopped:
            super().on_advance_end()


def replace_loops(trainer: Trainer) -> None:
    """Replace the loops of a Trainer by those of this module; call it before a checkpoint is restored."""
    trainer.fit_loop.__class__ = FitLoop
    trainer.fit_loop.epoch_loop.__class__ = EpochLoop
    for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
        loop.__class__ = EvaluationLoop


def find_due(trainer: Trainer) -> str | None:
    """Return what follows the last iteration and is not done yet: VALIDATION, EPOCH_END or None."""
    # Lightning does not declare the types of its counters.
    loop: Any = trainer.fit_loop
    progress = loop.epoch_loop.batch_progress.current
    within_validation = trainer.validating and trainer.interrupted
    if within_validation or progress.completed < progress.processed:
        return VALIDATION
    ended = loop.epoch_loop._num_ready_batches_reached() and progress.ready == progress.completed > 0
    return EPOCH_END if ended and loop.epoch_progress.current.processed < loop.epoch_progress.current.started else None


class SignalConnector(_SignalConnector):
    """Lightning's signal handlers without that of SIGTERM, which is answered by `gen_lightning.stopping`.

    Lightning 2.6 broadcasts within its handler, which can hang. Its handler of SIGUSR1, which requeues a SLURM job,
    remains.
    """

    def register_signal_handlers(self) -> None:
        """Register the handler that requeues a SLURM job, under SLURM."""
        environment = self.trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            self._original_handlers = {}
            self._register_signal(environment.requeue_signal, self._slurm_sigusr_handler_fn)


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, which watches the processes that it starts by `gen_lightning.stopping`.

    Lightning 2.6 kills rank 0 when another rank has ended with a status other than 0, as it does on SIGTERM.
    """

    def _call_children_scripts(self) -> None:
        super()._call_children_scripts()
        if watch := get_watch():
            first = self.cluster_environment.node_rank() * self.num_processes
            watch.children = {first + place: process for place, process in enumerate(self.procs, start=1)}
            # Lightning's observer is given this list.
            self.procs = []


def answer_signals_together(trainer: Trainer) -> None:
    """Let the ranks of a Trainer stop together, and end if one of them dies."""
    trainer._signal_connector = SignalConnector(trainer)
    strategy = trainer.strategy
    if isinstance(strategy.launcher, _SubprocessScriptLauncher):
        strategy.launcher.__class__ = Launcher
    set_up_environment = strategy.setup_environment

    def set_up_and_connect() -> None:
        if watch := get_watch():
            watch.others = [rank for rank in range(trainer.world_size) if rank != trainer.global_rank]
        set_up_environment()
        connect_ranks(trainer)

    # The first moment at which ranks can exchange an address.
    strategy.setup_environment = set_up_and_connect  # type: ignore[method-assign]


def connect_ranks(trainer: Trainer) -> None:
    """Connect the ranks for messages about signals and dead ranks, once torch.distributed is initialized."""
    watch = get_watch()
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if watch is None or watch.ranks or not ready or trainer.world_size == 1:
        return
    ranks = Ranks(trainer.global_rank, trainer.world_size)
    address = ("", 0)
    if trainer.global_rank == 0:
        secret = secrets.token_hex(16)
        address = (secret, ranks.listen(secret, local=trainer.num_nodes == 1))
    secret, port = trainer.strategy.broadcast(address)
    if trainer.global_rank:
        host = "127.0.0.1" if trainer.num_nodes == 1 else os.environ["MASTER_ADDR"]
        ranks.connect(host, port, secret)
    watch.connect(ranks)
