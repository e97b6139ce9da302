"""SIGTERM and Ctrl-C at any moment, to any rank: the run ends in time, together, and resumes exactly."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.processes import Run, start_ranks
from faults.resumption import (
    OPTIONS,
    assert_equal_runs,
    assert_whole_files,
    find_checkpoint,
    find_run,
    wait_for_all,
)

pytestmark = pytest.mark.slow

# Seconds between a signal and the end of all ranks.
LIMIT = 10
FIT = ("fit", *OPTIONS, "--data.batch_size=64", "--trainer.max_steps=30")


def has_written(text: str) -> Callable[[list[Run]], bool]:
    return lambda ranks: text in ranks[0].text


def has_made(pattern: str) -> Callable[[list[Run]], bool]:
    return lambda ranks: any(ranks[0].folder.glob(pattern))


MOMENTS = {
    "start": lambda ranks: True,
    "connection": has_written("Initializing distributed"),
    "data": has_written("All distributed processes registered"),
    "first iteration": has_written("Epoch 0"),
    "validation": has_written("Validation DataLoader"),
    "picture": has_made("runs/*/*/samples/*.png"),
    "checkpoint": has_made("runs/*/*/checkpoints/.*"),
    "second epoch": has_written("Epoch 1"),
    "end": has_written("`Trainer.fit` stopped"),
    "summary": has_made("runs/*/*/metrics.json"),
}


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Path:
    """The uninterrupted run of two ranks."""
    folder = tmp_path_factory.mktemp("reference")
    assert wait_for_all(start_ranks(*FIT, folder=folder), 120) == [0, 0]
    return find_run(folder)


def signal_at_a_moment(ranks: list[Run], draws, moment: str) -> float | None:
    """Send signals to one or both ranks after a moment, and return the time; None if the run had ended."""
    ranks[0].wait_until(lambda: MOMENTS[moment](ranks))
    time.sleep(draws.choice([0, 0.05, 0.3, 1]) * draws.random())
    if not all(rank.is_alive for rank in ranks):
        return None
    number = draws.choice([signal.SIGTERM, signal.SIGTERM, signal.SIGINT])
    for rank in draws.choice([ranks, ranks[::-1], ranks[:1], ranks[1:]]):
        rank.send(number)
    return time.monotonic()


def test_two_ranks_end_in_time_and_resume_exactly(trials, tmp_path, reference):
    """Every fourth run is resumed; the whole campaign has 20 trials at each moment."""
    for trial in trials("signals, two ranks", short=len(MOMENTS) // 2, whole=20 * len(MOMENTS)):
        with trial:
            folder = tmp_path / str(trial.index)
            folder.mkdir()
            ranks = start_ranks(*FIT, folder=folder)
            moment = list(MOMENTS)[(2 * trial.index + trial.index // 5) % len(MOMENTS)]
            sent = signal_at_a_moment(ranks, trial.random, moment)
            statuses = wait_for_all(ranks, 30)
            took = time.monotonic() - sent if sent else 0
            report = f"{moment}: {statuses} after {took:.1f} s\n" + "\n".join(rank.text[-2000:] for rank in ranks)
            allowed = {130, 143}
            if any("`Trainer.fit` stopped" in rank.text for rank in ranks):
                # A rank that has completed its work may end before it is told.
                allowed |= {0}
            if any("The connection to rank" in rank.text for rank in ranks):
                # Before the ranks are connected, the other one cannot know of the signal.
                allowed |= {1}
            if moment == "start":
                # A new process has no handlers yet.
                allowed |= {-signal.SIGTERM, -signal.SIGINT}
            assert set(statuses) <= allowed, report
            assert took < LIMIT, report
            assert "Traceback" not in report, report
            assert_whole_files(folder)
            if trial.index % 4 == 0 and find_checkpoint(folder):
                run = find_run(folder)
                resumed = start_ranks("fit", "--resume", str(run), folder=folder)
                assert wait_for_all(resumed, 120) == [0, 0], resumed[0].text[-3000:]
                assert_equal_runs(run, reference)


def test_a_dead_rank_ends_the_other_with_one_sentence(trials, tmp_path):
    for trial in trials("dead rank of two", short=2, whole=40):
        with trial:
            folder = tmp_path / str(trial.index)
            folder.mkdir()
            ranks = start_ranks(*FIT, "--trainer.max_steps=1000", folder=folder)
            moments = ("data", "first iteration", "validation", "checkpoint", "second epoch")
            moment = moments[(trial.index // 2 + 1) % len(moments)]
            ranks[0].wait_until(lambda ranks=ranks, moment=moment: MOMENTS[moment](ranks))
            dead = trial.index % 2
            ranks[dead].send(signal.SIGKILL)
            status = ranks[1 - dead].wait(60)
            report = f"{moment}: {status}\n{ranks[1 - dead].text[-2000:]}"
            assert status == 1, report
            lost = f"The connection to rank {dead} is lost"
            assert f"Rank {dead} has died" in report or lost in report, report
            assert "Traceback" not in report, report


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The directory of a run that has been tested."""
    folder = tmp_path_factory.mktemp("trained")
    assert Run("fit", *OPTIONS, "--trainer.max_steps=6", folder=folder).wait() == 0
    run = find_run(folder)
    checkpoint = f"--ckpt_path={run / 'checkpoints/last.ckpt'}"
    assert Run("test", checkpoint, "--num_samples=500", folder=folder).wait() == 0
    return run


def test_other_subcommands_end_at_once(trials, tmp_path, trained):
    """They end with the status of the signal, and write whole files or none."""
    checkpoint = f"--ckpt_path={trained / 'checkpoints/last.ckpt'}"
    commands = {
        "test": ["test", checkpoint, "--num_samples=20000"],
        "sample": ["sample", checkpoint, "--num_samples=20000"],
        "validate": ["validate", checkpoint],
        "compare": ["compare", str(trained), str(trained)],
    }
    for trial in trials("signals, other subcommands", short=4, whole=80):
        with trial:
            folder = tmp_path / str(trial.index)
            folder.mkdir()
            name = list(commands)[trial.index % 4]
            run = Run(*commands[name], folder=folder)
            run.wait_until(lambda: False, timeout=4 * trial.random.random())
            number = trial.random.choice([signal.SIGTERM, signal.SIGINT])
            was_alive = run.is_alive
            run.send(number)
            start = time.monotonic()
            status = run.wait(30)
            took = time.monotonic() - start
            report = f"{name}: {status} after {took:.1f} s\n{run.text[-2000:]}"
            # A command whose work is done ends with 0.
            assert status in ({128 + number, 0} if was_alive else {0}), report
            assert took < LIMIT, report
            assert "Traceback" not in report, report
            assert_whole_files(folder)
            assert len(list(folder.glob("samples/*"))) in (0, 2), report
