"""A run that was ended by force, its resumption, and the comparison with the uninterrupted run."""

import csv
import time
from pathlib import Path

import torch
from faults.processes import Run
from helpers import CONFIGS, load

# 1,198 training digits; a validation after every third iteration, so that a signal often meets one.
OPTIONS = (
    *("--config", str(CONFIGS / "gan/mlp.yaml"), "--data.source=digits", "--trainer.logger=false"),
    *("--trainer.val_check_interval=3", "--trainer.log_every_n_steps=2", "--checkpoint.every_n_iterations=2"),
)


def find_run(folder: Path) -> Path:
    """Return the directory of the only run in a folder."""
    (run,) = folder.glob("runs/*/*")
    return run


def find_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint of the only run in a folder, if there is one."""
    return next(folder.glob("runs/*/*/checkpoints/last.ckpt"), None)


def read_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal_runs(run: Path, reference: Path) -> None:
    """Assert that the weights, the optimizers' states, the callbacks' states and the logged values are equal."""
    one, other = load(run / "checkpoints/last.ckpt"), load(reference / "checkpoints/last.ckpt")
    assert one["global_step"] == other["global_step"]
    for name, value in other["state_dict"].items():
        assert torch.equal(one["state_dict"][name], value), name
    assert str(one["optimizer_states"]) == str(other["optimizer_states"])
    states = [{name: _drop_paths(state) for name, state in c["callbacks"].items()} for c in (one, other)]
    assert states[0] == states[1]
    assert read_rows(run) == read_rows(reference)


def _drop_paths(state: dict) -> dict:
    """Return a callback's state without the run's directory.

    Lightning 2.6 does not restore ModelCheckpoint's score of the last validation, which decides nothing afterwards.
    """
    dropped = ("best_k_models", "current_score")
    return {name: value for name, value in state.items() if "path" not in name and name not in dropped}


def assert_whole_files(folder: Path) -> None:
    """Assert that no temporary file is left."""
    left = [path for path in folder.rglob(".*") if path.is_file() and not path.name.endswith(".lock")]
    assert not left, left


def wait_for_all(ranks: list[Run], timeout: float) -> list[int]:
    """Wait for all ranks, and return their exit statuses; after one has failed, end the others as torchrun does."""
    end = time.monotonic() + timeout
    while any(rank.is_alive for rank in ranks) and time.monotonic() < end:
        if any(not rank.is_alive and rank.wait(1) for rank in ranks):
            for rank in ranks:
                rank.send(15)
            break
        time.sleep(0.02)
    return [rank.wait(max(1, end - time.monotonic())) for rank in ranks]
