"""How a command ends: its exit status, and a user's mistake as one error message without a traceback."""

import importlib
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from cli.process import find_command
from cli.validation import shorten
from gen_lightning.errors import StorageError, UserError

# What a constructor raises to refuse its arguments, or because a package is missing. Anything else is a fault in code.
REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)

# The packages between the command line and Lightning's own checks. Models, data and callbacks are in other packages.
CALLERS = {"__main__", "train", "cli", "lightning", "torch", *sys.stdlib_module_names}


class ConstructionError(BaseException):
    """An exception from the constructor of a class that the configuration names.

    It is no Exception, since jsonargparse would take it for a value that fits no type and lose its reason.

    Args:
        error: the constructor's exception
        option: the option that names the class
        class_path: the class
    """

    def __init__(self, error: Exception, option: str, class_path: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.option = option
        self.class_path = class_path


@contextmanager
def exit_on_mistake() -> Iterator[None]:
    """End the program with one sentence on a user's mistake (status 2) or a file that cannot be written (status 1).

    SIGTERM ends it with status 143.

    A user's mistake is a UserError, a refusal by a constructor that the configuration names, an option that Lightning
    refuses, or a checkpoint that does not fit the model. Every other error keeps its traceback; if a constructor raised
    it, a note below the traceback names the option.
    """
    try:
        yield
    except SIGTERMException:
        # It is a SystemExit with status 0, which a cluster would take for success.
        sys.exit(128 + signal.SIGTERM)
    except (Exception, ConstructionError) as error:
        sentence = find_error_message(error)
        if sentence and os.environ.get("JSONARGPARSE_DEBUG", "false") == "false":
            fail(sentence, status=1 if isinstance(error, StorageError) else 2)
        if isinstance(error, ConstructionError):
            error.error.add_note(f"`--{error.option}` is {error.class_path}, whose constructor raised this error.")
            raise error.error from None
        raise


def find_error_message(error: BaseException) -> str | None:
    """Return the sentence for a user's mistake or a file that cannot be written; None for a fault in code."""
    if isinstance(error, ConstructionError):
        if isinstance(error.error, UserError):
            return shorten(str(error.error))
        if isinstance(error.error, REFUSALS):
            return f"`--{error.option}` is {error.class_path}, which cannot be built: {shorten(str(error.error))}"
        return None
    if isinstance(error, UserError | StorageError):
        return shorten(str(error))
    if is_refusal_by_lightning(error):
        return describe_refusal(str(error), {})
    if isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in str(error):
        return "The checkpoint's weights do not fit this model. Remove the --model options."
    # EarlyStopping has no exception type of its own.
    if isinstance(error, RuntimeError) and (match := re.search(r"conditioned on metric `(\S+)` which", str(error))):
        # The names of the logged metrics follow the advice.
        names = re.findall(r"`([^`\s]+/[^`\s]+)`", str(error).partition("any of the following:")[2])
        choice = f"one of {', '.join(names)}" if names else "a logged metric"
        return f"`monitor` of EarlyStopping is {match[1]}, which is not logged. Choose {choice}."
    return None


def is_refusal_by_lightning(error: BaseException) -> bool:
    """Return whether Lightning refuses an option or misses a package, without any model, data or callback involved.

    The same exception from a call in somebody's callback, such as `self.log`, is a fault in that callback.
    """
    frames = [frame.f_globals["__name__"].partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, REFUSALS) and frames[-1:] == ["lightning"] and CALLERS.issuperset(frames)


def describe_refusal(reason: str, options: Mapping[str, Any]) -> str:
    """Return the sentence for an option that Lightning refuses; the reason alone if it fits no given option.

    Args:
        reason: the message of Lightning's exception
        options: the configured options of the Trainer by name
    """
    parameters = inspect.signature(Trainer).parameters
    given = {name: value for name, value in options.items() if name in parameters and value not in (None, True, [])}
    for text in (str, lambda name: str(given[name])):
        for name, value in given.items():
            if value != parameters[name].default and re.search(rf"(?<![\w/]){re.escape(text(name))}(?!\w)", reason):
                shown = f" {value}" if is_simple(value) else ""
                return f"Lightning refuses `--trainer.{name}{shown}`: {shorten(reason)}"
    return shorten(reason)


def fail(sentence: str, status: int = 2) -> NoReturn:
    """End the program with a sentence on standard error; status 2 stands for the user's mistake."""
    sys.stderr.write(f"{find_command().removeprefix('python ')}: {sentence}\n")
    sys.exit(status)


def find_option(config: Namespace, class_type: type, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """Return the option that names a class in a configuration, and the class path; the class alone if there is none.

    Args:
        config: the configuration
        class_type: the class
        arguments: the arguments that the class was called with, to tell two of the same class apart
    """
    matches = []
    for option, class_path, init_args in walk_classes(config, ""):
        module, _, name = class_path.rpartition(".")
        if getattr(importlib.import_module(module), name) is class_type:
            equal = sum(value == arguments.get(key) for key, value in init_args.items() if is_simple(value))
            matches.append((equal, option, class_path))
    own = f"{class_type.__module__}.{class_type.__qualname__}"
    _, option, class_path = max(matches, key=lambda match: match[0], default=(0, own, own))
    return option, class_path


def walk_classes(node: Any, option: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the option, the class path and the arguments of each class in a configuration."""
    if isinstance(node, list):
        # The command line has no index for the members of a list.
        for member in node:
            yield from walk_classes(member, option)
    elif isinstance(node, Namespace | dict):
        content = vars(node) if isinstance(node, Namespace) else node
        arguments = content.get("init_args") or Namespace()
        if isinstance(content.get("class_path"), str):
            yield (
                option,
                content["class_path"],
                dict(vars(arguments) if isinstance(arguments, Namespace) else arguments),
            )
            content = vars(arguments) if isinstance(arguments, Namespace) else arguments
        for key, value in content.items():
            yield from walk_classes(value, f"{option}.{key}".lstrip("."))


def is_simple(value: Any) -> bool:
    """Return whether a configured value is passed to the class as it is."""
    return isinstance(value, str | int | float | bool)
