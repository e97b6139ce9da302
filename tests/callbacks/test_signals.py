"""Evaluation and pictures of series."""

import io

import numpy as np
import pytest
import torch
from helpers import GivenModel, gan, run_test, vae
from lightning.pytorch import Trainer
from PIL import Image

from callbacks import SignalEvaluation, SignalPlot, SignalReconstructions
from callbacks.example_evaluation import Examples
from callbacks.signal_pictures import save_signals
from datamodules import SignalDataModule
from gen_lightning.errors import UserError
from gen_lightning.networks import MLPDecoder, SignalDecoder, SignalDiscriminator, SignalEncoder
from gen_lightning.vae import Gaussian

N, SHAPE = 250, (2, 16)


def draw_waves(n, generator, labels):
    """Return waves [n, 2, 16] of random phase, of two or of four periods for the labels 0 and 1, with some noise."""
    phases = 2 * torch.pi * torch.rand(n, 1, 1, generator=generator)
    times = torch.arange(16) / 16 * 2 * torch.pi * (2 + 2 * labels[:, None, None])
    delays = torch.tensor([0, torch.pi / 2])[:, None]
    return (times + phases + delays).sin() + 0.1 * torch.randn(n, *SHAPE, generator=generator)


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    path = tmp_path_factory.mktemp("waves") / "waves.npz"
    labels = torch.arange(N) % 2
    series = draw_waves(N, torch.Generator().manual_seed(0), labels)
    np.savez(path, data=series.numpy(), labels=labels.numpy())
    return SignalDataModule(str(path), val_fraction=0.1, test_fraction=0.4, batch_size=32)


class Waves(GivenModel):
    """Samples of the data's distribution, changed by a function."""

    def __init__(self, change=lambda series: series, num_classes=None):
        super().__init__()
        self.data_shape, self.change, self.num_classes = SHAPE, change, num_classes

    def sample(self, n, *, generator, labels=None):
        drawn = torch.randint(2, (n,), generator=generator) if labels is None else labels
        series = draw_waves(n, generator, drawn)
        # The data module has standardized the data, whose variance is nearly 1/2.
        return self.change(series / 0.5**0.5)


def test_samples_of_the_same_distribution_are_at_the_floor(waves):
    rows = run_test(SignalEvaluation(), Waves(), waves)
    assert rows["two_sample_accuracy"].value == pytest.approx(0.5, abs=0.1)
    for name in ("log_spectral_distance", "feature_distance", "marginal_distance", "correlation_difference"):
        assert rows[name].value < rows[name].floor + 4 * np.hypot(rows[name].error, rows[name].floor_error) + 0.1, name
    assert all(row.n == 100 and row.floor_n == 62 and row.better for row in rows.values())
    assert "trained_on_samples" not in rows


CHANGES = {
    "noise": (lambda series: series + 0.5 * torch.randn_like(series), "log_spectral_distance", 3),
    "scale": (lambda series: 2 * series, "feature_distance", 0.5),
    "one frequency": (lambda series: series[:1].expand_as(series), "spectral_wasserstein", 0.01),
    "shuffled times": (lambda series: series[..., torch.randperm(16)], "autocorrelation_difference", 0.1),
    "equal channels": (lambda series: series[:, :1].expand_as(series), "correlation_difference", 0.9),
    "offset": (lambda series: series + 1, "marginal_distance", 0.8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_distance_tells_of_its_change(change, waves):
    apply, name, least = CHANGES[change]
    torch.manual_seed(0)
    waves.setup("test")
    real = Examples(torch.cat(list(waves.signals("test"))), None)
    same, changed = (
        SignalEvaluation().compare(Examples(data, None), real)[name].value for data in (real.data, apply(real.data))
    )
    assert same < 1e-12
    assert changed > least


def test_labels_of_samples_train_a_classifier(waves):
    rows = run_test(SignalEvaluation(), Waves(num_classes=2), waves)
    assert rows["trained_on_samples"].value > 0.95
    assert rows["trained_on_samples"].floor > 0.95
    noise = run_test(SignalEvaluation(num_samples=60), Waves(torch.randn_like, num_classes=2), waves)
    assert noise["trained_on_samples"].value < 0.8
    assert noise["two_sample_accuracy"].value > 0.9


def test_copies_of_training_series_are_memorized(waves):
    waves.setup("test")
    series = torch.cat(list(waves.signals("train")))
    copies = Waves(lambda samples: series[: len(samples)])
    rows = run_test(SignalEvaluation(num_samples=60), copies, waves)
    assert rows["memorization"].value == 1
    assert rows["memorization"].floor < 0.1


def test_too_few_series_are_refused(waves):
    with pytest.raises(UserError, match=r"needs at least 5 held-out examples and samples, and there are 100 and 3\. C"):
        run_test(SignalEvaluation(num_samples=3), Waves(), waves)


def build(kind):
    networks = {"data_shape": SHAPE, "latent_dim": 3}
    if kind == "gan":
        return gan(generator=SignalDecoder, discriminator=SignalDiscriminator, **networks)
    likelihood = lambda shape: Gaussian(shape, squash=torch.nn.Identity, noisy_samples=True)  # noqa: E731
    return vae(encoder=SignalEncoder, decoder=SignalDecoder, likelihood=likelihood, **networks)


@pytest.mark.parametrize("kind", ["gan", "vae"])
def test_pictures_are_drawn(kind, waves, tmp_path):
    callbacks = [SignalPlot(every_n_iterations=1, num_signals=5)]
    callbacks += [SignalReconstructions(num_images=9)] if kind == "vae" else []
    trainer = Trainer(
        max_steps=2,
        max_epochs=1,
        val_check_interval=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        callbacks=callbacks,
    )
    trainer.fit(build(kind), waves)
    names = ["samples/iteration_0000001.png", "samples/iteration_0000002.png"]
    names += ["reconstructions/iteration_0000002.png"] * (kind == "vae")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == sorted(names)


def test_each_series_is_drawn_once():
    """The series of two channels are in the left half, and one of one channel in the first panel of the right half."""
    file = io.BytesIO()
    two_channels = torch.zeros(5, 2, 9) + torch.tensor([[1.0], [-1.0]])
    save_signals([{"real": two_channels}, {"samples": torch.zeros(1, 1, 9)}], file)
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    # The lines are thin, and mixed with the background.
    blue, orange = pixels[..., 2] - pixels[..., 0] > 60, pixels[..., 0] - pixels[..., 2] > 60
    middle = pixels.shape[1] // 2
    assert all(part.any() for part in (blue[:, :middle], orange[:, :middle], blue[:, middle:]))
    assert not orange[:, middle:].any()
    assert not blue[:, round(1.3 * middle) :].any()
    assert not blue[pixels.shape[0] // 2 :, middle:].any()


def test_data_that_are_no_series_are_refused(waves):
    model = gan(generator=MLPDecoder, data_shape=(1, 4, 4))
    for callback in (SignalPlot(), SignalReconstructions()):
        with pytest.raises(UserError, match=r"draws series \(C, T\), and the data have shape \(1, 4, 4\). Choose"):
            callback.setup(Trainer(accelerator="cpu", logger=False), model, "fit")
    with pytest.raises(UserError, match="num_signals"):
        SignalPlot(num_signals=0)
