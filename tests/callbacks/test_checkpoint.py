"""Checkpoints: what a killed write leaves, and when they are saved."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from helpers import CONFIGS, ROOT, load

from callbacks import AtomicCheckpointIO, LastCheckpoint

WRITE_FOREVER = """
import sys, torch
from callbacks import AtomicCheckpointIO
io = AtomicCheckpointIO()
for number in range(10**9):
    io.save_checkpoint({"number": number, "tensor": torch.full((1_000_000,), number)}, sys.argv[1])
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("writes", [1, 2, 5])
def test_a_killed_write_leaves_a_whole_checkpoint(tmp_path, writes):
    """TMPDIR is on another file system, which makes Lightning's own write not atomic."""
    path = tmp_path / "last.ckpt"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": "/dev/shm"}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    for _ in range(writes):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint = load(path)
    assert checkpoint["number"] >= writes - 1
    assert (checkpoint["tensor"] == checkpoint["number"]).all()


def test_a_failed_write_leaves_the_old_checkpoint_and_no_other_file(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"number": 1}, path)
    with pytest.raises(AttributeError):
        AtomicCheckpointIO().save_checkpoint({"unpicklable": lambda: None}, path)
    assert load(path) == {"number": 1}
    assert list(tmp_path.iterdir()) == [path]


ARGUMENTS = [
    "--config",
    str(CONFIGS / "gan/mlp.yaml"),
    "--data.source=digits",
    "--data.batch_size=256",
    "--model.discriminator_steps=2",
    "--trainer.logger=false",
    "--trainer.limit_val_batches=0",
]


@pytest.mark.slow
def test_it_is_saved_every_n_iterations_for_any_number_of_discriminator_steps(fit, monkeypatch):
    saved = []
    original = LastCheckpoint._save
    monkeypatch.setattr(
        LastCheckpoint, "_save", lambda self, trainer: (saved.append(trainer.global_step), original(self, trainer))
    )
    fit(*ARGUMENTS, "--trainer.max_steps=8", "--checkpoint.every_n_iterations=3")
    assert [iteration for iteration in saved if iteration] == [3, 6, 8]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, RuntimeError])
def test_ctrl_c_between_iterations_saves_and_an_error_within_one_does_not(fit, monkeypatch, tmp_path, exception):
    """The interrupt comes at the end of iteration 2, the error within it."""
    hook = {"KeyboardInterrupt": "on_train_batch_end", "RuntimeError": "log_iteration"}[exception.__name__]

    def interrupt(self, *args, **kwargs):
        if self.global_step == 2:
            raise exception

    monkeypatch.setattr(f"gen_lightning.GANModule.{hook}", interrupt)
    with pytest.raises((SystemExit, exception)):
        fit(*ARGUMENTS, "--trainer.max_steps=8")
    checkpoints = list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt"))
    if exception is RuntimeError:
        assert checkpoints == []
    else:
        assert load(checkpoints[0])["global_step"] == 2


def test_weights_load_without_unpickling_code(fit):
    folder = fit(*ARGUMENTS, "--trainer.max_steps=2")
    for path in folder.glob("checkpoints/*.ckpt"):
        assert torch.load(path, weights_only=True)["global_step"] == 2


def test_refuses_to_save_never():
    with pytest.raises(ValueError, match=r"`LastCheckpoint.every_n_iterations` is 0. Choose at least 1."):
        LastCheckpoint(every_n_iterations=0)
