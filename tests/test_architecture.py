"""The rooms: which module may import which, and that no imports form a circle."""

import ast

import pytest
from helpers import ROOT

ROOMS = ("cli", "gen_lightning", "datamodules", "callbacks", "train", "benchmarks", "tests")
SHARED = {"gen_lightning.errors", "gen_lightning.checks", "gen_lightning.numerics", "gen_lightning.tokens"}
MAY_IMPORT = {
    "gen_lightning": {"gen_lightning"},
    "gen_lightning/networks": {"gen_lightning.networks", *SHARED},
    "gen_lightning/metrics": {"gen_lightning.metrics", *SHARED},
    "datamodules": {
        "datamodules",
        "gen_lightning.clock",
        "gen_lightning.contracts",
        "gen_lightning.storage",
        *SHARED,
    },
    "callbacks": {
        "callbacks",
        "gen_lightning.clock",
        "gen_lightning.contracts",
        "gen_lightning.evaluation",
        "gen_lightning.metrics",
        "gen_lightning.stopping",
        "gen_lightning.storage",
        *SHARED,
    },
    "cli": {"cli", "callbacks", "datamodules", "gen_lightning"},
    "train.py": {"cli", "gen_lightning.errors", "gen_lightning.stopping"},
}
CODE = ("train.py", "cli", "callbacks", "datamodules", "gen_lightning")


def python_files(room):
    path = ROOT / room
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path, modules=frozenset()):
    """Return all imported modules, those under TYPE_CHECKING included; `from package import module` counts as both."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    files = python_files(room)
    assert files
    for path in files:
        for module in imported_modules(path):
            if module.split(".")[0] in ROOMS:
                allowed = MAY_IMPORT[room]
                assert any(module == name or module.startswith(name + ".") for name in allowed), f"{path}: {module}"


@pytest.mark.parametrize("room", ["gen_lightning/networks", "gen_lightning/metrics"])
def test_networks_and_metrics_import_no_lightning(room):
    for path in python_files(room):
        assert not any(module.split(".")[0] == "lightning" for module in imported_modules(path)), path


def test_no_imports_form_a_circle():
    paths = {module_name(path): path for room in CODE for path in python_files(room)}
    graph = {
        name: {module for module in imported_modules(path, paths) if module in paths and module != name}
        for name, path in paths.items()
    }
    # Each round removes the modules whose imports are all removed already; a circle is what is left.
    while leaves := [name for name, imports in graph.items() if not imports & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, f"These modules import each other: {', '.join(sorted(graph))}"


def test_the_entry_point_has_at_most_40_lines():
    assert len((ROOT / "train.py").read_text().splitlines()) <= 40


@pytest.mark.parametrize("room", [*CODE, "benchmarks"])
def test_no_function_name_says_of(room):
    for path in python_files(room):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert "of" not in node.name.split("_"), f"{path}: {node.name}"
