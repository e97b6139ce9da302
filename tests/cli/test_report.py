"""The report of `test`: what it says of the data, and the rows of a model without an evaluation."""

import hashlib
from functools import partial

import pytest
from helpers import vae
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from torch import nn

from cli.report import build_report, collect_rows
from cli.trainer import Trainer
from datamodules import GaussianMixtureDataModule, MNISTDataModule, Ring
from gen_lightning.evaluation import Row
from gen_lightning.vae import Gaussian


def check(model, data, folder):
    """Return the rows and the report of a test through the command line's Trainer."""
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    fitted = LightningTrainer(**options, max_steps=1, enable_checkpointing=False, limit_val_batches=0)
    fitted.fit(model, data)
    fitted.save_checkpoint(folder / "model.ckpt")
    trainer = Trainer(**options)
    trainer.test(model, str(folder / "model.ckpt"), data, num_samples=100)
    rows = collect_rows(trainer)
    return rows, build_report(rows, trainer, model, data)


def test_the_elbo_of_a_model_of_points_is_a_row_with_its_standard_error(tmp_path):
    data = GaussianMixtureDataModule(Ring(), num_samples=200, num_held_out=100)
    model = vae(data_shape=(2,), likelihood=partial(Gaussian, squash=nn.Identity))
    rows, report = check(model, data, tmp_path)
    assert rows["elbo"].n == 100
    assert rows["elbo"].error > 0
    assert rows["elbo"].better == "higher"
    with model.evaluating(0):
        mean = model.elbo(data.points("test")).mean().item()
    assert rows["elbo"].value == pytest.approx(mean, abs=6 * rows["elbo"].error)
    assert report["data"] == hashlib.sha256(data.identity.encode()).hexdigest()


@pytest.mark.parametrize("binarization", ["static", "dynamic"])
def test_the_report_names_the_binary_data_and_the_images(binarization, tmp_path):
    data = MNISTDataModule("digits", binarization=binarization)
    _, report = check(vae(data_shape=data.shape), data, tmp_path)
    assert report["data"] == hashlib.sha256(data.identity.encode()).hexdigest()
    grey = MNISTDataModule("digits")
    assert report["data"] != hashlib.sha256(grey.identity.encode()).hexdigest()
    assert len(report["images"]) == 64


class Measure(Callback):
    def __init__(self, value):
        self.rows = {"score": Row(value, 0.1, 10)}


def test_a_row_that_another_callback_has_written_is_left_out_with_a_warning():
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[Measure(1.0), Measure(1.0)])
    assert collect_rows(trainer)["score"].value == 1
    trainer.callbacks.append(Measure(2.0))
    with pytest.warns(UserWarning, match="Measure writes the row score of another callback"):
        assert collect_rows(trainer)["score"].value == 1
