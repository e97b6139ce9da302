"""Fixtures: the command line in this process, and the real MNIST where it is."""

import os
import signal
from pathlib import Path

import pytest
import torch
import wandb

import train
from cli.process import close_progress_bars

# A shell starts background commands with Ctrl-C ignored, and the tests that send it would wait forever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests marked `gpu` on a machine without a CUDA device."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A cache of features that starts empty, and is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Ends the W&B run of a test, which the next one's logger would take for its own, and its progress bars."""
    yield
    close_progress_bars()
    if wandb.run is not None:
        wandb.finish()


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Runs `train.py fit` in a folder of the test's own, and returns the run's folder, or None when resumed."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Path | None:
        before = set(tmp_path.glob("runs/*/*"))
        train.main(["fit", *args])
        return next(iter(set(tmp_path.glob("runs/*/*")) - before), None)

    return run


@pytest.fixture
def mnist_root() -> str:
    """The folder of the real MNIST, which MNIST_ROOT names."""
    root = os.environ.get("MNIST_ROOT", "data")
    if not Path(root, "MNIST", "raw", "t10k-images-idx3-ubyte").is_file():
        pytest.skip(f"the real MNIST is not in {root}: set MNIST_ROOT to its folder")
    return root


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the campaign in tests/faults."""
    parser.addoption("--campaign", action="store_true", help="run the whole campaign of tests/faults, for hours")
    parser.addoption("--campaign-seed", type=int, default=0, help="choose other trials of the campaign")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many trials of each kind of fault were tried, survived and failed."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [value for report in reports for name, value in report.user_properties if name == "campaign"]
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'fault':<72}{'tried':>8}{'survived':>10}{'failed':>8}")
        for kind, tried, failed in sorted(map(tuple, rows)):
            terminalreporter.write_line(f"{kind:<72}{tried:>8}{tried - failed:>10}{failed:>8}")
