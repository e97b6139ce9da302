"""CommandLine: LightningCLI with run directories, resumption and configurations stored in checkpoints."""

import argparse
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from callbacks import (
    AtomicCheckpointIO,
    DivergenceError,
    LastCheckpoint,
    MetricsCSV,
    StopOnNaN,
    find_wandb_loggers,
    finish_wandb_runs,
)
from cli.checkpoints import add_stored_config, load_checkpoint
from cli.compare import compare
from cli.configuration import read_layers, spell, walk
from cli.damage import name_checkpoint_in_errors
from cli.exit import (
    REFUSALS,
    ConstructionError,
    accepts_call,
    describe_reason,
    describe_refusal,
    fail,
    find_error_message,
    find_option,
    is_refusal_by_lightning,
    runs_user_code,
)
from cli.process import close_progress_bars, find_command
from cli.report import build_report, collect_rows, last_metrics, log_report, print_report
from cli.resumption import Change, dump_history, find_changes, read_history, refuse_ineffective_rates
from cli.runs import RunFolder
from cli.trainer import NoProfiler, Trainer, check_budget, check_trainer_options, run_on_rank_zero
from cli.trust import read_plain_yaml
from cli.validation import CLASS_PARSERS, OptionParser, check_nulls, check_numbers, check_subcommand, explain
from gen_lightning import GenerativeModule
from gen_lightning.base import check_callbacks
from gen_lightning.contracts import ShapedData, offers
from gen_lightning.errors import UserError
from gen_lightning.loops import VALIDATION, answer_signals_together
from gen_lightning.ranks import is_lost_connection

USAGE = """Train, validate, test, sample from and compare GANs and VAEs.

train.py fit --config configs/gan/dcgan.yaml
train.py fit --resume runs/dcgan/VERSION
train.py test --ckpt_path runs/dcgan/VERSION/checkpoints/last.ckpt
train.py sample --ckpt_path runs/dcgan/VERSION/checkpoints/last.ckpt --num_samples 64 --output samples
train.py compare runs/dcgan/VERSION runs/vae/VERSION
"""


class ParsingError(BaseException):
    """What jsonargparse has refused.

    It is no Exception, since an outer parser would take it for a value that fits no type.
    """


class Parser(LightningArgumentParser):
    """A parser that accepts no abbreviations."""

    config = Namespace()
    """The parsed configuration, in which the option of a class is looked up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, allow_abbrev=False)

    def add_instantiator(self, instantiator: Callable[..., Any], class_type: type, *args: Any, **kwargs: Any) -> None:
        """Register a function that builds objects of a class; its exceptions will name the option of the object."""

        # jsonargparse reads from the signature whether the function wants the applied links.
        @wraps(instantiator)
        def construct(class_type: type, *args: Any, **kwargs: Any) -> Any:
            try:
                return instantiator(class_type, *args, **kwargs)
            except Exception as error:
                option, class_path = find_option(self.config, class_type, kwargs)
                option = "--checkpoint" if class_type is LastCheckpoint else option
                called = accepts_call(class_type, args, kwargs)
                raise ConstructionError(error, option, class_path, called) from error

        super().add_instantiator(construct, class_type, *args, **kwargs)

    def add_class_arguments(self, class_type: type, nested_key: str | None = None, **kwargs: Any) -> list[str]:
        """Add the arguments of a class, and keep the parser for error messages if it has no others."""
        if nested_key is None:
            CLASS_PARSERS[class_type, frozenset(kwargs.get("skip") or ())] = self
        return super().add_class_arguments(class_type, nested_key, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message; while jsonargparse only tries a type, as it expects."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise ParsingError(message)

    def make_switch(self, option: str) -> None:
        """Let a boolean option be given without a value, for true."""
        (action,) = (action for action in self._actions if option in action.option_strings)
        action.nargs, action.const = "?", True


class RunConfig(SaveConfigCallback):
    """Writes the run's configuration to config.yaml, to every checkpoint and to W&B.

    Args:
        parser: the parser of the command's options
        config: the parsed options
        run: the run's directory
        history: what resumptions have changed
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, run: RunFolder, history: list[Change]
    ) -> None:
        config = config.clone()
        for key in ("resume", "ckpt_path", "trust"):
            config.pop(key, None)
        super().__init__(parser, config, save_to_log_dir=False)
        self.run = run
        self.identity = run.identity
        self.history = history
        self.text = parser.dump(config, skip_none=False)

    def save_config(self, trainer: LightningTrainer, pl_module: LightningModule, stage: str) -> None:
        """Write the configuration to the run's directory, and log it to W&B; called on rank 0 only."""
        self.run.write_config("".join(f"# {change}\n" for change in self.history) + self.text)
        for logger in find_wandb_loggers(trainer):
            logger.log_hyperparams(yaml.safe_load(self.text) | {"history": dump_history(self.history)})

    def on_save_checkpoint(
        self, trainer: LightningTrainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the configuration in the checkpoint, so that it needs no other file, and the identity of the run."""
        checkpoint["config"] = self.text
        checkpoint["history"] = dump_history(self.history)
        checkpoint["run"] = self.identity


class CommandLine(LightningCLI):
    """LightningCLI with run directories, resumption and configurations stored in checkpoints.

    Args:
        args: the command line, without the program's name
    """

    trainer: Trainer

    def __init__(self, args: list[str]) -> None:
        # The lock of the run's directory is held until the command ends.
        with ExitStack() as self.held:
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
                parser_kwargs={"description": USAGE, "formatter_class": argparse.RawDescriptionHelpFormatter},
                args=args,
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the verbs, each with the arguments that are not options."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": {"model", "dataloaders", "datamodule"},
            "test": {"model", "datamodule"},
            "sample": {"model", "datamodule"},
            "train_extractor": {"model", "datamodule"},
        }

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, the name of the run and the precision of matrix products."""
        parser.add_argument(
            "--seed_everything",
            type=NonNegativeInt,
            default=0,
            help="Seed of weights, data order and all draws.",
        )
        parser.add_argument(
            "--name", type=str, default="run", help="Name of the run: its directory is runs/NAME/VERSION."
        )
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="As torch.set_float32_matmul_precision, for convolutions too. Below highest, GPUs use TF32, and some"
            " CPUs faster kernels.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoint that every run keeps; pass the data's shape to the model, and the seed to both."""
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.link_arguments("data", "model.init_args.data_shape", get_shape, apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.init_args.seed", int)
        parser.link_arguments("seed_everything", "data.init_args.seed", int)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> Parser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        assert isinstance(parser, Parser)
        if subcommand == "fit":
            parser.add_argument("--resume", type=str, default=None, help="The directory of a run to continue.")
        if subcommand in ("sample", "train_extractor"):
            parser.make_switch("--overwrite")
        parser.add_argument(
            "--trust",
            action="append",
            default=[],
            help="A package whose classes the checkpoint's configuration may name; may be given several times.",
        )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line after the configuration that is stored in the checkpoint it names.

        Raises:
            UserError: the command line is wrong, or a configuration file cannot be read.
        """
        check_subcommand(args)
        args = add_stored_config(args)
        self.layers = read_layers(args[1:])
        try:
            self.config = parser.parse_args(args)
        except ParsingError as error:
            raise UserError(explain(self._parser(args[0]), self.layers, str(error))) from error
        assert isinstance(parser, Parser)
        config = self.config[self.config.subcommand]
        replace_string_enums(config)
        check_numbers(config)
        check_nulls(config)
        parser.config = config

    def _add_instantiators(self) -> None:
        # Lightning's own, which store a model's hyperparameters, come first.
        super()._add_instantiators()
        self.parser.add_instantiator(lambda class_type, *args, **kwargs: class_type(*args, **kwargs), object)

    def _parse_ckpt_path(self) -> None:
        # LightningCLI would let the checkpoint's hyperparameters override the command line.
        pass

    def before_instantiate_classes(self) -> None:
        """Set the precision, check the checkpoint, and choose the run's directory."""
        config = self.config[self.subcommand]
        torch.set_float32_matmul_precision(config.float32_matmul_precision)
        # By default torch lets cuDNN's convolutions use TF32, whatever the precision of matrix products is.
        torch.backends.cudnn.allow_tf32 = config.float32_matmul_precision != "highest"
        if config.get("weights_only", False) is None:
            # Lightning would otherwise unpickle arbitrary objects of a remote checkpoint.
            config.weights_only = True
        checkpoint = load_checkpoint(config.ckpt_path) if config.ckpt_path else {}
        self.checkpoint_iteration = checkpoint.get("global_step", 0)
        self.validation_due = checkpoint.get("due") == VALIDATION
        if self.subcommand == "fit" and checkpoint and "optimizer_states" not in checkpoint:
            raise UserError(f"{config.ckpt_path} holds only weights. Give a checkpoint with the optimizers' states.")
        self.run = self._choose_run(config)
        self.save_config_kwargs = {"run": self.run, "history": []}
        if self.subcommand != "fit":
            self.save_config_callback = None
        if self.subcommand == "train_extractor":
            config.trainer.update(Namespace(callbacks=None, logger=False))
        identify_wandb_run(config.trainer.logger, self.run)
        # Lightning does this in the constructor of the model or of the data, which would be blamed for what it raises.
        self._dump_config()
        if self.subcommand == "fit" and config.resume:
            self.save_config_kwargs["history"] = self._extend_history(checkpoint)

    def _extend_history(self, checkpoint: dict[str, Any]) -> list[Change]:
        """Return the changes by earlier resumptions and by this one.

        Raises:
            UserError: an option cannot be changed.
        """
        stored = read_plain_yaml(checkpoint["config"], str(self.config.fit.ckpt_path))
        changes = find_changes(stored, self.config_dump, self.checkpoint_iteration)
        schedules = self.config_dump["model"]["init_args"].get("schedules")
        refuse_ineffective_rates(changes, schedules or {}, "optimizer_rates" in checkpoint)
        return [*read_history(checkpoint.get("history")), *changes]

    def _choose_run(self, config: Namespace) -> RunFolder:
        if self.subcommand != "fit" and config.ckpt_path:
            return RunFolder.containing(config.ckpt_path)
        if self.subcommand != "fit" or not config.resume:
            return RunFolder.new(config.trainer.default_root_dir, config.name)
        run = RunFolder(Path(config.resume).resolve())
        config.name, config.trainer.default_root_dir = run.recipe, str(run.root)
        return run

    def instantiate_classes(self) -> None:
        """Build the objects of the configuration.

        Raises:
            UserError: jsonargparse refuses a value only now, such as a function in the place of a class.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse wraps what `get_shape` raises.
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            # Constructors raise a ConstructionError instead.
            if isinstance(error, UserError) or runs_user_code(error):
                raise
            raise UserError(explain(self._parser(self.subcommand), self.layers, str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the Trainer, with atomic checkpoints; in `fit` also with metrics.csv and a stop on divergence."""
        config = self._get(self.config_init, "trainer")
        check_trainer_options(config)
        loggers = to_list(config.logger)
        kwargs["plugins"] = [*to_list(config.plugins), AtomicCheckpointIO()]
        kwargs["profiler"] = config.profiler or NoProfiler()
        if self.subcommand == "fit":
            check_budget(config)
            kwargs["default_root_dir"] = str(self.run.path)
            callbacks = [*to_list(config.callbacks), StopOnNaN()]
            check_callbacks(callbacks)
            check_callback_options(callbacks)
            check_record(self.config_dump)
            kwargs["callbacks"] = callbacks
            if config.enable_progress_bar is not False and not any(isinstance(one, ProgressBar) for one in callbacks):
                # Drawn at each batch, as by default, the bar costs a tenth of a small network's iteration.
                callbacks.append(TQDMProgressBar(refresh_rate=20))
            start = (self.checkpoint_iteration, self.validation_due)
            csv = MetricsCSV(str(self.run.root), self.run.recipe, self.run.version, *start)
            loggers.insert(0, csv)
        try:
            trainer = super().instantiate_trainer(logger=loggers or False, **kwargs)
        except (*REFUSALS, TypeError) as error:
            if not is_refusal_by_lightning(error):
                raise
            raise UserError(describe_refusal(str(error), vars(config))) from error
        assert isinstance(trainer, Trainer)
        answer_signals_together(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        with name_checkpoint_in_errors(self.config[subcommand].ckpt_path):
            super()._run_subcommand(subcommand)

    def before_fit(self) -> None:
        """Make and lock the run's directory, now that the command line is known to be right.

        Raises:
            UserError: another process trains the run, or its files are damaged.
        """
        if not self.trainer.fast_dev_run:
            run_on_rank_zero(self.trainer, self._open_run)

    def _open_run(self) -> None:
        if not self.config.fit.resume:
            self.run.make()
        self.held.enter_context(self.run.lock())
        self.run.check_metrics()

    def fit(self, **arguments: Any) -> None:
        """Train; a diverged training is logged and summarized like any other, and then fails with status 1."""
        try:
            self.trainer.fit(**arguments)
        except DivergenceError as divergence:
            finish_wandb_runs(self.trainer, exit_code=1)
            if not self.trainer.fast_dev_run:
                iteration = self.trainer.global_step
                self.run.write_metrics("diverged", {"iteration": iteration, "reason": str(divergence)})
                self.run.write_summary(iteration)
            fail(str(divergence), status=1)
        except UserError:
            # Data are read after the directory is made, and may be refused.
            self.run.remove_if_empty()
            raise
        except (RuntimeError, TypeError, IndexError) as error:
            # Classes of this project and of torch that do not fit each other are seen when they are first called.
            started = self.trainer.global_step > self.checkpoint_iteration
            is_lost = self.trainer.world_size > 1 and is_lost_connection(error)
            if started or is_lost or find_error_message(error) or runs_user_code(error):
                raise
            reason = describe_reason(error) or "."
            raise UserError(
                f"The first iteration fails{reason} Choose classes and options of --model that fit each other."
            ) from error

    def after_fit(self) -> None:
        """Store the last metrics and print the paths of the run's files."""
        finish_wandb_runs(self.trainer)
        if not self.trainer.fast_dev_run:
            iteration = self.trainer.global_step
            self.run.write_metrics("fit", last_metrics(self.trainer, iteration))
            self.run.write_summary(iteration)

    def before_validate(self) -> None:
        """Check that the results can be stored.

        Raises:
            UserError: metrics.json is corrupt.
            StorageError: metrics.json cannot be written.
        """
        if not self.trainer.fast_dev_run:
            run_on_rank_zero(self.trainer, self.run.check_metrics)

    before_test = before_validate

    def after_validate(self) -> None:
        """Store the metrics in the directory of the checkpoint's run."""
        if not self.trainer.fast_dev_run:
            self.run.write_metrics(str(self.subcommand), last_metrics(self.trainer, self.checkpoint_iteration))

    def after_test(self) -> None:
        """Print, log and store what the callbacks have measured, and print what they have not."""
        rows = collect_rows(self.trainer)
        if not rows or self.trainer.fast_dev_run:
            finish_wandb_runs(self.trainer)
            self.after_validate()
            self._print_unmeasured()
            return
        report = build_report(rows, self.trainer, self.model, self.datamodule) | {
            "latents": self.config.test.latents,
            "iteration": self.checkpoint_iteration,
            "seed": self.config.test.seed_everything,
        }
        print_report(rows, self.trainer.test_seconds)
        self.run.write_metrics("test", report)
        rank_zero_only(print)(f"Written to {os.path.relpath(self.run.metrics_json)}")
        self._print_unmeasured()
        log_report(self.trainer, rows, self.checkpoint_iteration)
        finish_wandb_runs(self.trainer)

    @rank_zero_only
    def _print_unmeasured(self) -> None:
        if self.trainer.unmeasured:
            print(self.trainer.unmeasured)


def run_command(args: list[str]) -> None:
    """Run a command, and leave no progress bar open."""
    try:
        if args[:1] == ["compare"]:
            run_compare(args[1:])
        else:
            CommandLine(args)
    finally:
        close_progress_bars()


def run_compare(args: list[str]) -> None:
    """Compare tested runs: print a table, and write comparison.md and comparison.png.

    Args:
        args: the command line after `compare`
    """
    parser = OptionParser(f"{find_command()} compare", description=compare.__doc__, allow_abbrev=False)
    parser.add_argument("run_folders", nargs="+", type=Path, metavar="RUN_DIR", help="runs/NAME/VERSION")
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="the directory of the table and figure")
    given = parser.parse_args(args)
    print(compare(given.run_folders, given.output))


def identify_wandb_run(loggers: Any, run: RunFolder) -> None:
    """Give a configured W&B logger the run's directory and name, and the run's version as its id."""
    for logger in to_list(loggers):
        if isinstance(logger, Namespace) and logger.class_path.endswith("WandbLogger"):
            # Under the same id, a resumed or tested run continues the W&B run.
            logger.init_args.update(Namespace(save_dir=str(run.path), id=run.version, name=run.name))


def get_shape(data: ShapedData) -> tuple[int, ...]:
    """Return the shape of one example of a data module."""
    if not offers(data, ShapedData):
        raise UserError(
            f"{type(data).__name__} has no `shape`, from which --model.data_shape is set. Add a line such as"
            " `shape = (1, 28, 28)` to the class."
        )
    return data.shape


def replace_string_enums(node: Any) -> None:
    """Replace each member of a string enumeration in a configuration by its string.

    A default such as `Interval.step` of Lightning's Timer, declared as a string, could not be written to config.yaml.
    """
    members = vars(node) if isinstance(node, Namespace) else dict(enumerate(node)) if isinstance(node, list) else node
    for key, value in members.items() if isinstance(members, dict) else ():
        if isinstance(value, str) and isinstance(value, Enum):
            node[key] = value.value
        replace_string_enums(value)


def check_record(config: Any) -> None:
    """Check that a configuration, as it is written to config.yaml, holds every value.

    Raises:
        UserError: jsonargparse has replaced a value, so that a resumed run would not get it.
    """
    for keys, value in walk(config):
        if isinstance(value, str) and value.startswith("Unable to serialize instance "):
            given = value.removeprefix("Unable to serialize instance ")
            raise UserError(
                f"`{spell(keys)}` is {given}, which config.yaml cannot hold. Give a number, text or a class path."
            )


def check_callback_options(callbacks: Sequence[Callback]) -> None:
    """Check what Lightning refuses with an error of its own, or only in training.

    Raises:
        UserError: a metric to monitor has no name, or two callbacks would store their states under the same name.
    """
    stateful = [one for one in callbacks if type(one).state_dict is not Callback.state_dict]
    for name, number in Counter(callback.state_key for callback in stateful).items():
        if number > 1:
            raise UserError(f"`--trainer.callbacks` holds {name.partition('{')[0]} {number} times. Remove all but one.")
    for callback in callbacks:
        if getattr(callback, "monitor", None) == "":
            raise UserError(
                f"`monitor` of {type(callback).__name__} is empty. Choose a logged metric, such as val/fid."
            )


def to_list(value: Any) -> list[Any]:
    """Return a Trainer argument that may be absent, one object, or several as a list."""
    if not value or value is True:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
