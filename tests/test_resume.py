"""A run that is stopped and resumed equals the uninterrupted run, bit for bit."""

import csv
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS, load

from gen_lightning import GenerativeModule

# These tests train through the command line.
pytestmark = pytest.mark.slow

# 1,198 training digits give 4 batches per epoch.
SMALL = ["--data.source=digits", "--data.batch_size=256", "--trainer.logger=false", "--trainer.log_every_n_steps=3"]
GAN = ["--config", str(CONFIGS / "gan/mlp.yaml"), "--model.discriminator_steps=2", *SMALL]
VAE = ["--config", str(CONFIGS / "vae/vae.yaml"), *SMALL]
BATCHES_PER_EPOCH = 4

# A burn-in like that of R3GAN (Huang et al. 2024), over eight iterations. The runs below are stopped within them.
BURN_IN = """
model:
  init_args:
    ema:
      class_path: gen_lightning.gan.EMA
      init_args: {{half_life: {{class_path: {cosine}, init_args: {{start: 0, end: 5000, iterations: 8}}}}, ramp: null}}
    regularizers:
      - class_path: gen_lightning.gan.R1
        init_args: {{gamma: {{class_path: {cosine}, init_args: {{start: 1, end: 0.1, iterations: 8}}}}}}
    schedules:
      generator_optimizer.lr: {{class_path: {cosine}, init_args: {{start: 2.0e-4, end: 5.0e-5, iterations: 8}}}}
      discriminator_optimizer.lr: {{class_path: {cosine}, init_args: {{start: 2.0e-4, end: 5.0e-5, iterations: 8}}}}
      generator_optimizer.beta2: {{class_path: {cosine}, init_args: {{start: 0.9, end: 0.99, iterations: 8}}}}
""".format(cosine="gen_lightning.schedules.Cosine")


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal(one, other, path=""):
    """Assert that nested containers are equal, and their tensors bit-equal."""
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
    for key in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert_equal(checkpoint[key], expected[key], key)
    assert read_rows(folder) == read_rows(reference)


@pytest.mark.parametrize("model", [GAN, VAE], ids=["gan", "vae"])
@pytest.mark.parametrize("unit", ["max_steps", "max_epochs"])
def test_stopped_by_a_limit_and_resumed_with_a_larger_one(fit, model, unit):
    """Both limits stop a run at the end of an epoch; max_steps also stops it within an epoch."""
    stops = {"max_steps": [3, 4, 6], "max_epochs": [1, 2]}[unit]
    end = {"max_steps": 3 * BATCHES_PER_EPOCH - 1, "max_epochs": 3}[unit]
    reference = fit(*model, f"--trainer.{unit}={end}")
    for stop in stops:
        folder = fit(*model, f"--trainer.{unit}={stop}")
        fit("--resume", str(folder), f"--trainer.{unit}={end}")
        assert_same_run(folder, reference)


def test_autoregressive_pixels_of_256_levels_resume_exactly(fit):
    likelihood = "--model.likelihood=gen_lightning.vae.AutoregressiveLogisticMixture"
    sizes = [f"--model.likelihood.{size}" for size in ("num_components=2", "width=4", "window=3")]
    arguments = [*VAE, "--data.binarization=none", likelihood, *sizes]
    reference = fit(*arguments, "--trainer.max_steps=6")
    folder = fit(*arguments, "--trainer.max_steps=3")
    fit("--resume", str(folder), "--trainer.max_steps=6")
    assert_same_run(folder, reference)


def test_a_burn_in_of_all_schedules_resumes_exactly(fit, tmp_path):
    (tmp_path / "burn_in.yaml").write_text(BURN_IN)
    arguments = [*GAN, "--config", str(tmp_path / "burn_in.yaml")]
    reference = fit(*arguments, "--trainer.max_steps=9")
    folder = fit(*arguments, "--trainer.max_steps=3")
    assert read_learning_rates(folder) == pytest.approx([compute_cosine(2) for _ in range(2)])
    fit("--resume", str(folder), "--trainer.max_steps=6")
    assert read_learning_rates(folder) == pytest.approx([compute_cosine(5) for _ in range(2)])
    fit("--resume", str(folder), "--trainer.max_steps=9")
    assert_same_run(folder, reference)
    weights = load(folder / "checkpoints/last.ckpt")["state_dict"]
    averages = {name: value for name, value in weights.items() if name.startswith("ema.network.")}
    assert averages
    assert not any(
        torch.equal(value, weights[name.replace("ema.network", "generator")]) for name, value in averages.items()
    )
    logged = [float(row["train/generator_optimizer.lr"]) for row in read_rows(folder) if row["train/generator_loss"]]
    assert logged == pytest.approx([compute_cosine(iteration - 1) for iteration in (3, 6, 9)])


def compute_cosine(iteration: int) -> float:
    """Return the learning rate of the burn-in by PyTorch's own schedule."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=5e-5)
    for _ in range(iteration):
        optimizer.step()
        schedule.step()
    return optimizer.param_groups[0]["lr"]


def read_learning_rates(folder: Path) -> list[float]:
    """Return the learning rates of all optimizers in the last iteration before the checkpoint."""
    states = load(folder / "checkpoints/last.ckpt")["optimizer_states"]
    return [group["lr"] for state in states for group in state["param_groups"]]


POINTS = [
    *GAN[:2],
    "--data=datamodules.GaussianMixtureDataModule",
    "--data.mixture=datamodules.Ring",
    "--data.num_samples=1024",
    "--data.num_held_out=100",
    "--model.generator=gen_lightning.networks.MLPDecoder",
    "--trainer.callbacks=callbacks.ModeCoverage",
    "--trainer.callbacks+=callbacks.ScatterPlot",
]
STACKS = [*GAN[:2], "--data=datamodules.StackedMNISTDataModule", SMALL[0], "--trainer.callbacks=null"]
TRIPLES = [*STACKS, "--data.num_triples=1024"]


@pytest.mark.parametrize("data", [POINTS, STACKS, TRIPLES], ids=["points", "stacks", "triples"])
def test_runs_on_other_data_resume_exactly(fit, data):
    """The run is stopped within the second of three epochs."""
    arguments = [*data, "--data.batch_size=256", "--trainer.logger=false", "--trainer.log_every_n_steps=3"]
    reference = fit(*arguments, "--trainer.max_steps=11")
    folder = fit(*arguments, "--trainer.max_steps=6")
    fit("--resume", str(folder), "--trainer.max_steps=11")
    assert_same_run(folder, reference)


def test_two_stochastic_layers_resume_exactly(fit):
    """The pixels' logits start from the mean image, and the learning rate decreases in steps."""
    steps = "--model.schedules={optimizer.lr: {class_path: gen_lightning.schedules.Steps, init_args: %s}}"
    arguments = [
        *("--config", str(CONFIGS / "vae/burda/two_layers.yaml"), *SMALL, "--trainer.callbacks=null"),
        steps % "{values: [1.0e-3, 1.0e-4], iterations: [4]}",
    ]
    reference = fit(*arguments, "--trainer.max_steps=7")
    folder = fit(*arguments, "--trainer.max_steps=3")
    fit("--resume", str(folder), "--trainer.max_steps=7")
    assert_same_run(folder, reference)
    assert read_learning_rates(folder) == [1e-4]


class Killed(Exception):
    """Exception that ends a run within an iteration."""


@pytest.mark.parametrize("model", [GAN, VAE], ids=["gan", "vae"])
@pytest.mark.parametrize("unit", ["max_steps", "max_epochs"])
def test_killed_within_an_iteration_and_resumed(fit, monkeypatch, model, unit):
    """The last checkpoint is from within an epoch, from its last batch, or from the first batch of the next epoch."""
    end = {"max_steps": 3 * BATCHES_PER_EPOCH - 1, "max_epochs": 3}[unit]
    # A run is killed when it logs an iteration's scalars, which is within the iteration.
    arguments = [*model, f"--trainer.{unit}={end}", "--trainer.log_every_n_steps=1"]
    reference = fit(*arguments)
    for checkpoint in (3, 4, 5):
        with monkeypatch.context() as patch:
            patch.setattr("gen_lightning.GenerativeModule.log_iteration", kill_at(checkpoint + 1))
            with pytest.raises(Killed):
                fit(*arguments, f"--checkpoint.every_n_iterations={checkpoint}")
        folder = max(reference.parent.iterdir(), key=lambda folder: folder.stat().st_mtime)
        assert load(folder / "checkpoints/last.ckpt")["global_step"] == checkpoint
        fit("--resume", str(folder))
        assert_same_run(folder, reference)


@pytest.mark.parametrize("model", [GAN, VAE], ids=["gan", "vae"])
@pytest.mark.parametrize("option", ["--trainer.val_check_interval=2", "--trainer.limit_train_batches=3"])
def test_resumed_with_validation_within_the_epoch_and_with_short_epochs(fit, model, option):
    """The last checkpoint is from an iteration that a validation follows, or from another one."""
    arguments = [*model, option, "--checkpoint.every_n_iterations=1"]
    reference = fit(*arguments, "--trainer.max_steps=9")
    for stop in (2, 3, 6):
        folder = fit(*arguments, f"--trainer.max_steps={stop}")
        fit("--resume", str(folder), "--trainer.max_steps=9")
        assert_same_run(folder, reference)


def kill_at(iteration):
    """Return a `log_iteration` that raises `Killed` in an iteration."""

    def log_iteration(self, scalars, current, batch_size, original=GenerativeModule.log_iteration):
        if current == iteration:
            raise Killed
        original(self, scalars, current, batch_size)

    return log_iteration
