"""A class-conditional GAN: inputs of both networks, regularizers, samples, and refusals."""

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


def build_conditional_gan(num_classes=3, hidden_dims=(16,), **arguments):
    """Return a class-conditional GAN of points in the plane."""
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


def make_generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("loss", [Hinge(), RelativisticPaired()])
def test_every_pass_uses_the_labels_of_its_part_of_the_batch(loss):
    model = build_conditional_gan(discriminator_steps=2, loss=loss)
    data, labels = torch.randn(10, 2), torch.arange(10) % 3
    generated, seen = [], []
    model.generator.register_forward_hook(lambda module, args, output: generated.append(args[1]))
    model.discriminator.register_forward_hook(lambda module, args, output: seen.append(args[1]))
    train(model, data, labels)
    first, second = labels.chunk(2)
    assert torch.equal(torch.stack(generated), torch.stack([first, second, second]))
    in_generator_update = [second] * (2 if loss.relativistic else 1)
    assert torch.equal(torch.stack(seen), torch.stack([first, first, second, second, *in_generator_update]))


REGULARIZERS = [R1(2.0), R2(2.0), GradientPenalty(3.0), DRAGAN(3.0), Consistency(nn.Dropout(), 2.0), Lazy(R1(), 2)]


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=lambda regularizer: type(regularizer).__name__)
def test_with_one_label_a_regularizer_equals_that_of_an_unconditional_discriminator(regularizer):
    """With a fixed label y, D(., y) is unconditional. Values and gradients of the weights are compared."""
    discriminator, labels = build_conditional_gan().discriminator, torch.full((6,), 2)
    real, fake = torch.randn(6, 2, requires_grad=True), torch.randn(6, 2, requires_grad=True)

    def discriminate(data):
        return discriminator(data, labels)

    logits = discriminate(real), discriminate(fake)
    results = []
    for state in (
        DiscriminatorPass(discriminator, real, fake, *logits, 0, condition=(labels,)),
        DiscriminatorPass(discriminate, real, fake, *logits, 0),
    ):
        torch.manual_seed(0)
        penalty = regularizer(state)
        gradients = torch.autograd.grad(penalty, list(discriminator.parameters()), retain_graph=True, allow_unused=True)
        results.append([penalty, *(gradient for gradient in gradients if gradient is not None)])
    assert results[0][0] > 0
    assert len(results[0]) > 4
    torch.testing.assert_close(*results)


class Table(nn.Module):
    """A discriminator whose logit D(x, y) is a table entry; the example x is a row number."""

    def __init__(self, logits):
        super().__init__()
        self.num_classes = logits.shape[1]
        self.logits = nn.Parameter(logits)

    def forward(self, rows, labels):
        return self.logits[rows.long(), labels]


def compute_mismatched_labels(network, rows, labels, regularizer=None):
    real = rows.float().requires_grad_()
    logits = network(real, labels)
    state = DiscriminatorPass(network, real, real, logits, logits, 0, (labels,))
    return (regularizer or MismatchedLabels())(state)


def test_with_two_classes_the_wrong_label_is_the_other_class():
    """Compared with NumPy's float64. With two classes there is only one wrong label, so that nothing is random."""
    logits = np.random.default_rng(0).normal(size=(6, 2)) * 3
    labels = np.array([0, 1, 1, 0, 1, 0])
    rows = np.arange(6)
    margins = logits[rows, labels] - logits[rows, 1 - labels]
    term = compute_mismatched_labels(
        Table(torch.tensor(logits)), torch.tensor(rows), torch.tensor(labels), MismatchedLabels(2.5)
    )
    np.testing.assert_allclose(term.item(), 2.5 * np.log1p(np.exp(-margins)).mean(), rtol=1e-12)


def test_each_wrong_label_is_equally_likely():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    network, n = Table(logits), 30_000
    compute_mismatched_labels(network, torch.zeros(n), torch.full((n,), 2)).backward()
    slopes = torch.sigmoid(logits[0] - 2.0) / 3
    slopes[2] = -(slopes.sum() - slopes[2])
    torch.testing.assert_close(network.logits.grad[0], slopes, atol=0.01, rtol=0)


def test_the_minimum_of_mismatched_labels_has_logit_differences_equal_to_log_odds():
    """The gradient is 0 at log p(y | x) plus any constant that all classes share."""
    probabilities = torch.tensor([[0.1, 0.6, 0.3], [0.98, 0.01, 0.01]], dtype=torch.float64)
    network, n = Table(probabilities.log() + torch.tensor([[5.0], [-3.0]])), 100_000
    rows = torch.arange(2).repeat_interleave(n)
    labels = torch.cat([torch.arange(3).repeat_interleave((row * n).round().long()) for row in probabilities])
    compute_mismatched_labels(network, rows, labels).backward()
    assert network.logits.grad.abs().max() < 1e-3
    uniform = Table(torch.zeros(2, 3, dtype=torch.float64))
    compute_mismatched_labels(uniform, rows, labels).backward()
    assert uniform.logits.grad.abs().max() > 0.1


def test_mismatched_labels_are_constant_for_a_discriminator_that_ignores_labels():
    rows, labels = torch.arange(6), torch.arange(6) % 3
    term = compute_mismatched_labels(Table(torch.randn(6, 1).expand(6, 3).clone()), rows, labels, MismatchedLabels(2.0))
    torch.testing.assert_close(term, torch.tensor(2 * math.log(2)))


@pytest.mark.parametrize("build", [MismatchedLabels, lambda: Lazy(MismatchedLabels(), 4)])
def test_mismatched_labels_need_a_conditional_discriminator(build):
    with pytest.raises(ValueError, match=r"at least 2 classes\. Choose ProjectionDiscriminator"):
        gan(regularizers=[build()])
    with pytest.raises(ValueError, match="conditional on at least 2 classes"):
        build_conditional_gan(num_classes=1, regularizers=[build()])
    build_conditional_gan(num_classes=2, regularizers=[build()])


def test_r1_of_a_batch_is_the_mean_over_its_classes():
    discriminator, real = build_conditional_gan().discriminator, torch.randn(9, 2, requires_grad=True)
    labels = torch.arange(9) % 3

    def r1(chosen):
        part, condition = real[chosen], (labels[chosen],)
        logits = discriminator(part, *condition)
        return R1()(DiscriminatorPass(discriminator, part, part, logits, logits, 0, condition))

    by_class = [r1(labels == label) for label in range(3)]
    torch.testing.assert_close(r1(labels >= 0), torch.stack(by_class).mean())
    assert by_class[0] != by_class[1]


@pytest.mark.slow
def test_learns_the_mean_of_each_class():
    centers = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0]])
    adam = partial(torch.optim.Adam, lr=5e-3, betas=(0.5, 0.9))
    model = build_conditional_gan(regularizers=[R1(0.3)], generator_optimizer=adam, discriminator_optimizer=adam)
    labels = torch.arange(4096) % 3
    train(model, centers[labels] + 0.1 * torch.randn(4096, 2), labels, batch_size=64, steps=150)
    requested = torch.arange(300) % 3
    samples = model.sample(300, generator=make_generator(0), labels=requested)
    for label, center in enumerate(centers):
        assert (samples[requested == label].mean(0) - center).norm() < 0.5


@pytest.fixture
def model():
    """A class-conditional GAN of images, with batch normalization."""
    generator = partial(ConditionalGenerator, generator=partial(DCGANGenerator, width=4), num_classes=3)
    return build_conditional_gan(data_shape=(1, 28, 28), generator=generator)


class TestSample:
    def test_a_label_changes_only_its_own_sample(self, model):
        labels = torch.tensor([0, 1, 2, 1])
        samples = model.sample(4, generator=make_generator(1), labels=labels)
        assert torch.equal(samples, model.sample(4, generator=make_generator(1), labels=labels))
        others = model.sample(4, generator=make_generator(1), labels=torch.tensor([0, 2, 2, 0]))
        assert [torch.equal(one, other) for one, other in zip(samples, others, strict=True)] == [True, False] * 2

    def test_labels_are_uniform_and_drawn_from_the_generator_alone(self, model):
        state = torch.get_rng_state()
        samples = model.sample(50, generator=make_generator(1))
        assert torch.equal(state, torch.get_rng_state())
        generator = make_generator(1)
        torch.randint(2**62, (), generator=generator)
        labels = model.draw_labels(50, generator)
        assert torch.equal(samples, model.sample(50, generator=make_generator(1), labels=labels))
        counts = model.draw_labels(30_000, make_generator(0)).bincount()
        assert (counts - 10_000).abs().max() < 5 * (30_000 * 2 / 9) ** 0.5

    def test_samples_come_from_the_average_if_there_is_one(self):
        model, labels = build_conditional_gan(ema=partial(EMA, half_life=0.0)), torch.arange(20) % 3
        train(model, torch.randn(20, 2), labels, steps=2)
        average = model.sample(20, generator=make_generator(1), labels=labels)
        model.ema = None
        torch.testing.assert_close(average, model.sample(20, generator=make_generator(1), labels=labels))

    @pytest.mark.parametrize(
        ("labels", "sentence"),
        [
            (torch.tensor([0, 3]), r"a label 3, but the model's classes are 0 to 2"),
            (torch.tensor([-1, 0]), r"a label -1"),
            (torch.tensor([0]), r"Give one class per example, int64 \[2\]"),
            (torch.tensor([0.0, 1.0]), r"float32"),
        ],
    )
    def test_invalid_labels_are_refused(self, model, labels, sentence):
        with pytest.raises(ValueError, match=sentence):
            model.sample(2, generator=make_generator(1), labels=labels)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ((torch.randn(10, 2),), "the data have no labels"),
        ((torch.randn(10, 2), torch.arange(10)), "a label 3"),
        ((torch.randn(10, 2), torch.zeros(10)), "float32"),
    ],
)
def test_data_without_valid_labels_are_refused_before_any_update(tensors, sentence):
    model = build_conditional_gan()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=sentence):
        train(model, *tensors)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("networks", "sentence"),
    [
        ({"generator": MLPDecoder}, "num_classes is None in the generator and 3 in the discriminator"),
        ({"discriminator": MLPDiscriminator}, "num_classes is 3 in the generator and None in the discriminator"),
        ({"discriminator": FOUR_CLASSES}, "num_classes is 3 in the generator and 4 in the discriminator"),
    ],
)
def test_both_networks_must_have_the_same_num_classes(networks, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_conditional_gan(**networks)


@pytest.mark.slow
def test_resumes_exactly(tmp_path):
    """Resuming in the middle of an epoch, with labels, spectral normalization, augmentation and an EMA."""

    def fit(steps, ckpt_path=None):
        trainer = Trainer(max_steps=steps, accelerator="cpu", default_root_dir=tmp_path, limit_val_batches=1, **QUIET)
        discriminator = partial(ProjectionDiscriminator, encoder=MLPEncoder)
        model = build_conditional_gan(
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
