"""Two processes that write one run, and what killed ones leave behind."""

import csv
import json
import signal

import pytest
from faults.processes import Run, start_ranks
from faults.test_disks import start
from helpers import load

# These tests train through the command line.
pytestmark = pytest.mark.slow


def read_steps(run_folder):
    with run_folder.metrics_csv.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


@pytest.fixture
def killed(tmp_path):
    """The directory of a run that was killed."""
    run, run_folder = start(tmp_path, 1)
    run.send(signal.SIGKILL)
    run.wait()
    return run_folder


def test_a_run_under_way_is_not_resumed(trials, tmp_path):
    for _ in trials("a resumption of a run under way", 1, 5):
        run, run_folder = start(tmp_path, 1)
        before = sorted(run_folder.path.rglob("*"))
        second = Run("fit", "--resume", str(run_folder.path), folder=tmp_path)
        assert second.wait() == 2
        sentence = f"{run_folder.path} is in use by process {run.pid} on "
        assert len([line for line in second.text.splitlines() if sentence in line]) == 1, second.text
        assert set(before) <= set(run_folder.path.rglob("*"))
        run.send(signal.SIGKILL)
        run.wait()
        run_folder.path.parent.rename(tmp_path / f"done.{run.pid}")


def test_of_two_resumptions_at_once_one_goes_on(trials, killed):
    """Their rows are those of one run."""
    end = load(killed.last_checkpoint)["global_step"]
    for trial in trials("two resumptions at once", 1, 10):
        end += 20
        command = ["fit", "--resume", str(killed.path), f"--trainer.max_steps={end}"]
        with trial:
            runs = [Run(*command, folder=killed.path) for _ in range(2)]
            assert sorted(run.wait() for run in runs) in ([0, 2], [0, 0]), [run.text for run in runs]
            assert read_steps(killed) == list(range(1, end + 1))


def test_all_ranks_end_if_the_run_is_in_use(trials, tmp_path):
    for _ in trials("two ranks resume a run under way", 1, 5):
        run, run_folder = start(tmp_path, 1)
        ranks = start_ranks("fit", "--resume", str(run_folder.path), folder=tmp_path)
        assert [rank.wait(60) for rank in ranks] == [2, 2], [rank.text for rank in ranks]
        run.send(signal.SIGKILL)
        run.wait()
        run_folder.path.parent.rename(tmp_path / f"done.{run.pid}")


def test_two_tests_at_once_lose_no_rows(trials, killed):
    for trial in trials("two tests at once", 1, 5):
        with trial:
            sizes = {240 + trial.index, 250 + trial.index}
            command = ["test", "--ckpt_path", str(killed.last_checkpoint), "--trainer.logger=false"]
            runs = [Run(*command, f"--num_samples={size}", folder=killed.path) for size in sizes]
            assert [run.wait() for run in runs] == [0, 0], [run.text for run in runs]
            stored = json.loads(killed.metrics_json.read_text())
            tests = [stored["test"], *stored["earlier_tests"]]
            assert sizes <= {test["metrics"]["fid/mnist_cnn"]["n"] for test in tests}


def test_files_of_killed_processes_are_removed_and_those_of_live_ones_are_not(trials, killed):
    """A process that is stopped within a write still holds its file."""
    for _ in trials("temporary files of killed runs", 1, 1):
        for folder in (killed.path, killed.checkpoints):
            (folder / ".last.ckpt.0123abcd.tmp").write_bytes(b"half")
        end = load(killed.last_checkpoint)["global_step"] + 2
        resumed = Run("fit", "--resume", str(killed.path), f"--trainer.max_steps={end}", folder=killed.path)
        assert resumed.wait() == 0, resumed.text
        assert list(killed.path.rglob("*.tmp")) == []


def test_a_run_that_a_kill_has_ended_is_resumed(trials, tmp_path):
    """The lock ends with the process."""
    for _ in trials("resumptions after a kill", 1, 1):
        run, run_folder = start(tmp_path, 1)
        run.send(signal.SIGKILL)
        run.wait()
        end = load(run_folder.last_checkpoint)["global_step"] + 2
        resumed = Run("fit", "--resume", str(run_folder.path), f"--trainer.max_steps={end}", folder=tmp_path)
        assert resumed.wait() == 0, resumed.text
        assert read_steps(run_folder) == list(range(1, end + 1))
