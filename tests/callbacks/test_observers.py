"""Callbacks observe: the training is the same with and without them."""

import numpy as np
import pytest
import torch
from helpers import CONFIGS, gan, load, vae
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from callbacks import (
    Compile,
    Evaluation,
    ImportanceSampledLikelihood,
    LatentCodeGrid,
    LatentInterpolations,
    LatentManifold,
    LatentTraversals,
    Reconstructions,
    SampleGrid,
    ScatterPlot,
)
from callbacks.pictures import save_scatter
from datamodules import MNISTDataModule
from gen_lightning.vae import AutoregressiveBernoulli

COMMON = ["--data.source=digits", "--data.batch_size=256", "--trainer.logger=false", "--trainer.max_epochs=2"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["gan/dcgan", "vae/conv"])
def test_weights_are_bit_equal_with_and_without_callbacks(fit, recipe):
    """The models have batch normalization, whose buffers a sample in training mode would change."""
    arguments = ["--config", str(CONFIGS / f"{recipe}.yaml"), *COMMON]
    often = fit(*arguments, "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1")
    never = fit(*arguments, "--trainer.callbacks=null", "--trainer.limit_val_batches=0")
    one, other = (load(folder / "checkpoints/last.ckpt")["state_dict"] for folder in (often, never))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_pictures_show_the_same_latents_each_time(fit):
    folder = fit(
        "--config",
        str(CONFIGS / "vae/vae.yaml"),
        *COMMON,
        "--trainer.callbacks=callbacks.SampleGrid",
        "--trainer.callbacks.every_n_iterations=3",
        "--trainer.callbacks.num_images=16",
        "--trainer.callbacks+=callbacks.Reconstructions",
        "--model.optimizer.lr=0",
    )
    samples = sorted(folder.glob("samples/*.png"))
    assert [path.name for path in samples] == [f"iteration_000000{iteration}.png" for iteration in (3, 6, 8)]
    pixels = [np.asarray(Image.open(path)) for path in samples]
    assert pixels[0].shape == (4 * 30 + 2, 4 * 30 + 2, 3)
    assert all((one == pixels[0]).all() for one in pixels)
    assert len(list(folder.glob("reconstructions/*.png"))) == 2


def test_reconstructions_are_below_their_originals(tmp_path):
    """The reconstructions are negatives of twelve images; the last four are in a second pair of rows."""

    model = vae()
    model.reconstruct = lambda x: 1 - x
    callbacks = [Reconstructions(num_images=12)]
    options = {"logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=tmp_path, callbacks=callbacks, max_steps=1, val_check_interval=1, **options)
    trainer.fit(model, MNISTDataModule("digits", binarization="dynamic"))
    (path,) = tmp_path.glob("reconstructions/*.png")
    grey = np.asarray(Image.open(path).convert("L"))
    cells = np.stack([[grey[y : y + 28, x : x + 28] for x in range(2, 242, 30)] for y in range(2, 122, 30)]).astype(int)
    originals, negatives = cells[::2].reshape(16, 28, 28)[:12], cells[1::2].reshape(16, 28, 28)[:12]
    assert (originals + negatives == 255).all()
    assert not cells[2:, 4:].any()


def test_reconstructions_leave_the_random_state(tmp_path):
    """The likelihood samples its means."""
    states = []

    class Watch(Callback):
        def on_validation_batch_end(self, *_) -> None:
            states.append(torch.get_rng_state())

    data = MNISTDataModule("digits", binarization="dynamic")
    callbacks = [Watch(), Reconstructions(num_images=2), Watch()]
    options = {"logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=tmp_path, callbacks=callbacks, max_steps=1, val_check_interval=1, **options)
    trainer.fit(vae(likelihood=AutoregressiveBernoulli), data)
    assert len(list(tmp_path.glob("reconstructions/*.png"))) == 1
    before, after = states[::2], states[1::2]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_sample_grid_needs_no_data_module(tmp_path):
    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", "max_steps": 1}
    trainer = Trainer(default_root_dir=tmp_path, callbacks=[SampleGrid()], **options)
    trainer.fit(gan(), DataLoader(TensorDataset(torch.rand(2, 1, 28, 28), torch.zeros(2)), 2))
    assert [path.name for path in tmp_path.glob("samples/*.png")] == ["iteration_0000001.png"]


def test_pictures_of_points_are_refused_before_training():
    trainer = Trainer(callbacks=[SampleGrid()], logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(ValueError, match=r"SampleGrid draws grey or RGB images, and the data have shape \(2,\)"):
        trainer.fit(gan(data_shape=(2,)), [torch.zeros(2, 2)])


@pytest.mark.parametrize("pictures", [SampleGrid, LatentCodeGrid, ScatterPlot])
def test_pictures_every_0_iterations_are_refused(pictures):
    with pytest.raises(ValueError, match=rf"`{pictures.__name__}\.every_n_iterations` is 0\. Choose at least 1"):
        pictures(every_n_iterations=0)


@pytest.mark.parametrize(
    ("callback", "number", "least"),
    [
        (SampleGrid, "num_images", 1),
        (LatentCodeGrid, "num_columns", 1),
        (ScatterPlot, "num_points", 1),
        (Reconstructions, "num_images", 1),
        (LatentInterpolations, "num_pairs", 1),
        (LatentInterpolations, "num_steps", 1),
        (LatentTraversals, "num_dimensions", 1),
        (LatentTraversals, "num_steps", 1),
        (LatentTraversals, "num_images", 2),
        (LatentManifold, "num_steps", 1),
        (Evaluation, "num_samples", 1),
        (ImportanceSampledLikelihood, "num_samples", 1),
        (ImportanceSampledLikelihood, "num_images", 2),
    ],
)
def test_numbers_that_are_too_small_are_refused(callback, number, least):
    sentence = rf"`{callback.__name__}\.{number}` is {least - 1}\. Choose at least {least}"
    with pytest.raises(ValueError, match=sentence):
        callback(**{number: least - 1})
    callback(**{number: least})


def test_compiling_a_missing_network_is_refused():
    trainer = Trainer(callbacks=[Compile(["encoder"])], logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(ValueError, match=r"GANModule has no such network. Choose among generator, discriminator"):
        trainer.fit(gan(), [torch.zeros(2, 1, 28, 28)])


def test_a_scatter_plot_shows_samples_over_the_real_points(tmp_path):
    real, samples = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([[-1.0, 1.0], [100.0, 0.0]])
    save_scatter(real, samples, tmp_path / "one.png")
    save_scatter(real, samples[1:], tmp_path / "other.png")
    one, other = (np.asarray(Image.open(tmp_path / name)).astype(int)[..., :3] for name in ("one.png", "other.png"))
    # The plots differ only by the sample within the axes of the real points, at the upper left.
    rows, columns, _ = (one != other).nonzero()
    assert rows.size > 0
    assert (rows.max() < 250, columns.max() < 250) == (True, True)


def test_a_scatter_plot_of_images_is_refused_before_training():
    trainer = Trainer(callbacks=[ScatterPlot()], logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(ValueError, match="ScatterPlot draws points in the plane"):
        trainer.fit(gan(), MNISTDataModule("digits"))
