"""Mistakes on the command line, and the sentence that answers each of them."""

import importlib.util
import sys

import pytest
import torch
import yaml
from helpers import CONFIGS, run_command
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import train
from cli.checkpoints import load_checkpoint
from gen_lightning.errors import UserError
from gen_lightning.gan import NonSaturating

DCGAN, VAE, MLP = (["--config", str(CONFIGS / recipe)] for recipe in ("gan/dcgan.yaml", "vae/vae.yaml", "gan/mlp.yaml"))
DIGITS = ["--data.source=digits", "--data.batch_size=256", "--trainer.logger=false"]

MISTAKES = {
    "budget": (
        ["fit", *MLP, *DIGITS, "--trainer.max_epochs=null"],
        "Nothing ends the training. Add --trainer.max_epochs",
    ),
    "no number": (
        ["fit", *VAE, "--model.optimizer.lr=.nan"],
        "`--model.optimizer.lr` is nan. Expected a finite number.",
    ),
    "number outside float32": (["fit", *VAE, "--model.optimizer.lr=1e38"], "Expected a number of at most 1e+15."),
    "metric without a name": (
        ["fit", *VAE, *DIGITS, "--trainer.callbacks.monitor="],
        "`monitor` of ModelCheckpoint is empty.",
    ),
    "argument of a callback": (
        ["fit", *VAE, "--trainer.callbacks.mode=minn"],
        "`trainer.callbacks.6` is lightning.pytorch.callbacks.ModelCheckpoint, which cannot be built: `mode` can be",
    ),
    "networks that do not fit": (
        ["fit", *VAE, *DIGITS, "--trainer.callbacks=null", "--model.decoder=torch.nn.Identity"],
        "The first iteration fails: The size of tensor a (28) must match the size of tensor b (40)",
    ),
    "function in the place of a class": (
        ["fit", *DCGAN, *DIGITS, "--model.ema={class_path: torch.relu}"],
        "`--model.ema` is torch.relu. Expected an EMA such as gen_lightning.gan.EMA",
    ),
    "two of the same callback": (
        ["fit", *DCGAN, *DIGITS, "--trainer.callbacks=[callbacks.CollapseMonitor, callbacks.CollapseMonitor]"],
        "`--trainer.callbacks` holds CollapseMonitor 2 times. Remove all but one.",
    ),
    "aliases that repeat each other": (["fit", "--config=bomb.yaml"], "bomb.yaml holds more than 10,000 values"),
    "deep configuration": (["fit", "--config=deep.yaml"], "deep.yaml is nested more than 40 levels deep."),
    "deep value": (["fit", *MLP, f"--model.latent_dim={'[' * 3000}"], "is nested more than 40 levels deep."),
    "abbreviated option": (
        ["fit", *MLP, "--trainer.max_epoch=3"],
        "There is no option --trainer.max_epoch. Did you mean --trainer.max_epochs?",
    ),
    "unknown option": (["fit", *MLP, "--trainer.mx_epochs", "3"], "Did you mean --trainer.max_epochs?"),
    "unknown model argument": (
        ["fit", *MLP, "--model.latent_dimm=3"],
        "gen_lightning.GANModule has no argument latent_dimm. Did you mean latent_dim?",
    ),
    "unknown data argument": (
        ["fit", *MLP, "--data.batchsize=3"],
        "datamodules.MNISTDataModule has no argument batchsize. Did you mean batch_size?",
    ),
    "unknown nested argument": (
        ["fit", *MLP, "--model.generator_optimizer.lrr=3"],
        "torch.optim.Adam has no argument lrr. Did you mean lr?",
    ),
    "part of a mapping": (
        ["fit", *MLP, "--model.schedules.generator_optimizer.lr.init_args.end=0"],
        "Give --model.schedules whole, such as --model.schedules '{name: value}'",
    ),
    "wrong type": (
        ["fit", *MLP, "--model.latent_dim=abc"],
        "`--model.latent_dim` is abc. Expected a whole number.",
    ),
    "wrong choice": (
        ["fit", *MLP, "--data.source=mnst"],
        "`--data.source` is mnst. Expected one of mnist, fashion_mnist, kmnist, mnist_5k, digits.",
    ),
    "missing argument": (
        ["fit", *VAE, "--model.objective=gen_lightning.vae.FreeBits"],
        "`--model.objective` needs free_nats. Add --model.objective.free_nats VALUE.",
    ),
    "wrong kind of number": (
        ["fit", *MLP, "--trainer.max_epochs=x"],
        "`--trainer.max_epochs` is x. Expected a whole number or null.",
    ),
    "class that does not exist": (
        ["fit", *MLP, "--model.generator=nowhere.Class"],
        "`--model.generator` is nowhere.Class, but there is no package nowhere.",
    ),
    "class of another kind": (
        ["fit", *MLP, "--model.loss=gen_lightning.networks.MLPGenerator"],
        "`--model.loss` is gen_lightning.networks.MLPGenerator. Expected a GAN loss such as gen_lightning.gan.Minimax.",
    ),
    "unknown verb": (["fti", *MLP], "There is no command fti. Did you mean fit?"),
    "no config": (["fit"], "model and data are required. Add --config FILE"),
    "config that does not exist": (["fit", "--config=nowhere.yaml"], "There is no configuration nowhere.yaml."),
    "bad value": (["fit", *MLP, "--model.latent_dim=0"], "`--model.latent_dim` is 0. Choose at least 1."),
    "no run folder": (["fit", "--resume=nowhere"], "There is no checkpoint to resume in nowhere"),
    "no checkpoint option": (["test"], "`test` has no checkpoint. Add --ckpt_path FILE."),
    "no checkpoint to start from": (["fit", *MLP, "--ckpt_path=nowhere.ckpt"], "There is no checkpoint nowhere.ckpt"),
    "misspelt class": (
        ["fit", *MLP, "--trainer.callbacks=callbacks.FIDD"],
        "`--trainer.callbacks` is callbacks.FIDD, but callbacks has no FIDD.",
    ),
    "folder that cannot be made": (
        ["fit", *MLP, *DIGITS, "--trainer.default_root_dir=/proc/no"],
        "cannot be made: the file or its directory has been removed.",
    ),
    "no reconstructions": (
        ["fit", *MLP, *DIGITS, "--trainer.callbacks=callbacks.Reconstructions"],
        "Reconstructions needs a model that reconstructs data, but GANModule has no `reconstruct`.",
    ),
    "penalty with batch normalization": (
        ["fit", *DCGAN, "--model.regularizers=[gen_lightning.gan.R1]"],
        "r1 needs the gradient of each example, and batch normalization mixes examples.",
    ),
    "modes of data without modes": (
        ["fit", *MLP, *DIGITS, "--trainer.callbacks=callbacks.ModeCoverage"],
        "ModeCoverage needs data with known modes, but MNISTDataModule has no `mixture` and no `mode_weights`.",
    ),
    "accumulated gradients": (["fit", *VAE, *DIGITS, "--trainer.accumulate_grad_batches=2"], "raise data.batch_size"),
    "unknown key in a file": (["fit", "--config=wrong.yaml"], "Did you mean --trainer.max_epochs?"),
    "misspelt command": (["compar", "runs/a"], "There is no command compar. Did you mean compare?"),
    "no run to compare": (["compare", "."], "There is no run in .. Give a directory runs/NAME/VERSION"),
    "no checkpoint": (["test", "--ckpt_path=nowhere.ckpt"], "There is no checkpoint nowhere.ckpt"),
    "grey pixels": (["fit", *VAE, *DIGITS, "--data.binarization=none"], "set --data.binarization=dynamic"),
    "type of an argument's argument": (
        ["fit", *VAE, "--model.optimizer.lr=abc"],
        "`--model.optimizer.lr` is abc. Expected a number.",
    ),
    "type of a callback's argument": (
        ["fit", *VAE, "--trainer.callbacks+=callbacks.SampleGrid", "--trainer.callbacks.every_n_iterations=abc"],
        "`trainer.callbacks.7.every_n_iterations` is abc. Expected a whole number.",
    ),
    "type of the weight average's argument": (
        ["fit", *DCGAN, "--model.ema=gen_lightning.gan.EMA", "--model.ema.half_life=abc"],
        "`--model.ema.half_life` is abc. Expected a number or a schedule such as gen_lightning.schedules.Linear.",
    ),
    "class of another kind as a prior": (
        ["fit", *VAE, "--model.prior=torch.nn.ReLU"],
        "`--model.prior` is torch.nn.ReLU. Expected a prior such as gen_lightning.vae.StandardNormal.",
    ),
    "class of another kind as an optimizer": (
        ["fit", *VAE, "--model.optimizer=datamodules.MNISTDataModule"],
        "`--model.optimizer` is datamodules.MNISTDataModule. Expected an optimizer such as torch.optim.Adam.",
    ),
    "member of a list": (
        ["fit", *MLP, "--model.regularizers.0.gamma=abc"],
        "`--model.regularizers.0.gamma` cannot be set alone.",
    ),
    "argument that a callback needs": (
        ["fit", *VAE, "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"],
        "`trainer.callbacks.7` needs monitor. Add trainer.callbacks.7.monitor VALUE.",
    ),
    "number outside an optimizer's range": (
        ["fit", *VAE, *DIGITS, "--model.optimizer.lr=-1"],
        "`--model.optimizer` is torch.optim.Adam, which cannot be built: Invalid learning rate: -1.0",
    ),
    "negative seed": (
        ["fit", *MLP, "--seed_everything=-1"],
        "`--seed_everything` is -1. Expected a whole number of 0 or more.",
    ),
    "search for a learning rate": (
        ["fit", *VAE, *DIGITS, "--trainer.callbacks=lightning.pytorch.callbacks.LearningRateFinder"],
        "LearningRateFinder would train before the first iteration",
    ),
    "search for a batch size": (
        ["fit", *MLP, *DIGITS, "--trainer.callbacks=lightning.pytorch.callbacks.BatchSizeFinder"],
        "BatchSizeFinder would train before the first iteration",
    ),
    "accumulation that begins later": (
        [
            "fit",
            *VAE,
            *DIGITS,
            "--trainer.callbacks=lightning.pytorch.callbacks.GradientAccumulationScheduler",
            "--trainer.callbacks.scheduling={5: 2}",
        ],
        "Gradients are accumulated over several batches, but an iteration is one batch.",
    ),
    "no checkpoints": (
        ["fit", *VAE, *DIGITS, "--trainer.enable_checkpointing=false"],
        "`--trainer.enable_checkpointing` is false, and every run keeps checkpoints/last.ckpt.",
    ),
    "metric that is not logged": (
        [
            "fit",
            *VAE,
            *DIGITS,
            "--trainer.max_epochs=1",
            "--trainer.callbacks=lightning.pytorch.callbacks.EarlyStopping",
            "--trainer.callbacks.monitor=val/nothing",
        ],
        "`monitor` of EarlyStopping is val/nothing, which is not logged. Choose one of val/elbo,",
    ),
    "average of the weights": (
        ["fit", *VAE, *DIGITS, "--trainer.callbacks=lightning.pytorch.callbacks.WeightAveraging"],
        "WeightAveraging replaces the trained weights by their average when training ends",
    ),
    "stochastic average of the weights": (
        [
            "fit",
            *VAE,
            *DIGITS,
            "--trainer.callbacks=lightning.pytorch.callbacks.StochasticWeightAveraging",
            "--trainer.callbacks.swa_lrs=0.01",
        ],
        "StochasticWeightAveraging replaces the trained weights by their average when training ends",
    ),
    "pruning": (
        [
            "fit",
            *MLP,
            *DIGITS,
            "--trainer.callbacks=lightning.pytorch.callbacks.ModelPruning",
            "--trainer.callbacks.pruning_fn=l1_unstructured",
        ],
        "ModelPruning stores no masks in a checkpoint",
    ),
    "finetuning": (
        ["fit", *MLP, *DIGITS, "--trainer.callbacks=lightning.pytorch.callbacks.BackboneFinetuning"],
        "BackboneFinetuning freezes a pretrained network `backbone`",
    ),
    "wrong duration": (
        [
            "fit",
            *MLP,
            *DIGITS,
            "--trainer.callbacks=lightning.pytorch.callbacks.Timer",
            "--trainer.callbacks.duration=abc",
        ],
        "`trainer.callbacks.0` is lightning.pytorch.callbacks.Timer, which cannot be built: `Timer(duration='abc')` is",
    ),
    "unknown accelerator": (
        ["fit", *MLP, *DIGITS, "--trainer.accelerator=nope"],
        "Lightning refuses `--trainer.accelerator nope`: You selected an invalid accelerator name",
    ),
    "no devices": (
        ["fit", *MLP, *DIGITS, "--trainer.devices=0"],
        "Lightning refuses `--trainer.devices 0`:",
    ),
    "text for devices": (
        ["fit", *MLP, *DIGITS, "--trainer.devices=abc"],
        "Lightning refuses `--trainer.devices abc`:",
    ),
    "wrong time limit": (
        ["fit", *MLP, *DIGITS, "--trainer.max_time=abc"],
        "Lightning refuses `--trainer.max_time abc`:",
    ),
    "validation after more batches than an epoch has": (
        ["fit", *MLP, *DIGITS, "--trainer.val_check_interval=100000"],
        "`val_check_interval` (100000) must be less than or equal to the number of the training batches (4)",
    ),
    "logging every 0 iterations": (
        ["fit", *MLP, *DIGITS, "--trainer.log_every_n_steps=0"],
        "`--trainer.log_every_n_steps` is 0. Choose at least 1.",
    ),
    "validation every 0 epochs": (
        ["fit", *MLP, *DIGITS, "--trainer.check_val_every_n_epoch=0"],
        "`--trainer.check_val_every_n_epoch` is 0. Choose at least 1.",
    ),
    "null for an argument of a callback": (
        ["fit", *MLP, *DIGITS, "--trainer.callbacks=[{class_path: callbacks.SampleGrid, init_args: {seed: null}}]"],
        "`trainer.callbacks.0.seed` is null. Expected a whole number.",
    ),
    "null for an argument of a network": (
        ["fit", *MLP, *DIGITS, "--model.generator.first_layer_scale=null"],
        "`--model.generator.first_layer_scale` is null. Expected a number.",
    ),
    "null for an argument of the data": (
        ["fit", *MLP, *DIGITS, "--data.batch_size=null"],
        "`--data.batch_size` is null. Expected a whole number.",
    ),
    "a sanity check of fewer batches than none": (
        ["fit", *MLP, *DIGITS, "--trainer.num_sanity_val_steps=-7"],
        "`--trainer.num_sanity_val_steps` is -7. Choose 0 or more, or -1 for all batches.",
    ),
    "barebones": (
        ["fit", *MLP, *DIGITS, "--trainer.barebones=true"],
        "`--trainer.barebones` is true, and every run keeps its metrics and a checkpoint. Remove the option.",
    ),
    "two progress bars": (
        [
            "fit",
            *MLP,
            *DIGITS,
            "--trainer.callbacks=lightning.pytorch.callbacks.TQDMProgressBar",
            "--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar",
        ],
        "Lightning refuses `--trainer.callbacks`: You added multiple progress bar callbacks",
    ),
    "null": (["fit", *VAE, "--model.optimizer.lr=null"], "`--model.optimizer.lr` is null. Expected a number"),
    "list of the wrong length": (
        ["fit", *VAE, "--model.optimizer.betas=[0.1]"],
        "`--model.optimizer.betas` is [0.1]. Expected a list of 2 elements.",
    ),
    "text for a list": (
        ["fit", *VAE, "--model.encoder.hidden_dims=abc"],
        "`--model.encoder.hidden_dims` is abc. Expected a list.",
    ),
    "class of another kind as a logger": (
        ["fit", *VAE, "--trainer.logger=callbacks.SampleGrid"],
        "`--trainer.logger` is callbacks.SampleGrid. Expected a logger such as callbacks.SafeWandbLogger.",
    ),
    "number for a callback": (
        ["fit", *VAE, "--trainer.callbacks=[3]"],
        "`trainer.callbacks.0` is 3. Expected a callback such as callbacks.SampleGrid.",
    ),
    "text for the Trainer": (
        ["fit", *VAE, "--trainer", "abc"],
        "`--trainer` is abc. Expected options, such as --trainer.NAME VALUE.",
    ),
    "text for a seed": (
        ["fit", *MLP, "--seed_everything=abc"],
        "`--seed_everything` is abc. Expected a whole number of 0 or more.",
    ),
    "name without a value": (["fit", *MLP, "--name"], "--name has no value. Add one."),
    "argument without a value": (
        ["fit", *MLP, "--model.optimizer.lr"],
        "--model.optimizer.lr has no value. Add one.",
    ),
    "config without a value": (["fit", "--config"], "--config has no value. Add one."),
    "checkpoint without a value": (["test", "--ckpt_path"], "--ckpt_path has no value. Add one."),
    "comparison of nothing": (["compare"], "RUN_DIR is required. See --help."),
    "unknown option of the comparison": (["compare", "--outputt=x", "a"], "There is no option --outputt. Did you mean"),
    "large batch": (
        ["fit", *MLP, *DIGITS, "--data.batch_size=5000"],
        "`batch_size` is 5000 on 1 device(s), which is more than the 1,197 training examples.",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_line(mistake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("trainer: {max_epoch: 3}")
    (tmp_path / "deep.yaml").write_text("trainer: " + "{a: " * 3000)
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]" for i in range(9)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    arguments, sentence = MISTAKES[mistake]
    with pytest.raises(SystemExit) as exit_info:
        train.main(arguments)
    assert exit_info.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("train.py: ")
    assert sentence in last_line
    assert len(last_line) <= 210


@pytest.mark.slow
def test_a_mistake_found_in_training_ends_the_line_of_the_progress_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    free_bits = "{class_path: gen_lightning.vae.FreeBits, init_args: {free_nats: 0.1}}"
    model = [f"--model.objective={free_bits}", "--model.prior=gen_lightning.vae.MixtureOfGaussians"]
    with pytest.raises(SystemExit):
        train.main(["fit", *VAE, *DIGITS, *model, "--trainer.callbacks=null"])
    printed = capsys.readouterr()
    assert "does not factorize" in printed.err
    assert printed.out.rstrip(" ").endswith("\n")


@pytest.mark.slow
def test_a_mistake_shows_no_traceback_and_leaves_no_run(tmp_path):
    finished = run_command("fit", *MLP, "--model.latent_dim=0", cwd=tmp_path)
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_corrupt_checkpoint_is_named(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.ckpt").write_bytes(content)
    with pytest.raises(SystemExit):
        train.main(["sample", "--ckpt_path=broken.ckpt"])
    assert "broken.ckpt is corrupt" in capsys.readouterr().err


def test_weights_that_are_not_a_checkpoint_are_named(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt is corrupt or is not a checkpoint"):
        load_checkpoint(tmp_path / "weights.pt")


class RefusingCallback(Callback):
    """A callback whose constructor raises."""

    def __init__(self, number: int = 3) -> None:
        raise ValueError(f"{number} is an unlucky number")


class FaultyCallback(Callback):
    """A callback with a fault in its constructor."""

    def __init__(self) -> None:
        {}["missing"]


class FaultyLogging(Callback):
    """A callback that calls a method of Lightning in a hook that forbids it."""

    def on_fit_start(self, trainer, pl_module):
        pl_module.log("x", 1.0)


class UnrecordedCallback(Callback):
    """A callback whose default cannot be written to a configuration file."""

    def __init__(self, activation=torch.nn.ReLU()) -> None:  # noqa: B008
        self.activation = activation


class FaultyLoss(NonSaturating):
    """A loss with a fault that raises ValueError, the base class of UserError."""

    def discriminator(self, real_logits, fake_logits):
        raise ValueError("a fault in the loss")


def make_importable(name, monkeypatch):
    """Return the class path by which jsonargparse can import a class of this file."""
    monkeypatch.setitem(sys.modules, "pieces", sys.modules[__name__])
    return f"pieces.{name}"


def test_a_callback_that_refuses_its_arguments_is_named_with_its_reason(monkeypatch, capsys):
    path = make_importable("RefusingCallback", monkeypatch)
    with pytest.raises(SystemExit):
        train.main(["fit", *VAE, f"--trainer.callbacks+={path}", "--trainer.callbacks.number=13"])
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence == f"train.py: `trainer.callbacks.7` is {path}, which cannot be built: 13 is an unlucky number."


def test_a_fault_in_a_constructor_keeps_its_exception(monkeypatch):
    path = make_importable("FaultyCallback", monkeypatch)
    with pytest.raises(KeyError, match="missing") as info:
        train.main(["fit", *VAE, f"--trainer.callbacks+={path}"])
    assert info.value.__notes__ == [f"`trainer.callbacks.7` is {path}, whose constructor raised this error."]


def test_a_fault_in_a_callback_keeps_the_exception_of_lightning(tmp_path, monkeypatch):
    callback = f"--trainer.callbacks={make_importable('FaultyLogging', monkeypatch)}"
    with pytest.raises(MisconfigurationException, match="inside `on_fit_start`"):
        train.main(["fit", *MLP, *DIGITS, callback, f"--trainer.default_root_dir={tmp_path}"])


def test_a_value_that_a_configuration_file_cannot_hold_is_refused(monkeypatch, capsys):
    """A resumed run would get text instead of the value."""
    with pytest.raises(SystemExit):
        train.main(["fit", *VAE, *DIGITS, f"--trainer.callbacks={make_importable('UnrecordedCallback', monkeypatch)}"])
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "`--trainer.callbacks.activation` is ReLU(), which config.yaml cannot hold." in sentence


def test_a_timer_is_recorded_with_its_unit(fit):
    timer = ["--trainer.callbacks=lightning.pytorch.callbacks.Timer", "--trainer.callbacks.duration=00:01:00:00"]
    folder = fit(*VAE, *DIGITS, "--trainer.max_steps=1", "--trainer.limit_val_batches=0", *timer)
    (callback,) = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["callbacks"]
    assert callback["init_args"]["interval"] == "step"


@pytest.mark.slow
def test_a_fault_in_a_loss_keeps_its_exception(tmp_path, monkeypatch):
    loss = f"--model.loss={make_importable('FaultyLoss', monkeypatch)}"
    with pytest.raises(ValueError, match="a fault in the loss") as info:
        train.main(["fit", *MLP, *DIGITS, loss, f"--trainer.default_root_dir={tmp_path}"])
    assert not isinstance(info.value, UserError)


@pytest.mark.slow
def test_a_given_progress_bar_replaces_the_default(fit):
    bar = "--trainer.callbacks=lightning.pytorch.callbacks.TQDMProgressBar"
    assert fit(*VAE, *DIGITS, "--trainer.max_steps=1", "--trainer.limit_val_batches=0", bar)


@pytest.mark.skipif(importlib.util.find_spec("rich") is not None, reason="rich is installed")
def test_a_missing_package_is_named_with_the_option(capsys):
    with pytest.raises(SystemExit):
        train.main(["fit", *VAE, *DIGITS, "--trainer.callbacks=lightning.pytorch.callbacks.RichProgressBar"])
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "`--trainer.callbacks` is lightning.pytorch.callbacks.RichProgressBar, which cannot be built" in sentence
    assert "requires `rich`" in sentence
