"""Evaluation: compared with torchmetrics and with the pure functions, and within a run."""

import json

import pytest
import torch
from helpers import CONFIGS, GivenModel, vae
from lightning.pytorch import Trainer
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from callbacks import Evaluation, LatentMetrics
from datamodules import MNISTDataModule
from gen_lightning.errors import UserError
from gen_lightning.evaluation import format_table, measure
from gen_lightning.metrics import FeatureExtractor, MNISTFeatures

METRICS = {
    "fid",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "classifier_score",
    "class_balance",
    "memorization",
}


class Sampler(GivenModel):
    """A model that samples from given images."""

    def __init__(self, images):
        super().__init__()
        self.images = images
        self.largest = 0

    def sample(self, n, *, generator, labels=None):
        self.largest = max(self.largest, n)
        return self.images[torch.randint(len(self.images), (n,), generator=generator)]

    def test_step(self, batch, batch_idx):
        return {"mean": batch[0].mean((1, 2, 3))}


@pytest.fixture(scope="module")
def data():
    data = MNISTDataModule("digits")
    data.setup("test")
    return data


def trainer_with(evaluation):
    return Trainer(accelerator="cpu", logger=False, callbacks=[evaluation], enable_progress_bar=False)


def report(data, module, **arguments):
    evaluation = Evaluation(**arguments)
    trainer_with(evaluation).test(module, data, verbose=False)
    return evaluation.rows


def noise():
    return Sampler(torch.rand(500, 1, 28, 28, generator=torch.Generator().manual_seed(0)))


def split(data, name):
    return torch.cat(list(data.images(name)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_fid_of_a_validation_equals_torchmetrics(data, seed):
    module, evaluation = noise(), Evaluation(num_samples=300, seed=seed)
    trainer = trainer_with(evaluation)
    trainer.validate(module, data, verbose=False)
    metric = FrechetInceptionDistance(MNISTFeatures())
    metric.update(split(data, "val"), real=True)
    (block_seed,) = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(seed)).tolist()
    metric.update(module.sample(300, generator=torch.Generator().manual_seed(block_seed)), real=False)
    assert trainer.callback_metrics["val/fid/mnist_cnn/300"] == pytest.approx(metric.compute().item(), rel=1e-5)
    assert trainer.callback_metrics["val/fid"] == trainer.callback_metrics["val/fid/mnist_cnn/300"]


@pytest.mark.slow
def test_the_floors_of_a_report_equal_the_pure_functions(data):
    rows = report(data, noise())
    extractor = MNISTFeatures()
    test, train = (extractor(split(data, name)) for name in ("test", "train"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    floors = measure(extractor, train[order[:360]], test, train[order[360:]])
    assert rows.keys() == {f"{name}/mnist_cnn" for name in METRICS} | {"mean"}
    for name, floor in floors.items():
        row = rows[f"{name}/mnist_cnn"]
        assert (row.floor, row.floor_error) == pytest.approx(tuple(floor), rel=1e-5, abs=1e-9)
        assert (row.n, row.floor_n) == (360, 360)
        assert row.better in ("higher", "lower")


@pytest.mark.slow
def test_real_images_are_near_the_floor_and_noise_is_not(data):
    real, far = report(data, Sampler(split(data, "val"))), report(data, noise())
    for name in ("fid/mnist_cnn", "kid/mnist_cnn"):
        difference = abs(real[name].value - real[name].floor)
        assert difference < 5 * (real[name].error + real[name].floor_error)
        assert far[name].value - far[name].floor > 50 * far[name].error
    assert real["coverage/mnist_cnn"].value > 0.5 > far["coverage/mnist_cnn"].value
    assert real["memorization/mnist_cnn"].value < 0.1


def test_training_images_are_reported_as_memorized(data):
    assert report(data, Sampler(split(data, "train")))["memorization/mnist_cnn"].value == 1


def test_values_per_example_become_a_row_with_a_standard_error(data):
    row, means = report(data, noise())["mean"], split(data, "test").double().mean((1, 2, 3))
    assert row.value == pytest.approx(means.mean().item(), rel=1e-6)
    assert row.error == pytest.approx(means.std().item() / 360**0.5, rel=1e-6)
    assert (row.n, row.floor, row.better) == (360, None, None)


def test_the_elbo_of_a_vae_is_in_its_report():
    data = MNISTDataModule("digits", binarization="static")
    trainer = trainer_with(evaluation := Evaluation())
    (logged,) = trainer.test(vae(), data, verbose=False)
    assert evaluation.rows["elbo"].value == pytest.approx(logged["test/elbo"], rel=1e-5)
    assert evaluation.rows["elbo"].better == "higher"
    parts = evaluation.rows["distortion"].value + evaluation.rows["rate"].value
    assert parts == pytest.approx(-evaluation.rows["elbo"].value, rel=1e-6)


@pytest.mark.slow
def test_a_report_does_not_depend_on_the_batch_size_of_the_data(data):
    other = MNISTDataModule("digits", batch_size=17)
    for name, row in report(data, noise()).items():
        assert report(other, noise())[name].value == pytest.approx(row.value, rel=1e-6), name


@pytest.mark.slow
def test_any_number_of_samples_is_drawn_in_blocks(data):
    module = noise()
    rows = report(data, module, num_samples=1300)
    assert (rows["fid/mnist_cnn"].n, rows["fid/mnist_cnn"].floor_n) == (1300, 1197 // 2)
    assert "(N = 598)" in format_table(rows)
    assert module.largest == 500


def test_a_diverged_model_gives_a_warning_and_stops_no_training(data):
    module = Sampler(torch.full((5, 1, 28, 28), torch.nan))
    with pytest.raises(ValueError, match="the model has diverged"):
        report(data, module)
    trainer = trainer_with(Evaluation())
    with pytest.warns(UserWarning, match="no FID at iteration 0: .*diverged"):
        trainer.validate(module, data, verbose=False)
    assert trainer.callback_metrics["val/fid"].isnan()


def test_a_collapsed_model_is_reported(data):
    with pytest.raises(ValueError, match="collapsed to one image"):
        report(data, Sampler(torch.zeros(1, 1, 28, 28)))


@pytest.mark.slow
def test_too_few_samples_are_refused_before_training(fit, capsys):
    recipe = ["--config", str(CONFIGS / "gan/mlp.yaml"), "--data.source=digits"]
    with pytest.raises(SystemExit):
        fit(*recipe, "--trainer.callbacks=callbacks.Evaluation", "--trainer.callbacks.num_samples=64")
    assert "FID of 64 images with 64 features has a singular covariance" in capsys.readouterr().err


def test_small_data_have_all_metrics_but_the_fid(data):
    """The extractor has 64 features, and the covariance of as many samples is singular."""
    with pytest.warns(UserWarning, match=r"no FID.*more than 64 samples.*KID"):
        few = report(data, noise(), num_samples=64)
    many = report(data, noise(), num_samples=65)
    assert {name.partition("/")[0] for name in many.keys() - few.keys()} == {"fid"}
    assert few.keys() < many.keys()


def test_more_than_100_000_samples_are_refused(data):
    with pytest.raises(ValueError, match=r"`Evaluation\.num_samples` is 100001\. Choose .*at most 100000"):
        report(data, noise(), num_samples=100_001)


def test_data_that_are_not_images_are_refused():
    class Points(Sampler):
        data_shape = (2,)

    with pytest.raises(ValueError, match=r"Evaluation compares images, and the data have shape \(2,\)"):
        trainer_with(Evaluation()).test(Points(torch.zeros(1, 2)), MNISTDataModule("digits"), verbose=False)


def test_a_shape_that_the_extractor_does_not_take_is_refused_before_the_first_batch():
    class Colours(Sampler):
        data_shape = (3, 64, 64)

        def test_step(self, batch, batch_idx):
            raise AssertionError

    with pytest.raises(ValueError, match=r"have shape \(3, 64, 64\), but the extractor takes grey images"):
        trainer_with(Evaluation()).test(Colours(torch.zeros(1)), MNISTDataModule("digits"), verbose=False)


def test_loaders_without_a_data_module_are_refused(data):
    with pytest.raises(ValueError, match="needs a data module with whole splits of images, but there is none"):
        trainer_with(Evaluation()).test(noise(), data.test_dataloader(), verbose=False)


@pytest.mark.parametrize(
    ("callback", "sentence"),
    [
        (Evaluation, r"splits of images, but there is none\. Give a LightningDataModule with `images\(self, split\)`"),
        (LatentMetrics, r"there is none\. Give a LightningDataModule with `examples\(self, split, n=None\)`"),
    ],
)
def test_loaders_without_a_data_module_are_refused_before_the_first_iteration(callback, sentence):
    trainer = trainer_with(callback())
    with pytest.raises(UserError, match=sentence):
        trainer.fit(vae(), [torch.zeros(2, 1, 28, 28)])
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (lambda images: images.flatten(1) @ torch.rand(9, 4), r"pixels fails on an image of shape \(1, 28, 28\): mat1"),
        (
            lambda images: images.flatten(1),
            r"pixels returns features \[1, 784\] of one image\. Return `\[N, D\]` with D",
        ),
    ],
)
def test_an_extractor_that_does_not_fit_the_images_is_refused_before_the_test(data, forward, sentence):
    class Pixels(FeatureExtractor):
        name, num_features, sha256 = "pixels", 4, "none"

    extractor, module = Pixels(), noise()
    extractor.forward = forward
    with pytest.raises(UserError, match=sentence):
        report(data, module, extractor=extractor)
    assert module.largest == 0


@pytest.mark.parametrize(
    ("split", "n", "left_out"), [("test", 64, {"fid"}), ("test", 110, set()), ("train", 129, {"fid"})]
)
def test_metrics_that_need_more_images_are_left_out(data, split, n, left_out, monkeypatch):
    images = data.images
    monkeypatch.setattr(data, "images", lambda name: [torch.cat(list(images(name)))[: n if name == split else None]])
    names = {name.partition("/")[0] for name in report(data, noise(), num_samples=100)}
    assert names - {"mean"} == METRICS - left_out


def test_any_module_with_three_attributes_is_an_extractor(data):
    class Pixels(nn.Module):
        name, num_features, sha256 = "pixels", 9, "none"

        def forward(self, images):
            return nn.functional.adaptive_avg_pool2d(images, 3).flatten(1)

        def predict_probabilities(self, features):
            return features.softmax(1)

    rows = report(data, noise(), extractor=Pixels())
    assert {name for name in rows if name.endswith("/pixels")} == {f"{name}/pixels" for name in METRICS}


def test_features_of_other_data_are_extracted_again(data):
    """The same callback evaluates both data modules in one process."""
    evaluation, static = Evaluation(), MNISTDataModule("digits", val_fraction=0.5)
    values = []
    for each in (data, static):
        trainer = trainer_with(evaluation)
        trainer.validate(noise(), each, verbose=False)
        values.append(trainer.callback_metrics["val/fid"])
    assert values[0] != values[1]


def test_an_extractor_is_put_in_evaluation_mode(data):
    class Dropping(nn.Dropout):
        name, num_features, sha256 = "dropping", 784, "none"

        def forward(self, images):
            return super().forward(images.flatten(1))

    evaluation = Evaluation(Dropping().train())
    with pytest.raises(ValueError, match="singular covariance"):
        trainer_with(evaluation).fit(vae(), data)
    assert not evaluation.extractor.training


@pytest.mark.slow
def test_the_fid_is_logged_with_extractor_and_n_and_monitored_without_them(fit):
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
