"""What is wrong with a command line, as one error message."""

import argparse
import difflib
import importlib
import inspect
import re
from typing import NoReturn

from gen_lightning.errors import UserError

SUBCOMMANDS = ("fit", "validate", "test", "sample", "compare")
CLASS_OPTIONS = ("model", "data", "trainer")

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


class OptionParser(argparse.ArgumentParser):
    """A parser of a few options that raises a mistake as a UserError."""

    def error(self, message: str) -> NoReturn:
        """Raise the mistake as a UserError."""
        raise UserError(explain(message, [name for action in self._actions for name in action.option_strings]))


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
        return f"There is no command {match[1]}.{suggest(match[1], list(SUBCOMMANDS))}"
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
