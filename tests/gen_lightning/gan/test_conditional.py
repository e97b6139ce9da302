"""A GAN that is conditional on classes: what its players see, its regularizers, its samples, and what it refuses."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import gan, load
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from datamodules import MNISTDataModule
from gen_lightning.gan import (
    DRAGAN,
    EMA,
    R1,
    R2,
    Consistency,
    DiscriminatorPass,
    GradientPenalty,
    Hinge,
    Lazy,
    MismatchedLabels,
    RelativisticPaired,
)
from gen_lightning.networks import (
    ConditionalGenerator,
    DCGANGenerator,
    DifferentiableAugmentation,
    MLPDecoder,
    MLPDiscriminator,
    MLPEncoder,
    MLPGenerator,
    ProjectionDiscriminator,
    SpectralNorm,
)

FOUR_CLASSES = partial(ProjectionDiscriminator, encoder=MLPEncoder, num_classes=4)
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def conditional(num_classes=3, hidden_dims=(16,), **arguments):
    """A GAN of points in the plane that are of classes."""
    defaults = {
        "generator": partial(
            ConditionalGenerator,
            generator=partial(MLPDecoder, hidden_dims=hidden_dims),
            num_classes=num_classes,
            embedding_dim=4,
        ),
        "discriminator": partial(
            ProjectionDiscriminator,
            encoder=partial(MLPEncoder, hidden_dims=hidden_dims),
            num_classes=num_classes,
            num_features=16,
        ),
        "data_shape": (2,),
        "latent_dim": 3,
    }
    torch.manual_seed(0)
    return gan(**defaults | arguments)


def train(model, *tensors, batch_size=10, steps=1):
    trainer = Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", **QUIET)
    trainer.fit(model, DataLoader(TensorDataset(*tensors), batch_size))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("loss", [Hinge(), RelativisticPaired()])
def test_every_pass_is_of_the_labels_of_its_part_of_the_batch(loss):
    model, data, labels = conditional(discriminator_steps=2, loss=loss), torch.randn(10, 2), torch.arange(10) % 3
    generated, judged = [], []
    model.generator.register_forward_hook(lambda module, args, output: generated.append(args[1]))
    model.discriminator.register_forward_hook(lambda module, args, output: judged.append(args[1]))
    train(model, data, labels)
    first, second = labels.chunk(2)
    assert torch.equal(torch.stack(generated), torch.stack([first, second, second]))
    by_the_generator = [second] * (2 if loss.relativistic else 1)
    assert torch.equal(torch.stack(judged), torch.stack([first, first, second, second, *by_the_generator]))


REGULARIZERS = [R1(2.0), R2(2.0), GradientPenalty(3.0), DRAGAN(3.0), Consistency(nn.Dropout(), 2.0), Lazy(R1(), 2)]


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=lambda regularizer: type(regularizer).__name__)
def test_with_one_label_a_regularizer_is_that_of_an_unconditional_discriminator(regularizer):
    """D(., y) is one; values and the weights' gradients."""
    discriminator, labels = conditional().discriminator, torch.full((6,), 2)
    real, fake = torch.randn(6, 2, requires_grad=True), torch.randn(6, 2, requires_grad=True)

    def of_the_class(data):
        return discriminator(data, labels)

    logits = of_the_class(real), of_the_class(fake)
    results = []
    for state in (
        DiscriminatorPass(discriminator, real, fake, *logits, 0, condition=(labels,)),
        DiscriminatorPass(of_the_class, real, fake, *logits, 0),
    ):
        torch.manual_seed(0)
        penalty = regularizer(state)
        gradients = torch.autograd.grad(penalty, list(discriminator.parameters()), retain_graph=True, allow_unused=True)
        results.append([penalty, *(gradient for gradient in gradients if gradient is not None)])
    assert results[0][0] > 0
    assert len(results[0]) > 4
    torch.testing.assert_close(*results)


class Table(nn.Module):
    """D(x, y) of examples x that are row numbers."""

    def __init__(self, logits):
        super().__init__()
        self.num_classes = logits.shape[1]
        self.logits = nn.Parameter(logits)

    def forward(self, rows, labels):
        return self.logits[rows.long(), labels]


def mismatched_labels(network, rows, labels, regularizer=None):
    real = rows.float().requires_grad_()
    logits = network(real, labels)
    state = DiscriminatorPass(network, real, real, logits, logits, 0, (labels,))
    return (regularizer or MismatchedLabels())(state)


def test_mismatched_labels_of_two_classes_are_the_other_ones():
    """By hand, in NumPy's float64; of two classes there is one wrong label, and nothing is random."""
    logits = np.random.default_rng(0).normal(size=(6, 2)) * 3
    labels = np.array([0, 1, 1, 0, 1, 0])
    rows = np.arange(6)
    margins = logits[rows, labels] - logits[rows, 1 - labels]
    term = mismatched_labels(
        Table(torch.tensor(logits)), torch.tensor(rows), torch.tensor(labels), MismatchedLabels(2.5)
    )
    np.testing.assert_allclose(term.item(), 2.5 * np.log1p(np.exp(-margins)).mean(), rtol=1e-12)


def test_mismatched_labels_are_each_of_the_others_equally_often():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    network, n = Table(logits), 30_000
    mismatched_labels(network, torch.zeros(n), torch.full((n,), 2)).backward()
    slopes = torch.sigmoid(logits[0] - 2.0) / 3
    slopes[2] = -(slopes.sum() - slopes[2])
    torch.testing.assert_close(network.logits.grad[0], slopes, atol=0.01, rtol=0)


def test_mismatched_labels_are_least_where_logits_differ_by_log_odds():
    """Its gradient is 0 at log p(y | x), whatever is added for all classes."""
    probabilities = torch.tensor([[0.1, 0.6, 0.3], [0.98, 0.01, 0.01]], dtype=torch.float64)
    network, n = Table(probabilities.log() + torch.tensor([[5.0], [-3.0]])), 100_000
    rows = torch.arange(2).repeat_interleave(n)
    labels = torch.cat([torch.arange(3).repeat_interleave((row * n).round().long()) for row in probabilities])
    mismatched_labels(network, rows, labels).backward()
    assert network.logits.grad.abs().max() < 1e-3
    uniform = Table(torch.zeros(2, 3, dtype=torch.float64))
    mismatched_labels(uniform, rows, labels).backward()
    assert uniform.logits.grad.abs().max() > 0.1


def test_mismatched_labels_are_nothing_to_a_discriminator_that_does_not_look_at_them():
    rows, labels = torch.arange(6), torch.arange(6) % 3
    term = mismatched_labels(Table(torch.randn(6, 1).expand(6, 3).clone()), rows, labels, MismatchedLabels(2.0))
    torch.testing.assert_close(term, torch.tensor(2 * math.log(2)))


@pytest.mark.parametrize("build", [MismatchedLabels, lambda: Lazy(MismatchedLabels(), 4)])
def test_mismatched_labels_of_a_discriminator_that_takes_none_are_refused(build):
    with pytest.raises(ValueError, match="takes none: take ProjectionDiscriminator"):
        gan(regularizers=[build()])
    with pytest.raises(ValueError, match="of 2 or more classes"):
        conditional(num_classes=1, regularizers=[build()])
    conditional(num_classes=2, regularizers=[build()])


def test_r1_of_a_batch_is_the_mean_over_its_classes():
    discriminator, real = conditional().discriminator, torch.randn(9, 2, requires_grad=True)
    labels = torch.arange(9) % 3

    def r1(chosen):
        part, condition = real[chosen], (labels[chosen],)
        logits = discriminator(part, *condition)
        return R1()(DiscriminatorPass(discriminator, part, part, logits, logits, 0, condition))

    of_classes = [r1(labels == label) for label in range(3)]
    torch.testing.assert_close(r1(labels >= 0), torch.stack(of_classes).mean())
    assert of_classes[0] != of_classes[1]


def test_learns_where_each_class_is():
    centers = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0]])
    adam = partial(torch.optim.Adam, lr=5e-3, betas=(0.5, 0.9))
    model = conditional(regularizers=[R1(0.3)], generator_optimizer=adam, discriminator_optimizer=adam)
    labels = torch.arange(4096) % 3
    train(model, centers[labels] + 0.1 * torch.randn(4096, 2), labels, batch_size=64, steps=150)
    asked = torch.arange(300) % 3
    samples = model.sample(300, generator=seeded(0), labels=asked)
    for label, center in enumerate(centers):
        assert (samples[asked == label].mean(0) - center).norm() < 0.5


@pytest.fixture
def model():
    """Of images, with batch normalization."""
    generator = partial(ConditionalGenerator, generator=partial(DCGANGenerator, width=4), num_classes=3)
    return conditional(data_shape=(1, 28, 28), generator=generator)


class TestSample:
    def test_a_label_changes_its_own_sample_and_nothing_else(self, model):
        labels = torch.tensor([0, 1, 2, 1])
        samples = model.sample(4, generator=seeded(1), labels=labels)
        assert torch.equal(samples, model.sample(4, generator=seeded(1), labels=labels))
        others = model.sample(4, generator=seeded(1), labels=torch.tensor([0, 2, 2, 0]))
        assert [torch.equal(one, other) for one, other in zip(samples, others, strict=True)] == [True, False] * 2

    def test_labels_are_drawn_from_the_generator_alone_each_equally_likely(self, model):
        state = torch.get_rng_state()
        samples = model.sample(50, generator=seeded(1))
        assert torch.equal(state, torch.get_rng_state())
        generator = seeded(1)
        torch.randint(2**62, (), generator=generator)
        labels = model.draw_labels(50, generator)
        assert torch.equal(samples, model.sample(50, generator=seeded(1), labels=labels))
        counts = model.draw_labels(30_000, seeded(0)).bincount()
        assert (counts - 10_000).abs().max() < 5 * (30_000 * 2 / 9) ** 0.5

    def test_the_average_is_sampled_where_there_is_one(self):
        model, labels = conditional(ema=partial(EMA, half_life=0.0)), torch.arange(20) % 3
        train(model, torch.randn(20, 2), labels, steps=2)
        average = model.sample(20, generator=seeded(1), labels=labels)
        model.ema = None
        torch.testing.assert_close(average, model.sample(20, generator=seeded(1), labels=labels))

    @pytest.mark.parametrize(
        ("labels", "sentence"),
        [
            (torch.tensor([0, 3]), r"a label 3, and the model's classes are 0 to 2"),
            (torch.tensor([-1, 0]), r"a label -1"),
            (torch.tensor([0]), r"give a class for each, int64 \[2\]"),
            (torch.tensor([0.0, 1.0]), r"float32"),
        ],
    )
    def test_labels_that_are_no_classes_are_refused(self, model, labels, sentence):
        with pytest.raises(ValueError, match=sentence):
            model.sample(2, generator=seeded(1), labels=labels)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ((torch.randn(10, 2),), "the data have no labels"),
        ((torch.randn(10, 2), torch.arange(10)), "a label 3"),
        ((torch.randn(10, 2), torch.zeros(10)), "float32"),
    ],
)
def test_data_without_the_models_classes_are_refused_before_any_update(tensors, sentence):
    model = conditional()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=sentence):
        train(model, *tensors)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("networks", "sentence"),
    [
        ({"generator": MLPDecoder}, "num_classes is None of the generator and 3 of the discriminator"),
        ({"discriminator": MLPDiscriminator}, "num_classes is 3 of the generator and None of the discriminator"),
        ({"discriminator": FOUR_CLASSES}, "num_classes is 3 of the generator and 4 of the discriminator"),
    ],
)
def test_both_players_know_the_same_classes_or_neither_knows_any(networks, sentence):
    with pytest.raises(ValueError, match=sentence):
        conditional(**networks)


def test_resumes_exactly(tmp_path):
    """Mid-epoch, with labels, spectral normalization, augmentation and an average."""

    def fit(steps, ckpt_path=None):
        trainer = Trainer(max_steps=steps, accelerator="cpu", default_root_dir=tmp_path, limit_val_batches=1, **QUIET)
        discriminator = partial(ProjectionDiscriminator, encoder=MLPEncoder)
        model = conditional(
            generator=partial(ConditionalGenerator, generator=MLPGenerator),
            discriminator=partial(
                DifferentiableAugmentation, discriminator=partial(SpectralNorm, discriminator=discriminator)
            ),
            data_shape=(1, 28, 28),
            ema=EMA,
        )
        trainer.fit(model, MNISTDataModule("digits", batch_size=256), ckpt_path=ckpt_path, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return load(tmp_path / f"{steps}.ckpt")

    uninterrupted = fit(7)
    fit(3)
    resumed = fit(7, tmp_path / "3.ckpt")
    for name, value in uninterrupted["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
