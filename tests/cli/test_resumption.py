"""What a resumption may change, what it refuses before anything is written, and the record of it."""

from pathlib import Path

import pytest
import torch
import yaml
from helpers import CONFIGS, load

import train

pytestmark = pytest.mark.slow

SMALL = ["--data.source=digits", "--data.batch_size=256", "--trainer.logger=false", "--trainer.callbacks=null"]
VAE = ["--config", str(CONFIGS / "vae/vae.yaml"), *SMALL]
GAN = ["--config", str(CONFIGS / "gan/mlp.yaml"), *SMALL]


def read_rates(run: Path) -> list[float]:
    states = load(run / "checkpoints/last.ckpt")["optimizer_states"]
    return [group["lr"] for state in states for group in state["param_groups"]]


def read_files(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_new_learning_rate_takes_effect_from_the_first_resumed_iteration_on(fit):
    """SGD moves the weights by the learning rate times the gradient, which is the same in both resumptions."""
    sgd = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.001"]
    runs = [fit(*VAE, *sgd, "--trainer.max_steps=3") for _ in range(3)]
    before = load(runs[0] / "checkpoints/last.ckpt")["state_dict"]
    for run, rate in zip(runs[1:], (0.001, 0.01), strict=True):
        fit(f"--resume={run}", "--trainer.max_steps=4", f"--model.optimizer.lr={rate}")
        assert read_rates(run) == [rate]
    small, large = (load(run / "checkpoints/last.ckpt")["state_dict"] for run in runs[1:])
    for name, weight in before.items():
        torch.testing.assert_close(large[name] - weight, 10 * (small[name] - weight), rtol=1e-3, atol=1e-6)


def test_one_of_two_optimizers_is_changed(fit):
    run = fit(*GAN, "--trainer.max_steps=2")
    (generator, discriminator) = read_rates(run)
    fit(f"--resume={run}", "--trainer.max_steps=3", "--model.generator_optimizer.lr=1e-5")
    assert read_rates(run) == [1e-5, discriminator]
    assert generator != 1e-5


def test_a_resumption_without_changes_keeps_a_rate_that_a_callback_has_lowered(fit):
    run = fit(*VAE, "--trainer.max_steps=2")
    path = run / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] = 1e-7
    path.unlink()
    torch.save(checkpoint, path)
    fit(f"--resume={run}", "--trainer.max_steps=3")
    assert read_rates(run) == [1e-7]


def test_the_record_tells_what_was_changed_and_when(fit):
    run = fit(*VAE, "--trainer.max_steps=2")
    fit(f"--resume={run}", "--trainer.max_steps=3", "--model.optimizer.lr=1e-5")
    fit(f"--resume={run}", "--trainer.max_steps=4")
    lines = (run / "config.yaml").read_text().splitlines()
    changed = next(line for line in lines if "--model.optimizer.lr" in line)
    assert changed == "# iteration 2: --model.optimizer.lr changed from 0.001 to 1e-05"
    assert yaml.safe_load("\n".join(lines))["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e-5
    history = load(run / "checkpoints/last.ckpt")["history"]
    assert {"iteration": 2, "option": "--model.optimizer.lr", "before": "0.001", "after": "1e-05"} in history
    assert [entry["iteration"] for entry in history if entry["option"] == "--trainer.max_steps"] == [2, 3]


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--model.latent_dim=16", "--model.latent_dim"),
        ("--seed_everything=7", "--seed_everything"),
        ("--data.batch_size=128", "--data.batch_size"),
        ("--model.optimizer=torch.optim.SGD", "--model.optimizer"),
        ("--model.optimizer.betas=[0.5,0.9]", "--model.optimizer.betas"),
        ("--model.objective=gen_lightning.vae.IWAE", "--model.objective"),
        ("--model.encoder.hidden_dims=[8]", "--model.encoder.hidden_dims"),
        ("--data.source=mnist", "--data.source"),
    ],
)
def test_other_changes_are_refused_before_anything_is_written(fit, capsys, option, named):
    run = fit(*VAE, "--trainer.max_steps=2")
    before = read_files(run)
    with pytest.raises(SystemExit) as end:
        train.main(["fit", f"--resume={run}", "--trainer.max_steps=4", option])
    assert end.value.code == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith(f"train.py: `{named}` is ")
    assert sentence.endswith("Remove the option, or start a new run.")
    assert read_files(run) == before


def test_a_schedule_may_be_added(fit):
    run = fit(*VAE, "--trainer.max_steps=2")
    schedule = (
        "{optimizer.lr: {class_path: gen_lightning.schedules.Linear, init_args: {start: 0.5, end: 0.5, iterations: 9}}}"
    )
    fit(f"--resume={run}", "--trainer.max_steps=3", f"--model.schedules={schedule}")
    assert read_rates(run) == [0.5]
