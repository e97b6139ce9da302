"""FID against its formula, and its place in a run."""

import json

import numpy as np
import pytest
import scipy.linalg
import torch
from helpers import CONFIGS
from lightning.pytorch import LightningModule, Trainer

from callbacks import FID
from datamodules import MNISTDataModule
from gen_lightning.metrics import MNISTFeatures


class Sampler(LightningModule):
    """Samples that are given."""

    def __init__(self, images):
        super().__init__()
        self.images = images
        self.data_shape = (1, 28, 28)

    def sample(self, n, *, generator, labels=None):
        index = torch.randint(len(self.images), (n,), generator=generator)
        return self.images[index]

    def test_step(self, batch, batch_idx):
        pass


def frechet_distance(one, other):
    """Heusel et al. 2017, equation 6, by scipy."""
    one, other = one.double().numpy(), other.double().numpy()
    covariances = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    return ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)


@pytest.fixture(scope="module")
def data():
    data = MNISTDataModule("digits")
    data.setup("test")
    return data


def metrics_of(data, module, **arguments):
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[FID(**arguments)], enable_progress_bar=False)
    (metrics,) = trainer.test(module, data, verbose=False)
    return metrics


def test_equals_the_formula(data):
    torch.manual_seed(0)
    callback = FID(num_samples=300, batch_size=70)
    module = Sampler(torch.rand(500, 1, 28, 28))
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False)
    (metrics,) = trainer.test(module, data, verbose=False)
    features = MNISTFeatures()
    real = torch.cat([features(images) for images in data.images("test")])
    fake = torch.cat([features(images) for images in callback._samples(trainer, module, 300)])
    assert len(fake) == 300
    assert metrics["test/fid/mnist_cnn/300"] == pytest.approx(frechet_distance(real, fake), rel=1e-4)
    train = torch.cat([features(images) for images in data.images("train")])[:300]
    assert metrics["test/fid_floor/mnist_cnn/300"] == pytest.approx(frechet_distance(real, train), rel=1e-4)


def test_real_samples_score_like_the_floor_and_noise_does_not(data):
    real = metrics_of(data, Sampler(torch.cat(list(data.images("train")))))
    noise = metrics_of(data, Sampler(torch.rand(500, 1, 28, 28)))
    assert real["test/fid/mnist_cnn/360"] < 4 * real["test/fid_floor/mnist_cnn/360"]
    assert noise["test/fid/mnist_cnn/360"] > 50 * real["test/fid_floor/mnist_cnn/360"]


def test_is_the_same_each_time(data):
    module = Sampler(torch.rand(500, 1, 28, 28))
    assert metrics_of(data, module) == metrics_of(data, module)


def test_too_few_samples_are_refused(data):
    with pytest.raises(ValueError, match="singular covariance"):
        metrics_of(data, Sampler(torch.rand(500, 1, 28, 28)), num_samples=64)


def test_is_logged_with_its_n_and_extractor_and_monitored_without(fit):
    folder = fit(
        "--config",
        str(CONFIGS / "gan/mlp.yaml"),
        "--data.source=digits",
        "--trainer.max_epochs=1",
        "--trainer.logger=false",
    )
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "val/fid/mnist_cnn/240" in header
    assert "val/fid" not in header
    metrics = json.loads((folder / "metrics.json").read_text())["fit"]
    assert metrics["val/fid"] == metrics["val/fid/mnist_cnn/240"] > 0
    assert (folder / "checkpoints/best.ckpt").is_file()
