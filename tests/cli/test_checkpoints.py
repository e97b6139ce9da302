"""Which checkpoint of a run is the newest, and what is said of a file that cannot be loaded."""

import os

import pytest
import torch
from helpers import OPTIMIZER_STATE

from callbacks import AtomicCheckpointIO
from cli.checkpoints import load_checkpoint, newest_checkpoint
from cli.runs import RunFolder
from gen_lightning.errors import UserError


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "vae/1")
    run.path.mkdir(parents=True)
    run.write_config("seed_everything: 0")
    return run


def save(path, step, **content):
    AtomicCheckpointIO().save_checkpoint({"global_step": step, "optimizer_states": [OPTIMIZER_STATE], **content}, path)


def test_the_newest_checkpoint_has_the_greatest_global_step(run):
    """Copies of files have other times."""
    for name, step in (("last", 270), ("best", 45), ("previous", 220)):
        save(run.checkpoints / f"{name}.ckpt", step)
    os.utime(run.last_checkpoint, (0, 0))
    assert newest_checkpoint(run)[0] == run.last_checkpoint


def test_last_ckpt_is_preferred_among_checkpoints_of_one_iteration(run):
    for name in ("best", "last", "z"):
        save(run.checkpoints / f"{name}.ckpt", 10)
    assert newest_checkpoint(run)[0] == run.last_checkpoint


def test_a_checkpoint_of_another_run_is_reported_and_skipped(run):
    save(run.last_checkpoint, 10, run="vae/1")
    save(run.checkpoints / "stranger.ckpt", 20, run="gan/2")
    with pytest.warns(UserWarning, match=r"stranger.ckpt is a checkpoint of the run gan/2, not of vae/1\. Another"):
        assert newest_checkpoint(run)[0] == run.last_checkpoint


def test_a_run_that_was_moved_keeps_its_checkpoints(run, tmp_path):
    save(run.last_checkpoint, 10, run=run.identity)
    moved = RunFolder(tmp_path / "elsewhere/copy")
    moved.path.parent.mkdir()
    run.path.rename(moved.path)
    assert moved.identity == "vae/1"
    assert newest_checkpoint(moved)[0] == moved.last_checkpoint
    moved.write_config("seed_everything: 0")
    assert moved.identity == "vae/1"


def test_checkpoints_with_weights_only_are_not_resumed(run):
    save(run.checkpoints / "previous.ckpt", 10)
    AtomicCheckpointIO().save_checkpoint({"global_step": 20}, run.last_checkpoint)
    assert newest_checkpoint(run)[1]["global_step"] == 10


def test_a_path_without_a_checkpoint_is_told_apart(tmp_path):
    directory, pipe, text = (tmp_path / name for name in ("directory", "pipe", "text"))
    directory.mkdir()
    os.mkfifo(pipe)
    text.write_text("text")
    torch.save([1], tmp_path / "list")
    kinds = {
        tmp_path / "missing": "There is no checkpoint ",
        text / "below": "There is no checkpoint ",
        directory: "is a directory. Give",
        pipe: "is a pipe, a socket or a device. Give",
        text: "is corrupt or is not a checkpoint. Give",
        tmp_path / "list": "is corrupt or is not a checkpoint. Give",
    }
    for path, words in kinds.items():
        with pytest.raises(UserError, match=words):
            load_checkpoint(path)


def test_a_missing_permission_is_not_called_a_corruption(tmp_path):
    save(tmp_path / "last.ckpt", 10)
    (tmp_path / "last.ckpt").chmod(0)
    # Root may read every file, so that another user reads it, in a process of its own.
    process = os.fork()
    if process == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.chmod(tmp_path, 0o755)
                os.seteuid(65534)
            load_checkpoint(tmp_path / "last.ckpt")
        except UserError as error:
            code = 0 if "cannot be read: permission is denied. Give another file." in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
