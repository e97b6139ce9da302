"""Seeds, and the behaviours of Lightning and torch that clock.py answers. A change of one fails with a sentence."""

import ast
import os
from typing import ClassVar
from unittest import mock

import lightning
import pytest
import torch
from helpers import ROOT, gan, load
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning.clock import (
    Stream,
    allow_unused_parameters,
    complete_logged_iteration,
    derive_iteration_seed,
    derive_seed,
    is_between_iterations,
    refresh_logged_step,
    rewind_to_iteration,
    seed_draws,
    set_logged_iteration,
    unscales_in_step,
)

VERSION = f"Lightning {lightning.__version__}"
IMAGES = (1, 28, 28)
BATCHES_PER_EPOCH = 4

# Private attributes of other packages that modules other than clock.py read, each with its reason.
ALLOWED = {
    "_actions": "argparse has no public list of a parser's options",
    "_BatchNorm": "torch has no public base class of its batch normalizations",
    "_ConvNd": "torch has no public base class of its convolutions",
    "_compiled_call_impl": "torch has no public test of whether a module is compiled",
    "_exit": "os has no other name for ending a process from a thread or a signal handler",
    "_experiment": "WandbLogger.experiment would start a run that has not been started",
    "_instances": "tqdm has no public list of its open bars",
    "_typehint": "jsonargparse has no public access to the type of an option",
    "_SubParsersAction": "argparse returns subcommands only as an object of this class",
}


class TwoOptimizers(LightningModule):
    """A plain module under manual optimization that steps two optimizers in each batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.one, self.other = nn.Linear(2, 1), nn.Linear(2, 1)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.one, self.other)]

    def training_step(self, batch, batch_idx):
        for optimizer, part in zip(self.optimizers(), (self.one, self.other), strict=True):
            optimizer.zero_grad()
            self.manual_backward(part(batch[0]).mean())
            optimizer.step()


class OneOptimizer(LightningModule):
    """A plain module under automatic optimization that records the epoch and the number of each batch."""

    def __init__(self):
        super().__init__()
        self.part, self.batches = nn.Linear(2, 1), []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, batch, batch_idx):
        self.batches.append((self.current_epoch, batch_idx))
        return self.part(batch[0]).mean()


class Record(Callback):
    """Records a function of the Trainer at the start of each batch."""

    def __init__(self, read):
        self.read, self.values = read, []

    def on_train_batch_start(self, trainer, *_):
        self.values.append(self.read(trainer))


class ListLogger(DummyLogger):
    """Keeps the metrics that it is given."""

    def __init__(self):
        super().__init__()
        self.metrics = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append(metrics)


class SaveIn(Callback):
    """Saves a checkpoint in a hook, at a value of `global_step`."""

    def __init__(self, hook, step, path):
        self.step, self.path = step, path
        setattr(self, hook, self.save)

    def save(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(model, *callbacks, steps=4, shape=(2,), checkpoint=None, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_steps=steps, max_epochs=-1, callbacks=list(callbacks), accelerator="cpu", **(quiet | options))
    data = TensorDataset(torch.rand(BATCHES_PER_EPOCH * 4, *shape), torch.zeros(BATCHES_PER_EPOCH * 4).long())
    trainer.fit(model, DataLoader(data, 4), ckpt_path=checkpoint, weights_only=True)
    return trainer


def read_logged_iteration(trainer):
    return getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", None)


def test_seeds_differ_for_all_small_arguments():
    seeds = {derive_seed(seed, rank, iteration) for seed in range(5) for rank in range(5) for iteration in range(200)}
    assert len(seeds) == 5 * 5 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_seed_of_an_iteration_does_not_depend_on_the_order_of_calls():
    iterations = [0, 1, 99, 100, 250, 3, 10**9]
    assert [derive_iteration_seed(i, 2, 7) for i in iterations] == [derive_seed(2, 7, i) for i in iterations]
    assert [derive_iteration_seed(i, 2, 8) for i in iterations] == [derive_seed(2, 8, i) for i in iterations]


def test_streams_are_distinct_and_their_numbers_never_change():
    """Other numbers would change every draw of every published run."""
    numbers = {"TRAINING": 0, "EVALUATION": 1, "ORDER": 2, "DRAWS": 3, "LIKELIHOOD": 4, "LATENTS": 5}
    numbers |= {"LOADING": 6, "EVALUATION_LOADING": 7}
    assert {stream.name: stream.value for stream in Stream} == numbers
    assert derive_seed(Stream.DRAWS, 7) == derive_seed(3, 7)


def test_seed_draws_gives_the_numbers_of_torch_manual_seed():
    seed_draws(123, torch.device("cpu"))
    drawn = torch.randn(5)
    torch.manual_seed(123)
    assert torch.equal(drawn, torch.randn(5))


class TestLightning:
    """The behaviours of Lightning that functions of clock.py answer."""

    def test_global_step_counts_the_steps_of_every_optimizer(self):
        record = Record(lambda trainer: trainer.global_step)
        fit(TwoOptimizers(), record)
        sentence = f"{VERSION} no longer counts the steps of every optimizer: see exclude_from_global_step in clock.py."
        assert record.values == [0, 2], sentence

    def test_excluded_steps_are_not_counted(self):
        record = Record(lambda trainer: trainer.global_step)
        fit(gan(data_shape=IMAGES), record, shape=IMAGES)
        sentence = f"{VERSION} no longer counts by these two attributes: see exclude_from_global_step in clock.py."
        assert record.values == [0, 1, 2, 3], sentence

    def test_the_count_of_batches_for_logging_is_one_too_high_after_some_resumptions(self, tmp_path):
        path = tmp_path / "within.ckpt"
        fit(OneOptimizer(), SaveIn("on_train_batch_start", 3, path))
        trainer = fit(OneOptimizer(), steps=6, checkpoint=path)
        sentence = f"{VERSION} no longer miscounts batches after a resumption: see set_logged_iteration in clock.py."
        assert (trainer.global_step, read_logged_iteration(trainer)) == (6, 7), sentence

    def test_the_count_of_batches_decides_when_scalars_are_written(self):
        class TwoAhead(Callback):
            def on_train_batch_start(self, trainer, *_):
                set_logged_iteration(trainer, trainer.global_step + 2)

            def on_train_batch_end(self, trainer, pl_module, *_):
                pl_module.log("completed", float(trainer.global_step))

        logger = ListLogger()
        fit(OneOptimizer(), TwoAhead(), steps=8, logger=logger, log_every_n_steps=4)
        sentence = f"{VERSION} no longer writes scalars by this count: see set_logged_iteration in clock.py."
        assert [metrics["completed"] for metrics in logger.metrics] == [2, 6], sentence

    def test_a_completed_count_is_that_of_logs_until_the_next_iteration(self):
        class LogsItself(Callback):
            steps: ClassVar[dict[str, list[int]]] = {"batch": [], "epoch": []}

            def record(self, trainer, hook):
                self.steps[hook].append((trainer.fit_loop.epoch_loop._batches_that_stepped, trainer.global_step))

            def on_train_batch_end(self, trainer, pl_module, *_):
                complete_logged_iteration(trainer, trainer.global_step)
                self.record(trainer, "batch")

            def on_train_epoch_end(self, trainer, pl_module):
                complete_logged_iteration(trainer, trainer.global_step)
                pl_module.log("epoch_end", float(trainer.global_step))
                self.record(trainer, "epoch")

        class StepLogger(ListLogger):
            def log_metrics(self, metrics, step=None):
                self.metrics.append((step, metrics))

        logger, callback = StepLogger(), LogsItself()
        trainer = fit(OneOptimizer(), callback, steps=8, logger=logger, log_every_n_steps=4)
        sentence = f"{VERSION} no longer adds 1 to this count here: see complete_logged_iteration in clock.py."
        assert [(step, metrics["epoch_end"]) for step, metrics in logger.metrics] == [(4, 4), (8, 8)], sentence
        assert all(logged == completed for values in callback.steps.values() for logged, completed in values), sentence
        assert read_logged_iteration(trainer) == 8, sentence

    def test_a_logged_step_keeps_its_value_until_it_is_refreshed(self):
        class Step(Callback):
            def __init__(self, refreshes):
                self.refreshes, self.values = refreshes, []

            def on_train_batch_end(self, trainer, *_):
                if self.refreshes:
                    assert refresh_logged_step(trainer, trainer.global_step)
                self.values.append(trainer.callback_metrics["step"].item())

        class LogsOnce(OneOptimizer):
            def training_step(self, batch, batch_idx):
                if batch_idx == 0:
                    self.log("step", 1.0 + self.global_step)
                return super().training_step(batch, batch_idx)

        kept, refreshed = Step(False), Step(True)
        for callback in (kept, refreshed):
            fit(LogsOnce(), callback, steps=8)
        sentence = f"{VERSION} no longer keeps a logged value here: see refresh_logged_step in clock.py."
        assert kept.values == [1, 1, 1, 1, 5, 5, 5, 5], sentence
        assert refreshed.values == [1, 2, 3, 4, 5, 6, 7, 8], sentence

    def test_started_batches_show_whether_an_iteration_is_under_way(self):
        class WithinAnIteration(Callback):
            value = None

            def on_before_optimizer_step(self, trainer, *_):
                WithinAnIteration.value = is_between_iterations(trainer)

        trainer = fit(gan(data_shape=IMAGES), WithinAnIteration(), shape=IMAGES)
        sentence = f"{VERSION} no longer counts started batches here: see is_between_iterations in clock.py."
        assert WithinAnIteration.value is False, sentence
        assert is_between_iterations(trainer), sentence

    def test_plain_ddp_refuses_parameters_without_a_gradient_unless_they_are_allowed(self):
        strategies = {"plain": DDPStrategy(), "allowed": DDPStrategy()}
        allow_unused_parameters(strategies["allowed"])
        refused = {}
        for name, strategy in strategies.items():
            # Lightning writes the address of its process group to the environment.
            with mock.patch.dict(os.environ):
                try:
                    fit(TwoOptimizers(), devices=1, strategy=strategy)
                    refused[name] = False
                except RuntimeError as error:
                    refused[name] = "parameters that were not used" in str(error)
                finally:
                    torch.distributed.destroy_process_group()
        sentence = f"{VERSION} no longer passes these arguments to DDP: see allow_unused_parameters in clock.py."
        assert refused == {"plain": True, "allowed": False}, sentence

    def test_a_resumption_at_the_end_of_an_epoch_trains_one_batch_too_many_unless_it_is_rewound(self, tmp_path):
        path, plain, rewound = tmp_path / "end.ckpt", OneOptimizer(), OneOptimizer()
        fit(OneOptimizer(), SaveIn("on_train_epoch_end", BATCHES_PER_EPOCH, path))
        fit(plain, steps=6, checkpoint=path)
        sentence = f"{VERSION} no longer resumes with a fifth batch of four: see rewind_to_iteration in clock.py."
        assert plain.batches == [(0, 4), (1, 0)], sentence

        checkpoint = load(path)
        epoch = rewind_to_iteration(checkpoint["loops"]["fit_loop"], BATCHES_PER_EPOCH, BATCHES_PER_EPOCH)
        torch.save(checkpoint | {"epoch": epoch}, path)
        fit(rewound, steps=6, checkpoint=path)
        sentence = f"{VERSION} no longer reads its place from these counts: see rewind_to_iteration in clock.py."
        assert rewound.batches == [(1, 0), (1, 1)], sentence

    @pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_zero_grad", "on_train_batch_end"])
    def test_a_rewound_checkpoint_of_any_hook_resumes_with_the_next_batch(self, hook, tmp_path):
        path, resumed = tmp_path / "within.ckpt", OneOptimizer()
        fit(OneOptimizer(), SaveIn(hook, 3, path))
        checkpoint = load(path)
        epoch = rewind_to_iteration(checkpoint["loops"]["fit_loop"], 3, BATCHES_PER_EPOCH)
        torch.save(checkpoint | {"epoch": epoch}, path)
        fit(resumed, steps=6, checkpoint=path)
        sentence = f"{VERSION} no longer reads its place from these counts: see rewind_to_iteration in clock.py."
        assert resumed.batches == [(0, 3), (1, 0), (1, 1)], sentence


def test_torch_marks_optimizers_that_unscale_gradients_in_their_step():
    parameters = [nn.Parameter(torch.zeros(2))]
    sentence = f"torch {torch.__version__} no longer marks fused optimizers so: see unscales_in_step in clock.py."
    assert unscales_in_step(torch.optim.Adam(parameters, fused=True)), sentence
    assert not unscales_in_step(torch.optim.Adam(parameters))
    assert not unscales_in_step(torch.optim.SGD(parameters))


@pytest.mark.parametrize("room", ["gen_lightning", "callbacks", "datamodules", "cli"])
def test_only_clock_reads_private_attributes_of_other_packages(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        if path in (ROOT / "gen_lightning/clock.py", ROOT / "gen_lightning/loops.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = node.value
                own = isinstance(owner, ast.Name) and owner.id in ("self", "cls")
                parent = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
                sentence = f"{path}:{node.lineno} reads {ast.unparse(node)}. Move it to clock.py, or add its reason."
                assert own or parent or node.attr in ALLOWED, sentence
