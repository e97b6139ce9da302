"""Signals in this process: a stop waits for the next moment, or ends at once."""

import os
import signal

import pytest

from gen_lightning.ranks import is_lost_connection
from gen_lightning.stopping import Stop, answering_signals, begin_deferral, check_stop, end_deferral, get_watch
from gen_lightning.storage import atomic_write


def send(number):
    """Send a signal to this process, and wait until its thread has noted it."""
    os.kill(os.getpid(), number)
    while not get_watch().requested:
        pass


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_program_at_once_with_its_status(number, status):
    with pytest.raises(Stop) as stop, answering_signals():
        send(number)
    assert stop.value.code == status
    assert not stop.value.agreed


def test_a_signal_right_after_the_start_leaves_time_to_clean_up(tmp_path):
    with pytest.raises(Stop), answering_signals(), atomic_write(tmp_path / "file"):
        send(signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []


def train(*signals, moments):
    """Train with signals within the first iteration."""
    begin_deferral()
    check_stop(0)
    for number in signals:
        send(number)
    for iteration in range(1, moments):
        check_stop(iteration)
    end_deferral()


@pytest.mark.parametrize(
    ("signals", "moments", "status", "agreed"),
    [
        ([signal.SIGTERM], 2, 143, True),
        # After the last moment of a training, nothing is left to agree on.
        ([signal.SIGTERM], 1, 143, False),
        # Only the first signal counts, unless Ctrl-C follows Ctrl-C.
        ([signal.SIGINT, signal.SIGTERM], 2, 130, True),
        ([signal.SIGINT, signal.SIGINT], 2, 130, True),
    ],
)
def test_a_training_stops_at_the_next_moment_or_at_its_end(signals, moments, status, agreed):
    with pytest.raises(Stop) as stop, answering_signals():
        train(*signals, moments=moments)
    assert (stop.value.code, stop.value.agreed) == (status, agreed)


def test_the_handlers_before_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with answering_signals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_without_the_context_there_is_nothing_to_stop():
    begin_deferral()
    check_stop(0)
    end_deferral()


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:9099.", True),
        ("Broken pipe", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_an_error_of_a_lost_connection_is_known_by_its_message(message, lost):
    assert is_lost_connection(RuntimeError(message)) == lost
    assert not is_lost_connection(ValueError(message))


def lose_connection():
    get_watch().others = [1]
    raise RuntimeError("Connection closed by peer")


def test_a_lost_connection_ends_with_status_1_and_names_the_rank(capsys):
    with pytest.raises(SystemExit) as end, answering_signals():
        lose_connection()
    assert end.value.code == 1
    assert capsys.readouterr().err == "train.py: The connection to rank 1 is lost, and this rank ends with it.\n"
