"""Checkpoints: loading them, and merging the configuration that is stored in them into a command line."""

import warnings
from pathlib import Path
from typing import Any

import torch
import yaml

from cli.recipes import find_recipe
from cli.runs import RunFolder
from cli.validation import OptionParser
from gen_lightning.errors import UserError


def add_stored_config(args: list[str]) -> list[str]:
    """Merge the checkpoint's stored configuration before the command-line options.

    The stored configuration comes first, then the `--config` files, then the options, wherever the user has put them.
    Each overrides what comes before it.

    Raises:
        UserError: the checkpoint is missing or corrupt, or holds no configuration.
    """
    peek = OptionParser(add_help=False, allow_abbrev=False)
    peek.add_argument("-c", "--config", action="append", default=[])
    given, rest = peek.parse_known_args(args[1:])
    for name in ("--resume", "--ckpt_path"):
        peek.add_argument(name)
    named, _ = peek.parse_known_args(rest)
    verb, stored = args[:1], []
    configs = [drop_fit_options(find_recipe(config), verb) for config in given.config]
    if verb == ["fit"] and named.resume:
        path, checkpoint = newest_checkpoint(RunFolder(named.resume))
        stored = [read_config(checkpoint, path)]
        rest = [*rest, "--ckpt_path", str(path)]
    elif verb in (["validate"], ["test"], ["sample"]) and not {"-h", "--help"} & set(rest):
        if not named.ckpt_path:
            raise UserError(f"`{verb[0]}` has no checkpoint. Add --ckpt_path FILE.")
        config = read_config(load_checkpoint(named.ckpt_path), named.ckpt_path)
        # A test in the run's directory is logged to the run.
        logged = verb == ["test"] and RunFolder.containing(named.ckpt_path).is_run
        stored = [model_and_data_config(config, ("callbacks", "logger") if logged else ("callbacks",))]
    return [*verb, *(f"--config={config}" for config in [*stored, *configs]), *rest]


def drop_fit_options(config: str, verb: list[str]) -> str:
    """Return a configuration file without the options of `fit` that another verb does not have.

    So every verb accepts the config.yaml of a run. Any other file is returned as its path.

    Args:
        config: the path of the file, or YAML text
        verb: the verb of the command line, as a list of one
    """
    if verb == ["fit"] or not Path(config).is_file():
        return config
    try:
        options = yaml.safe_load(Path(config).read_text())
    except yaml.YAMLError:
        return config
    if not isinstance(options, dict) or "weights_only" not in options:
        return config
    return yaml.safe_dump({name: value for name, value in options.items() if name != "weights_only"})


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the checkpoint, on the CPU.

    Raises:
        UserError: there is no such file, or it is no checkpoint.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no checkpoint {path}. Give the path of a .ckpt file.")
    sentence = f"{path} is corrupt or is not a checkpoint. Give another file."
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A truncated file makes the unpickler raise anything; the user needs to know which file it is.
        raise UserError(sentence) from error
    if not isinstance(checkpoint, dict) or "global_step" not in checkpoint:
        raise UserError(sentence)
    return checkpoint


def newest_checkpoint(run: RunFolder) -> tuple[Path, dict[str, Any]]:
    """Return the path and the content of a run's newest checkpoint that loads and holds the optimizers' states.

    Raises:
        UserError: there is none.
    """
    for file in run.find_checkpoints():
        try:
            checkpoint = load_checkpoint(file)
        except UserError as error:
            warnings.warn(f"{error} The checkpoint before it is used instead.", stacklevel=2)
            continue
        # A ModelCheckpoint with save_weights_only stores no optimizer states.
        if "optimizer_states" in checkpoint:
            return file, checkpoint
    raise UserError(f"There is no checkpoint to resume in {run.checkpoints}. Give a directory runs/NAME/VERSION.")


def read_config(checkpoint: dict[str, Any], path: str | Path) -> str:
    """Return the configuration of the run that wrote a checkpoint, as YAML.

    Raises:
        UserError: the checkpoint holds no configuration.
    """
    if "config" not in checkpoint:
        raise UserError(f"{path} contains no training configuration. Pass a full checkpoint written by train.py.")
    return checkpoint["config"]


def model_and_data_config(config: str, trainer_options: tuple[str, ...]) -> str:
    """Return the part of a run's configuration that describes the model and the data, not the machine.

    Args:
        config: the whole configuration, as YAML
        trainer_options: the Trainer's options to keep
    """
    stored = yaml.safe_load(config)
    kept = {key: stored[key] for key in ("seed_everything", "name", "model", "data")}
    return yaml.safe_dump(kept | {"trainer": {key: stored["trainer"][key] for key in trainer_options}})
