"""Configurations as plain data: read from YAML of bounded size, merged in the order given, and walked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader

from gen_lightning.errors import UserError

MAX_DEPTH = 40
"""Levels of nesting that a configuration may have. The recipes have up to 14; each class takes two."""

MAX_VALUES = 10_000
"""Values that a configuration may hold, those that an alias repeats included. The recipes hold up to 200."""

MAX_CHARACTERS = 1_000_000
"""Length of a configuration. The recipes have up to 5,000 characters."""

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}

Keys = tuple[str | int, ...]
"""The place of a value in a configuration: keys of mappings, and indices of lists."""


@dataclass
class Option:
    """One option of the command line.

    Args:
        name: its name without dashes, such as `model.optimizer.lr`
        value: its value as plain data; None also stands for null
        text: its value as the user has written it; None if there is none
    """

    name: str
    value: Any
    text: str | None


def read_yaml(text: str, source: str) -> Any:
    """Return the data of a YAML text.

    Args:
        text: the text
        source: what the text is, for errors

    Raises:
        UserError: the text is no YAML, or too long, deep or large.
    """
    try:
        check_size(text, source)
        return get_loader("yaml")(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{source} is no YAML{line}. Correct it, or give another file.") from error


def check_size(text: str, source: str) -> None:
    """Refuse a YAML text that is too long, deep or large to be parsed in a reasonable time.

    Raises:
        UserError: the text exceeds a limit, or refers to itself.
    """
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{source} has {len(text):,} characters. Use at most {MAX_CHARACTERS:,}.")
    # Numbers of values of the open collections, the outermost first, and of each collection with an anchor. Events come
    # one after the other, so that neither depth nor aliases cost anything before they are counted.
    sizes, anchors = [0], [None]
    known: dict[str, int] = {}
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(0)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop() + 1, anchors.pop()
            sizes[-1] += size
            if anchor:
                known[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            sizes[-1] += 1
            if event.anchor:
                known[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise UserError(f"{source} holds a value that contains itself, *{event.anchor}. Remove the alias.")
            sizes[-1] += known.get(event.anchor, 0)
        if len(sizes) - 1 > MAX_DEPTH:
            raise UserError(f"{source} is nested more than {MAX_DEPTH} levels deep. Remove levels.")
        if sizes[-1] > MAX_VALUES:
            raise UserError(f"{source} holds more than {MAX_VALUES:,} values, aliases included. Remove some.")


def read_options(config: str) -> dict[str, Any]:
    """Return the data of a `--config` argument: a file's path, or YAML text.

    Raises:
        UserError: the file cannot be read, or holds no YAML or no mapping.
    """
    is_text = "\n" in config or "{" in config
    source = "The YAML text of --config" if is_text else config
    if not is_text:
        try:
            config = Path(config).read_text()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise UserError(f"{source} cannot be read: {reason}. Give another file.") from error
    data = read_yaml(config, source)
    if not isinstance(data, dict):
        raise UserError(f"{source} holds no options. Write each as `name: value`, as the recipes do.")
    return data


def read_layers(args: Sequence[str]) -> list[dict[str, Any] | Option]:
    """Return the configuration files and the options of a command line, without its subcommand, in order.

    Raises:
        UserError: a file cannot be read, or a file or a value is too long, deep or large.
    """
    return [read_options(option.text or "") if option.name == "config" else option for option in split_options(args)]


def split_options(args: Sequence[str]) -> Iterator[Option]:
    """Yield the options of a command line, without its subcommand, in order.

    Raises:
        UserError: a value is too long, deep or large.
    """
    rest = list(args)
    while rest:
        name, equals, text = rest.pop(0).partition("=")
        value = text if equals else rest.pop(0) if rest and not rest[0].startswith("--") else None
        yield Option(name.removeprefix("--"), None if value is None else _read_value(name, value), value)


def _read_value(name: str, text: str) -> Any:
    """Return the value of an option: the data of YAML text, or the text itself if it is no YAML."""
    check = any(character in text for character in "[{*&\n")
    if check:
        try:
            check_size(text, f"The value of `{name}`")
        except yaml.YAMLError:
            return text
    try:
        return get_loader("yaml")(text)
    except (yaml.YAMLError, ValueError):
        return text


def merge(config: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with another one merged into it.

    Mappings are merged; other values, and the arguments of another class, are replaced.
    """
    merged = dict(config)
    for key, value in added.items():
        before = merged.get(key)
        if isinstance(value, dict) and isinstance(before, str):
            before = {"class_path": before}
        if isinstance(before, dict) and isinstance(value, str) and "class_path" in before:
            value = {"class_path": value}
        if isinstance(before, dict) and isinstance(value, dict) and _keeps_class(before, value):
            value = merge(before, value)
        merged[key] = value
    return merged


def _keeps_class(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return after.get("class_path", before.get("class_path")) == before.get("class_path")


def set_option(config: dict[str, Any], option: Option) -> dict[str, Any]:
    """Return a configuration with an option of the command line set.

    As jsonargparse does, an option below a list sets its last element, and `NAME+` appends to a list.

    Raises:
        UserError: the option addresses an element of a list or of a mapping, which is set as a whole.
    """
    name = option.name.removesuffix("+")
    return merge(config, _nest(config, name.split("."), option, name))


def _nest(node: dict[str, Any], keys: list[str], option: Option, name: str) -> dict[str, Any]:
    """Return the mapping that sets an option when it is merged into `node`."""
    key, *rest = keys
    if CLASS_KEYS & set(node) and key not in CLASS_KEYS:
        arguments = node.get("init_args")
        return {"init_args": _nest(arguments if isinstance(arguments, dict) else {}, keys, option, name)}
    before = node.get(key)
    if not rest:
        if not option.name.endswith("+"):
            return {key: option.value}
        members = before if isinstance(before, list) else [] if before is None else [before]
        return {key: [*members, *(option.value if isinstance(option.value, list) else [option.value])]}
    whole = name[: len(name) - len(".".join(rest)) - 1]
    if isinstance(before, list):
        if rest[0].isdigit() or not before:
            raise _refuse_part(name, whole)
        last = {"class_path": before[-1]} if isinstance(before[-1], str) else before[-1]
        last = last if isinstance(last, dict) else {}
        return {key: [*before[:-1], merge(last, _nest(last, rest, option, name))]}
    below = {"class_path": before} if isinstance(before, str) else before if isinstance(before, dict) else {}
    if not CLASS_KEYS & set(below) and any(map(is_class, below.values())) and "init_args" in rest:
        raise _refuse_part(name, whole)
    return {key: _nest(below, rest, option, name)}


def _refuse_part(name: str, whole: str) -> UserError:
    return UserError(f"`--{name}` cannot be set alone. Give --{whole} whole, such as --{whole} '{{name: value}}'.")


def is_class(node: Any) -> bool:
    """Return whether a value names a class and may hold its arguments."""
    return isinstance(node, dict | Namespace) and "class_path" in node


def walk(node: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield each value of a configuration with its place, the outer ones before the inner ones."""
    yield keys, node
    if isinstance(node, Namespace):
        node = vars(node)
    members = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, value in members:
        yield from walk(value, (*keys, key))


def spell(keys: Keys) -> str:
    """Return a place as the user can type it, `--model.optimizer.lr`, or find it, `trainer.callbacks.5.mode`.

    No option of the command line addresses an element of a list.
    """
    names = [shorten_value(key, 40) for key in keys if key != "init_args"]
    dashes = "" if any(type(key) is int for key in keys) else "--"
    return dashes + ".".join(names)


def shorten_value(value: Any, limit: int = 50) -> str:
    """Return a value as the user would write it, on one line of at most `limit` characters; a class by its path."""
    if is_class(value) and isinstance(value["class_path"], str):
        value = value["class_path"]
    if isinstance(value, Namespace):
        value = value.as_dict()
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, str):
        text = value or "''"
    elif isinstance(value, dict | list | tuple):
        text = write_flow(value, limit)
    else:
        text = str(value)
    text = " ".join("".join(one if one.isprintable() or one.isspace() else "?" for one in text).split()) or "''"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def write_flow(value: Any, limit: int = 50) -> str:
    """Return a collection as YAML in one line of about `limit` characters; another value as `shorten_value` does."""
    if not isinstance(value, dict | list | tuple):
        return shorten_value(value, max(limit, 4))
    members: list[str] = []
    for key in value if isinstance(value, dict) else range(len(value)):
        room = limit - sum(map(len, members))
        if room < 0:
            members.append("...")
            break
        name = f"{shorten_value(key)}: " if isinstance(value, dict) else ""
        members.append(name + write_flow(value[key], room))
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + ", ".join(members) + closing
