"""SIGTERM and Ctrl-C while Python imports libraries; this module imports nothing that takes time."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

PROGRAMS = ("train.py", "gen-lightning")


def exit_on_signals() -> None:
    """End this program at once on SIGTERM and Ctrl-C, with status 143 and 130, until a command answers them.

    Another program that imports the package, such as a notebook or pytest, keeps its own handlers.
    """
    if Path(sys.argv[0]).name in PROGRAMS:
        for number in (signal.SIGTERM, signal.SIGINT):
            # A shell starts background jobs with Ctrl-C ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _exit)


def _exit(number: int, frame: Any) -> None:
    # Nothing is written while libraries are imported. An exception could be lost in a library's import.
    os._exit(128 + number)
