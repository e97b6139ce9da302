"""Regularizers against closed forms, and against derivatives by hand in NumPy's float64."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import CONFIGS, gan, load
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Compile
from gen_lightning.gan import (
    DRAGAN,
    R1,
    R2,
    Consistency,
    DiscriminatorPass,
    GradientPenalty,
    Lazy,
    LeCam,
    MismatchedLabels,
    Wasserstein,
)
from gen_lightning.gan.regularizers import compute_example_gradients
from gen_lightning.networks import (
    Affine,
    DCGANDiscriminator,
    DCGANGenerator,
    DifferentiableAugmentation,
    MLPDiscriminator,
    Packing,
)
from gen_lightning.schedules import Linear

WEIGHT = torch.tensor([3.0, -4.0], dtype=torch.float64)  # its norm is 5


def build_state(discriminator, real, fake, iteration=0):
    real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    return DiscriminatorPass(discriminator, real, fake, discriminator(real), discriminator(fake), iteration)


def draw_points(n, seed=0, shift=0.0):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


class Tanh(nn.Module):
    """The discriminator v . tanh(W x), whose gradient is W^T (v (1 - tanh^2(W x)))."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.weight = nn.Parameter(torch.randn(4, 2, dtype=torch.float64, generator=generator))
        self.head = nn.Parameter(torch.randn(4, dtype=torch.float64, generator=generator))

    def forward(self, data):
        return (data @ self.weight.T).tanh() @ self.head

    def compute_slope_norms(self, data):
        weight, head = self.weight.detach().numpy(), self.head.detach().numpy()
        slopes = ((1 - np.tanh(data.numpy() @ weight.T) ** 2) * head) @ weight
        return np.sqrt((slopes**2).sum(1))


class Shift(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, data):
        return data + self.shift


def get_name(value):
    return getattr(value, "name", None)


REGULARIZERS = [
    R1(2.0),
    R2(2.0),
    GradientPenalty(3.0),
    GradientPenalty(3.0, one_sided=True),
    DRAGAN(3.0),
    LeCam(decay=0.5).double(),
    Consistency(Shift(0.3), 2.0),
]
PER_EXAMPLE = [regularizer for regularizer in REGULARIZERS if regularizer.per_example]


@pytest.mark.parametrize(
    ("regularizer", "value", "slope"),
    [
        (R1(6.0), 6 / 2 * 25, 6.0),
        (R2(6.0), 6 / 2 * 25, 6.0),
        (GradientPenalty(6.0), 6 * (5 - 1) ** 2, 2 * 6 * (5 - 1) / 5),
        (GradientPenalty(6.0, one_sided=True), 6 * (5 - 1) ** 2, 2 * 6 * (5 - 1) / 5),
        (DRAGAN(6.0), 6 * (5 - 1) ** 2, 2 * 6 * (5 - 1) / 5),
    ],
    ids=get_name,
)
def test_penalties_of_a_linear_discriminator_have_closed_forms(regularizer, value, slope):
    """The penalty is a function of |w| = 5 for any data, and `slope` times w is its derivative."""
    weight = nn.Parameter(WEIGHT.clone())
    penalty = regularizer(build_state(lambda x: x @ weight, draw_points(5), draw_points(5, seed=1)))
    assert penalty.item() == pytest.approx(value)
    penalty.backward()
    torch.testing.assert_close(weight.grad, slope * WEIGHT)


@pytest.mark.parametrize(("one_sided", "value"), [(False, 10 * 0.25), (True, 0.0)])
def test_the_one_sided_penalty_is_zero_for_norms_below_one(one_sided, value):
    weight = WEIGHT / 10
    state = build_state(lambda x: x @ weight, draw_points(5), draw_points(5, seed=1))
    penalty = GradientPenalty(10.0, one_sided)(state)
    assert penalty.item() == pytest.approx(value)


@pytest.mark.parametrize("regularizer", [GradientPenalty(), DRAGAN()], ids=get_name)
def test_a_constant_discriminator_has_finite_derivatives(regularizer):
    """The norm is not differentiable at 0, but a discriminator that is initialized at 0 must train."""
    weight = nn.Parameter(torch.zeros(2))
    regularizer(build_state(lambda x: x @ weight, torch.randn(3, 2), torch.randn(3, 2))).backward()
    assert weight.grad.isfinite().all()


def test_r1_and_r2_equal_penalties_by_hand():
    network, real, fake = Tanh(), draw_points(5), draw_points(5, seed=1, shift=1.0)
    state = build_state(network, real, fake)
    assert R1(3.0)(state).item() == pytest.approx(3 / 2 * (network.compute_slope_norms(real) ** 2).mean())
    assert R2(3.0)(state).item() == pytest.approx(3 / 2 * (network.compute_slope_norms(fake) ** 2).mean())


@pytest.mark.parametrize("one_sided", [False, True])
def test_the_gradient_penalty_equals_a_penalty_by_hand(one_sided):
    network, real, fake = Tanh(), draw_points(5), draw_points(5, seed=1, shift=1.0)
    torch.manual_seed(3)
    penalty = GradientPenalty(2.0, one_sided)(build_state(network, real, fake))
    torch.manual_seed(3)
    epsilon = torch.rand(5, 1, dtype=torch.float64)
    excess = network.compute_slope_norms(epsilon * real + (1 - epsilon) * fake) - 1
    assert (excess < 0).any()
    assert (excess > 0).any()
    excess = np.maximum(excess, 0) if one_sided else excess
    assert penalty.item() == pytest.approx(2 * (excess**2).mean())


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_each_pack_has_its_own_interpolation_point(degree):
    seen = []

    class Recorder(nn.Module):
        def forward(self, data):
            seen.append(data.detach())
            return data.flatten(1).sum(1)

    network = Packing((2,), lambda shape: Recorder(), degree)
    state = build_state(network, torch.ones(12, 2), torch.zeros(12, 2))
    GradientPenalty()(state)
    packs = seen[-1].flatten(1)
    assert packs.shape == (12 // degree, 2 * degree)
    assert (packs == packs[:, :1]).all()
    assert len(packs[:, 0].unique()) == 12 // degree


def test_the_noise_of_dragan_has_the_root_mean_square_of_the_authors_code():
    """Half of MNIST's standard deviation, 0.3081, times a uniform number for each pixel and one for each example."""
    rms = 0.5 * 0.3081 * (1 / 3) ** 0.5 * (1 / 3) ** 0.5
    assert DRAGAN().noise == pytest.approx(rms, rel=0.01)
    seen = []
    data = torch.full((200, 2), 0.5)
    DRAGAN()(build_state(lambda x: seen.append(x.detach()) or x.sum(1), data, data))
    assert (seen[-1] - data).square().mean().sqrt().item() == pytest.approx(rms, rel=0.1)


def test_each_pair_has_its_own_interpolation_point():
    seen = []

    def discriminator(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    real, fake = torch.ones(64, 3, 2, 2), torch.zeros(64, 3, 2, 2)
    torch.manual_seed(0)
    GradientPenalty()(build_state(discriminator, real, fake))
    between = seen[-1].flatten(1)
    assert torch.equal(between.min(1).values, between.max(1).values)
    assert len(between[:, 0].unique()) == 64
    assert between.min() < 0.1
    assert between.max() > 0.9


def test_dragan_equals_a_penalty_by_hand():
    network, real = Tanh(), draw_points(5)
    torch.manual_seed(3)
    penalty = DRAGAN(2.0, noise=0.5)(build_state(network, real, draw_points(5, seed=1)))
    torch.manual_seed(3)
    perturbed = real + 0.5 * torch.randn(5, 2, dtype=torch.float64)
    assert penalty.item() == pytest.approx(2 * ((network.compute_slope_norms(perturbed) - 1) ** 2).mean())


def test_consistency_equals_the_formula():
    network, real = Tanh(), draw_points(5)
    penalty = Consistency(Shift(0.3), 2.0)(build_state(network, real, draw_points(5, seed=1)))
    difference = network(real) - network(real + 0.3)
    assert penalty.item() == pytest.approx(2 * np.square(difference.detach().numpy()).mean())


def test_consistency_of_a_linear_discriminator_is_its_squared_change_along_the_shift():
    shift = torch.tensor([2.0, 1.0], dtype=torch.float64)
    penalty = Consistency(Shift(shift), 3.0)(build_state(lambda x: x @ WEIGHT, draw_points(5), draw_points(5)))
    assert penalty.item() == pytest.approx(3 * (3 * 2 - 4 * 1) ** 2)


def test_lecam_equals_the_formula_with_averages_by_hand():
    regularizer = LeCam(weight=2.0, decay=0.9).double()
    real_average = fake_average = 0.0
    for step in range(4):
        state = build_state(Tanh(), draw_points(5, seed=step), draw_points(5, seed=step + 9))
        penalty = regularizer(state)
        real, fake = state.real_logits.detach().numpy(), state.fake_logits.detach().numpy()
        real_average = 0.9 * real_average + 0.1 * real.mean()
        fake_average = 0.9 * fake_average + 0.1 * fake.mean()
        expected = 2 * (((real - fake_average) ** 2).mean() + ((fake - real_average) ** 2).mean())
        assert penalty.item() == pytest.approx(expected)


@pytest.mark.parametrize("regularizer", PER_EXAMPLE, ids=get_name)
def test_the_penalty_of_two_examples_is_the_mean_of_their_penalties(regularizer):
    """This fails for norms over the whole batch, and for one epsilon per batch."""
    network, real, fake = Tanh(), draw_points(2), draw_points(2, seed=1, shift=1.0)
    torch.manual_seed(3)
    both = regularizer(build_state(network, real, fake))
    torch.manual_seed(3)
    singles = [regularizer(build_state(network, real[i : i + 1], fake[i : i + 1])) for i in range(2)]
    assert both.item() == pytest.approx((singles[0].item() + singles[1].item()) / 2)


def test_norms_cover_all_dimensions_of_an_example():
    """D(x) = |x|^2 / 2 has the gradient x. R1 is the mean of the squared norms, not the squared norm of the mean."""
    real = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 2.0]]])
    value = R1(gamma=2.0)(build_state(lambda x: x.square().sum((1, 2)) / 2, real, real))
    assert value.item() == pytest.approx((1 + 1 + 4) / 3)


def test_the_gradient_of_a_pack_is_one_row():
    data = draw_points(6).requires_grad_()
    logits = (data.square().sum(1) / 2).view(3, 2).sum(1)
    assert torch.equal(compute_example_gradients(logits, data), data.detach().view(3, 4))


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=get_name)
def test_a_lazy_regularizer_of_interval_one_changes_nothing(regularizer):
    values = []
    for term in (regularizer, Lazy(regularizer, interval=1)):
        torch.manual_seed(3)
        network = Tanh()
        for buffer in regularizer.buffers():
            buffer.zero_()
        value = term(build_state(network, draw_points(4), draw_points(4, seed=1), iteration=5))
        gradients = torch.autograd.grad(value, list(network.parameters()))
        values.append([value, *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*values, strict=True))
    assert Lazy(regularizer, 1).name == regularizer.name


def test_the_mean_of_a_lazy_regularizer_over_its_interval_equals_the_regularizer():
    lazy, r1 = Lazy(R1(2.0), interval=4), R1(2.0)
    network, real, fake = Tanh(), draw_points(4), draw_points(4, seed=1)
    values = [lazy(build_state(network, real, fake, iteration)).item() for iteration in range(8)]
    assert [value > 0 for value in values] == [True, False, False, False] * 2
    assert np.mean(values) == pytest.approx(r1(build_state(network, real, fake)).item())


@pytest.mark.parametrize("regularizer", PER_EXAMPLE, ids=get_name)
def test_penalties_are_computed_in_float32_under_mixed_precision(regularizer):
    """Value and derivatives are bit-identical to those without autocast."""
    torch.manual_seed(0)
    network = MLPDiscriminator((20,), hidden_dims=(32,))
    real, fake = torch.randn(8, 20), torch.randn(8, 20)
    results = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            penalty = regularizer(build_state(network, real, fake))
        results.append([penalty, *torch.autograd.grad(penalty, list(network.parameters()), allow_unused=True)[:-1]])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def train(model, callbacks=(), **arguments):
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.rand(20, *model.data_shape), torch.zeros(20)), 10)
    trainer = Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=list(callbacks), **arguments
    )
    trainer.fit(model, loader)


def test_penalties_are_differentiated_in_float32_under_mixed_precision():
    """If only the penalty has a gradient, bf16-mixed trains bit-identical discriminator weights to float32."""

    class Zero(Wasserstein):
        def discriminator(self, real_logits, fake_logits):
            return torch.zeros(())

    weights = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(1)
        model = gan(loss=Zero(), regularizers=[R1(10.0)], generator_optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        train(model, precision=precision)
        weights.append(list(model.discriminator.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_all_regularizers_train_together_and_are_logged_by_name(precision):
    seen = {}
    model = gan(regularizers=[R1(), R2(), GradientPenalty(), DRAGAN(), LeCam(), Consistency(Shift(0.3))])
    model.log_iteration = lambda scalars, iteration, batch_size: seen.update(scalars)
    train(model, precision=precision)
    assert {"r1", "r2", "gradient_penalty", "dragan", "lecam", "consistency"} <= seen.keys()
    assert all(value.isfinite() and value.dtype == torch.float32 for value in seen.values())


@pytest.mark.slow
def test_averages_are_in_the_checkpoint_and_resume_exactly(fit):
    regularizers = (
        "[{class_path: gen_lightning.gan.LeCam},"
        " {class_path: gen_lightning.gan.Lazy, init_args: {interval: 2, regularizer: gen_lightning.gan.R1}}]"
    )
    arguments = [
        f"--config={CONFIGS}/gan/mlp.yaml",
        f"--model.regularizers={regularizers}",
        "--data.source=digits",
        "--data.batch_size=256",
        "--trainer.logger=false",
        "--trainer.limit_val_batches=0",
    ]
    reference = fit(*arguments, "--trainer.max_steps=5")
    folder = fit(*arguments, "--trainer.max_steps=3")
    fit("--resume", str(folder), "--trainer.max_steps=5")
    ours, theirs = (load(path / "checkpoints/last.ckpt")["state_dict"] for path in (folder, reference))
    assert {"regularizers.0.real_average", "regularizers.0.fake_average"} <= ours.keys()
    assert ours["regularizers.0.real_average"] != ours["regularizers.0.fake_average"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_regularizers_without_state_add_nothing_to_the_checkpoint():
    assert gan(regularizers=[R1(), Lazy(R2())]).state_dict().keys() == gan().state_dict().keys()


@pytest.mark.parametrize("regularizer", [*PER_EXAMPLE, Lazy(R1())], ids=get_name)
def test_a_per_example_penalty_refuses_batch_normalization(regularizer):
    with pytest.raises(ValueError, match="batch normalization mixes examples"):
        gan(generator=DCGANGenerator, discriminator=DCGANDiscriminator, regularizers=[regularizer])


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", [*PER_EXAMPLE, Lazy(R1())], ids=get_name)
def test_a_gradient_penalty_refuses_a_compiled_discriminator_before_training(regularizer):
    with pytest.raises(ValueError, match="Compile only the generator"):
        train(gan(regularizers=[regularizer]), [Compile(["generator", "discriminator"])])


def test_a_gradient_penalty_refuses_an_augmentation_without_a_second_derivative_before_training():
    discriminator = partial(DifferentiableAugmentation, discriminator=MLPDiscriminator, augmentations=[Affine()])
    with pytest.raises(ValueError, match=r"Affine has none\. Remove one of them"):
        train(gan(regularizers=[R1()], discriminator=discriminator), [])


def test_weight_clipping_refuses_spectral_normalization():
    def discriminator(data_shape):
        network = MLPDiscriminator(data_shape)
        nn.utils.parametrizations.spectral_norm(network.layers[0])
        return network

    gan(loss=Wasserstein(), discriminator=discriminator)
    with pytest.raises(ValueError, match="Set the loss's clip to null"):
        gan(loss=Wasserstein(clip=0.01), discriminator=discriminator)


def test_two_terms_with_the_same_name_are_refused():
    with pytest.raises(ValueError, match="have the same name: discriminator_loss, r1, r1"):
        gan(regularizers=[R1(1.0), Lazy(R1(2.0))])


@pytest.mark.parametrize(
    "build", [R1, R2, GradientPenalty, DRAGAN, LeCam, MismatchedLabels, lambda w: Consistency(Shift(0.3), w)]
)
def test_a_negative_weight_is_refused(build):
    with pytest.raises(ValueError, match="Choose at least 0"):
        build(-1.0)


@pytest.mark.parametrize("build", [lambda: Lazy(R1(), 0), lambda: LeCam(decay=1.0), lambda: DRAGAN(noise=-1.0)])
def test_arguments_out_of_range_are_refused(build):
    with pytest.raises(ValueError, match="Choose"):
        build()


@pytest.mark.parametrize(
    "make", [R1, R2, GradientPenalty, DRAGAN, LeCam, lambda weight: Consistency(Shift(1.0), weight)]
)
def test_a_weight_follows_its_schedule(make):
    """Compared with the same regularizer whose weight is the schedule's value at the iteration."""
    for iteration, weight in [(0, 1.0), (5, 0.55), (10, 0.1), (100, 0.1)]:
        terms = []
        for given in (Linear(1.0, 0.1, 10), weight):
            torch.manual_seed(0)
            terms.append(make(given)(build_state(Tanh(), draw_points(8), draw_points(8, seed=1, shift=1.0), iteration)))
        torch.testing.assert_close(*terms)
        assert terms[0] > 0


def test_refuses_a_schedule_that_starts_below_zero():
    with pytest.raises(ValueError, match="Choose at least 0"):
        R1(Linear(-1.0, 1.0, 10))
