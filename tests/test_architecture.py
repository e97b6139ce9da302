"""The rooms: who may import whom."""

import ast

import pytest
from helpers import ROOT

ROOMS = ("gen_lightning", "datamodules", "callbacks", "train", "benchmarks", "tests")
MAY_IMPORT = {
    "gen_lightning": {"gen_lightning"},
    "datamodules": {"datamodules"},
    "callbacks": {"callbacks", "gen_lightning.clock", "gen_lightning.metrics"},
    "gen_lightning/networks": {"gen_lightning.networks"},
    "gen_lightning/metrics": {"gen_lightning.metrics"},
}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_go_one_way(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for module in imported_modules(path):
            if module.split(".")[0] in ROOMS:
                allowed = MAY_IMPORT[room]
                assert any(module == name or module.startswith(name + ".") for name in allowed), f"{path}: {module}"


@pytest.mark.parametrize("room", ["gen_lightning/networks", "gen_lightning/metrics"])
def test_networks_and_metrics_know_no_lightning(room):
    for path in (ROOT / room).rglob("*.py"):
        assert not any(module.split(".")[0] == "lightning" for module in imported_modules(path)), path
