"""CollapseMonitor: an extreme case of each event, and a healthy run."""

import warnings

import pytest
import torch
from helpers import CONFIGS, adam, gan, read_wandb_records, vae
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CollapseMonitor
from gen_lightning.gan import R1, Minimax

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
}
EVENTS = ("has won", "overfits", "have collapsed")


def points(seed):
    return torch.randn(500, 2, generator=torch.Generator().manual_seed(seed))


TRAINING, HELD_OUT = points(1), points(2)


class Shift(nn.Module):
    """A generator of points: latents that are scaled and shifted."""

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        self.scale = scale
        self.shift = nn.Parameter(torch.full((2,), shift))

    def forward(self, z):
        return self.scale * z + self.shift


class Memory(nn.Module):
    """A discriminator that recognizes the training examples; a small slope gives the generator a gradient."""

    def __init__(self, data_shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, data):
        known = (torch.cdist(data, TRAINING).min(1).values < 1e-3).float()
        return self.weight * (2 * known - 1) + 0.01 * data.sum(1)


def frozen(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def plane(**arguments):
    torch.manual_seed(0)
    defaults = {"generator": lambda *sizes: Shift(), "data_shape": (2,), "latent_dim": 2, "generator_optimizer": frozen}
    return gan(**defaults | arguments)


def events(model, monitor, epochs=20):
    """Train for epochs of 5 iterations; return the reported events in order, and the trainer."""
    trainer = Trainer(max_epochs=epochs, callbacks=[monitor], log_every_n_steps=1, **QUIET)
    loaders = [DataLoader(TensorDataset(data, torch.zeros(500)), 100) for data in (TRAINING, HELD_OUT)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, *loaders)
    texts = [str(warning.message) for warning in caught]
    return [event for text in texts for event in EVENTS if f"{event} at iteration" in text], trainer


def fast_adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


FAR_AWAY = {
    "generator": lambda *sizes: Shift(shift=20.0),
    "discriminator_optimizer": fast_adam,
    "loss": Minimax(),
}


@pytest.mark.slow
def test_a_healthy_run_has_no_event():
    model = plane(generator_optimizer=adam, regularizers=[R1(1.0)])
    assert events(model, CollapseMonitor())[0] == []


@pytest.mark.slow
def test_a_discriminator_that_has_won_is_reported_once():
    """The generator is far from the data, and its minimax loss saturates."""
    reported, trainer = events(plane(**FAR_AWAY), CollapseMonitor())
    assert reported == ["has won"]
    assert trainer.global_step == 100


@pytest.mark.slow
def test_a_perfect_discriminator_whose_generator_still_learns_has_not_won():
    """The generator is as far from the data, but its loss does not saturate."""
    assert events(plane(**FAR_AWAY | {"loss": gan().loss}), CollapseMonitor())[0] == []


def test_training_stops_if_stop_is_set():
    _, trainer = events(plane(**FAR_AWAY), CollapseMonitor(stop=True))
    assert 5 < trainer.global_step < 100


@pytest.mark.parametrize(("epochs", "expected"), [(1, []), (2, ["have collapsed"]), (3, ["have collapsed"])])
def test_equal_samples_in_two_validations_are_a_collapse(epochs, expected):
    model = plane(generator=lambda *sizes: Shift(scale=0.0), discriminator_optimizer=frozen)
    reported, trainer = events(model, CollapseMonitor(), epochs)
    assert reported == expected
    assert trainer.callback_metrics["val/sample_diversity"] == 0


def test_the_diversity_of_a_scaled_distribution_is_its_scale():
    _, trainer = events(plane(generator=lambda *sizes: Shift(scale=0.5)), CollapseMonitor(num_samples=20), epochs=1)
    samples = 0.5 * torch.pdist(plane().sample(20, generator=torch.Generator().manual_seed(0))).mean()
    expected = samples / torch.pdist(HELD_OUT[:20]).mean()
    torch.testing.assert_close(trainer.callback_metrics["val/sample_diversity"], expected)


@pytest.mark.slow
def test_a_discriminator_that_recognizes_the_training_examples_overfits():
    assert events(plane(discriminator=Memory), CollapseMonitor())[0] == ["overfits"]


@pytest.mark.slow
def test_a_resumed_run_is_not_warned_again():
    monitor, resumed = CollapseMonitor(), CollapseMonitor()
    events(plane(**FAR_AWAY), monitor)
    resumed.load_state_dict(monitor.state_dict())
    assert events(plane(**FAR_AWAY), resumed, epochs=1)[0] == []
    assert resumed.state_dict()["largest_norm"] == monitor.state_dict()["largest_norm"]


def test_training_is_bit_equal_with_and_without_it():
    one = plane(generator_optimizer=adam)
    events(one, CollapseMonitor(), epochs=3)
    other = plane(generator_optimizer=adam)
    events(other, CollapseMonitor(num_samples=3, seed=1), epochs=3)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_model_without_a_discriminator_is_refused():
    trainer = Trainer(callbacks=[CollapseMonitor()], **QUIET)
    with pytest.raises(ValueError, match="needs a model with a discriminator, but VAEModule has no `discriminator`"):
        trainer.fit(vae(), [torch.zeros(2, 1, 28, 28)])


@pytest.mark.parametrize(
    ("argument", "value", "sentence"),
    [
        ("accuracy", 99, r"accuracy` is 99\. Choose at least 0 and at most 1"),
        ("diversity", -0.1, r"diversity` is -0\.1\. Choose at least 0 and at most 1"),
        ("patience", 0, r"patience` is 0\. Choose at least 1"),
        ("num_samples", 1, r"num_samples` is 1\. Choose at least 2"),
    ],
)
def test_arguments_out_of_range_are_refused(argument, value, sentence):
    with pytest.raises(ValueError, match=rf"`CollapseMonitor\.{sentence}"):
        CollapseMonitor(**{argument: value})


@pytest.mark.slow
def test_wandb_is_alerted(fit):
    """The generator keeps its initial weights, whose samples are all grey."""
    run = fit(
        *("--config", str(CONFIGS / "gan/mlp.yaml"), "--data.source=digits", "--data.batch_size=256"),
        *("--trainer.callbacks=callbacks.CollapseMonitor", "--trainer.callbacks.validations=1"),
        *("--model.generator_optimizer.lr=0", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"),
    )
    alerts = [record.alert for record in read_wandb_records(run) if record.HasField("alert")]
    assert [alert.title for alert in alerts] == ["The samples have collapsed"]
    assert "at iteration 4" in alerts[0].text
