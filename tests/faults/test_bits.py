"""Single bits that change on the disk: in checkpoints, and in the cache of tensors."""

import pytest
import torch
from helpers import OPTIMIZER_STATE, load

from callbacks import AtomicCheckpointIO
from cli.checkpoints import load_checkpoint, newest_checkpoint
from cli.runs import RunFolder
from gen_lightning.errors import UserError
from gen_lightning.storage import load_or_compute


def flip_bit(path, random):
    """Flip one bit of a file; every second one is near its start or its end, where its directory is."""
    content = bytearray(path.read_bytes())
    edge = random.randrange(1, 200)
    position = random.choice([random.randrange(len(content)), random.choice([edge - 1, len(content) - edge])])
    content[position] ^= 1 << random.randrange(8)
    path.write_bytes(content)


@pytest.fixture
def run(tmp_path):
    """The directory of a run with its last two checkpoints."""
    run = RunFolder(tmp_path / "vae" / "1")
    save, model = AtomicCheckpointIO().save_checkpoint, torch.nn.Linear(100, 100)
    for step, path in ((10, run.checkpoints / "previous.ckpt"), (20, run.last_checkpoint)):
        content = {
            "global_step": step,
            "optimizer_states": [OPTIMIZER_STATE],
            "state_dict": model.state_dict(),
            "run": run.identity,
        }
        save(content, path)
    return run


def test_a_changed_bit_of_a_checkpoint_is_reported_and_the_checkpoint_before_it_is_used(trials, run):
    good = run.last_checkpoint.read_bytes()
    for trial in trials("flipped bits in checkpoints", 20, 50):
        with trial:
            run.last_checkpoint.write_bytes(good)
            flip_bit(run.last_checkpoint, trial.random)
            with pytest.raises(UserError, match=r"last.ckpt is (damaged|corrupt|not a checkpoint)"):
                load_checkpoint(run.last_checkpoint)
            with pytest.raises(UserError, match=r"last.ckpt is damaged"):
                AtomicCheckpointIO().load_checkpoint(run.last_checkpoint)
            with pytest.warns(UserWarning, match=r"last.ckpt is .* Another checkpoint of the run is used instead"):
                path, checkpoint = newest_checkpoint(run)
            assert (path.name, checkpoint["global_step"]) == ("previous.ckpt", 10)


def test_a_changed_bit_of_the_cache_changes_no_value(trials, tmp_path):
    path, tensors = tmp_path / "cache.safetensors", {"features": torch.randn(50, 50), "n": torch.tensor(3)}
    load_or_compute(path, lambda: tensors)
    good = path.read_bytes()
    for trial in trials("flipped bits in the cache", 20, 50):
        with trial:
            path.write_bytes(good)
            flip_bit(path, trial.random)
            with pytest.warns(UserWarning, match="cache.safetensors is damaged. It is computed anew"):
                loaded = load_or_compute(path, lambda: tensors)
            assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
            assert path.read_bytes() == good


def test_a_checkpoint_of_an_earlier_version_loads(run):
    """It has no checksum, and does not name its run."""
    content = load(run.last_checkpoint)
    del content["run"]
    torch.save(content, run.last_checkpoint)
    assert newest_checkpoint(run)[1]["global_step"] == 20
