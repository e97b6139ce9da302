"""SIGKILL at any moment of a run: it resumes, and then equals the uninterrupted run."""

import signal
from pathlib import Path
from random import Random

import pytest
from faults.processes import Run
from faults.resumption import OPTIONS, assert_equal_runs, find_checkpoint, find_run

pytestmark = pytest.mark.slow

FIT = ("fit", *OPTIONS, "--data.batch_size=256", "--trainer.max_steps=11")


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    run = Run(*FIT, folder=folder)
    assert run.wait() == 0, run.text
    return find_run(folder)


def test_a_killed_run_resumes_exactly(trials, tmp_path, reference):
    """A run is killed once or twice, at random moments after its first checkpoint."""
    for trial in trials("kills, one process", short=3, whole=200):
        with trial:
            folder = tmp_path / str(trial.index)
            folder.mkdir()
            kill_and_resume(folder, trial.random, kills=1 + trial.index % 2)
            assert_equal_runs(find_run(folder), reference)


def kill_and_resume(folder: Path, draws: Random, kills: int) -> None:
    """Start a run, kill it and its first resumptions, and resume it to the end."""
    run = Run(*FIT, folder=folder)
    run.wait_until(lambda: find_checkpoint(folder) is not None)
    for _ in range(kills):
        run.wait_until(lambda: False, timeout=draws.uniform(0, 1))
        run.send(signal.SIGKILL)
        run.wait()
        run = Run("fit", "--resume", str(find_run(folder)), folder=folder)
    assert run.wait() == 0, run.text[-3000:]
