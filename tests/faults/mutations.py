"""Mutations of recipes: each is a recipe with one mistake, drawn from random numbers."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import yaml

Place = tuple[str | int, ...]

NUMBERS: list[Any] = [0, 1, -1, 0.5, -0.5, 1e38, -1e38, 10**30, float("nan"), float("inf"), None, True, "", "abc", [1]]
VALUES: list[Any] = [
    *NUMBERS,
    [],
    ["abc"],
    [None],
    [[1]],
    {},
    {"a": 1},
    {"class_path": "torch.nn.ReLU"},
    {"class_path": None},
    {"class_path": []},
    {"init_args": {"a": 1}},
    "torch.nn.ReLU",
    "torch.nn.relu",
    "nowhere.Class",
    "../x",
    "é\u2028x",
    "x" * 500,
    "2024-01-01",
]
CLASS_PATHS = [
    "torch.nn.Linear",
    "torch.nn.ReLU",
    "torch.optim.SGD",
    "gen_lightning.GANModule",
    "gen_lightning.GenerativeModule",
    "gen_lightning.gan.GANLoss",
    "gen_lightning.gan.Hinge",
    "gen_lightning.gan.R1",
    "gen_lightning.networks.DCGANGenerator",
    "gen_lightning.networks.MLPDecoder",
    "gen_lightning.networks.MLPEncoder",
    "gen_lightning.nothing.Class",
    "gen_lightning.schedules.Linear",
    "gen_lightning.vae.Gaussian",
    "gen_lightning.vae.IWAE",
    "gen_lightning.vae.TopDown",
    "callbacks.SampleGrid",
    "datamodules.MNISTDataModule",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks.EarlyStopping",
    "builtins.dict",
    "math.pi",
    "ELBO",
]
KEYS: list[Any] = [
    "foo",
    "lr",
    "device",
    "hidden_dims",
    "class_path",
    "init_args",
    "dict_kwargs",
    "",
    "a.b",
    3,
    True,
    None,
]


def mutate(recipe: dict[str, Any], draws: random.Random) -> str:
    """Return a recipe with one mistake, as YAML."""
    config = copy.deepcopy(recipe)
    if draws.random() < 0.05:
        return add_aliases(config, draws)
    if draws.random() < 0.08:
        return nest(config, draws)
    draws.choice([delete, retype, retype, rename, swap_class, swap_class, rescale, rescale, move, wrap, add])(
        config, draws
    )
    return yaml.safe_dump(config, allow_unicode=True)


def find_places(node: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the place of each value below a node."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*place, key)
        yield from find_places(value, (*place, key))


def get(node: Any, place: Place) -> Any:
    """Return the value at a place."""
    for key in place:
        node = node[key]
    return node


def draw(config: Any, draws: random.Random, types: type | tuple[type, ...] = object) -> tuple[Any, Any]:
    """Return the collection and the key of a value of a type."""
    place = draws.choice([place for place in find_places(config) if isinstance(get(config, place), types)])
    return get(config, place[:-1]), place[-1]


def draw_class(config: Any, draws: random.Random) -> Any:
    """Return a mapping with a class path."""
    return get(config, draws.choice([place[:-1] for place in find_places(config) if place[-1] == "class_path"]))


def misspell(word: str, draws: random.Random) -> str:
    """Return a word with one letter more or less, or other capitals."""
    at = draws.randrange(len(word))
    return draws.choice([word[:at] + word[at + 1 :], f"{word[:at]}x{word[at:]}", word.upper(), word[::-1]])


def delete(config: Any, draws: random.Random) -> None:
    parent, key = draw(config, draws)
    del parent[key]


def retype(config: Any, draws: random.Random) -> None:
    parent, key = draw(config, draws)
    parent[key] = draws.choice(VALUES)


def rescale(config: Any, draws: random.Random) -> None:
    parent, key = draw(config, draws, (int, float))
    parent[key] = draws.choice(NUMBERS)


def rename(config: Any, draws: random.Random) -> None:
    parent = draws.choice([config, *(get(config, one) for one in find_places(config) if is_mapping(get(config, one)))])
    key = draws.choice(list(parent))
    parent[misspell(str(key), draws)] = parent.pop(key)


def is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def swap_class(config: Any, draws: random.Random) -> None:
    parent = draw_class(config, draws)
    others = [get(config, place) for place in find_places(config) if place[-1] == "class_path"]
    parent["class_path"] = draws.choice([*CLASS_PATHS, *others, misspell(parent["class_path"], draws)])
    if draws.random() < 0.5:
        parent.pop("init_args", None)


def move(config: Any, draws: random.Random) -> None:
    parent, key = draw(config, draws)
    value = copy.deepcopy(parent[key])
    if draws.random() < 0.5:
        del parent[key]
    parent, key = draw(config, draws)
    parent[key] = value


def wrap(config: Any, draws: random.Random) -> None:
    parent, key = draw(config, draws)
    value = parent[key]
    parent[key] = draws.choice([[value], {"a": value}, {"class_path": value}, {"init_args": value}, str(value)[:300]])


def add(config: Any, draws: random.Random) -> None:
    parent, key = draw(config, draws, dict)
    parent[key][draws.choice(KEYS)] = draws.choice(VALUES)


def nest(config: Any, draws: random.Random) -> str:
    parent, key = draw(config, draws)
    parent[key] = "NESTED"
    levels = [draws.choice(["[]", "{}"]) for _ in range(draws.choice([3, 30, 3000]))]
    opening = "".join("[" if level == "[]" else "{a: " for level in levels)
    return yaml.safe_dump(config).replace("NESTED", opening + "x" + "".join(level[1] for level in reversed(levels)))


def add_aliases(config: Any, draws: random.Random) -> str:
    """Return a configuration before which a value is repeated 9, 9^2, 9^3, ... times by aliases."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]" for i in range(draws.choice([3, 9, 30]))]
    return "\n".join([*lines, yaml.safe_dump(config)])
