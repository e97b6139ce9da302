"""Fixtures: the command line in this process, and the real MNIST where it is."""

import os
from pathlib import Path

import pytest
import torch

import train

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Runs `train.py fit` on the embedded digits, without W&B, and returns the run's folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Path:
        before = set(tmp_path.glob("runs/*/*"))
        train.main(["fit", *args])
        (folder,) = set(tmp_path.glob("runs/*/*")) - before or [None]
        return folder

    return run


@pytest.fixture
def mnist_root() -> str:
    """The folder of the real MNIST, which MNIST_ROOT names."""
    root = os.environ.get("MNIST_ROOT", "data")
    if not Path(root, "MNIST", "raw", "t10k-images-idx3-ubyte").is_file():
        pytest.skip(f"the real MNIST is not in {root}: set MNIST_ROOT to its folder")
    return root


def load(path: Path) -> dict:
    """A checkpoint, as safely as users load it."""
    return torch.load(path, weights_only=True)
