"""Checkpoints and metrics whose content is not what train.py writes: one sentence names the file."""

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cli.exit import CALLERS
from gen_lightning.errors import StorageError, UserError
from gen_lightning.evaluation import Row
from gen_lightning.loops import EPOCH_END, VALIDATION

MAX_DEPTH = 20

DUE = (None, VALIDATION, EPOCH_END)
"""What may be left to do after the last iteration of a checkpoint."""

TRUSTED_CALLERS = {*CALLERS, "callbacks", "datamodules", "gen_lightning", "packaging"}
"""Packages whose exceptions in a restoration are due to the checkpoint."""


def find_damaged_part(checkpoint: dict[str, Any]) -> str | None:
    """Return the name of a part of a checkpoint that is not of the kind that train.py writes; None if all are.

    Lightning takes the parts as they are, and fails in the middle of the training if a count is a text.
    """
    for name, is_whole in PARTS.items():
        if name in checkpoint and not is_whole(checkpoint[name]):
            return name
    return None


def list_values(node: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the values within nested mappings and sequences, and containers that are nested too deeply."""
    if isinstance(node, dict | list | tuple | set) and depth < MAX_DEPTH:
        for one in node.values() if isinstance(node, dict) else node:
            yield from list_values(one, depth + 1)
    else:
        yield node


def list_keys(node: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the keys of nested mappings."""
    if isinstance(node, dict | list | tuple) and depth < MAX_DEPTH:
        yield from node if isinstance(node, dict) else ()
        for one in node.values() if isinstance(node, dict) else node:
            yield from list_keys(one, depth + 1)


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number of 0 or more."""
    return type(value) is int and 0 <= value < 2**63


def is_optimizer(state: Any) -> bool:
    """Return whether a value has the form of an optimizer's state."""
    return (
        isinstance(state, dict)
        and isinstance(state.get("state"), dict)
        and all(isinstance(one, dict) for one in state["state"].values())
        and isinstance(state.get("param_groups"), list)
        and all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in state["param_groups"])
    )


def is_loop_state(loops: Any) -> bool:
    """Return whether a value has the form of the loops' progress; a data loader's own state may be anything."""
    try:
        fit_loop = loops["fit_loop"]
        loader = fit_loop["state_dict"].get("combined_loader", [])
        epoch_state = dict(fit_loop.get("epoch_loop.state_dict", {}))
        due = epoch_state.pop("due", None)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    if not isinstance(loader, list) or due not in DUE:
        return False
    own = [state for state in loader if isinstance(state, dict) and state.keys() == {"epoch", "position"}]
    progress = loops | {"fit_loop": fit_loop | {"state_dict": own, "epoch_loop.state_dict": epoch_state}}
    return all(isinstance(value, bool) or is_count(value) for value in list_values(progress))


def is_inside(value: Any) -> bool:
    """Return whether a value of a callback's state is no path that leads upwards or to another machine.

    ModelCheckpoint of Lightning 2.6 removes files that its state names, if they are below its directory or remote.
    """
    return not isinstance(value, str) or not (".." in Path(value).parts or "://" in value or "::" in value)


def is_rates(part: Any) -> bool:
    """Return whether a value holds numbers by name for each parameter group of each optimizer."""
    if not isinstance(part, list) or not all(isinstance(groups, list) for groups in part):
        return False
    return all(is_mapping(group) and all(map(is_number, group.values())) for groups in part for group in groups)


def is_version(part: Any) -> bool:
    """Return whether a value is the version of a package, such as 2.6.6 or 2.7.0rc1."""
    return isinstance(part, str) and re.fullmatch(r"\d+(\.\w+)*", part) is not None


def is_mapping(part: Any) -> bool:
    """Return whether a value is a mapping whose keys are texts."""
    return isinstance(part, dict) and all(isinstance(key, str) for key in part)


PARTS: dict[str, Callable[[Any], bool]] = {
    "global_step": is_count,
    "epoch": is_count,
    "pytorch-lightning_version": is_version,
    "state_dict": lambda part: is_mapping(part) and all(map(torch.is_tensor, part.values())),
    "loops": is_loop_state,
    "callbacks": lambda part: is_mapping(part) and all(map(is_inside, [*list_keys(part), *list_values(part)])),
    "optimizer_states": lambda part: isinstance(part, list) and bool(part) and all(map(is_optimizer, part)),
    "lr_schedulers": lambda part: isinstance(part, list),
    "hyper_parameters": is_mapping,
    "optimizer_rates": is_rates,
}
"""The parts of a checkpoint that Lightning restores, each with the condition that a whole one satisfies."""


def find_damaged_metric(metrics: Any) -> str | None:
    """Return the place in metrics.json that does not hold what train.py writes; None if there is none."""
    if not is_mapping(metrics):
        return "the whole file"
    for verb, block in metrics.items():
        if verb == "earlier_tests":
            damaged = not isinstance(block, list) or any(find_damage_in_test(test) is not None for test in block)
            place = "" if damaged else None
        elif verb == "test":
            place = find_damage_in_test(block)
        elif verb == "diverged":
            place = None if is_mapping(block) and isinstance(block.get("reason"), str) else ""
        else:
            place = None if is_mapping(block) and all(map(is_number, block.values())) else ""
        if place is not None:
            return f"`{verb}.{place}`".replace(".`", "`")
    return None


def find_damage_in_test(test: Any) -> str | None:
    """Return the place in a `test` block that is damaged, empty for the block itself; None if there is none."""
    if not is_mapping(test):
        return ""
    if "metrics" not in test:
        return None if all(map(is_number, test.values())) else ""
    extractor = test.get("extractor")
    if extractor is not None and not (
        is_mapping(extractor) and is_text(extractor.get("name"), extractor.get("sha256"))
    ):
        return "extractor"
    for name in ("data", "images", "likelihood", "latents"):
        if test.get(name) is not None and not is_text(test[name]):
            return name
    if not is_count(test.get("iteration")):
        return "iteration"
    if not is_mapping(test["metrics"]):
        return "metrics"
    return next(
        (f"metrics.{name}" for name, row in test["metrics"].items() if not is_text(name) or not is_row(row)), None
    )


def is_row(row: Any) -> bool:
    """Return whether a value is a row of a report: numbers, where only the value and its N may not be null."""
    names = {field.name for field in fields(Row)}
    if not is_mapping(row) or not {"value", "error", "n"} <= row.keys() <= names:
        return False
    better, optional = row.get("better"), row.keys() - {"value", "n", "better"}
    numbers = [row["value"], *(row[name] for name in optional if row[name] is not None)]
    return all(map(is_number, numbers)) and is_count(row["n"]) and better in (None, "lower", "higher")


def is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can hold, NaN and infinity included."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def is_text(*values: Any) -> bool:
    """Return whether values are texts without characters that control the terminal."""
    return all(isinstance(value, str) and value.isprintable() for value in values)


@contextmanager
def name_checkpoint_in_errors(path: str | None) -> Iterator[None]:
    """Turn an exception from the restoration of a checkpoint within the context into a UserError that names the file.

    A refusal by Lightning and weights that do not fit the model have sentences of their own. An exception from a class
    of the user's own is a fault in that class.
    """
    try:
        yield
    except (UserError, StorageError, MisconfigurationException):
        raise
    except Exception as error:
        if not path or "Error(s) in loading state_dict" in str(error) or not is_restoration(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} cannot be restored ({reason[:200]}). Give another checkpoint.") from error


def is_restoration(error: Exception) -> bool:
    """Return whether an exception comes from the restoration of a checkpoint, without a class of the user's own.

    An optimizer takes any state, and fails in its first step.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [frame.f_globals["__name__"] for frame in frames]
    restoring = any(
        name == "lightning.pytorch.trainer.connectors.checkpoint_connector"
        and re.match("_?restore|resume", frame.f_code.co_name)
        for name, frame in zip(names, frames, strict=True)
    )
    stepping = names[-1].startswith("torch.optim.") and not isinstance(error, torch.OutOfMemoryError)
    return (restoring or stepping) and {name.partition(".")[0] for name in names} <= TRUSTED_CALLERS
