"""What is wrong with a command line: the innermost wrong option, its value, and what is expected.

jsonargparse reports a mistake as a tree of all types that it has tried. Therefore a configuration that it refuses is
checked once more, as the user gave it, against the types of the classes' arguments.
"""

import argparse
import difflib
import importlib.util
import inspect
import math
import re
import sys
import types
import typing
from collections import abc
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn

from cli.configuration import (
    CLASS_KEYS,
    Keys,
    Option,
    is_class,
    merge,
    set_option,
    shorten_value,
    spell,
    walk,
    write_flow,
)
from gen_lightning.errors import UserError

SUBCOMMANDS = ("fit", "validate", "test", "sample", "train_extractor", "compare")

PACKAGES = ("gen_lightning", "callbacks", "datamodules", "torch", "lightning")
"""The packages that most class paths begin with."""

# Words of a message that its reader would have to know Python, and the code that raised it, to understand.
PYTHON_WORDS = re.compile(
    r"<class|NoneType|\bobject\b|Namespace|argument|__init__|\(\)|\btype\b|\bTensor\b|operand|indices|division by zero"
)

LINKED_ARGUMENTS = {"data_shape", "seed"}
"""Arguments of models and data modules that the command line sets."""

TYPES_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    "PositiveInt": "a whole number of 1 or more",
    "NonNegativeInt": "a whole number of 0 or more",
    "PositiveFloat": "a number above 0",
    "NonNegativeFloat": "a number of 0 or more",
    "ClosedUnitInterval": "a number from 0 to 1",
    "OpenUnitInterval": "a number above 0 and below 1",
    "timedelta": "a duration such as 00:01:00",
    "Path": "a path",
}

CLASS_PARSERS: dict[tuple[type, frozenset[str | int]], ArgumentParser] = {}
"""Parsers of the arguments of classes, by class and skipped arguments.

jsonargparse takes a tenth of a second to find the arguments of some classes, so that those it has found are kept.
"""

NOUNS = {"Module": "network", "LightningDataModule": "data module", "GenerativeModule": "model"}
"""The names of classes in words, if they differ from the words in their names."""

EXAMPLES = {"Optimizer": "torch.optim.Adam", "Callback": "callbacks.SampleGrid"}

MAX_NUMBER = 1e15
"""Largest number of a configuration; products of larger ones leave the range of float32."""

MAX_SIZE = 1_000_000
"""Largest number of features, images or samples of a configuration; larger ones would fill the memory."""

SIZES = re.compile(r"^num_|_dims?$|width$|features$")
"""Names of arguments that are sizes."""

LISTS = (list, abc.Sequence, abc.Iterable, abc.Collection, set, frozenset)
MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)


class OptionParser(argparse.ArgumentParser):
    """A parser of a few options that raises a mistake as a UserError."""

    def error(self, message: str) -> NoReturn:
        """Raise the mistake as a UserError."""
        names = [name for action in self._actions for name in action.option_strings]
        if match := re.match(r"unrecognized arguments: ([^\s=]+)", message):
            raise UserError(f"There is no option {match[1]}.{suggest(match[1], names)}")
        if match := re.match(r"the following arguments are required: (.+)", message):
            raise UserError(f"{match[1]} {'are' if ',' in match[1] else 'is'} required. See --help.")
        if match := re.match(r"argument (?:-\w/)?(--[\w.]+).*: expected one argument", message):
            raise UserError(f"{match[1]} has no value. Add one.")
        raise UserError(f"{shorten(message)}. See --help.")


def explain(parser: ArgumentParser, layers: Sequence[dict[str, Any] | Option], message: str) -> str:
    """Return the error message for a configuration that jsonargparse has refused.

    Args:
        parser: the parser of the subcommand
        layers: configuration files and options in order; each overrides those before it
        message: the message of jsonargparse
    """
    config: dict[str, Any] = {}
    states = [config := apply_layer(config, layer) for layer in layers]
    options = collect_options(parser)
    for layer in layers:
        if isinstance(layer, Option) and layer.text is None and f"--{layer.name}" not in find_switches(parser):
            return f"--{layer.name} has no value. Add one."
    try:
        # The last state first, since a required argument may be missing before.
        for complete, state in [(True, config), *((False, state) for state in states)]:
            check_options(state, options, (), complete)
    except UserError as mistake:
        return str(mistake)
    if PYTHON_WORDS.search(message):
        return "The configuration is not valid. Run the command with JSONARGPARSE_DEBUG=1 for the whole reason."
    return f"The command line is not valid: {shorten_value(message, 100)}. See --help."


def find_switches(parser: ArgumentParser) -> set[str]:
    """Return the options that need no value."""
    return {name for action in parser._actions if action.nargs in (0, "?") for name in action.option_strings}


def apply_layer(config: dict[str, Any], layer: dict[str, Any] | Option) -> dict[str, Any]:
    """Return a configuration with a configuration file or an option merged into it."""
    return set_option(config, layer) if isinstance(layer, Option) else merge(config, layer)


def check_subcommand(args: Sequence[str]) -> None:
    """Check that a command line begins with a subcommand, or asks for help.

    Raises:
        UserError: it does not.
    """
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
        found = f"The first argument is {shorten_value(args[0])}" if args else "There is no command"
        raise UserError(f"{found}. Begin with one of {', '.join(SUBCOMMANDS)}.")
    if args[0] not in (*SUBCOMMANDS, "-h", "--help"):
        raise UserError(f"There is no command {shorten_value(args[0])}.{suggest(args[0], SUBCOMMANDS)}")


def check_numbers(config: Namespace) -> None:
    """Check that the numbers of a configuration can be computed with, which no type says.

    Raises:
        UserError: a number is infinite, NaN or huge.
    """
    for keys, value in walk(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"`{spell(keys)}` is {value}. Expected a finite number.")
        if isinstance(value, int | float) and abs(value) > MAX_NUMBER:
            raise UserError(f"`{spell(keys)}` is {value:.3g}. Expected a number of at most {MAX_NUMBER:g}.")
        name = str(next((key for key in reversed(keys) if isinstance(key, str)), ""))
        if isinstance(value, int) and value > MAX_SIZE and SIZES.search(name):
            raise UserError(f"`{spell(keys)}` is {value}. Expected a whole number of at most {MAX_SIZE:,}.")


def check_nulls(config: Namespace) -> None:
    """Check that null is given only to arguments that take it; jsonargparse takes it for any that has a default.

    Raises:
        UserError: an argument is null, and its type says otherwise.
    """
    for keys, value in walk(config):
        arguments = value.get("init_args") if isinstance(value, Namespace) else None
        nulls = [name for name, one in vars(arguments or Namespace()).items() if one is None]
        if not nulls or not isinstance(value.get("class_path"), str):
            continue
        parameters = find_parameters(import_object(value.class_path, keys), 0)
        for name in nulls:
            if name in parameters and parameters[name].default is not None and not parameters[name].required:
                check(None, parameters[name]._typehint, (*keys, "init_args", name), False, parameters[name].default)


def collect_options(parser: ArgumentParser) -> dict[str, Any]:
    """Return the actions of a parser's options in nested mappings, such as `trainer`, then `max_epochs`."""
    options: dict[str, Any] = {}
    actions = [action for action in parser._actions if action.option_strings and not action.dest.endswith(".help")]
    # A group such as `trainer` has an action of its own, without a type.
    for action in sorted(actions, key=has_type, reverse=True):
        *groups, name = action.dest.split(".")
        node = options
        for group in groups:
            node = node.setdefault(group, {})
        node.setdefault(name, action)
    return options


def check_options(config: dict[Any, Any], options: dict[str, Any], keys: Keys, complete: bool) -> None:
    """Check the options of a command, or those of one group such as `trainer`.

    Raises:
        UserError: an option does not exist, has a wrong value, or is missing.
    """
    for name, value in config.items():
        place = (*keys, name)
        if name not in options:
            names = [spell((*keys, other)) for other in options]
            raise UserError(f"There is no option {spell(place)}.{suggest(spell(place), names)}")
        option = options[name]
        if isinstance(option, dict):
            if isinstance(value, dict):
                check_options(value, option, place, complete)
            elif value is not None:
                raise UserError(
                    f"`{spell(place)}` is {shorten_value(value)}. Expected options, such as {spell(place)}.NAME VALUE."
                )
        elif has_type(option):
            check(option.const if value is None else value, option._typehint, place, complete)
    missing = [name for name in ("model", "data") if name in options and config.get(name) is None]
    if complete and missing:
        verb = "are" if len(missing) > 1 else "is"
        raise UserError(f"{' and '.join(missing)} {verb} required. Add --config FILE, such as --config vae/vae.")


def has_type(action: argparse.Action) -> bool:
    """Return whether an action was made for a type; `--help` and `--config` were not."""
    return hasattr(action, "_typehint")


def check(value: Any, expected: Any, keys: Keys, complete: bool, default: Any = None) -> None:
    """Check a value against a type, the innermost values first.

    Args:
        value: the value
        expected: the type
        keys: the place of the value
        complete: whether a missing argument is a mistake
        default: the default of the argument

    Raises:
        UserError: the value does not fit the type.
    """
    origin = get_origin(expected) or expected
    if origin in (Union, types.UnionType):
        check_union(value, expected, keys, complete, default)
    elif expected is Any or expected is object or expected is inspect.Parameter.empty:
        pass
    elif origin in LISTS or origin is tuple:
        check_list(value, expected, keys, complete)
    elif origin in MAPPINGS:
        check_mapping(value, expected, keys, complete)
    elif origin is abc.Callable or is_factory(origin):
        check_class(value, expected, keys, complete, default)
    elif origin is type:
        if not isinstance(value, str) or not isinstance(import_object(value, keys), type):
            raise UserError(describe_mismatch(value, expected, keys))
    elif is_plain(origin):
        if not accepts(expected, value):
            raise UserError(describe_mismatch(value, expected, keys))
    else:
        check_class(value, expected, keys, complete, default)


def check_union(value: Any, expected: Any, keys: Keys, complete: bool, default: Any) -> None:
    """Check a value against a union; the mistake is that of the member that was meant.

    Raises:
        UserError: the value fits no member.
    """
    mistakes = []
    for member in get_args(expected):
        try:
            check(value, member, keys, complete, default)
        except UserError as mistake:
            if is_meant(value, member):
                mistakes.append(mistake)
        else:
            return
    raise mistakes[0] if mistakes else UserError(describe_mismatch(value, expected, keys, default))


def is_meant(value: Any, expected: Any) -> bool:
    """Return whether a value has the form of a type, so that a mistake is within it."""
    origin = get_origin(expected) or expected
    if origin in LISTS or origin is tuple:
        return isinstance(value, list)
    if origin in MAPPINGS:
        return isinstance(value, dict) and not CLASS_KEYS & set(value)
    if origin in (Union, types.UnionType):
        return any(is_meant(value, member) for member in get_args(expected))
    if origin is abc.Callable or not is_plain(origin):
        return expected is not Tensor and (
            isinstance(value, dict) or (isinstance(value, str) and re.fullmatch(r"\w+(\.\w+)+", value) is not None)
        )
    return False


def check_list(value: Any, expected: Any, keys: Keys, complete: bool) -> None:
    """Check a list and its elements.

    Raises:
        UserError: the value is no list, has another length, or an element is wrong.
    """
    members = get_args(expected)
    if not isinstance(value, list | tuple):
        raise UserError(describe_mismatch(value, expected, keys))
    if get_origin(expected) is tuple and Ellipsis not in members:
        if len(value) != len(members):
            raise UserError(describe_mismatch(value, expected, keys))
    else:
        members = (members or (Any,))[:1] * len(value)
    for index, (element, member) in enumerate(zip(value, members, strict=True)):
        check(element, member, (*keys, index), complete)


def check_mapping(value: Any, expected: Any, keys: Keys, complete: bool) -> None:
    """Check a mapping and its values.

    Raises:
        UserError: the value is no mapping, or a value in it is wrong.
    """
    if not isinstance(value, dict):
        raise UserError(describe_mismatch(value, expected, keys))
    key_type, member = get_args(expected) or (Any, Any)
    for key, element in value.items():
        if key_type is not Any and not accepts(key_type, key):
            raise UserError(f"`{spell(keys)}` has the key {shorten_value(key)}. Expected {describe(key_type, keys)}.")
        if isinstance(element, dict) and is_single_class(member) and not CLASS_KEYS & set(element):
            raise UserError(
                f"`{spell(keys)}` holds {shorten_value(key)} without a class_path. Give {spell(keys)} whole, such as"
                f" {spell(keys)} '{{name: value}}'."
            )
        check(element, member, (*keys, key), complete)


def check_class(value: Any, expected: Any, keys: Keys, complete: bool, default: Any) -> None:
    """Check a class that is given by its path, and its arguments.

    Raises:
        UserError: there is no such class, it is of another kind, or an argument is wrong.
    """
    if isinstance(value, str):
        value = {"class_path": value}
    if not isinstance(value, dict) or not value:
        raise UserError(describe_mismatch(value, expected, keys, default))
    component = find_component(value, expected, keys, default)
    arguments = value.get("init_args") or {} if CLASS_KEYS & set(value) else value
    if not isinstance(arguments, dict):
        raise UserError(
            f"`{spell(keys)}.init_args` is {shorten_value(arguments)}. Expected arguments as `name: value`."
        )
    if extra := [key for key in value if CLASS_KEYS & set(value) and key not in CLASS_KEYS]:
        raise UserError(
            f"`{spell(keys)}` has the key {shorten_value(extra[0])} beside class_path. Move it below init_args, or"
            " remove it."
        )
    if inspect.isclass(component):
        check_arguments(arguments, component, get_factory(expected), keys, complete)
    elif not accepts(expected, value["class_path"]):
        raise UserError(describe_mismatch(value, expected, keys, default))


def find_component(value: dict[str, Any], expected: Any, keys: Keys, default: Any) -> Any:
    """Return the class or function that a value names, or the one that it stands for if it names none.

    Raises:
        UserError: there is none, or it is of another kind.
    """
    kind = get_result(expected)
    path = value.get("class_path") or (default["class_path"] if is_class(default) else None)
    if path is None:
        raise UserError(f"`{spell(keys)}` has no class_path. Expected {describe(expected, keys, default)}.")
    if not isinstance(path, str):
        raise UserError(
            f"`{spell(keys)}.class_path` is {write_flow(path)}. Expected {describe(expected, keys, default)}."
        )
    if "." not in path and inspect.isclass(kind):
        path = find_class_path(kind, path) or path
    if "." not in path or not all(name.isidentifier() for name in path.split(".")):
        raise UserError(describe_mismatch(path, expected, keys, default))
    component = import_object(path, keys)
    if inspect.isclass(component) and (inspect.isabstract(component) or is_protocol(component)):
        raise UserError(f"`{spell(keys)}` is {path}, which is abstract. Expected {describe(expected, keys, default)}.")
    if not fits(component, kind, is_function=get_factory(expected) is not None):
        raise UserError(describe_mismatch(path, expected, keys, default))
    return component


def fits(component: Any, kind: Any, is_function: bool) -> bool:
    """Return whether a class, function or object can be used where a kind is expected."""
    if not inspect.isclass(component):
        # Whether a function returns the right class is seen when it is called.
        return callable(component) or (inspect.isclass(kind) and not is_protocol(kind) and isinstance(component, kind))
    if is_function and not inspect.isclass(kind):
        return True
    return not inspect.isclass(kind) or is_protocol(kind) or issubclass(component, kind)


def check_arguments(arguments: dict[Any, Any], component: Any, factory: Any, keys: Keys, complete: bool) -> None:
    """Check the arguments of a class or function.

    Raises:
        UserError: an argument does not exist, has a wrong value, or is missing.
    """
    parameters = find_parameters(component, count_arguments(factory))
    path = find_public_path(component)
    for name, value in arguments.items():
        place = (*keys, name)
        if name not in parameters:
            nearest = suggest(str(name), list(parameters))
            name = shorten_value(name)
            raise UserError(f"`{spell(keys)}.{name}` cannot be set: {path} has no argument {name}.{nearest}")
        check(value, parameters[name]._typehint, place, complete, parameters[name].default)
    if complete:
        missing = [
            name
            for name, action in parameters.items()
            if action.required and name not in arguments and not (len(keys) == 1 and name in LINKED_ARGUMENTS)
        ]
        if missing:
            each = "each, such as " if len(missing) > 1 else ""
            raise UserError(
                f"`{spell(keys)}` needs {', '.join(missing)}. Add {each}{spell((*keys, missing[0]))} VALUE."
            )


def find_parameters(component: type, skipped: int) -> dict[str, Any]:
    """Return the arguments of a class by name, as the actions that jsonargparse makes of them.

    Args:
        component: the class
        skipped: number of first arguments that are not configured, since the caller gives them
    """
    skip: set[str | int] = {skipped} if skipped else set()
    parser = CLASS_PARSERS.get((component, frozenset(skip)))
    if parser is None:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(component, skip=skip, fail_untyped=False)
        CLASS_PARSERS[component, frozenset(skip)] = parser
    return {action.dest: action for action in parser._actions if has_type(action) and "." not in action.dest}


def import_object(path: str, keys: Keys) -> Any:
    """Return what an import path names.

    Raises:
        UserError: there is no such module, or it has no such member.
    """
    first, *names = path.split(".")
    place = f"`{spell(keys)}` is {shorten_value(path, 60)}"
    if first not in sys.modules and not is_module(first):
        nearest = suggest(first, PACKAGES, otherwise="")
        raise UserError(f"{place}, but there is no package {shorten_value(first, 30)}.{nearest}")
    found, prefix = import_module(first, place), first
    for name in names:
        if inspect.ismodule(found) and not hasattr(found, name) and is_module(f"{prefix}.{name}"):
            import_module(f"{prefix}.{name}", place)
        if not hasattr(found, name):
            choices = [one for one in dir(found) if name != names[-1] or callable(getattr(found, one))]
            nearest = suggest(name, choices, otherwise="", prefix=f"{prefix}.")
            raise UserError(f"{place}, but {prefix} has no {shorten_value(name, 30)}.{nearest}")
        found, prefix = getattr(found, name), f"{prefix}.{name}"
    return found


def import_module(name: str, place: str) -> types.ModuleType:
    """Import a module.

    Raises:
        UserError: the module needs another one that is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{place}, which cannot be imported: {shorten_value(str(error), 70)}.") from error


def is_module(name: str) -> bool:
    """Return whether there is a module of this name."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def is_protocol(kind: Any) -> bool:
    """Return whether a class is a Protocol."""
    return getattr(kind, "_is_protocol", False)


def is_factory(kind: Any) -> bool:
    """Return whether a type is a Protocol of a function."""
    return is_protocol(kind) and "__call__" in vars(kind)


def is_plain(kind: Any) -> bool:
    """Return whether the values of a type are numbers, texts or other values that are no classes."""
    if not inspect.isclass(kind):
        return True
    if is_protocol(kind):
        return False
    return kind.__module__ in ("builtins", "datetime", "pathlib", "uuid", "jsonargparse.typing", "os") or issubclass(
        kind, Enum | int | float | str
    )


def is_single_class(expected: Any) -> bool:
    """Return whether the values of a type are objects of one class."""
    return inspect.isclass(expected) and not is_plain(expected) and get_factory(expected) is None


def get_factory(expected: Any) -> Any:
    """Return the type of a function; None if the type is no function's."""
    origin = get_origin(expected) or expected
    return expected if origin is abc.Callable or is_factory(origin) else None


def get_result(expected: Any) -> Any:
    """Return the class that a type expects, or that the expected function returns; None if it can be anything."""
    factory = get_factory(expected)
    if factory is None:
        return get_origin(expected) or expected
    if get_origin(factory) is abc.Callable:
        result = get_args(factory)[-1]
    else:
        result = typing.get_type_hints(factory.__call__).get("return")
    return result if inspect.isclass(result) and not is_plain(result) and result is not Tensor else None


def count_arguments(factory: Any) -> int:
    """Return the number of arguments that the caller of a function gives it."""
    if factory is None or get_result(factory) is None:
        return 0
    if get_origin(factory) is abc.Callable:
        given = get_args(factory)[0]
        return len(given) if isinstance(given, list) else 0
    return len(inspect.signature(factory.__call__).parameters) - 1


def accepts(expected: Any, value: Any) -> bool:
    """Return whether jsonargparse accepts a value for a type."""
    if value is None:
        # A parser takes None for an option that is not given.
        return expected is type(None)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=expected)
    try:
        parser.parse_object({"value": value})
    except (argparse.ArgumentError, TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return False
    return True


def describe_mismatch(value: Any, expected: Any, keys: Keys, default: Any = None) -> str:
    """Return the error message for a value that does not fit a type."""
    return f"`{spell(keys)}` is {shorten_value(value)}. Expected {describe(expected, keys, default)}."


def describe(expected: Any, keys: Keys, default: Any = None) -> str:
    """Return a type in words, such as "a whole number or null".

    Args:
        expected: the type
        keys: the place where it is expected
        default: the default of the argument
    """
    origin = get_origin(expected) or expected
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(expected) if member is not Tensor]
        if float in members:
            members = [member for member in members if member is not int]
        return " or ".join(dict.fromkeys(describe(member, keys, default) for member in members))
    if origin is Literal:
        return f"one of {', '.join(str(choice) for choice in get_args(expected))}"
    if inspect.isclass(origin) and issubclass(origin, Enum):
        return f"one of {', '.join(origin.__members__)}"
    if origin in LISTS:
        return "a list"
    if origin is tuple:
        return "a list" if Ellipsis in get_args(expected) else f"a list of {len(get_args(expected))} elements"
    if origin in MAPPINGS:
        return "a mapping such as {name: value}"
    words = TYPES_IN_WORDS.get(origin) or TYPES_IN_WORDS.get(getattr(origin, "__name__", ""))
    if words:
        return words
    if origin is type:
        return "the path of a class"
    kind = get_result(expected)
    return describe_class(kind, keys, default) if inspect.isclass(kind) else "the path of a function or class"


def describe_class(kind: type, keys: Keys, default: Any) -> str:
    """Return a class in words with an example, such as "a prior such as gen_lightning.vae.StandardNormal"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", kind.__name__).split()
    noun = NOUNS.get(kind.__name__) or " ".join(word if word.isupper() else word.lower() for word in words)
    name = next((key for key in reversed(keys) if isinstance(key, str)), "")
    example = default["class_path"] if is_class(default) else find_example(kind, name)
    article = "an" if noun[0].lower() in "aeiou" else "a"
    return f"{article} {noun} such as {example}" if example else f"{article} {noun}"


def find_example(kind: type, name: str) -> str | None:
    """Return the path of a subclass, preferably of this project and with the argument's name in its own."""
    if kind.__name__ in EXAMPLES:
        return EXAMPLES[kind.__name__]
    _, *subclasses = find_subclasses(kind)
    found = [one for one in subclasses or [kind] if not inspect.isabstract(one) and not is_protocol(one)]
    own = [one for one in found if one.__module__.startswith(PACKAGES[:3])]
    named = [one for one in own if name and one.__name__.lower().endswith(name.lower())]
    if kind is nn.Module and not named:
        return None
    named.sort(key=lambda one: len(one.__name__))
    return next(map(find_public_path, named or own or found), None)


def find_subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    """Yield a class and all its public subclasses that have been imported."""
    yield kind
    for subclass in kind.__subclasses__():
        if not subclass.__name__.startswith("_"):
            yield from find_subclasses(subclass)


def find_class_path(kind: type, name: str) -> str | None:
    """Return the path of the subclass with a name; None if there is none, or more than one."""
    paths = {find_public_path(one) for one in find_subclasses(kind) if one.__name__ == name}
    return paths.pop() if len(paths) == 1 else None


def find_public_path(component: Any) -> str:
    """Return the shortest path by which a class or function can be imported."""
    name = getattr(component, "__qualname__", type(component).__name__)
    parts = getattr(component, "__module__", "").split(".")
    for end in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:end]))
        if module is not None and getattr(module, name, None) is component:
            return f"{module.__name__}.{name}"
    return name


def suggest(wrong: str, names: Iterable[str], otherwise: str = " See --help.", prefix: str = "") -> str:
    """Return a sentence that suggests the nearest right name; another one if none is near."""
    matches = difflib.get_close_matches(wrong, [name for name in names if name != wrong], n=1)
    return f" Did you mean {prefix}{matches[0]}?" if matches else otherwise


def shorten(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())
