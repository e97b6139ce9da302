"""A run that is stopped and resumed equals the uninterrupted one, bit for bit."""

import csv
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, load

# 1,198 training digits: 4 batches an epoch.
SMALL = ["--data.source=digits", "--data.batch_size=256", "--trainer.logger=false", "--trainer.log_every_n_steps=1"]
GAN = ["--config", str(CONFIGS / "gan/mlp.yaml"), "--model.discriminator_steps=2", *SMALL]
VAE = ["--config", str(CONFIGS / "vae/vae.yaml"), *SMALL]
BATCHES_PER_EPOCH = 4


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal(one, other, path=""):
    """Nested containers with bit-equal tensors."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


def assert_same_run(folder: Path, reference: Path) -> None:
    checkpoint, expected = load(folder / "checkpoints/last.ckpt"), load(reference / "checkpoints/last.ckpt")
    for key in ("state_dict", "optimizer_states", "global_step", "epoch", "loops"):
        assert_equal(checkpoint[key], expected[key], key)
    assert rows(folder) == rows(reference)


@pytest.mark.parametrize("model", [GAN, VAE], ids=["gan", "vae"])
@pytest.mark.parametrize("unit", ["max_steps", "max_epochs"])
def test_stopped_by_a_limit_and_resumed_with_a_larger_one(fit, model, unit):
    """Stopped at an epoch's end: both limits; stopped mid-epoch: max_steps."""
    stops = {"max_steps": [3, 4, 6], "max_epochs": [1, 2]}[unit]
    end = {"max_steps": 3 * BATCHES_PER_EPOCH - 1, "max_epochs": 3}[unit]
    reference = fit(*model, f"--trainer.{unit}={end}")
    for stop in stops:
        folder = fit(*model, f"--trainer.{unit}={stop}")
        fit("--resume", str(folder), f"--trainer.{unit}={end}")
        assert_same_run(folder, reference)


class Killed(Exception):
    """Stands for SIGKILL: nothing of what follows runs."""


@pytest.mark.parametrize("model", [GAN, VAE], ids=["gan", "vae"])
@pytest.mark.parametrize("unit", ["max_steps", "max_epochs"])
@pytest.mark.parametrize("last_checkpoint", [1, 3, 4, 5, 7], ids=lambda step: f"checkpoint{step}")
def test_killed_after_a_checkpoint_and_resumed(fit, monkeypatch, model, unit, last_checkpoint):
    """Checkpoints mid-epoch, before, on and after the last batch of an epoch."""
    from gen_lightning import GenerativeModule

    end = {"max_steps": 2 * BATCHES_PER_EPOCH + 1, "max_epochs": 3}[unit]
    arguments = [*model, f"--trainer.{unit}={end}", "--trainer.callbacks.every_n_iterations=1"]
    reference = fit(*model, f"--trainer.{unit}={end}")

    original = GenerativeModule.on_train_batch_start

    def killed(self, batch, batch_idx):
        if self.global_step == last_checkpoint:
            raise Killed
        original(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(GenerativeModule, "on_train_batch_start", killed)
        fit(*arguments)
