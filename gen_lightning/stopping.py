"""SIGTERM and Ctrl-C: a training stops between two iterations with a checkpoint; anything else ends at once.

A signal handler that exchanges messages with other ranks, as that of Lightning 2.6, can hang: one rank waits within its
handler, the other in a collective operation. Here a handler exchanges nothing. A thread of each rank takes note of the
signal, tells it to the other ranks, and agrees with them on the moment. Between two batches the main thread compares
two tuples, so a training that is not stopped pays nothing.

The same thread notices that a rank has died, and ends this one. So no rank waits forever, and none stays alive alone.
"""

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from gen_lightning.ranks import Ranks, is_lost_connection
from gen_lightning.storage import remove_unfinished_files

Position = tuple[int, int]
"""A moment between two batches: completed iterations, and the number of moments since then."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPPED = {128 + number for number in SIGNALS}

# Seconds. A stop takes at most 10 s from the signal.
_TICK = 0.5
_CLEANUP = 6.0
_AGREEMENT = 5.0
_OTHER_RANKS = 4.0
# torchrun and the terminal may both send the same Ctrl-C.
_SAME_SIGNAL = 1.0


class Stop(SystemExit):
    """The end of this program because of a signal; its status is 128 plus the signal's number.

    Args:
        number: the signal
        agreed: whether all ranks stop at the same moment between two iterations, so that they can save together
    """

    def __init__(self, number: int, agreed: bool = False) -> None:
        super().__init__(128 + number)
        self.agreed = agreed


class Watch(threading.Thread):
    """A thread that answers signals and notices dead ranks, while the main thread may wait for anything."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="watch")
        self.requested = 0
        self.deferred = False
        self.ending = False
        self.ranks: Ranks | None = None
        self.others: list[int] = []
        self.children: Mapping[int, subprocess.Popen[bytes]] = {}
        self._raised = False
        self._paused_at = 0.0
        self._passed: Position = (-1, 0)
        self._positions: dict[int, Position] = {}
        self._limit: Position | None = None
        self._changed = threading.Condition()
        self._requested_at = 0.0
        self._idle_since = 0.0
        self._follows = False
        self._deadline: tuple[float, int, str] | None = None
        self._closed = False
        # Lightning's launcher and torchrun set LOCAL_RANK for the processes that they start.
        self._parent = os.getppid() if "LOCAL_RANK" in os.environ else None
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._written = os.pipe()
        for end in (self._wakeup, self._written):
            os.set_blocking(end, False)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._read_signals)

    # The main thread's part.

    @contextmanager
    def answering_signals(self) -> Iterator[None]:
        """Answer SIGTERM and Ctrl-C within the context, and tell the other ranks how it ends."""
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        # The C handler writes to this pipe even if the main thread waits in C code, where no Python handler runs.
        descriptor = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        for number in SIGNALS:
            if previous[number] != signal.SIG_IGN:
                signal.signal(number, self._handle)
        self.start()
        status = 1
        try:
            yield
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            raise
        except BaseException as error:
            self._await_verdict()
            if self.others and is_lost_connection(error):
                status = 128 + self.requested if self.requested else 1
                self._report_lost_connection()
                raise SystemExit(status) from None
            raise
        finally:
            self.ending = True
            signal.set_wakeup_fd(descriptor)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._close(status)

    def begin_deferral(self) -> None:
        """Stop only at a `check` from now on.

        Raises:
            Stop: a stop was requested before.
        """
        with self._changed:
            requested = self.requested
            self.deferred = not requested
        if requested:
            self._raise(requested)

    def end_deferral(self) -> None:
        """Stop at any moment from now on.

        Raises:
            Stop: a stop was requested and no `check` came since.
        """
        with self._changed:
            self.deferred = False
        if self.requested and not self._raised:
            self._raise(self.requested)

    def check(self, iteration: int | None = None) -> None:
        """Stop here if it was requested; every rank must call this equally often within an iteration.

        Args:
            iteration: number of completed iterations at the start of a training batch; None at any other moment

        Raises:
            Stop: all ranks stop here.
        """
        if not self.deferred:
            return
        with self._changed:
            completed, moments = self._passed
            position = (completed, moments + 1) if iteration is None else (iteration, 0)
            if self.requested:
                self._changed.wait_for(lambda: self._limit is not None)
                if self._limit is None or position > self._limit:
                    self.ending = True
                    self._raise(self.requested, agreed=True)
            self._passed = position

    def _raise(self, number: int, agreed: bool = False) -> NoReturn:
        self._raised = True
        raise Stop(number, agreed)

    def _handle(self, number: int, frame: Any) -> None:
        if not (self.deferred or self._raised):
            self._raise(self.requested or number)

    def _await_verdict(self) -> None:
        # If another rank has died, a collective operation fails here before the thread has noticed the death.
        if self.others:
            self.ending = False
            time.sleep(1)
            if self._deadline and not self._follows:
                time.sleep(_OTHER_RANKS)

    def _report_lost_connection(self) -> None:
        """Say which connection is lost, if the other rank ended before it could exchange messages."""
        if not self.requested:
            name = f"rank {self.others[0]}" if len(self.others) == 1 else "another rank"
            sys.stderr.write(f"train.py: The connection to {name} is lost, and this rank ends with it.\n")

    def _close(self, status: int) -> None:
        self.deferred = False
        if self.ranks:
            self.ranks.send("bye", status)
        self._end_children(status)
        self._closed = True
        os.write(self._written, b"\0")
        self.join(5)
        for end in (self._wakeup, self._written):
            os.close(end)

    def _end_children(self, status: int) -> None:
        for child in self.children.values():
            if status:
                child.terminate()
        for child in self.children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(3)
            if status:
                child.kill()

    # The thread's part.

    def run(self) -> None:
        """Wait for signals, messages and deaths until the context ends."""
        while not self._closed:
            for key, _ in self._selector.select(_TICK):
                key.data()
            if not self._closed:
                self._look_around()
        self._selector.close()
        if self.ranks:
            self.ranks.close()

    def connect(self, ranks: Ranks) -> None:
        """Exchange messages with the other ranks from now on."""
        ranks.receive = self._receive
        self.ranks = ranks
        ranks.register(self._selector)
        if self.requested:
            ranks.send("signal", self.requested)

    def _read_signals(self) -> None:
        for number in os.read(self._wakeup, 1000):
            if number in SIGNALS:
                again = number == self.requested == signal.SIGINT
                if again and time.monotonic() > self._requested_at + _SAME_SIGNAL and not self._closed:
                    self._exit(128 + number)
                self._request(number)

    def _request(self, number: int) -> None:
        """Note that the run is to stop, and tell the other ranks."""
        with self._changed:
            if self.requested:
                return
            self.requested = number
            self._requested_at = self._idle_since = time.monotonic()
            deferred, position = self.deferred, self._passed
            if deferred and not self.ranks:
                self._limit = position
            self._changed.notify_all()
        for child in self.children.values():
            if not self.ranks:
                child.terminate()
        if self.ranks:
            self.ranks.send("signal", number)
            if deferred:
                self._collect(self.ranks.rank, position)
        if not deferred:
            self._interrupt()

    def _interrupt(self) -> None:
        """Make the main thread run its handler, as a signal from outside does."""
        if not (self._raised or self.ending):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _collect(self, rank: int, position: Position) -> None:
        """Send this rank's position to rank 0, which sends the last position of all ranks to all."""
        assert self.ranks is not None
        if self.ranks.rank:
            self.ranks.send("passed", *position)
            return
        self._positions[rank] = position
        if len(self._positions) == self.ranks.world_size:
            limit = max(self._positions.values())
            self.ranks.send("limit", *limit)
            self._set_limit(limit)

    def _set_limit(self, limit: Position) -> None:
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def _receive(self, rank: int, word: str, *numbers: int) -> None:
        """Answer a message from a rank; `lost` is the end of its connection without a `bye`."""
        if word == "signal":
            self._request(numbers[0])
        elif word == "passed":
            self._collect(rank, (numbers[0], numbers[1]))
        elif word == "limit":
            self._set_limit((numbers[0], numbers[1]))
        elif word == "bye":
            self._note_end(rank, numbers[0])
        elif word == "ended":
            self._note_end(*numbers)
        elif word == "lost":
            self._note_end(rank, -1)

    def _note_end(self, rank: int, status: int) -> None:
        """Set when this rank ends because another one has; a negative status stands for its death."""
        own = self.ranks.rank if self.ranks else 0
        if not status or rank == own or self._deadline:
            return
        if self.ranks and own == 0:
            self.ranks.send("ended", rank, status)
        now, sentence = time.monotonic(), ""
        # One rank speaks for all that are left.
        speaks = own == int(rank == 0)
        if status in STOPPED:
            # After a Ctrl-C, the processes that this one has started end because of its SIGTERM.
            self._request(status - 128)
            status = 128 + self.requested
        elif status > 0:
            sentence = f"Rank {rank} has ended with status {status}, and the other ranks end with it."
        else:
            sentence = f"Rank {rank} has died, and the other ranks end with it. Continue with fit --resume."
            self._deadline = now + self.ending * _OTHER_RANKS, 1, sentence * speaks
            return
        # This rank may be about to end by itself, for the same reason.
        if not self.ending:
            self._deadline = now + _OTHER_RANKS, status, sentence * speaks
            self._follows = True

    def _look_around(self) -> None:
        """Notice dead processes, and end this one if its time is over."""
        now = time.monotonic()
        if self._parent not in (None, os.getppid()):
            self._parent = None
            self._request(signal.SIGTERM)
        for rank, child in self.children.items():
            status = child.poll()
            if status and -status in SIGNALS:
                # A process that is only starting has no handlers yet.
                status = 128 - status
            if status and self._deadline is None and not self.ending:
                self._note_end(rank, status)
        if self._deadline and now >= self._deadline[0] and not (self.ending and self._follows):
            self._exit(*self._deadline[1:])
        if not self.requested or self.deferred:
            self._idle_since = now
        if now > self._idle_since + _CLEANUP:
            self._exit(128 + self.requested)
        waits = self.requested and self.deferred and self._limit is None
        if waits and now > self._requested_at + _AGREEMENT:
            self._exit(128 + self.requested)

    def _exit(self, status: int, sentence: str = "") -> NoReturn:
        """End this process, whatever the main thread is doing; a library may have lost the exception of a stop."""
        if sentence:
            sys.stderr.write(f"train.py: {sentence}\n")
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        if self.ranks:
            self.ranks.send("bye", status)
        self._end_children(status)
        remove_unfinished_files()
        os._exit(status)


_watch: Watch | None = None


@contextmanager
def answering_signals() -> Iterator[None]:
    """Answer SIGTERM and Ctrl-C within the context, with status 143 and 130.

    A training stops at the next `check` and has time to save. Anything else ends at once. Signals of a context within
    another one, or of a thread that is not the main one, are those of the caller.
    """
    global _watch
    if _watch or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch = Watch()
    try:
        with _watch.answering_signals():
            yield
    finally:
        _watch = None


def get_watch() -> Watch | None:
    """Return the watch of this process; None outside `answering_signals`."""
    return _watch


def begin_deferral() -> None:
    """Let a stop wait for the next `check_stop`, such as in a training."""
    if _watch:
        _watch.begin_deferral()


def end_deferral() -> None:
    """Let a stop take place at any moment."""
    if _watch:
        _watch.end_deferral()


def begin_end() -> None:
    """Let this process end by itself, in its own time, when other ranks end; call it when an exception ends a run."""
    if _watch:
        _watch.ending = True


def check_stop(iteration: int | None = None) -> None:
    """Stop here if a signal has requested it and `begin_deferral` was called.

    All ranks must call this equally often within an iteration.

    Args:
        iteration: number of completed iterations at the start of a training batch; None at any other moment

    Raises:
        Stop: all ranks stop here.
    """
    if _watch:
        _watch.check(iteration)


def _leave_to_parent() -> None:
    """Keep the handlers of a process out of the processes that it forks, such as those that load data."""
    global _watch
    if _watch:
        _watch = None
        signal.set_wakeup_fd(-1)
        # Both signals may reach a whole process group. A loading process that ended first would end the training with
        # an error, so it ends with its parent, or at the latest after the time that a stop takes.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(10))


os.register_at_fork(after_in_child=_leave_to_parent)
