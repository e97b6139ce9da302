"""Seeds and iterations; and whether Lightning still behaves as clock.py assumes."""

import ast

import lightning
import pytest
import torch
from helpers import ROOT, gan, load
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning.clock import (
    Stream,
    allow_unused_parameters,
    derive_iteration_seed,
    derive_seed,
    is_between_iterations,
    seed_draws,
    set_logged_iteration,
    unscales_in_step,
)

VERSION = f"Lightning {lightning.__version__}"

# Attributes with an underscore that other modules may read from objects of other packages, each with its reason there.
ALLOWED = {
    "_BatchNorm",
    "_ConvNd",
    "_SpectralNorm",
    "_compiled_call_impl",
    "_instances",
    "_actions",
    "_SubParsersAction",
    "_experiment",
    "_asdict",
    "_fields",
}


class TwoOptimizers(LightningModule):
    """A module under manual optimization that steps two optimizers a batch, as Lightning has them."""

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


class Watch(Callback):
    """Records what the callback's argument sees at the start of each batch."""

    def __init__(self, see):
        self.see, self.seen = see, []

    def on_train_batch_start(self, trainer, *_):
        self.seen.append(self.see(trainer))


def fit(model, *callbacks, steps=4, data=(2,), **options):
    trainer = Trainer(
        max_steps=steps, callbacks=list(callbacks), logger=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(torch.rand(16, *data), torch.zeros(16).long()), 4))
    return trainer


def test_seeds_differ_for_all_small_arguments():
    seeds = {derive_seed(seed, rank, iteration) for seed in range(5) for rank in range(5) for iteration in range(200)}
    assert len(seeds) == 5 * 5 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_of_iterations_are_the_same_in_any_order():
    iterations = [0, 1, 99, 100, 250, 3, 10**9]
    assert [derive_iteration_seed(i, 2, 7) for i in iterations] == [derive_seed(2, 7, i) for i in iterations]
    assert [derive_iteration_seed(i, 2, 8) for i in iterations] == [derive_seed(2, 8, i) for i in iterations]


def test_streams_are_distinct_and_their_numbers_never_change():
    """Other numbers would change every draw of every published run."""
    numbers = {"TRAINING": 0, "EVALUATION": 1, "ORDER": 2, "DRAWS": 3, "LIKELIHOOD": 4, "LATENTS": 5}
    assert {stream.name: stream.value for stream in Stream} == numbers
    assert derive_seed(Stream.DRAWS, 7) == derive_seed(3, 7)


def test_seeding_draws_is_torchs_own_seeding():
    seed_draws(123, torch.device("cpu"))
    drawn = torch.randn(5)
    torch.manual_seed(123)
    assert torch.equal(drawn, torch.randn(5))


class TestLightning:
    """Each fact about Lightning that a function of clock.py answers."""

    def test_it_counts_the_steps_of_every_optimizer(self):
        watch = Watch(lambda trainer: trainer.global_step)
        fit(TwoOptimizers(), watch)
        assert watch.seen == [0, 2], f"{VERSION} no longer counts each optimizer's step: see exclude_from_global_step."

    def test_excluded_steps_leave_one_count_for_each_batch(self):
        watch = Watch(lambda trainer: trainer.global_step)
        fit(gan(data_shape=(1, 28, 28)), watch, data=(1, 28, 28))
        assert watch.seen == [0, 1, 2, 3], f"{VERSION} counts a GAN's iterations anew: see exclude_from_global_step."

    def test_it_decides_by_its_own_count_when_scalars_are_written(self):
        trainer = fit(TwoOptimizers())
        count = trainer.fit_loop.epoch_loop._batches_that_stepped
        assert count == 2, f"{VERSION} no longer keeps a count of batches beside global_step: see set_logged_iteration."
        set_logged_iteration(trainer, 7)
        assert trainer.fit_loop.epoch_loop._batches_that_stepped == 7

    def test_its_progress_tells_whether_an_iteration_is_under_way(self):
        class Within(Callback):
            seen = None

            def on_before_zero_grad(self, trainer, *_):
                Within.seen = is_between_iterations(trainer)

        watch = Watch(is_between_iterations)
        trainer = fit(gan(data_shape=(1, 28, 28)), watch, Within(), data=(1, 28, 28))
        sentence = f"{VERSION} counts started batches otherwise: see is_between_iterations."
        assert not Within.seen, sentence
        assert is_between_iterations(trainer), sentence

    def test_plain_ddp_reads_its_arguments_from_the_strategy(self):
        strategy = DDPStrategy()
        assert "find_unused_parameters" not in strategy._ddp_kwargs, f"{VERSION} sets it itself: see clock.py."
        allow_unused_parameters(strategy)
        named = DDPStrategy(find_unused_parameters=True)
        assert strategy._ddp_kwargs == named._ddp_kwargs, f"{VERSION} keeps DDP's arguments elsewhere: see clock.py."

    def test_a_checkpoint_names_the_parts_of_the_loop_that_are_rewritten(self, tmp_path):
        trainer = fit(gan(data_shape=(1, 28, 28)), data=(1, 28, 28))
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        loop = load(tmp_path / "last.ckpt")["loops"]["fit_loop"]
        parts = {"epoch_progress", "epoch_loop.batch_progress", "state_dict"}
        assert parts <= loop.keys(), f"{VERSION} stores its loop's state otherwise: see rewind_to_iteration."
        counts = {"ready", "started", "processed", "completed"}
        assert counts <= loop["epoch_loop.batch_progress"]["current"].keys()
        assert loop["epoch_loop.batch_progress"]["total"]["completed"] == 4


def test_torch_marks_optimizers_that_unscale_gradients_in_their_step():
    parameters = [nn.Parameter(torch.zeros(2))]
    assert unscales_in_step(torch.optim.Adam(parameters, fused=True)), "see unscales_in_step"
    assert not unscales_in_step(torch.optim.Adam(parameters))
    assert not unscales_in_step(torch.optim.SGD(parameters))


@pytest.mark.parametrize("room", ["gen_lightning", "callbacks", "datamodules", "cli"])
def test_no_other_module_reads_private_attributes_of_other_packages(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        if path == ROOT / "gen_lightning/clock.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = node.value
                own = isinstance(owner, ast.Name) and owner.id in ("self", "cls")
                parent = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
                assert own or parent or node.attr in ALLOWED, f"{path}:{node.lineno} reads {node.attr}"
