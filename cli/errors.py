"""A user's mistake as one sentence."""

import argparse
import difflib
import importlib
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from gen_lightning.errors import StorageError, UserError

VERBS = ("fit", "validate", "test", "sample", "compare")
CLASS_OPTIONS = ("model", "data", "trainer")

# What a constructor raises to refuse its arguments, or because a package is missing. Anything else is a fault in code.
REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)

# The packages between the command line and Lightning's own checks. Models, data and callbacks are in other packages.
CALLERS = {"__main__", "train", "cli", "lightning", "torch", *sys.stdlib_module_names}

TYPES_IN_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "tuple": "a list",
    "Sequence": "a list",
    "Iterable": "a list",
    "dict": "a mapping",
    "Mapping": "a mapping",
    "NoneType": "null",
}


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


class OptionParser(argparse.ArgumentParser):
    """A parser of a few options that answers a mistake with one sentence."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after one sentence."""
        fail(explain(message, [name for action in self._actions for name in action.option_strings]))


@contextmanager
def exit_with_one_sentence() -> Iterator[None]:
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
    except StorageError as error:
        if os.environ.get("JSONARGPARSE_DEBUG", "false") != "false":
            raise
        fail(shorten(str(error)), status=1)
    except (Exception, ConstructionError) as error:
        sentence = mistake_sentence(error)
        if sentence and os.environ.get("JSONARGPARSE_DEBUG", "false") == "false":
            fail(sentence)
        if isinstance(error, ConstructionError):
            error.error.add_note(f"`--{error.option}` is {error.class_path}, whose constructor raised this error.")
            raise error.error from None
        raise


def mistake_sentence(error: BaseException) -> str | None:
    """Return the sentence for a user's mistake; None for a fault in code."""
    if isinstance(error, ConstructionError):
        if isinstance(error.error, UserError):
            return shorten(str(error.error))
        if isinstance(error.error, REFUSALS):
            return f"`--{error.option}` is {error.class_path}, which cannot be built: {shorten(str(error.error))}"
        return None
    if isinstance(error, UserError):
        return shorten(str(error))
    if is_refusal_by_lightning(error):
        return refusal_sentence(str(error), {})
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


def refusal_sentence(reason: str, options: Mapping[str, Any]) -> str:
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
    sys.stderr.write(f"{program_name()}: {sentence}\n")
    sys.exit(status)


def program_name() -> str:
    """Return the name that the program was called by: gen-lightning or train.py."""
    return "gen-lightning" if Path(sys.argv[0]).name == "gen-lightning" else "train.py"


def shorten(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def explain(message: str, options: list[str]) -> str:
    """Return a message of jsonargparse as one sentence that names the innermost wrong option.

    The message is an indented tree: each type that a value was tried against, with the reason why it does not fit, and
    within it the keys of a class's arguments. The first branch is the one of the type that was meant.

    Args:
        message: the message of one line or many
        options: the names of all options of the command
    """
    if match := re.search(r"argument subcommand: invalid choice: '([^']+)'", message):
        return f"There is no command {match[1]}.{suggest(match[1], list(VERBS))}"
    if match := re.match(r"unrecognized arguments: ([^\s=]+)|.*does not accept option '([\w.]+)'", message):
        wrong = match[1] or f"--{match[2]}"
        return f"There is no option {wrong}.{suggest(wrong, options)}"
    if match := re.match(r"the following arguments are required: ([\w., ]+)", message):
        advice = "Add --config FILE, such as --config configs/vae/vae.yaml." if "." in match[1] else "See --help."
        return f"{match[1]} {'are' if ',' in match[1] else 'is'} required. {advice}"
    if match := re.match(r"argument (?:-\w/)?(--[\w.]+).*: expected one argument", message):
        name = f"{match[1]}, or an option that begins with it," if match[1][2:] in CLASS_OPTIONS else match[1]
        return f"{name} has no value. Add one."
    if match := re.match(r"Parser key \"([\w.]+)\":\s+Unable to load config '(.*)'", message):
        return f"`--{match[1]}` is {match[2]}. Expected a configuration file; its options are --{match[1]}.NAME VALUE."
    keys, reasons = first_branch(message)
    option = f"--{'.'.join(keys)}" if keys else "the command line"
    for reason in reasons:
        if match := re.search(r"Option '([\w.]+)' is not accepted", reason):
            return explain_unknown_argument(match[1], message, options)
        if match := re.search(r"the following arguments are required: ([\w, ]+)", reason):
            missing = " ".join(f"{option}.{name} VALUE" for name in match[1].split(", "))
            return f"`{option}` needs {match[1]}. Add {missing}."
        if match := re.search(r"Expected '(\S+)' to be a subclass of <class '(\w+)'>", reason):
            return f"`{option}` is {match[1]}. Choose a subclass of {match[2]}."
        if match := re.search(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", reason):
            return f"`{option}` is {match[1] or given_value(message)}. Choose a subclass of {match[2]}."
        if match := re.search(r"module '\S+' has no attribute '\w+'|No module named '[^']+'", reason):
            return f"`{option}` cannot be imported: {match[0]}."
    nested = re.search(r"Given value: NestedArg\(key='([^']+)'", "\n".join(reasons))
    if nested and re.search(r"Subtypes: \[(dict|list)\[|unrecognized arguments", "\n".join(reasons)):
        return f"`{option}.{nested[1]}` cannot be set alone. Give {option} whole, such as {option} '{{name: value}}'."
    if expected := expected_words(reasons):
        return f"`{option}` is {given_value(message)}. Expected {expected}."
    return f"`{option}` is not valid: {shorten(' '.join(reasons))}" if keys and reasons else shorten(message)


def first_branch(message: str) -> tuple[list[str], list[str]]:
    """Return the keys of a message's first branch, from the outermost in, and the lines below the innermost key."""
    keys: list[str] = []
    block: list[str] = []
    indent = -1
    for line in message.splitlines():
        depth = len(line) - len(line.lstrip(" -"))
        match = re.search(r'[Pp]arser key "([\w.]+)"(?: element \d+)?:?(.*)', line)
        if match and depth > indent:
            keys, block, indent = [*keys, match[1]], [match[2]], depth
        elif line.strip() and depth <= indent:
            break
        else:
            block.append(line.strip(" -"))
    return keys, [line for line in block if line and not line.startswith("Expected a path but")]


def given_value(message: str) -> str:
    """Return the value that fits no type, as the user has written it."""
    values = re.findall(r"Got value: (?!Namespace)(.+)", message) or re.findall(
        r"Given value: (?!Namespace|NestedArg|\[Namespace)(.+)", message
    )
    nested = re.findall(r"NestedArg\(key='[^']+', val=(?:'(.*)'|(.+))\)", message)
    restricted = re.findall(r"Not of type \w+: (?:invalid literal for int.*: '([^']*)'|(\S+) does not)", message)
    found = [*values, *("".join(value) for value in [*nested, *restricted]), "not valid"]
    value = found[0].partition(". Got value")[0]
    return "null" if value == "None" else value


def expected_words(reasons: list[str]) -> str:
    """Return the types that were expected in words, such as "a whole number or null"."""
    words = []
    for reason in reasons:
        if match := re.match(r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[(.*?)\])", reason):
            words.append(f"one of {match[2]}".replace("'", "") if match[2] else name_type(match[1]))
        elif match := re.match(r"Expected a tuple with (\d+) elements", reason):
            words.append(f"a list of {match[1]} elements")
        elif match := re.match(r"Not a valid subclass of (\w+)", reason):
            words.append(f"a subclass of {match[1]}")
        elif reason.startswith("Expected a dot import path"):
            words.append("a class path")
        elif re.match(r"Not of type \w+: invalid literal for int", reason):
            words.append("a whole number")
        elif match := re.match(r"Not of type \w+: .* does not conform to restriction v(>=?)(\d+)", reason):
            words.append(f"a number {'of at least' if match[1] == '>=' else 'above'} {match[2]}")
    return " or ".join(dict.fromkeys(words))


def name_type(name: str) -> str:
    """Return a type in words: "a whole number" for int, and a class by its name."""
    short_name = name.rpartition(".")[2]
    return TYPES_IN_WORDS.get(short_name, f"a {short_name}")


def explain_unknown_argument(name: str, message: str, options: list[str]) -> str:
    """Return the sentence for an argument that a class does not have."""
    before = message[: message.index(f"Option '{name}'")]
    after = message[len(before) :]
    # A class in the place of a function is named after the reason, any other before it.
    inline = re.match(r"[^\n]*Got value: Namespace\(class_path='([\w.]+)'", after)
    paths = re.findall(r"class_path '([\w.]+)'", before)
    class_path = inline[1] if inline else paths[-1] if paths else None
    if class_path is None:
        return f"There is no option --{name}.{suggest(f'--{name}', options)}"
    return f"{class_path} has no argument {name}.{suggest(name, argument_names(class_path))}"


def suggest(wrong: str, names: list[str]) -> str:
    """Return a sentence that suggests the nearest right name, or the help."""
    matches = difflib.get_close_matches(wrong, [name for name in names if name != wrong], n=1)
    return f" Did you mean {matches[0]}?" if matches else " See --help."


def argument_names(class_path: str) -> list[str]:
    """Return the names of a class's arguments."""
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


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
