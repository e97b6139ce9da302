"""How a command ends: its exit status, and a user's mistake as one error message without a traceback."""

import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cli.configuration import is_class, shorten_value, spell, walk
from cli.process import find_command
from cli.validation import PYTHON_WORDS, find_public_path, import_object, shorten
from gen_lightning.errors import StorageError, UserError

# What a constructor raises to refuse its arguments, or because a package is missing.
REFUSALS = (ValueError, ImportError, MisconfigurationException)

MAX_LENGTH = 190
"""Number of characters of an error message, the program's name and paths of files not counted."""

OWN_PACKAGES = ("__main__", "train", "cli", "gen_lightning", "callbacks", "datamodules")

# The packages between the command line and Lightning's own checks. Models, data and callbacks are in other packages.
CALLERS = {"__main__", "train", "cli", "lightning", "torch", *sys.stdlib_module_names}


class ConstructionError(BaseException):
    """An exception from the constructor of a class that the configuration names.

    It is no Exception, since jsonargparse would take it for a value that fits no type and lose its reason.

    Args:
        error: the constructor's exception
        option: the option that names the class
        class_path: the class
        accepts_call: whether the constructor has the arguments that it was called with
    """

    def __init__(self, error: Exception, option: str, class_path: str, accepts_call: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.option = option
        self.class_path = class_path
        self.accepts_call = accepts_call


@contextmanager
def exit_on_mistake() -> Iterator[None]:
    """End the program with one sentence on a user's mistake (status 2) or a file that cannot be written (status 1).

    A user's mistake is a UserError, a refusal by a constructor that the configuration names, an option that Lightning
    refuses, or a checkpoint that does not fit the model. Every other error keeps its traceback; if a constructor raised
    it, a note below the traceback names the option.
    """
    try:
        yield
    except (Exception, ConstructionError) as error:
        sentence = find_error_message(error)
        if sentence and os.environ.get("JSONARGPARSE_DEBUG", "false") == "false":
            cause = error.error if isinstance(error, ConstructionError) else error
            fail(sentence, status=1 if isinstance(cause, StorageError) else 2)
        if isinstance(error, ConstructionError):
            error.error.add_note(f"`{error.option}` is {error.class_path}, whose constructor raised this error.")
            raise error.error from None
        raise


def find_error_message(error: BaseException) -> str | None:
    """Return the sentence for a user's mistake or a file that cannot be written; None for a fault in code."""
    if isinstance(error, ConstructionError):
        return describe_construction_error(error)
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


def describe_construction_error(failed: ConstructionError) -> str | None:
    """Return the error message for a class that cannot be built; None for a fault in the user's own code."""
    error, option = failed.error, failed.option
    if isinstance(error, StorageError):
        return shorten(str(error))
    if isinstance(error, UserError):
        class_name = failed.class_path.rpartition(".")[2]
        message = shorten(str(error)).replace(f"`{class_name}.", f"`{option}.", 1)
        return message if option in message else f"`{option}`: {message}"
    if not failed.accepts_call:
        return (
            f"`{option}` is {failed.class_path}, which does not fit here: its constructor takes other arguments. Choose"
            " another class."
        )
    if not isinstance(error, REFUSALS) and runs_user_code(error):
        return None
    reason = describe_reason(error)
    return f"`{option}` is {failed.class_path}, which cannot be built{reason or ' with these arguments.'}"


def describe_reason(error: Exception) -> str:
    """Return the first line of a library's message after a colon; nothing if it speaks of Python's objects."""
    if "allocate memory" in str(error) or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return ": it needs more memory than there is. Choose smaller sizes."
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f": {shorten_value(lines[0], 100).rstrip('.')}." if lines and not PYTHON_WORDS.search(lines[0]) else ""


def runs_user_code(error: BaseException) -> bool:
    """Return whether an exception passed through code that is neither of this project nor of an installed package."""
    folders = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_globals.get("__name__", "").partition(".")[0] not in OWN_PACKAGES
        and not frame.f_code.co_filename.startswith((*folders, "<"))
        for frame in frames
    )


def limit_length(message: str) -> str:
    """Return a message of at most `MAX_LENGTH` characters, paths of files not counted; its middle is left out."""
    words = [word if "/" in word or len(word) <= 60 else f"{word[:40]}...{word[-15:]}" for word in message.split(" ")]
    excess = len(" ".join(words)) - sum(len(word) for word in words if "/" in word) - MAX_LENGTH
    message = " ".join(words)
    if excess <= 0:
        return message
    return f"{message[: MAX_LENGTH // 2]} ... {message[-MAX_LENGTH // 2 + 5 :]}"


def is_refusal_by_lightning(error: BaseException) -> bool:
    """Return whether Lightning refuses an option or misses a package, without any model, data or callback involved.

    The same exception from a call in somebody's callback, such as `self.log`, is a fault in that callback.
    """
    frames = [frame.f_globals["__name__"].partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, (*REFUSALS, TypeError)) and frames[-1:] == ["lightning"] and CALLERS.issuperset(frames)


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
                return f"Lightning refuses `--trainer.{name}{shown}`: {take_first_sentence(reason)}"
    return take_first_sentence(reason)


def take_first_sentence(text: str) -> str:
    """Return the first sentence of a library's message; the others often tell what to do in Python."""
    return re.split(r"(?<=[.!?])\s", shorten(text), maxsplit=1)[0]


def fail(sentence: str, status: int = 2) -> NoReturn:
    """End the program with a sentence on standard error; status 2 stands for the user's mistake."""
    # The reason of a divergence or a full disk names files and what to try, and is never cut.
    message = limit_length(sentence) if status == 2 else sentence
    sys.stderr.write(f"{find_command().removeprefix('python ')}: {message}\n")
    sys.exit(status)


def accepts_call(class_type: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a class's constructor has the arguments of a call."""
    try:
        inspect.signature(class_type).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:
        # Some classes that are written in C have no signature.
        return True
    return True


def find_option(config: Namespace, class_type: type, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """Return the option that names a class in a configuration, and the class path; the class alone if there is none.

    Args:
        config: the configuration
        class_type: the class
        arguments: the arguments that the class was called with, to tell two of the same class apart
    """
    matches = []
    for keys, node in walk(config):
        if is_class(node) and import_object(node["class_path"], keys) is class_type:
            given = node.get("init_args") or {}
            equal = sum(is_plain_data(value) and value == given.get(key) for key, value in arguments.items())
            matches.append((equal, spell(keys), node["class_path"]))
    own = find_public_path(class_type)
    most, _, class_path = max(matches, key=lambda match: match[0], default=(0, own, own))
    options = [option for equal, option, _ in matches if equal == most] or [own]
    # Two of the same class with the same arguments cannot be told apart.
    return "` or `".join(options[:2]), class_path


def is_plain_data(value: Any) -> bool:
    """Return whether a value is a number or text, or a list of them."""
    return all(map(is_plain_data, value)) if isinstance(value, list | tuple) else is_simple(value)


def is_simple(value: Any) -> bool:
    """Return whether a configured value is passed to the class as it is."""
    return isinstance(value, str | int | float | bool)
