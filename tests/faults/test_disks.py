"""Disks that fill up, directories that disappear and other obstacles, while a run goes on."""

import os
import resource
import shutil
import subprocess
from contextlib import suppress

import pytest
from faults.processes import Run
from helpers import CONFIGS

from cli.checkpoints import newest_checkpoint
from cli.runs import RunFolder

# These tests train through the command line.
pytestmark = pytest.mark.slow

ARGUMENTS = [
    "--config",
    str(CONFIGS / "vae/vae.yaml"),
    "--data.source=digits",
    "--data.batch_size=256",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.callbacks=null",
    "--trainer.limit_val_batches=0",
    "--trainer.max_epochs=100000",
    "--trainer.log_every_n_steps=1",
    "--checkpoint.every_n_iterations=2",
]
FULL = "the disk is full"
REMOVED = "the file or its directory has been removed"
TOO_LARGE = "the file would exceed the size that this process may write"
NO_DIRECTORY = "a file is in the place of its directory"
NO_FILE = "a directory is in its place"


@pytest.fixture
def disk(tmp_path):
    """An empty disk of 24 MB; skips the test where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk):
    with (disk / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(2**12)):
            pass


def remove_run(run, folder):
    run.path.rename(folder / "removed")


def remove_checkpoints(run, folder):
    run.checkpoints.rename(folder / "removed")


def remove_rows(run, folder):
    run.metrics_csv.rename(folder / "removed")


def replace_checkpoints(run, folder):
    remove_checkpoints(run, folder)
    run.checkpoints.touch()


def replace_rows(run, folder):
    remove_rows(run, folder)
    run.metrics_csv.mkdir()


FAULTS = {
    "run removed": (remove_run, (REMOVED,)),
    "checkpoints removed": (remove_checkpoints, (REMOVED,)),
    "metrics.csv removed": (remove_rows, (REMOVED,)),
    "file in the place of checkpoints": (replace_checkpoints, (NO_DIRECTORY,)),
    "directory in the place of metrics.csv": (replace_rows, (NO_FILE,)),
}


def start(folder, moment):
    """Start a run, and return it with its directory when it has saved a checkpoint of the iteration `moment`."""
    run = Run("fit", *ARGUMENTS, folder=folder)
    assert run.wait_until(lambda: any(folder.glob("runs/*/*/checkpoints/previous.ckpt"))), run.text
    (path,) = folder.glob("runs/*/*")
    before = (path / "metrics.csv").stat().st_size
    assert run.wait_until(lambda: (path / "metrics.csv").stat().st_size >= before + 100 * moment), run.text
    return run, RunFolder(path)


def assert_reported(run, reasons):
    """Assert that a run ends with one sentence that names a file and the reason, and with status 1."""
    assert run.wait(60) == 1, run.text
    reported = [line for line in run.text.splitlines() if "cannot be written" in line]
    assert len(reported) == 1, run.text
    assert reported[0].startswith("train.py: /"), reported
    assert reported[0].endswith(tuple(f" cannot be written: {reason}." for reason in reasons)), reported
    assert "Traceback" not in run.text
    assert "Errno" not in run.text


def test_an_obstacle_ends_a_run_with_a_sentence(trials, tmp_path):
    for trial in trials("obstacles in a run's directory", 1, 25):
        name = list(FAULTS)[trial.index % len(FAULTS)]
        cause, reasons = FAULTS[name]
        with trial:
            folder = tmp_path / str(trial.index)
            folder.mkdir()
            run, run_folder = start(folder, trial.random.randrange(10))
            cause(run_folder, folder)
            assert_reported(run, reasons)


def test_a_full_disk_ends_a_run_with_a_sentence_and_keeps_its_checkpoint(trials, disk):
    for trial in trials("disks that fill up", 1, 20):
        with trial:
            run, run_folder = start(disk, trial.random.randrange(10))
            fill(disk)
            assert_reported(run, (FULL,))
            (disk / "filling").unlink()
            assert newest_checkpoint(run_folder)[1]["global_step"] > 0
        run.send(9)
        run.wait()
        shutil.rmtree(disk / "runs")


def test_a_limit_on_the_size_of_files_ends_a_run_with_a_sentence(trials, tmp_path):
    """The limit may be passed in the middle of a checkpoint, within torch.save."""
    for trial in trials("files that grow too large", 1, 10):
        with trial:
            folder = tmp_path / str(trial.index)
            folder.mkdir()
            run, run_folder = start(folder, trial.random.randrange(10))
            size = run_folder.last_checkpoint.stat().st_size
            limit = trial.random.randrange(size)
            resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (limit, limit))
            assert_reported(run, (TOO_LARGE,))
            assert newest_checkpoint(run_folder)[1]["global_step"] > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_run_is_not_resumed_and_not_tested(trials, disk):
    for _ in trials("read-only disks", 1, 1):
        run, run_folder = start(disk, 0)
        run.send(9)
        run.wait()
        output = disk.parent / "output"
        output.mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for command in (
            ["fit", "--resume", str(run_folder.path)],
            ["test", "--ckpt_path", str(run_folder.last_checkpoint)],
        ):
            assert_reported(Run(*command, "--trainer.logger=false", folder=output), ("the file system is read-only",))
