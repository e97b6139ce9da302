"""Checkpoints: loading them, and merging the configuration that is stored in them into a command line."""

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from callbacks.checkpoint import check_checksum
from cli.configuration import read_options
from cli.damage import find_damaged_part
from cli.recipes import find_recipe
from cli.runs import RunFolder
from cli.trust import StoredConfig
from cli.validation import OptionParser
from gen_lightning.errors import UserError
from gen_lightning.storage import describe_os_error


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
    peek.add_argument("--trust", action="append", default=[])
    named, _ = peek.parse_known_args(rest)
    verb, stored = args[:1], []
    configs = [drop_fit_options(find_recipe(config), verb) for config in given.config]
    if verb == ["fit"] and named.resume:
        path, checkpoint = newest_checkpoint(RunFolder(named.resume))
        stored = [read_config(checkpoint, path, named.trust)]
        rest = [*rest, "--ckpt_path", str(path)]
    elif verb != ["fit"] and (named.ckpt_path or verb != ["train_extractor"]) and not {"-h", "--help"} & set(rest):
        if not named.ckpt_path:
            raise UserError(f"`{verb[0]}` has no checkpoint. Add --ckpt_path FILE.")
        # A test in the run's directory is logged to the run.
        logged = verb == ["test"] and RunFolder.containing(named.ckpt_path).is_run
        measures = verb in (["validate"], ["test"])
        used = ("callbacks", "logger") if logged else ("callbacks",) if measures else ()
        stored = [read_config(load_checkpoint(named.ckpt_path), named.ckpt_path, named.trust, used)]
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
    options = read_options(config)
    if "weights_only" not in options:
        return config
    return yaml.safe_dump({name: value for name, value in options.items() if name != "weights_only"})


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the checkpoint, on the CPU.

    Raises:
        UserError: there is no such file, it cannot be read, or it is damaged or no checkpoint.
    """
    check_is_readable(path)
    check_checksum(Path(path))
    return read_checkpoint(path, mmap=False)


def check_is_readable(path: str | Path) -> None:
    """Check that a path is a regular file that this user may read.

    Raises:
        UserError: it is not.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            Path(path).open("rb").close()
            return
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"There is no checkpoint {path}. Give the path of a .ckpt file.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {describe_os_error(error)}. Give another file.") from error
    kind = "a directory" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
    raise UserError(f"{path} is {kind}. Give the path of a .ckpt file.")


def read_checkpoint(path: str | Path, mmap: bool) -> dict[str, Any]:
    """Return the checkpoint, on the CPU, without a check of its checksum.

    Args:
        path: the file
        mmap: read tensors only when they are used

    Raises:
        UserError: the file is damaged or no checkpoint.
    """
    sentence = f"{path} is corrupt or is not a checkpoint. Give another file."
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {describe_os_error(error)}. Give another file.") from error
    except Exception as error:
        # A truncated file makes the unpickler raise anything; the user needs to know which file it is.
        raise UserError(sentence) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("global_step"), int):
        raise UserError(sentence)
    if damaged := find_damaged_part(checkpoint):
        raise UserError(f"{path} is damaged: its `{damaged}` is not what train.py writes. Give another file.")
    return checkpoint


def newest_checkpoint(run: RunFolder) -> tuple[Path, dict[str, Any]]:
    """Return the path and the content of a run's newest checkpoint that loads and holds the optimizers' states.

    The newest one has the greatest `global_step`. A checkpoint of another run is not taken. One of an earlier version,
    which does not name its run, is.

    Raises:
        UserError: there is none.
    """
    found = []
    for path in run.find_checkpoints():
        with warn_and_go_on():
            check_is_readable(path)
            # Checked first: a changed bit may have changed the iteration or the run.
            check_checksum(path)
            checkpoint = read_checkpoint(path, mmap=True)
            owner = checkpoint.get("run", run.identity)
            if owner != run.identity:
                raise UserError(f"{path} is a checkpoint of the run {owner}, not of {run.identity}.")
            # A ModelCheckpoint with save_weights_only stores no optimizer states.
            if "optimizer_states" in checkpoint:
                found.append((checkpoint["global_step"], path.name == run.last_checkpoint.name, path))
    for *_, path in sorted(found, reverse=True):
        with warn_and_go_on():
            return path, read_checkpoint(path, mmap=False)
    raise UserError(f"There is no checkpoint to resume in {run.checkpoints}. Give a directory runs/NAME/VERSION.")


@contextmanager
def warn_and_go_on() -> Iterator[None]:
    """Turn a UserError within the context into a warning."""
    try:
        yield
    except UserError as error:
        reason = str(error).removesuffix(" Give another file.")
        warnings.warn(f"{reason} Another checkpoint of the run is used instead.", stacklevel=3)


def read_config(
    checkpoint: dict[str, Any], path: str | Path, trusted: list[str], trainer_options: Sequence[str] | None = None
) -> str:
    """Return the configuration of the run that wrote a checkpoint, as YAML that names nothing but trusted classes.

    Args:
        checkpoint: the content of the checkpoint
        path: the checkpoint
        trusted: packages whose classes the user trusts
        trainer_options: the Trainer's options to keep, for a verb that needs only the model and the data; default: all

    Raises:
        UserError: the checkpoint holds no configuration, or one that is malformed or not trusted.
    """
    if "config" not in checkpoint:
        raise UserError(f"{path} contains no training configuration. Pass a full checkpoint written by train.py.")
    stored = StoredConfig(checkpoint["config"], path, trusted, trainer_options)
    # A resumption reads the data, and compares its options with those that the run has recorded.
    if trainer_options is not None:
        stored.add_shape(checkpoint.get("hyper_parameters", {}).get("data_shape"))
    return stored.dump()
