"""Options of Lightning's Trainer that act on the loop: each works as Lightning says, or is refused in one sentence."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import lightning.pytorch.callbacks
import pytest
import torch
from helpers import CONFIGS, load
from lightning.pytorch import Callback
from test_resume import assert_equal

import train
from gen_lightning import GenerativeModule
from gen_lightning.base import REFUSED_CALLBACKS, check_callbacks
from gen_lightning.errors import UserError

# These tests train through the command line.
pytestmark = pytest.mark.slow

# 1,197 training digits give 4 batches per epoch.
SMALL = ["--data.source=digits", "--data.batch_size=256", "--trainer.enable_progress_bar=false"]
RECIPES = {name: ["--config", str(CONFIGS / f"{name}.yaml"), *SMALL] for name in ("gan/mlp", "vae/vae")}
NO_CALLBACKS = ["--trainer.callbacks=[]", "--trainer.logger=false"]

# The other classes of lightning.pytorch.callbacks are refused, need a package, or are bases of user classes.
WORKING = {
    "EarlyStopping": ["monitor=val/MONITORED"],
    "LambdaCallback": [],
    "LearningRateMonitor": ["logging_interval=step"],
    "ModelCheckpoint": ["every_n_train_steps=3", "save_top_k=-1", "filename={epoch}-{step}"],
    "ModelSummary": [],
    "OnExceptionCheckpoint": ["dirpath=there"],
    "TQDMProgressBar": [],
    "Timer": ["duration=00:00:01:00"],
}
PACKAGES = {"DeviceStatsMonitor": "psutil", "RichModelSummary": "rich", "RichProgressBar": "rich"}
BASES = {"BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"}


def list_options(name: str, options: Sequence[str] = ()) -> list[str]:
    """Return the options that add a callback of Lightning to a run."""
    return [f"--trainer.callbacks+=lightning.pytorch.callbacks.{name}"] + [
        f"--trainer.callbacks.{option}" for option in options or WORKING.get(name, ())
    ]


def read_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_callback_of_lightning_is_tried_or_refused():
    refused = {kind.__name__ for kind in REFUSED_CALLBACKS} | {"EMAWeightAveraging", "GradientAccumulationScheduler"}
    assert set(lightning.pytorch.callbacks.__all__) == BASES | WORKING.keys() | PACKAGES.keys() | refused


@pytest.mark.parametrize(("recipe", "monitored"), [("gan/mlp", "discriminator_loss"), ("vae/vae", "elbo")])
def test_the_callbacks_of_lightning_work_together(recipe, monitored, fit):
    callbacks = [option.replace("MONITORED", monitored) for name in WORKING for option in list_options(name)]
    arguments = [*RECIPES[recipe], *NO_CALLBACKS, "--trainer.enable_progress_bar=true", *callbacks]
    run = fit(*arguments, "--trainer.log_every_n_steps=3", "--trainer.max_steps=7")
    assert load(run / "checkpoints/last.ckpt")["global_step"] == 7
    assert {path.stem for path in (run / "checkpoints").glob("epoch*.ckpt")} == {"epoch=0-step=3", "epoch=1-step=6"}
    # A rate is logged at the number of iterations that were completed when it was used.
    assert [int(row["step"]) for row in read_rows(run) if row.get("lr-Adam")] == [2, 5]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_callback_that_needs_a_package_works(name, fit):
    pytest.importorskip(PACKAGES[name])
    progress_bar = ["--trainer.enable_progress_bar=true"] if "ProgressBar" in name else []
    arguments = [*RECIPES["vae/vae"], *NO_CALLBACKS, *progress_bar, *list_options(name), "--trainer.max_steps=5"]
    run = fit(*arguments, "--trainer.log_every_n_steps=3")
    if name == "DeviceStatsMonitor":
        steps = {
            hook: [int(row["step"]) for row in read_rows(run) if row.get(f"{name}.{hook}/cpu_percent")]
            for hook in ("on_train_batch_start", "on_train_batch_end")
        }
        assert steps == {"on_train_batch_start": [2], "on_train_batch_end": [3]}


@pytest.mark.parametrize("kind", REFUSED_CALLBACKS)
def test_a_callback_that_breaks_a_run_is_refused_in_a_sentence(kind):
    with pytest.raises(UserError, match=rf"^{kind.__name__} .*Remove it.*\.$"):
        # The refusal must not depend on the arguments.
        check_callbacks([object.__new__(kind)])


class Clock(Callback):
    """Records what others read from the Trainer, which is the number of completed iterations."""

    seen: ClassVar[list[tuple[str, int, int, int]]] = []

    def record(self, trainer, hook):
        step = int(trainer.callback_metrics.get("step", torch.tensor(trainer.global_step)))
        count = trainer.fit_loop.epoch_loop._batches_that_stepped
        self.seen.append((hook, trainer.global_step, step, count))

    def on_train_epoch_start(self, trainer, *_):
        self.record(trainer, "epoch_start")

    def on_train_batch_start(self, trainer, *_):
        self.record(trainer, "start")

    def on_train_batch_end(self, trainer, *_):
        self.record(trainer, "end")

    def on_validation_batch_end(self, trainer, *_):
        if not trainer.sanity_checking:
            self.record(trainer, "validation_batch_end")

    def on_validation_end(self, trainer, *_):
        if not trainer.sanity_checking:
            self.record(trainer, "validation_end")


@pytest.fixture
def clock(monkeypatch):
    """Adds a Clock to every model, and returns what it has recorded."""
    monkeypatch.setattr(Clock, "seen", [])
    configure = GenerativeModule.configure_callbacks
    monkeypatch.setattr(GenerativeModule, "configure_callbacks", lambda model: [*configure(model), Clock()])
    return Clock.seen


@pytest.mark.parametrize(("recipe", "interval"), [("gan/mlp", 3), ("vae/vae", 1), ("vae/vae", 50)])
def test_others_read_the_iteration_from_the_trainer(recipe, interval, fit, clock):
    checkpoint = list_options("ModelCheckpoint")
    arguments = [*RECIPES[recipe], *NO_CALLBACKS, *checkpoint, f"--trainer.log_every_n_steps={interval}"]
    run = fit(
        *arguments, "--trainer.max_steps=7", "--trainer.val_check_interval=2", "--checkpoint.every_n_iterations=3"
    )
    assert [values for values in clock if len(set(values[1:])) > 1] == []
    assert [values[1] for values in clock if values[0] == "end"] == list(range(1, 8))
    assert {path.stem for path in (run / "checkpoints").glob("epoch*.ckpt")} == {"epoch=0-step=3", "epoch=1-step=6"}
    logged = [int(row["step"]) for row in read_rows(run) if row.get("images_seen")]
    assert logged == [iteration for iteration in range(1, 8) if iteration % interval == 0]
    validated = "val/discriminator_loss" if recipe == "gan/mlp" else "val/elbo"
    assert [int(row["step"]) for row in read_rows(run) if row.get(validated)] == [2, 4, 6]

    clock.clear()
    train.main(["fit", "--resume", str(run), "--trainer.max_steps=10"])
    assert [values for values in clock if len(set(values[1:])) > 1] == []
    assert [values[1] for values in clock if values[0] == "end"] == [8, 9, 10]


class Batches(Callback):
    """Records the batches of each epoch."""

    seen: ClassVar[dict[int, list[torch.Tensor]]] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.setdefault(trainer.current_epoch, []).append(batch[0].clone())


def test_overfitting_trains_on_the_same_batches_in_each_epoch_and_resumes(fit, monkeypatch):
    """Binary pixels are the same, too."""
    configure = GenerativeModule.configure_callbacks
    monkeypatch.setattr(GenerativeModule, "configure_callbacks", lambda model: [*configure(model), Batches()])
    monkeypatch.setattr(Batches, "seen", {})
    arguments = [*RECIPES["vae/vae"], *NO_CALLBACKS, "--trainer.overfit_batches=3"]
    reference = fit(*arguments, "--trainer.max_epochs=3")
    first, *others = Batches.seen.values()
    assert len(first) == 3
    assert not torch.equal(first[0], first[1])
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)

    stopped = fit(*arguments, "--trainer.max_steps=5")
    train.main(["fit", "--resume", str(stopped), "--trainer.max_steps=-1", "--trainer.max_epochs=3"])
    one, other = (load(run / "checkpoints/last.ckpt") for run in (stopped, reference))
    assert one["global_step"] == 9
    assert_equal(one["state_dict"], other["state_dict"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_64_bits_train_resume_test_and_sample(recipe, fit, tmp_path):
    arguments = [*RECIPES[recipe], "--trainer.logger=false", "--trainer.precision=64-true", "--trainer.max_epochs=1"]
    run = fit(*arguments)
    train.main(["fit", "--resume", str(run), "--trainer.max_epochs=2"])
    checkpoint = run / "checkpoints/last.ckpt"
    state = load(checkpoint)
    assert state["global_step"] == 8
    assert {value.dtype for value in state["state_dict"].values() if value.is_floating_point()} == {torch.float64}
    likelihood = ["--trainer.callbacks+=callbacks.ImportanceSampledLikelihood", "--trainer.callbacks.num_samples=2"]
    train.main(
        ["test", "--ckpt_path", str(checkpoint), *([*likelihood, "--latents=gmm"] if recipe == "vae/vae" else [])]
    )
    train.main(["sample", "--ckpt_path", str(checkpoint), "--num_samples=4", f"--output={tmp_path}/samples"])
    assert (tmp_path / "samples/samples.npz").is_file()


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_16_bits_are_refused_with_the_reason(precision, fit, capsys):
    with pytest.raises(SystemExit) as status:
        fit(*RECIPES["gan/mlp"], *NO_CALLBACKS, f"--trainer.precision={precision}")
    assert status.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "round away" in message
    assert f"Set --trainer.precision={precision.replace('true', 'mixed')}" in message
