"""The command line: fit, validate, test, sample and compare.

python train.py fit --config configs/gan/dcgan.yaml
python train.py fit --resume runs/dcgan/VERSION
python train.py test --ckpt_path runs/dcgan/VERSION/checkpoints/last.ckpt
python train.py sample --ckpt_path runs/dcgan/VERSION/checkpoints/last.ckpt --num_samples 64 --output samples
python train.py compare runs/dcgan/VERSION runs/vae/VERSION
"""

import argparse
import contextlib
import ctypes
import difflib
import hashlib
import importlib
import inspect
import json
import math
import os
import platform
import re
import secrets
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, astuple, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import Tensor
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

from callbacks import (
    AtomicCheckpointIO,
    DivergenceError,
    Evaluation,
    LastCheckpoint,
    MetricsCSV,
    SampleMeasure,
    StopOnNaN,
    finish_wandb_runs,
    wandb_loggers,
)
from cli.compare import compare
from gen_lightning import GenerativeModule, VAEModule
from gen_lightning.errors import UserError
from gen_lightning.evaluation import Row, table
from gen_lightning.metrics import FeatureExtractor
from gen_lightning.storage import atomic_write
from gen_lightning.vae import aggregate_mixture

Latents = Literal["prior", "gmm"]


class Trainer(LightningTrainer):
    """Lightning's Trainer, with the command line's verbs as it has them."""

    def test(
        self,
        model: GenerativeModule,
        ckpt_path: str,
        datamodule: LightningDataModule | None = None,
        num_samples: PositiveInt | None = None,
        extractor: FeatureExtractor | None = None,
        latents: Latents = "prior",
    ) -> None:
        """Measure a checkpoint's samples, and what the model itself measures, on the test split.

        Args:
            model: the model, built as the checkpoint says
            ckpt_path: the checkpoint
            datamodule: the data
            num_samples: how many samples each measure of samples takes; by default as many as the recipe says, or as
                the test split has images
            extractor: whose features are compared; by default the recipe's
            latents: what a VAE's samples are decoded from: the prior, or gmm, a mixture of 10 normals fitted to the
                latents of the training images
        """
        # The default extractor judges grey images.
        grey = len(model.data_shape) == 3 and model.data_shape[0] == 1
        if (grey or extractor) and find_evaluation(self) is None:
            self.callbacks.append(Evaluation())
        for callback in self.callbacks:
            if isinstance(callback, SampleMeasure):
                callback.num_samples = num_samples or callback.num_samples
                callback.latents = latents
        if evaluation := find_evaluation(self):
            evaluation.extractor = extractor or evaluation.extractor
        if latents == "gmm":
            model.load_state_dict(load_checkpoint(ckpt_path)["state_dict"])
            draw_from_mixture(model.to(self.strategy.root_device), datamodule, Path(ckpt_path).parent)
        start = time.perf_counter()
        super().test(model, ckpt_path=ckpt_path, datamodule=datamodule, weights_only=True, verbose=False)
        self.test_seconds = time.perf_counter() - start

    def sample(
        self,
        model: GenerativeModule,
        ckpt_path: str,
        datamodule: LightningDataModule | None = None,
        num_samples: PositiveInt = 64,
        labels: int | list[int] | None = None,
        latents: Latents = "prior",
        output: str = "samples",
        seed: NonNegativeInt = 0,
    ) -> None:
        """Write samples of a checkpoint as a picture and as an array.

        Args:
            model: the model, built as the checkpoint says
            ckpt_path: the checkpoint
            datamodule: the data that latents are fitted to
            num_samples: how many samples
            labels: of a conditional model: the class, or the classes in turn; by default each class is equally likely
            latents: what a VAE's samples are decoded from: the prior, or gmm, a mixture of 10 normals fitted to the
                latents of the training images
            output: the folder for grid.png (at most 400 samples) and samples.npz (arr_0: uint8 [N, H, W, C]; data that
                are no images: float32 [N, ...]; of a conditional model labels: int64 [N])
            seed: of the samples
        """
        model.load_state_dict(load_checkpoint(ckpt_path)["state_dict"])
        model.to(self.strategy.root_device)
        if latents == "gmm":
            draw_from_mixture(model, datamodule, Path(ckpt_path).parent)
        generator = torch.Generator().manual_seed(seed)
        classes = model.draw_labels(num_samples, generator) if labels is None else cycle_labels(labels, num_samples)
        # So many fit in any memory; blocks of another size would be other samples of the same seed.
        blocks = [
            model.sample(len(block), generator=generator, labels=None if classes is None else classes[block]).cpu()
            for block in torch.arange(num_samples).split(500)
        ]
        samples = torch.cat(blocks)
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        if len(model.data_shape) == 3:
            save_image(make_grid(samples[:400], nrow=math.ceil(min(num_samples, 400) ** 0.5)), folder / "grid.png")
            samples = (samples.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        arrays: dict[str, Any] = {} if classes is None else {"labels": classes.numpy()}
        np.savez_compressed(folder / "samples.npz", samples.numpy(), **arrays)
        print(f"Wrote {num_samples} samples to {folder}")


class NoProfiler(PassThroughProfiler):
    """Lightning's default profiler, without a context of its own for each hook of each callback, a hundred a step."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.nullcontext[None]:
        """A context that does nothing."""
        return self._nothing


class Parser(LightningArgumentParser):
    """A parser that takes no abbreviations, and answers a mistake with one sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, allow_abbrev=False)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exits with status 2 after one sentence; where jsonargparse only tries a type, raises as it expects."""
        if not self.exit_on_error:
            super().error(message, ex)
        fail(explain(message, self.option_names()))

    def option_names(self) -> list[str]:
        """The names of all options, those of subcommands included."""
        names = [name for action in self._actions for name in action.option_strings]
        subparsers = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return names + [name for parsers in subparsers for parser in parsers.values() for name in parser.option_names()]


class RunConfig(SaveConfigCallback):
    """Writes the run's configuration where it can be found again: config.yaml, every checkpoint, and W&B."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        config = config.clone()
        for key in ("resume", "ckpt_path"):
            config.pop(key, None)
        super().__init__(parser, config, overwrite=True, **kwargs)
        self.text = parser.dump(config, skip_none=False)

    def save_config(self, trainer: LightningTrainer, pl_module: LightningModule, stage: str) -> None:
        """Logs the configuration to W&B."""
        for logger in wandb_loggers(trainer):
            logger.log_hyperparams(yaml.safe_load(self.text))

    def on_save_checkpoint(
        self, trainer: LightningTrainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts the configuration into the checkpoint, so that it needs nothing else."""
        checkpoint["config"] = self.text


class CommandLine(LightningCLI):
    """LightningCLI with run folders, resumption, and configurations that come out of checkpoints.

    Args:
        args: the command line
    """

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            GenerativeModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=Trainer,
            trainer_defaults={"default_root_dir": "runs"},
            seed_everything_default=0,
            parser_class=Parser,
            save_config_callback=RunConfig,
            auto_configure_optimizers=False,
            parser_kwargs={"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter},
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and the arguments of each that are not options."""
        names = {"model", "dataloaders", "datamodule"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": names,
            "test": {"model", "datamodule"},
            "sample": {"model", "datamodule"},
        }

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's seed and name, and how exactly it multiplies matrices."""
        parser.add_argument(
            "--seed_everything", type=NonNegativeInt, default=0, help="Seed of the weights, the data and all draws."
        )
        parser.add_argument(
            "--name", type=str, default="run", help="The run's folder is default_root_dir/NAME/VERSION."
        )
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="As torch.set_float32_matmul_precision, for convolutions too: below highest, GPUs use TF32, and some"
            " CPUs quicker kernels.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the checkpoint that every run keeps; tells the model what the data are, and both the seed."""
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.link_arguments("data", "model.init_args.data_shape", get_shape, apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.init_args.seed", int)
        parser.link_arguments("seed_everything", "data.init_args.seed", int)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument("--resume", type=str, default=None, help="A run folder to go on in.")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line, behind the configuration stored in what it names."""
        self.config = parser.parse_args(with_stored_config(args))

    def _parse_ckpt_path(self) -> None:
        # LightningCLI would let the checkpoint's hyperparameters override the command line.
        pass

    def before_instantiate_classes(self) -> None:
        """Names the run's folder, or finds the one to go on in."""
        config = self.config[self.subcommand]
        torch.set_float32_matmul_precision(config.float32_matmul_precision)
        # By default torch has cuDNN's convolutions in TF32, whatever is said of products.
        torch.backends.cudnn.allow_tf32 = config.float32_matmul_precision != "highest"
        if config.get("weights_only", False) is None:
            # Lightning would unpickle whatever a checkpoint holds.
            config.weights_only = True
        ckpt_path = config.ckpt_path
        checkpoint = load_checkpoint(ckpt_path) if ckpt_path else {}
        self.iteration_of_checkpoint = checkpoint.get("global_step", 0)
        if self.subcommand == "fit" and checkpoint and "optimizer_states" not in checkpoint:
            raise UserError(f"{ckpt_path} holds weights alone: give a checkpoint that training can go on from.")
        if self.subcommand != "fit":
            self.save_config_callback = None
            self.run_folder = find_run_folder(ckpt_path)
            identify_wandb_run(config.trainer.logger, self.run_folder)
            return
        if config.resume:
            folder = Path(config.resume).resolve()
            config.name = folder.parent.name
            config.trainer.default_root_dir = str(folder.parent.parent)
            self.run_folder = folder
        else:
            self.run_folder = Path(config.trainer.default_root_dir).resolve() / config.name / new_version()
        identify_wandb_run(config.trainer.logger, self.run_folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with atomic checkpoints, a profiler if it is asked for and, in `fit`, a CSV of the metrics and a
        stop where they diverge.
        """
        trainer_config = self._get(self.config_init, "trainer")
        loggers = to_list(trainer_config.logger)
        kwargs["plugins"] = [*to_list(trainer_config.plugins), AtomicCheckpointIO()]
        kwargs["profiler"] = trainer_config.profiler or NoProfiler()
        if self.subcommand == "fit":
            kwargs["default_root_dir"] = str(self.run_folder)
            kwargs["callbacks"] = [*to_list(trainer_config.callbacks), StopOnNaN()]
            if trainer_config.enable_progress_bar is not False:
                # Drawn at each batch, as by default, the bar costs a tenth of a small network's iteration.
                kwargs["callbacks"].append(TQDMProgressBar(refresh_rate=20))
            recipe_folder, version = self.run_folder.parent, self.run_folder.name
            csv = MetricsCSV(str(recipe_folder.parent), recipe_folder.name, version, self.iteration_of_checkpoint)
            loggers.insert(0, csv)
        return super().instantiate_trainer(logger=loggers or False, **kwargs)

    def before_fit(self) -> None:
        """Makes the run's folder, now that nothing is wrong with the command line."""
        if not self.config.fit.resume and not self.config.fit.trainer.fast_dev_run:
            make_folder(self.run_folder)

    def fit(self, **arguments: Any) -> None:
        """Trains; a training that diverges is brought to an end like any other, and then fails with status 1."""
        try:
            self.trainer.fit(**arguments)
        except DivergenceError as divergence:
            finish_wandb_runs(self.trainer, exit_code=1)
            if not self.trainer.fast_dev_run:
                iteration = self.trainer.global_step
                write_metrics(self.run_folder, "diverged", {"iteration": iteration, "reason": str(divergence)})
                write_summary(self.run_folder, iteration)
            fail(str(divergence), status=1)

    def after_fit(self) -> None:
        """Says where everything lies."""
        finish_wandb_runs(self.trainer)
        if not self.trainer.fast_dev_run:
            iteration = self.trainer.global_step
            write_metrics(self.run_folder, "fit", last_values(self.trainer, iteration))
            write_summary(self.run_folder, iteration)

    def before_validate(self) -> None:
        """Lets SIGTERM end what has nothing to save at once; Lightning would wait for the next batch."""
        # Lightning calls the handler that it finds beside its own.
        signal.signal(signal.SIGTERM, terminate)

    before_test = before_validate

    def after_validate(self) -> None:
        """Writes the metrics beside the checkpoint's run."""
        if not self.trainer.fast_dev_run:
            write_metrics(self.run_folder, self.subcommand, last_values(self.trainer, self.iteration_of_checkpoint))

    def after_test(self) -> None:
        """Logs and prints what all callbacks have measured, and writes it beside the checkpoint's run."""
        rows = collect_rows(self.trainer)
        if not rows or self.trainer.fast_dev_run:
            finish_wandb_runs(self.trainer)
            self.after_validate()
            return
        evaluation = find_evaluation(self.trainer)
        report = {
            "metrics": {name: asdict(row) for name, row in rows.items()},
            **(evaluation.provenance() if evaluation else describe_data(self.datamodule)),
            "latents": self.config.test.latents,
            "likelihood": describe_likelihood(self.model, self.datamodule),
            "seconds": round(self.trainer.test_seconds, 1),
            "iteration": self.iteration_of_checkpoint,
            "seed": self.config.test.seed_everything,
            "versions": {name: version(name) for name in ("gen_lightning", "torch", "lightning", "torchmetrics")},
            "hardware": hardware(self.trainer),
        }
        write_metrics(self.run_folder, "test", report)
        log_report(self.trainer, rows, self.iteration_of_checkpoint)
        finish_wandb_runs(self.trainer)
        print_report(rows, self.trainer.test_seconds, self.run_folder)


def draw_from_mixture(model: GenerativeModule, datamodule: LightningDataModule | None, folder: Path) -> None:
    """Has a VAE sample from a mixture that is fitted to the latents of the training images.

    The mixture is stored in `folder`; where that of these data is there already, they are not needed.

    Raises:
        UserError: the model has no latents to infer, or too many dimensions of them, or the data have no examples or
            identity.
    """
    if not isinstance(model, VAEModule):
        raise UserError(f"{type(model).__name__} infers no latents to fit a mixture to: leave out --latents.")
    if datamodule is None or not (hasattr(datamodule, "examples") and hasattr(datamodule, "identity")):
        raise UserError("--latents gmm needs a data module with examples(split) and identity, such as MNISTDataModule.")

    def training_examples() -> Iterator[tuple[Tensor, Tensor]]:
        datamodule.prepare_data()
        datamodule.setup("test")
        yield from datamodule.examples("train")

    model.ex_post = aggregate_mixture(model, training_examples, datamodule.identity, folder)


def describe_data(datamodule: LightningDataModule) -> dict[str, str]:
    """What is known of the data where no evaluation has looked at them: a digest of what they say they are."""
    identity = getattr(datamodule, "identity", None)
    return {"data": hashlib.sha256(identity.encode()).hexdigest()} if identity else {}


def describe_likelihood(model: LightningModule, datamodule: LightningDataModule) -> str | None:
    """Of what a VAE's bounds are; those of a density depend on whether its images are dequantized, too."""
    kind = getattr(model, "likelihood_kind", None)
    return f"{kind}, of dequantized images" if kind and getattr(datamodule, "dequantize", False) else kind


def cycle_labels(labels: int | list[int], n: int) -> Tensor:
    """One label, or several again and again, int64 `[n]`.

    Raises:
        UserError: there is none.
    """
    if labels == []:
        raise UserError("--labels is empty: give one class or more, such as --labels 3 or --labels '[0,1,2]'.")
    classes = torch.tensor(labels).reshape(-1)
    return classes[torch.arange(n) % len(classes)]


def find_evaluation(trainer: LightningTrainer) -> Evaluation | None:
    """The evaluation among a run's callbacks, if there is one."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Evaluation)), None)


def collect_rows(trainer: LightningTrainer) -> dict[str, Row]:
    """What the callbacks have measured in `test`, by name, as one report."""
    return {name: row for callback in trainer.callbacks for name, row in getattr(callback, "rows", {}).items()}


def log_report(trainer: LightningTrainer, rows: dict[str, Row], iteration: int) -> None:
    """Puts a report into W&B as a table."""
    columns = ["metric", *(field.name for field in fields(Row))]
    for logger in wandb_loggers(trainer):
        logger.log_table("test/report", columns, [[name, *astuple(row)] for name, row in rows.items()], step=iteration)


def identify_wandb_run(loggers: Any, run_folder: Path) -> None:
    """Gives a configured W&B logger the run's folder and name, and the run's version as its id."""
    for logger in to_list(loggers):
        if isinstance(logger, Namespace) and logger.class_path.endswith("WandbLogger"):
            # Under the same id, what is resumed or tested later joins the run.
            names = {"save_dir": str(run_folder), "id": run_folder.name}
            logger.init_args.update(Namespace(**names, name=f"{run_folder.parent.name}/{run_folder.name}"))


def get_shape(data: Any) -> tuple[int, ...]:
    """The shape of one example of a data module."""
    return data.shape


def with_stored_config(args: list[str]) -> list[str]:
    """Orders a command line: the configuration stored in the checkpoint that it names, configurations, options.

    Each overrides what stands before it, wherever the user has put it.

    Raises:
        UserError: the checkpoint is missing, corrupt, or not of a run.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("-c", "--config", action="append", default=[])
    given, rest = peek.parse_known_args(args[1:])
    for name in ("--resume", "--ckpt_path"):
        peek.add_argument(name)
    named, _ = peek.parse_known_args(rest)
    verb, stored = args[:1], []
    if verb == ["fit"] and named.resume:
        path, checkpoint = newest_checkpoint(Path(named.resume))
        stored = [config_in(checkpoint, path)]
        rest = [*rest, "--ckpt_path", str(path)]
    elif verb in (["validate"], ["test"], ["sample"]) and not {"-h", "--help"} & set(rest):
        if not named.ckpt_path:
            raise UserError(f"{verb[0]} needs a checkpoint: add --ckpt_path FILE.")
        config = config_in(load_checkpoint(named.ckpt_path), named.ckpt_path)
        # What is tested in the run's folder is logged to the run.
        in_run = (find_run_folder(named.ckpt_path) / "config.yaml").is_file()
        stored = [
            model_and_data_config(config, ("callbacks", "logger") if verb == ["test"] and in_run else ("callbacks",))
        ]
    return [*verb, *(f"--config={config}" for config in [*stored, *given.config]), *rest]


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint, on the CPU.

    Raises:
        UserError: there is no such file, or it is corrupt, or something else.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no checkpoint {path}: give the path of a .ckpt file.")
    sentence = f"{path} is corrupt or no checkpoint: give another one."
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Whatever a truncated file makes of the unpickler, the user is to know which file it is.
        raise UserError(sentence) from error
    if not isinstance(checkpoint, dict) or "global_step" not in checkpoint:
        raise UserError(sentence)
    return checkpoint


def newest_checkpoint(run_folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run that loads and holds more than weights, and what it holds.

    Raises:
        UserError: there is none.
    """
    files = sorted((run_folder / "checkpoints").glob("*.ckpt"), key=os.path.getmtime, reverse=True)
    for file in files:
        try:
            checkpoint = load_checkpoint(file)
        except ValueError as error:
            warnings.warn(f"{error} Trying the one before it.", stacklevel=2)
            continue
        # ModelCheckpoint's save_weights_only leaves them out.
        if "optimizer_states" in checkpoint:
            return file, checkpoint
    raise UserError(f"There is no checkpoint to resume in {run_folder / 'checkpoints'}: give runs/NAME/VERSION.")


def config_in(checkpoint: dict[str, Any], path: str | Path) -> str:
    """The configuration of the run that a checkpoint is of, as YAML.

    Raises:
        UserError: it holds none.
    """
    if "config" not in checkpoint:
        raise UserError(
            f"{path} does not say of what model it is: give a checkpoint of train.py's that is not of weights alone."
        )
    return checkpoint["config"]


def model_and_data_config(config: str, trainer_options: tuple[str, ...]) -> str:
    """The part of a run's configuration that says what was trained on what, and not on which machine.

    Args:
        config: the whole configuration, as YAML
        trainer_options: what is kept of the Trainer's
    """
    stored = yaml.safe_load(config)
    kept = {key: stored[key] for key in ("seed_everything", "name", "model", "data")}
    return yaml.safe_dump(kept | {"trainer": {key: stored["trainer"][key] for key in trainer_options}})


def new_version() -> str:
    """A name that no other run has: the time, and four random digits for runs that begin together."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)


@rank_zero_only
def make_folder(folder: Path) -> None:
    """Makes a run's folder, which must not exist; the other ranks learn of it from rank 0."""
    folder.mkdir(parents=True)


def find_run_folder(ckpt_path: str) -> Path:
    """The folder of the run that a checkpoint belongs to, or else the checkpoint's own."""
    folder = Path(ckpt_path).resolve().parent
    return folder.parent if (folder.parent / "config.yaml").is_file() else folder


def last_values(trainer: LightningTrainer, iteration: int) -> dict[str, float]:
    """The last value of each metric that was logged, and the iteration."""
    values = {name: value.item() for name, value in trainer.callback_metrics.items() if name != "step"}
    return dict(sorted((values | {"iteration": iteration}).items()))


@rank_zero_only
def write_metrics(folder: Path, verb: str, values: dict[str, Any]) -> None:
    """Puts values under `verb` in metrics.json; a test that was of something else stays under `earlier_tests`."""
    metrics = read_metrics(folder)
    if verb == "fit":
        # Of an earlier part of the run, which has gone on from before it.
        metrics.pop("diverged", None)
    earlier = metrics.get(verb)
    if verb == "test" and earlier and test_key(earlier) != test_key(values):
        tests = [test for test in metrics.get("earlier_tests", []) if test_key(test) != test_key(earlier)]
        metrics["earlier_tests"] = [*tests, earlier]
    metrics[verb] = values if verb == "test" else metrics.get(verb, {}) | values
    with atomic_write(folder / "metrics.json") as file:
        file.write(f"{json.dumps(metrics, indent=2)}\n".encode())


def test_key(test: dict[str, Any]) -> tuple[Any, ...]:
    """What a test has measured: by which extractor, on which data, of which latents and iteration, each metric's N."""
    numbers = {name: row["n"] for name, row in test.get("metrics", {}).items()}
    return test.get("extractor"), test.get("data"), test.get("latents", "prior"), test.get("iteration"), numbers


def read_metrics(folder: Path) -> dict[str, Any]:
    """What metrics.json holds of a run, by verb.

    Raises:
        UserError: it is corrupt.
    """
    path = folder / "metrics.json"
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is corrupt: remove it.") from error


@rank_zero_only
def write_summary(folder: Path, iteration: int) -> None:
    """Prints where everything of a run lies, and keeps it as summary.txt."""
    shown = Path(os.path.relpath(folder))
    samples = sorted(shown.glob("samples/*.png"))
    checkpoint = shown / "checkpoints" / "last.ckpt"
    metrics = read_metrics(folder).get("fit", {})
    rows = {
        "Run": f"{shown} ({iteration:,} iterations)",
        "Samples": samples[-1] if samples else "none",
        "Metrics": ", ".join(map(str, sorted(shown.glob("metrics.*")))),
        **{f"FID ({name})": f"{value:.2f}" for name, value in metrics.items() if "/fid/" in name},
    }
    if checkpoint.is_file():
        rows |= {
            "Checkpoint": checkpoint,
            "Measure": f"python train.py test --ckpt_path {checkpoint}",
            "Train on": f"python train.py fit --resume {shown} --trainer.max_epochs N",
        }
    text = "".join(f"{name + ':':<32}{value}\n" for name, value in rows.items())
    (folder / "summary.txt").write_text(text)
    print(f"\n{text}")


@rank_zero_only
def print_report(rows: dict[str, Row], seconds: float, folder: Path) -> None:
    """Prints what a test has measured, how long it took, and where it lies."""
    print(f"\n{table(rows)}")
    print(f"\n{seconds:.1f} s; written to {Path(os.path.relpath(folder)) / 'metrics.json'}")


def hardware(trainer: LightningTrainer) -> str:
    """What a run is computed on: its devices, or else the CPU and how many threads it computes with."""
    if trainer.strategy.root_device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        match = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        model = match[1] if match else model
    return f"{model}, {trainer.world_size * torch.get_num_threads()} CPU threads"


def explain(message: str, options: list[str]) -> str:
    """A message of jsonargparse as one sentence, with the nearest right name for an option that does not exist.

    Args:
        message: of one line or many, each type that the value is not of with its reason
        options: the names of all options of the command
    """
    if match := re.search(r"argument subcommand: invalid choice: '([^']+)'", message):
        return f"There is no command {match[1]}{nearest(match[1], [*CommandLine.subcommands(), 'compare'])}"
    if match := re.search(r"unrecognized arguments: ([^\s=]+)|does not accept option '([\w.]+)'", message):
        wrong = match[1] or f"--{match[2]}"
        return f"There is no option {wrong}{nearest(wrong, options)}"
    if match := re.search(
        r"Option '([\w.]+)' is not accepted(?:. Got value: Namespace\(class_path='([\w.]+)')?", message
    ):
        class_path = match[2] or re.findall(r"class_path '([\w.]+)'", message)[-1]
        return f"{class_path} has no argument {match[1]}{nearest(match[1], argument_names(class_path))}"
    key = ".".join(re.findall(r'[Kk]ey "([\w.]+)"', message))
    if key and (match := re.search(r"the following arguments are required: ([\w, ]+)", message)):
        missing = " ".join(f"--{key}.{name} VALUE" for name in match[1].split(", "))
        return f"{key} needs {match[1]}: add {missing}."
    for reason in (
        r"module '\S+' has no attribute '\w+'",
        r"No module named '[^']+'",
        r"Import path \S+ does not correspond to a subclass[^\n]*",
        r"Expected a .*\. Got value: .*",
    ):
        if match := re.search(reason, message):
            return f"{key}: {match[0]}."
    # What is left of the reasons is what a class itself has said, or that no type fits.
    reasons = [reason for reason in re.findall(r"^ *- (.+)$", message, re.MULTILINE) if "Expected a" not in reason]
    if reasons := [reason for reason in reasons if not reason.startswith("Problem with")]:
        return reasons[-1]
    if match := re.search(r"Given value: NestedArg\(key='([^']+)'", message):
        return f"{key}.{match[1]} cannot be set by itself: give {key} whole, such as --{key} '{{name: value}}'."
    if match := re.search(r"Given value: (.*)", message):
        expected = ", ".join(re.findall(r"- Expected a (.*)", message))
        return f"{key} is {match[1]}: expected {expected}."
    return " ".join(message.split())


def nearest(wrong: str, names: list[str]) -> str:
    """The end of a sentence: the nearest right name, or where the right names are listed."""
    matches = difflib.get_close_matches(wrong, names, n=1)
    return f": did you mean {matches[0]}?" if matches else ": see --help."


def argument_names(class_path: str) -> list[str]:
    """The names of a class's arguments."""
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def to_list(value: Any) -> list[Any]:
    """A Trainer argument that may be absent, one, or several, as a list."""
    if not value or value is True:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def fail(sentence: str, status: int = 2) -> NoReturn:
    """Ends the program, by default as its user's mistake."""
    sys.stderr.write(f"train.py: {sentence}\n")
    sys.exit(status)


def terminate(*_: Any) -> NoReturn:
    """Ends the program as SIGTERM asks, behind what clears up."""
    raise SIGTERMException


def silence_libraries() -> None:
    """Hides warnings that speak to a library's developers, or of the run folder's own files."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    hidden = (
        ".*recommended to use `self.log.*sync_dist=True",
        ".*LeafSpec.* is deprecated",
        "Checkpoint directory .* exists and is not empty",
        "The dirpath has changed",
    )
    for message in hidden:
        warnings.filterwarnings("ignore", message=message)


def compare_runs(args: list[str]) -> None:
    """Puts runs side by side that `test` has measured: a table here, and comparison.md and comparison.png in a folder.

    Args:
        args: the command line behind `compare`
    """
    parser = argparse.ArgumentParser("train.py compare", description=compare.__doc__, allow_abbrev=False)
    parser.add_argument("run_folders", nargs="+", type=Path, metavar="RUN_DIR", help="runs/NAME/VERSION")
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="the folder of the table and figure")
    given = parser.parse_args(args)
    print(compare(given.run_folders, given.output))


def look_for_gpus_once() -> None:
    """Where there is no GPU, spares an optimizer's step the search for NVIDIA's library."""
    # Every step asks torch whether there is one, and Lightning has torch answer by loading that library, for the sake
    # of processes that are forked beside a GPU: some tenths of a millisecond of a step where there is none.
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def keep_freed_memory() -> None:
    """Has glibc keep what tensors have freed for the next ones, where it would give it back to the system."""
    # Every iteration takes the same megabytes again, which the system would hand out page by page, each filled with 0:
    # up to half of an iteration's time on CPUs. Other systems' libraries have no such function.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold = -1, -3
        # Before 2.35 it takes 32 MiB at most. The other setting alone would stop it from going there by itself.
        if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):
            mallopt(trim_threshold, 2**30)


def close_progress_bars() -> None:
    """Closes the bars of what ended before they did, so that the next output begins on a line of its own."""
    # Nor are they left to the garbage collector: they would be written to from within any allocation, and W&B, which
    # listens to what is written, would set context variables in the middle of another's being set. CPython 3.11 loses
    # variables then, or crashes (python/cpython#148891).
    for bar in list(tqdm._instances):
        bar.close()


def run_command(args: list[str]) -> None:
    """Runs a command, and leaves no progress bar open."""
    try:
        if args[:1] == ["compare"]:
            compare_runs(args[1:])
        else:
            CommandLine(args)
    finally:
        close_progress_bars()


def main(args: list[str] | None = None) -> None:
    """Runs a command; a user's error is one sentence and exit status 2, a training that has diverged status 1.

    JSONARGPARSE_DEBUG=1 shows an error's traceback.
    """
    silence_libraries()
    look_for_gpus_once()
    keep_freed_memory()
    args = sys.argv[1:] if args is None else args
    try:
        run_command(args)
    except SIGTERMException:
        # A SystemExit with status 0, which a cluster would take for success.
        sys.exit(128 + signal.SIGTERM)
    except (ValueError, MisconfigurationException, OSError, RuntimeError) as error:
        # Of the RuntimeErrors only one is the user's.
        misfit = "Error(s) in loading state_dict" in str(error)
        if os.environ.get("JSONARGPARSE_DEBUG") or (isinstance(error, RuntimeError) and not misfit):
            raise
        fail(
            explain("The checkpoint's weights do not fit this model: leave out --model." if misfit else str(error), [])
        )


if __name__ == "__main__":
    main()
