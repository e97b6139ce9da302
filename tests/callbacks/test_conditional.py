"""The accuracy and the pictures of a class-conditional model, for given samples."""

import numpy as np
import pytest
import torch
from helpers import Examples, GivenModel, gan, run_test
from lightning.pytorch import Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import ConditionalAccuracy, SampleGrid
from datamodules import MNISTDataModule
from gen_lightning.metrics import MNISTFeatures

IMAGE = (1, 28, 28)


class RotatingDigits(Examples):
    """Test images of the digits 0 to 9 in rotation, with 30 images of each digit."""

    def __init__(self):
        data = MNISTDataModule("digits")
        data.setup("test")
        images, labels = (torch.cat(parts) for parts in zip(*data.examples("test"), strict=True))
        order = torch.stack([(labels == digit).nonzero()[:30, 0] for digit in range(10)], 1).flatten()
        super().__init__(images[order], labels[order], batch_size=500)

    def images(self, split):
        return (images for images, _ in self.examples(split))

    def val_dataloader(self):
        return self.test_dataloader()


class Archive(GivenModel):
    """A model whose samples are images of the requested class, or of another one, without repetition."""

    num_classes = 10

    def __init__(self, data, offset=0, value=1.0):
        super().__init__()
        images, labels = data.tensors
        self.remaining = [list(images[labels == digit] * value) for digit in range(10)]
        self.offset = offset

    def sample(self, n, *, generator, labels=None):
        return torch.stack([self.remaining[(label + self.offset) % 10].pop(0) for label in labels.tolist()])


@pytest.fixture(scope="module")
def digits():
    return RotatingDigits()


def run(verb, module, data, callback):
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False)
    getattr(trainer, verb)(module, data, verbose=False)
    return trainer.callback_metrics


def test_images_of_the_requested_class_have_the_accuracy_of_the_classifier(digits):
    images, labels = digits.tensors
    callback, extractor = ConditionalAccuracy(num_samples=300), MNISTFeatures()
    correct = (extractor.predict_probabilities(extractor(images)).argmax(1) == labels).double()
    logged = run("test", Archive(digits), digits, callback)
    (row,) = callback.rows.values()
    assert callback.rows.keys() == {"conditional_accuracy/mnist_cnn"}
    assert row.value == row.floor == pytest.approx(correct.mean().item())
    assert 0.5 < row.value < 1
    assert row.error == row.floor_error == pytest.approx((row.value * (1 - row.value) / 299) ** 0.5)
    assert (row.n, row.floor_n, row.better) == (300, 300, "higher")
    assert logged["test/conditional_accuracy/mnist_cnn/300"] == pytest.approx(row.value)
    logged = run("validate", Archive(digits), digits, callback)
    assert logged["val/conditional_accuracy/mnist_cnn/300"] == logged["val/conditional_accuracy"]
    assert logged["val/conditional_accuracy"] == pytest.approx(row.value)


def test_the_source_of_other_latents_is_in_the_name_of_the_row(digits):
    callback = ConditionalAccuracy(num_samples=300)
    callback.latents = "gmm"
    assert run_test(callback, Archive(digits), digits).keys() == {"conditional_accuracy/mnist_cnn/gmm"}


def test_images_of_another_class_have_an_accuracy_near_0(digits):
    callback = ConditionalAccuracy(num_samples=300)
    run("test", Archive(digits, offset=1), digits, callback)
    assert callback.rows["conditional_accuracy/mnist_cnn"].value < 0.1


def test_a_diverged_model_has_accuracy_0_and_stops_no_training(digits):
    logged = run("validate", Archive(digits, value=torch.nan), digits, ConditionalAccuracy(num_samples=300))
    assert logged["val/conditional_accuracy"] == 0


def test_every_class_has_the_same_number_of_samples(digits):
    """The classes rotate across the blocks in which samples are drawn."""
    requested = []

    class Recorder(Archive):
        def sample(self, n, *, generator, labels=None):
            requested.append(labels)
            return torch.zeros(n, *IMAGE)

    run("validate", Recorder(digits), digits, ConditionalAccuracy(num_samples=1230))
    assert [len(labels) for labels in requested] == [500, 500, 230]
    assert torch.cat(requested).bincount().tolist() == [123] * 10


class TestRefusals:
    def test_an_unconditional_model(self, digits):
        with pytest.raises(ValueError, match=r"GANModule is not class-conditional.* do without ConditionalAccuracy"):
            run("validate", gan(), digits, ConditionalAccuracy())

    def test_an_extractor_with_other_classes(self, digits):
        module = Archive(digits)
        module.num_classes = 1000
        with pytest.raises(ValueError, match="mnist_cnn knows 10 classes, and the model 1000"):
            run("validate", module, digits, ConditionalAccuracy())

    def test_data_without_labels(self, digits):
        loader = DataLoader(TensorDataset(*digits.tensors), 10)
        with pytest.raises(ValueError, match="needs a data module with whole splits of images, but there is none"):
            run("validate", Archive(digits), loader, ConditionalAccuracy())

    def test_a_single_sample(self):
        with pytest.raises(ValueError, match=r"`ConditionalAccuracy\.num_samples` is 1\. Choose at least 2"):
            ConditionalAccuracy(num_samples=1)


class Shade(nn.Module):
    """A generator whose grey level is k / 4 for class k."""

    num_classes = 4

    def __init__(self, *arguments):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, data, labels):
        level = labels / 4 + self.slope * data.flatten(1).sum(1)
        return level.view(-1, 1, 1, 1).expand(-1, *IMAGE)


class ShadeDiscriminator(Shade):
    def forward(self, data, labels):
        return super().forward(data, labels).mean((1, 2, 3))


def test_the_columns_of_the_grid_are_classes(tmp_path):
    model = gan(generator=Shade, discriminator=ShadeDiscriminator)
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        callbacks=[SampleGrid(num_images=12)],
    )
    trainer.fit(model, DataLoader(TensorDataset(torch.rand(4, *IMAGE), torch.arange(4)), 4))
    (path,) = tmp_path.glob("samples/*.png")
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (3 * 30 + 2, 4 * 30 + 2, 3)
    centers = pixels[16::30, 16::30, 0].astype(int)
    assert centers.shape == (3, 4)
    assert np.abs(centers - np.array([0, 64, 128, 191])).max() <= 2
