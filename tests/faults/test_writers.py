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


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The directory of a run that was killed, with the temporary files that it was writing."""
    run, run_folder = start(tmp_path_factory.mktemp("killed"), 1)
    run.send(signal.SIGKILL)
    run.wait()
    for folder in (run_folder.path, run_folder.checkpoints):
        (folder / ".last.ckpt.0123abcd.tmp").write_bytes(b"half")
    return run_folder


def test_a_run_that_a_kill_has_ended_is_resumed_and_its_temporary_files_are_removed(trials, killed):
    """The lock ends with the process."""
    for trial in trials("resumptions after a kill", 1, 1):
        with trial:
            end = load(killed.last_checkpoint)["global_step"] + 2
            resumed = Run("fit", "--resume", str(killed.path), f"--trainer.max_steps={end}", folder=killed.path)
            assert resumed.wait() == 0, resumed.text
            assert list(killed.path.rglob("*.tmp")) == []
            assert read_steps(killed) == list(range(1, end + 1))


def test_of_two_resumptions_at_once_one_goes_on(trials, killed):
    """Their rows are those of one run, also if the second begins after the end of the first."""
    end = load(killed.last_checkpoint)["global_step"]
    for trial in trials("two resumptions at once", 1, 10):
        end += 20
        command = ["fit", "--resume", str(killed.path), f"--trainer.max_steps={end}"]
        with trial:
            runs = [Run(*command, folder=killed.path) for _ in range(2)]
            assert sorted(run.wait() for run in runs) in ([0, 2], [0, 0]), [run.text for run in runs]
            assert read_steps(killed) == list(range(1, end + 1))


def test_two_tests_at_once_lose_no_rows(trials, killed):
    for trial in trials("two tests at once", 1, 5):
        with trial:
            sizes = {240 + 2 * trial.index, 241 + 2 * trial.index}
            command = ["test", "--ckpt_path", str(killed.last_checkpoint), "--trainer.logger=false"]
            runs = [Run(*command, f"--num_samples={size}", folder=killed.path) for size in sizes]
            assert [run.wait() for run in runs] == [0, 0], [run.text for run in runs]
            stored = json.loads(killed.metrics_json.read_text())
            tests = [stored["test"], *stored["earlier_tests"]]
            assert sizes <= {test["metrics"]["fid/mnist_cnn"]["n"] for test in tests}


def test_a_run_under_way_is_not_resumed_by_one_process_or_two_ranks(trials, tmp_path):
    """All ranks end; nothing of the run is changed, and it goes on."""
    run, run_folder = start(tmp_path, 1)
    config = run_folder.config.stat()
    command = ["fit", "--resume", str(run_folder.path)]
    for trial in trials("resumptions of a run under way", 1, 10):
        with trial:
            seconds = [Run(*command, folder=tmp_path), *start_ranks(*command, folder=tmp_path)]
            assert [second.wait(60) for second in seconds] == [2, 2, 2], [second.text for second in seconds]
            sentence = f"{run_folder.path} is in use by process {run.pid} on "
            assert [second.text.count(sentence) for second in seconds] == [1, 1, 1], seconds[0].text
            assert run_folder.config.stat().st_ino == config.st_ino
            assert run.is_alive
    run.send(signal.SIGKILL)
    run.wait()
