"""Runs of train.py in processes of their own, forked from a server that has imported everything.

Such a run starts in a tenth of a second; a new interpreter would import torch and Lightning for several seconds first.
"""

import atexit
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import train
from cli.signals import exit_on_signals

Program = Callable[[list[str]], None]


def _run_program(program: Program, args: list[str], folder: str, output: str, environment: dict[str, str]) -> None:
    """Run a program in this process, with its output in a file."""
    os.chdir(folder)
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["train.py", *args]
    # As in a new interpreter, which does this before it imports the libraries.
    exit_on_signals()

    import torch

    torch.set_num_threads(1)
    try:
        program(args)
    finally:
        # A process of multiprocessing ends without these functions, by which W&B ends its runs.
        atexit._run_exitfuncs()


@cache
def _start_server() -> multiprocessing.context.ForkServerContext:
    # Python 3.11 starts the server without this process's sys.path, so that it could import another installation.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "faults.processes"])
    return context


class Run:
    """A process that runs train.py.

    Args:
        args: arguments of the program
        folder: working directory
        program: function of the arguments that runs in the process
        environment: variables to add to the environment
    """

    def __init__(self, *args: str, folder: Path, program: Program = train.main, **environment: str) -> None:
        rank = environment.get("RANK", "0")
        self.folder = folder
        self.output = folder / f"output.{time.monotonic_ns()}.{rank}.txt"
        self.output.touch()
        self._process: BaseProcess = _start_server().Process(
            target=_run_program, args=(program, list(args), str(folder), str(self.output), environment)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def text(self) -> str:
        """What the process has written so far."""
        return self.output.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.is_alive()

    def send(self, signal_number: int) -> None:
        """Send a signal, unless the process has ended."""
        with suppress(ProcessLookupError):
            if self.is_alive:
                os.kill(self.pid, signal_number)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 60) -> bool:
        """Wait for a condition, and return whether it became true before the process ended or time ran out."""
        end = time.monotonic() + timeout
        while self.is_alive and time.monotonic() < end:
            if condition():
                return True
            self._process.join(0.005)
        return condition()

    def wait(self, timeout: float = 120) -> int:
        """Wait for the end, and return the exit status, negative for a signal; kill the process if time runs out.

        Raises:
            TimeoutError: the process did not end in time.
        """
        self._process.join(timeout)
        if self.is_alive:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"The run did not end within {timeout} s:\n{self.text[-2000:]}")
        assert self._process.exitcode is not None
        return self._process.exitcode


def start_ranks(
    *args: str, folder: Path, world_size: int = 2, program: Program = train.main, **environment: str
) -> list[Run]:
    """Start the ranks of a run with the environment that torchrun gives them; the first one is rank 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "campaign",
        **environment,
    }
    devices = ["--trainer.accelerator=cpu", f"--trainer.devices={world_size}", "--trainer.strategy=ddp"]
    return [
        Run(*args, *devices, folder=folder, program=program, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(world_size)
    ]
