"""SIGTERM and Ctrl-C under Lightning's launcher and under torchrun, to any of their processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.resumption import OPTIONS, assert_whole_files, find_checkpoint
from helpers import ROOT, load, make_environment

pytestmark = pytest.mark.slow

LIMIT = 10
TORCHRUN = (
    *("-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"),
    *("--rdzv_endpoint=127.0.0.1:0", "--local_addr=127.0.0.1"),
)
FIT = (
    *(str(ROOT / "train.py"), "fit", *OPTIONS, "--data.batch_size=64", "--trainer.max_steps=100000"),
    *("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"),
)
LAUNCHERS = {"Lightning": FIT, "torchrun": (*TORCHRUN, *FIT)}
MOMENTS = ("Epoch 0", "Initializing distributed", "Validation DataLoader", "Epoch 3")
TARGETS = ("parent", "all", "child")


def find_children(pid: int) -> list[int]:
    """Return the processes that a process has started; nothing if it has ended."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.exists() else []


def wait_until_ended(pids: list[int], timeout: float) -> bool:
    end = time.monotonic() + timeout
    while any(is_running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    """Return whether a process has not ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def send(number: int, target: str, process: subprocess.Popen, children: list[int]) -> None:
    """Send a signal to the process that has started the ranks, to its whole group as a terminal does, or to a rank."""
    if target == "all":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if target == "parent" else children[-1], number)


def test_all_processes_end_in_time_and_leave_a_checkpoint(trials, tmp_path):
    for trial in trials("signals, real launchers", short=2, whole=48):
        with trial:
            folder = tmp_path / str(trial.index)
            folder.mkdir()
            launcher = list(LAUNCHERS)[trial.index % 2]
            target = TARGETS[trial.index // 2 % 3]
            moment = MOMENTS[trial.index // 6 % 4]
            number = signal.SIGINT if trial.index // 24 else signal.SIGTERM
            output = folder / "output.txt"
            with output.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, "-u", *LAUNCHERS[launcher]],
                    **{"cwd": folder, "env": make_environment(), "stdout": file, "stderr": file},
                    start_new_session=True,
                )
            try:
                end = time.monotonic() + 90
                while moment not in output.read_text() and process.poll() is None and time.monotonic() < end:
                    time.sleep(0.05)
                time.sleep(trial.random.random())
                children = find_children(process.pid)
                send(number, target, process, children)
                start = time.monotonic()
                status = None
                if wait_until_ended([process.pid, *children], 60):
                    status = process.wait()
                took = time.monotonic() - start
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            text = output.read_text()
            report = f"{launcher}, {number} to {target}, {moment}: {status} after {took:.1f} s\n{text[-3000:]}"
            assert status is not None, report
            assert took < LIMIT, report
            if launcher == "Lightning":
                assert status == 128 + number, report
                assert "Traceback" not in text, report
            assert_whole_files(folder)
            if moment != "Initializing distributed":
                assert load(find_checkpoint(folder))["global_step"] > 0, report
