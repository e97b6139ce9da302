"""A user's own LightningDataModule on the command line: what it lacks is said before the first iteration."""

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, TensorDataset

import train


class Untouched(Dataset):
    """Examples that must not be read, because a refusal comes before the first iteration."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        raise AssertionError("an iteration has begun")


class NoShape(LightningDataModule):
    size = (1, 28, 28)

    def train_dataloader(self):
        return DataLoader(Untouched(), 20)

    val_dataloader = train_dataloader


class NoImages(NoShape):
    @property
    def shape(self):
        return self.size


class Images(NoImages):
    def images(self, split):
        yield torch.rand(200, *self.size)


class Colour(Images):
    size = (3, 64, 64)


class Points(NoImages):
    size = (2,)


class Normalized(Images):
    def images(self, split):
        yield torch.linspace(-1, 1, 784).view(1, *self.size)


class OneImage(Images):
    """Its images come one by one, without the dimension of the batch."""

    def images(self, split):
        yield from torch.rand(200, *self.size)


class Readable:
    """The same data modules with examples, and a test split."""

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        return DataLoader(TensorDataset(torch.rand(40, *self.size, generator=generator), torch.zeros(40).long()), 20)

    val_dataloader = test_dataloader = train_dataloader


class ReadableColour(Readable, Colour):
    pass


class ReadableNoImages(Readable, NoImages):
    pass


class ReadablePoints(Readable, Points):
    pass


EVALUATION, GRID = "--trainer.callbacks=callbacks.Evaluation", "--trainer.callbacks=callbacks.SampleGrid"
METRICS = "--trainer.callbacks=callbacks.LatentMetrics"
EXTRACTOR = (
    "The images have shape (3, 64, 64), but the extractor takes grey images of 28 x 28 or 32 x 32. Train one for these"
    " images with `python train.py train_extractor`."
)


@pytest.mark.parametrize(
    ("recipe", "data", "callback", "sentence"),
    [
        ("gan/mlp", "NoShape", EVALUATION, "NoShape has no `shape`, from which --model.data_shape is set. Add a line"),
        ("gan/mlp", "NoImages", EVALUATION, "but NoImages has no `images`. Define `images(self, split)` in it, or do"),
        ("vae/vae", "Images", METRICS, "has no `examples`. Define `examples(self, split, n=None)` in it, or do"),
        ("gan/mlp", "Colour", EVALUATION, EXTRACTOR),
        ("gan/mlp", "Points", EVALUATION, "Evaluation compares images, and the data have shape (2,). Measure samples"),
        ("gan/mlp", "Points", GRID, "SampleGrid draws grey or RGB images, and the data have shape (2,)."),
        (
            "gan/mlp",
            "Normalized",
            EVALUATION,
            "`images` of Normalized yields torch.float32 [1, 1, 28, 28] from -1 to 1. Yield batches of float32 [N, 1, ",
        ),
        ("gan/mlp", "OneImage", EVALUATION, "`images` of OneImage yields torch.float32 [1, 28, 28] from "),
    ],
)
def test_data_that_a_callback_cannot_judge_are_refused_before_the_first_iteration(
    recipe, data, callback, sentence, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", f"{__name__}.{data}", callback, "--trainer.logger=false", "--trainer.max_epochs=1"]
    with pytest.raises(SystemExit) as exit_info:
        train.main(["fit", "--config", recipe, *arguments])
    assert exit_info.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("train.py: ")
    assert sentence in last_line
    assert "..." not in last_line


@pytest.fixture
def test_run(fit, capsys):
    """Trains a model on own data without callbacks, tests it, and returns the output of the test and the run."""

    def run(recipe, data, *options, test_options=()):
        common = ["--trainer.callbacks=null", "--trainer.logger=false", "--trainer.max_epochs=1"]
        folder = fit("--config", recipe, "--data", f"{__name__}.{data}", *common, *options)
        capsys.readouterr()
        checkpoint = str(folder / "checkpoints" / "last.ckpt")
        train.main(["test", "--ckpt_path", checkpoint, "--trust", __name__.partition(".")[0], *test_options])
        return capsys.readouterr().out, folder

    return run


GAUSSIAN = "--model.likelihood=gen_lightning.vae.Gaussian"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("ReadableColour", f"Samples are not measured. {EXTRACTOR}"),
        (
            "ReadableNoImages",
            "Samples are not measured. Evaluation needs a data module with whole splits of images, but",
        ),
        ("ReadablePoints", "Samples are not measured. Evaluation compares images, and the data have shape (2,)."),
    ],
)
def test_a_test_without_an_extractor_says_what_it_does_not_measure_and_measures_the_rest(data, sentence, test_run):
    output, _ = test_run("gan/mlp", data)
    assert sentence in output
    output, folder = test_run("vae/vae", data, GAUSSIAN)
    assert sentence in output
    assert "elbo " in output
    assert "elbo" in (folder / "metrics.json").read_text()


def test_a_given_extractor_that_does_not_take_the_images_is_refused(test_run, capsys):
    with pytest.raises(SystemExit):
        test_run("gan/mlp", "ReadableColour", test_options=["--extractor=gen_lightning.metrics.MNISTFeatures"])
    assert EXTRACTOR in capsys.readouterr().err


def test_samples_that_another_callback_measures_are_not_called_unmeasured(fit, capsys):
    options = ["--trainer.logger=false", "--trainer.max_steps=1", "--data.num_samples=500"]
    folder = fit("--config", "gan/mixtures/ring_gan", *options)
    train.main(["test", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--num_samples=100"])
    output = capsys.readouterr().out
    assert "high_quality" in output
    assert "not measured" not in output
