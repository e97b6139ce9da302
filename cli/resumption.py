"""What a resumption may change: options that take effect from its first iteration on, and the record of them."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cli.configuration import Keys, shorten_value, spell
from cli.damage import is_count, is_mapping, is_text
from gen_lightning.errors import UserError

_OPTIMIZER = r"model\.init_args\.(\w+_)?optimizer\.init_args"
# Options of the Trainer that say how the model is trained.
_TRAINING = r"accumulate_grad_batches|gradient_clip_|overfit_batches"
CHANGEABLE = re.compile(
    rf"trainer\.(?!{_TRAINING}).+|checkpoint\..+|float32_matmul_precision|{_OPTIMIZER}\.(lr|weight_decay)"
    r"|model\.init_args\.schedules(\..+)?|data\.init_args\.(root|path|val_path|test_path|device_resident)"
)
"""The options that a resumption may change: what measures, logs, stores or ends a run, where it runs and in which
precision, and how fast it learns."""

REPLACED = re.compile(r"name|resume|ckpt_path|weights_only|trust|trainer\.default_root_dir|trainer\.logger(\..+)?")
"""The options that the run's directory decides, and those of loggers, which say nothing about what is trained."""


@dataclass(frozen=True)
class Change:
    """A change of an option by a resumption.

    Args:
        iteration: number of completed iterations at the resumption
        option: the option as the user types it
        before: its value before, on one line
        after: its value since then, on one line
    """

    iteration: int
    option: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"iteration {self.iteration}: {self.option} changed from {self.before} to {self.after}"


def find_changes(before: dict[str, Any], after: dict[str, Any], iteration: int) -> list[Change]:
    """Return the changes from a run's configuration to that of its resumption.

    Args:
        before: stored configuration, as plain data
        after: configuration of the resumption, as plain data
        iteration: number of completed iterations

    Raises:
        UserError: a change cannot take effect in a run that goes on.
    """
    changes = []
    for keys, old, new in _compare(before, after):
        path = ".".join(map(str, keys))
        if REPLACED.fullmatch(path):
            continue
        change = Change(iteration, spell(keys), shorten_value(old), shorten_value(new))
        if not CHANGEABLE.fullmatch(path):
            raise UserError(
                f"`{change.option}` is {change.before} in this run, and {change.after} is asked for. A resumption keeps"
                " it, since the run would be another one. Remove the option, or start a new run."
            )
        changes.append(change)
    return changes


def refuse_ineffective_rates(changes: list[Change], schedules: dict[str, Any], knows_rates: bool) -> None:
    """Refuse changes of a learning rate or a weight decay that would have no effect.

    Args:
        changes: changes by the resumption
        schedules: schedules of the resumption, by names such as `optimizer.lr`
        knows_rates: whether the checkpoint tells which rates were configured

    Raises:
        UserError: a schedule overrides the rate, or the checkpoint is of an earlier version.
    """
    for change in changes:
        name = change.option.removeprefix("--model.")
        if not name.endswith(("optimizer.lr", "optimizer.weight_decay")):
            continue
        if name in schedules:
            raise UserError(
                f"`{change.option}` has no effect, since the schedule `{name}` overrides it. Change --model.schedules"
                " instead."
            )
        if not knows_rates:
            raise UserError(
                f"`{change.option}` cannot be changed, since an earlier version has written the checkpoint. Resume once"
                " without it, and change it in the next resumption."
            )


def read_history(stored: Any) -> list[Change]:
    """Return the history in a checkpoint, without entries that are not what train.py writes."""
    return [Change(**entry) for entry in (stored if isinstance(stored, list) else []) if _is_entry(entry)]


def dump_history(history: list[Change]) -> list[dict[str, Any]]:
    """Return a history as plain data."""
    return [asdict(change) for change in history]


def _compare(before: Any, after: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any, Any]]:
    """Yield the places where two configurations differ, with both values; a new class is one difference.

    An option that only one of them has is left out, since a newer version of the package may have added it.
    """
    if isinstance(before, dict) and isinstance(after, dict) and before.get("class_path") == after.get("class_path"):
        for key in dict.fromkeys([*before, *after]):
            if key in before and key in after:
                yield from _compare(before[key], after[key], (*keys, key))
            elif not _holds_options(before, keys):
                yield (*keys, key), before.get(key), after.get(key)
    elif _lists_classes(before) and _lists_classes(after) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _compare(old, new, (*keys, index))
    elif before != after:
        yield keys, before, after


def _holds_options(node: dict[str, Any], keys: Keys) -> bool:
    """Return whether the keys of a mapping are names of options, not the user's own, such as those of schedules."""
    return len(keys) < 2 or keys[-1] == "init_args" or "class_path" in node


def _lists_classes(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) for one in value)


def _is_entry(entry: Any) -> bool:
    return (
        is_mapping(entry)
        and entry.keys() == {"iteration", "option", "before", "after"}
        and is_count(entry["iteration"])
        and is_text(entry["option"], entry["before"], entry["after"])
    )
