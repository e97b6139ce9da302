"""A user's mistake as one sentence."""

import difflib
import importlib
import inspect
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from gen_lightning.errors import UserError

VERBS = ("fit", "validate", "test", "sample", "compare")


def explain(message: str, options: list[str]) -> str:
    """A message of jsonargparse as one sentence, with the nearest right name for an option that does not exist.

    Args:
        message: of one line or many, each type that the value is not of with its reason
        options: the names of all options of the command
    """
    if match := re.search(r"argument subcommand: invalid choice: '([^']+)'", message):
        return f"There is no command {match[1]}{nearest(match[1], list(VERBS))}"
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


def fail(sentence: str, status: int = 2) -> NoReturn:
    """End the program with a sentence on standard error; status 2 stands for the user's mistake."""
    sys.stderr.write(f"{program_name()}: {sentence}\n")
    sys.exit(status)


def program_name() -> str:
    """Return the name that the program was called by: gen-lightning, or train.py."""
    return "gen-lightning" if Path(sys.argv[0]).name == "gen-lightning" else "train.py"


@contextmanager
def exit_with_one_sentence() -> Iterator[None]:
    """End the program with one sentence on a user's mistake, and with status 143 on SIGTERM.

    A user's mistake is a UserError, a Trainer option that Lightning refuses, or a checkpoint that does not fit the
    model. Every other error keeps its traceback.
    """
    try:
        yield
    except SIGTERMException:
        # It is a SystemExit with status 0, which a cluster would take for success.
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        sentence = mistake_sentence(error)
        if sentence is None or os.environ.get("JSONARGPARSE_DEBUG"):
            raise
        fail(sentence)


def mistake_sentence(error: Exception) -> str | None:
    """Return the sentence for a user's mistake; None for a fault in code."""
    if isinstance(error, UserError | MisconfigurationException):
        return " ".join(str(error).split())
    if isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in str(error):
        return "The checkpoint's weights do not fit this model. Remove the --model options."
    return None
