"""A loss or a weight that is not finite stops a run, and the last good checkpoint is kept."""

import json

import pytest
import torch
from helpers import CONFIGS, gan, load
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

from callbacks import DivergenceError, LastCheckpoint, StopOnNaN
from cli.trainer import Trainer as CommandLineTrainer
from gen_lightning.networks import MLPDecoder


def exploding(optimizer):
    """Return the command-line option that sets an optimizer's learning rate to infinity."""
    schedule = "{class_path: gen_lightning.schedules.Linear, init_args: {start: 1.0e+15, end: 1.0e+15, iterations: 1}}"
    return f"--model.schedules={{{optimizer}.lr: {schedule}}}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "optimizer", "event"),
    [
        ("gan/mlp", "discriminator_optimizer", "at iteration 5: train/generator_loss is nan"),
        ("vae/vae", "optimizer", "at iteration 6: train/loss is nan"),
    ],
)
def test_a_diverged_run_resumes_from_its_last_good_checkpoint(fit, capsys, recipe, optimizer, event):
    """The optimizer explodes in iteration 5; the generator's loss is the first that is NaN."""
    quiet = ["--trainer.logger=false", "--trainer.callbacks=null", "--trainer.limit_val_batches=0"]
    folder = fit(f"--config={CONFIGS / recipe}.yaml", "--data.source=digits", "--trainer.max_steps=4", *quiet)
    good = load(folder / "checkpoints/last.ckpt")["state_dict"]
    resume = ["--resume", str(folder), "--trainer.max_steps=8", "--trainer.log_every_n_steps=1"]
    with pytest.raises(SystemExit) as exit_info:
        fit(*resume, exploding(optimizer))
    assert exit_info.value.code == 1
    printed = capsys.readouterr()
    sentence = printed.err.splitlines()[-1]
    assert sentence.startswith(f"train.py: The training has diverged {event}")
    assert f"checkpoint, runs/{folder.parent.name}/{folder.name}/checkpoints/last.ckpt, with" in sentence
    assert "--resume" in printed.out
    assert "nan" in (folder / "metrics.csv").read_text().splitlines()[-1]
    assert json.loads((folder / "metrics.json").read_text())["diverged"]["reason"] in sentence
    kept = load(folder / "checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(value, good[name]) for name, value in kept.items())
    fit(*resume, "--model.schedules=null")
    resumed = load(folder / "checkpoints/last.ckpt")
    assert resumed["global_step"] == 8
    assert json.loads((folder / "metrics.json").read_text()).keys() == {"fit"}
    assert all(value.isfinite().all() for value in resumed["state_dict"].values())


class Poison(Callback):
    """A callback that sets one weight to NaN after iteration 3."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            next(pl_module.generator.parameters()).data.view(-1)[0] = torch.nan


def train(folder, *callbacks, scale=1.0, trainer_class=Trainer, **arguments):
    model = gan(generator=MLPDecoder, data_shape=(2,))
    next(model.discriminator.parameters()).data.mul_(scale)
    loader = DataLoader(TensorDataset(torch.randn(100, 2), torch.zeros(100)), 10)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = trainer_class(
        max_epochs=1, default_root_dir=folder, callbacks=[*callbacks, StopOnNaN()], **quiet | arguments
    )
    trainer.fit(model, loader)
    return trainer


@pytest.mark.parametrize(
    ("checkpoint", "at"),
    [(lambda folder: LastCheckpoint(2), 4), (lambda folder: ModelCheckpoint(folder, "best", every_n_train_steps=1), 3)],
)
def test_weights_that_are_not_finite_are_not_saved(tmp_path, checkpoint, at):
    """This holds for any callback that saves, and if no scalar is logged."""
    with pytest.raises(DivergenceError, match=f"at iteration {at}: some weights are not finite"):
        train(tmp_path, Poison(), checkpoint(tmp_path))
    (kept,) = tmp_path.rglob("*.ckpt")
    assert load(kept)["global_step"] == 2
    assert all(value.isfinite().all() for value in load(kept)["state_dict"].values())


class PoisonState(Callback):
    """A callback that makes one state of Adam infinite after iteration 3, which leaves the weights finite."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            next(iter(trainer.optimizers[1].state.values()))["exp_avg_sq"].fill_(torch.inf)


def test_states_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(DivergenceError, match="at iteration 4: some states of an optimizer are not finite"):
        train(tmp_path, PoisonState(), LastCheckpoint(2))
    (kept,) = tmp_path.rglob("*.ckpt")
    assert load(kept)["global_step"] == 2


@pytest.mark.parametrize("poison", [Poison, PoisonState])
def test_a_diverged_run_saves_no_checkpoint_with_weights_only(tmp_path, poison):
    """Lightning calls no hook of a callback for them."""
    best = ModelCheckpoint(tmp_path, "best", every_n_train_steps=1, save_weights_only=True)
    with pytest.raises(DivergenceError, match="at iteration 3: some"):
        train(tmp_path, poison(), best, trainer_class=CommandLineTrainer)
    assert load(tmp_path / "best.ckpt")["global_step"] == 2


def test_squared_gradients_that_overflow_are_told_before_anything_is_saved(tmp_path):
    """Adam's states become infinite and its steps zero, while each weight and most losses stay finite."""
    with pytest.raises(DivergenceError, match="not finite"):
        train(tmp_path, LastCheckpoint(1), scale=1e30)
    for path in tmp_path.rglob("*.ckpt"):
        assert all(value.isfinite().all() for state in load(path)["optimizer_states"] for value in find_tensors(state))


def find_tensors(optimizer_state):
    return [value for state in optimizer_state["state"].values() for value in state.values()]


class Score(Callback):
    """A callback that logs the values of a score, one at each iteration."""

    def __init__(self, values):
        self.values = values

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("val/score", torch.tensor(self.values[batch_idx % len(self.values)]))


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [torch.nan, 2.0, 1.0, -torch.inf], 1.0),
        ("max", [torch.inf, 1.0, 2.0, torch.nan], 2.0),
        ("min", [torch.nan], None),
    ],
)
def test_no_checkpoint_is_chosen_by_a_score_that_is_not_finite(tmp_path, mode, values, best):
    checkpoint = ModelCheckpoint(tmp_path, "best", monitor="val/score", mode=mode, every_n_train_steps=1)
    with pytest.warns(UserWarning, match=r"val/score is (nan|inf) at iteration 1\. No checkpoint is chosen") as warned:
        train(tmp_path, Score(values), checkpoint, limit_train_batches=4)
    assert checkpoint.best_model_score == best
    assert (tmp_path / "best.ckpt").is_file() == (best is not None)
    assert len([one for one in warned if "val/score" in str(one.message)]) == 1


def test_the_sentence_without_a_checkpoint_says_to_start_a_new_run(tmp_path):
    with pytest.raises(DivergenceError, match=r"There is no checkpoint to resume from\. Start a new run"):
        train(tmp_path, Poison(), LastCheckpoint(), log_every_n_steps=1)
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_a_checkpoint_of_weights_alone_is_not_suggested(tmp_path):
    """A ModelCheckpoint saves them as last.ckpt, the file that LastCheckpoint would write."""
    weights = ModelCheckpoint(tmp_path / "checkpoints", "last", every_n_train_steps=1, save_weights_only=True)
    with pytest.raises(DivergenceError, match="There is no checkpoint to resume from"):
        train(tmp_path, Poison(), LastCheckpoint(), weights, log_every_n_steps=1)
    assert (tmp_path / "checkpoints/last.ckpt").is_file()


def test_an_overflow_of_scaled_gradients_is_not_a_divergence(tmp_path):
    """The scale is so large that the first gradients are infinite; these steps are skipped, and the scale is halved."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer = train(tmp_path, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], log_every_n_steps=1)
    assert trainer.global_step == 10
    assert trainer.callback_metrics["train/generator_loss"].isfinite()
    assert scaler.get_scale() < 2.0**127
