"""Stops within a validation and within an epoch: the resumed training logs what the uninterrupted one logs."""

import copy
from contextlib import suppress

import pytest
import torch
from helpers import Examples, gan, load
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger

from callbacks import LastCheckpoint
from datamodules.loaders import EvaluationLoader, TrainLoader
from datamodules.sources import Split
from gen_lightning.loops import EPOCH_END, VALIDATION
from gen_lightning.stopping import Stop

SHAPE = (2,)
BATCHES_PER_EPOCH = 4


class Points(Examples):
    """Four training batches in an epoch, whose loader resumes, and two validation batches."""

    def __init__(self):
        super().__init__(torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(0)))
        self.loader = TrainLoader(Split(*self.tensors), batch_size=4)

    def train_dataloader(self):
        return self.loader

    def val_dataloader(self):
        return EvaluationLoader(Split(*self.tensors), batch_size=8)


class Rows(DummyLogger):
    """Keeps what is logged, without the epoch and in order."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, {name: float(value) for name, value in metrics.items()}))


class StopIn(Callback):
    """Stops at the n-th call of a hook as SIGTERM does."""

    def __init__(self, hook, n):
        self.left = n
        setattr(self, hook, self.count)

    def count(self, trainer, *_):
        if not trainer.sanity_checking:
            self.left -= 1
        if not self.left:
            self.left -= 1
            raise Stop(15, agreed=True)


class CountsEpochs(Callback):
    """Counts the ends of epochs."""

    def __init__(self):
        self.ends = []

    def on_train_epoch_end(self, trainer, *_):
        self.ends.append(trainer.global_step)


def train(folder, *callbacks, steps=12, checkpoint=None, **options):
    """Train a small GAN, and return the Trainer and what it has logged."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    rows = Rows()
    best = ModelCheckpoint(folder / "best", "best", "val/real_accuracy", save_on_train_epoch_end=False)
    stopping = EarlyStopping("val/real_accuracy", patience=100)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        callbacks=[*callbacks, stopping, best, LastCheckpoint(every_n_iterations=1000)],
        default_root_dir=folder,
        logger=rows,
        log_every_n_steps=1,
        **(quiet | options),
    )
    torch.manual_seed(0)
    model = gan(data_shape=SHAPE)
    with suppress(Stop):
        trainer.fit(model, datamodule=Points(), ckpt_path=checkpoint, weights_only=True)
    return trainer, rows.rows


def read_state(path):
    """Return what must be equal after a resumption: the weights, and the state of EarlyStopping."""
    checkpoint = load(path)
    (early_stopping,) = [state for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping")]
    return checkpoint["global_step"], checkpoint["state_dict"], copy.deepcopy(early_stopping)


def assert_same_state(path, reference):
    (step, weights, early_stopping), expected = read_state(path), read_state(reference)
    assert (step, early_stopping) == (expected[0], expected[2])
    assert all(torch.equal(value, expected[1][name]) for name, value in weights.items())


# The 2nd and 4th batches are the first and second ones after iteration 4 or 2, if every second iteration is validated.
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 2}], ids=["epoch", "interval"])
@pytest.mark.parametrize(
    ("hook", "n"),
    [
        ("on_validation_batch_start", 1),
        ("on_validation_batch_start", 4),
        ("on_validation_epoch_end", 2),
        ("on_validation_batch_start", 6),
    ],
)
def test_a_stop_within_a_validation_is_resumed_with_the_whole_validation(tmp_path, hook, n, options):
    """The last one is the validation after the last iteration of the training."""
    _, expected = train(tmp_path / "reference", **options)
    _, first = train(tmp_path / "stopped", StopIn(hook, n), **options)
    path = tmp_path / "stopped/checkpoints/last.ckpt"
    assert load(path)["due"] == VALIDATION
    _, second = train(tmp_path / "stopped", checkpoint=path, **options)
    assert [*first, *second] == expected
    assert_same_state(path, tmp_path / "reference/checkpoints/last.ckpt")


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_a_stop_by_max_steps_is_no_end_of_an_epoch(tmp_path, stop):
    counts = [CountsEpochs() for _ in range(3)]
    _, expected = train(tmp_path / "reference", counts[0])
    _, first = train(tmp_path / "stopped", counts[1], steps=stop)
    path = tmp_path / "stopped/checkpoints/last.ckpt"
    _, second = train(tmp_path / "stopped", counts[2], checkpoint=path)
    assert counts[0].ends == counts[1].ends + counts[2].ends == [4, 8, 12]
    assert [*first, *second] == expected
    assert_same_state(path, tmp_path / "reference/checkpoints/last.ckpt")


def test_a_checkpoint_at_the_end_of_a_validation_is_resumed_with_the_end_of_the_epoch(tmp_path):
    """EarlyStopping counts at the end of an epoch, after ModelCheckpoint has saved the best checkpoint."""
    count = CountsEpochs()
    _, expected = train(tmp_path / "reference")
    (best,) = (tmp_path / "reference/best").glob("best*.ckpt")
    checkpoint = load(best)
    assert checkpoint["due"] == EPOCH_END
    assert checkpoint["global_step"] % BATCHES_PER_EPOCH == 0
    _, rows = train(tmp_path / "resumed", count, checkpoint=best)
    assert count.ends == list(range(checkpoint["global_step"], 13, BATCHES_PER_EPOCH))
    assert rows == expected[len(expected) - len(rows) :]
    assert_same_state(tmp_path / "resumed/checkpoints/last.ckpt", tmp_path / "reference/checkpoints/last.ckpt")
