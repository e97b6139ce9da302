"""Losses against formulas in NumPy's float64, and against binary cross-entropy, which equals some of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import gan
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from gen_lightning.gan import Hinge, LeastSquares, Minimax, NonSaturating, RelativisticPaired, Wasserstein
from gen_lightning.gan.losses import compute_logit_statistics

REAL = torch.tensor([-3.0, -0.5, 0.0, 2.0, 7.0], dtype=torch.float64)
FAKE = torch.tensor([4.0, 0.3, 0.0, -1.0, -6.0], dtype=torch.float64)
LOSSES = [Minimax(), NonSaturating(), LeastSquares(), Wasserstein(), Hinge(), RelativisticPaired()]


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def get_name(value):
    return type(value).__name__


# For each loss: the discriminator's and the generator's loss of each example, then the derivatives of the
# discriminator's loss with respect to the real and the fake logit, and of the generator's with respect to the fake one.
FORMULAS = {
    Minimax: (
        lambda real, fake: -np.log(sigmoid(real)) - np.log(1 - sigmoid(fake)),
        lambda real, fake: np.log(1 - sigmoid(fake)),
        lambda real, fake: (sigmoid(real) - 1, sigmoid(fake), -sigmoid(fake)),
    ),
    NonSaturating: (
        lambda real, fake: -np.log(sigmoid(real)) - np.log(1 - sigmoid(fake)),
        lambda real, fake: -np.log(sigmoid(fake)),
        lambda real, fake: (sigmoid(real) - 1, sigmoid(fake), sigmoid(fake) - 1),
    ),
    LeastSquares: (
        lambda real, fake: ((real - 1) ** 2 + fake**2) / 2,
        lambda real, fake: (fake - 1) ** 2 / 2,
        lambda real, fake: (real - 1, fake, fake - 1),
    ),
    Wasserstein: (
        lambda real, fake: fake - real,
        lambda real, fake: -fake,
        lambda real, fake: (-np.ones(5), np.ones(5), -np.ones(5)),
    ),
    Hinge: (
        lambda real, fake: np.maximum(0, 1 - real) + np.maximum(0, 1 + fake),
        lambda real, fake: -fake,
        # At the margin (fake logit -1) the subgradient of PyTorch's ReLU is 0.
        lambda real, fake: (-1.0 * (real < 1), 1.0 * (fake > -1), -np.ones(5)),
    ),
    RelativisticPaired: (
        lambda real, fake: -np.log(sigmoid(real - fake)),
        lambda real, fake: -np.log(sigmoid(fake - real)),
        lambda real, fake: (sigmoid(real - fake) - 1, 1 - sigmoid(real - fake), -sigmoid(real - fake)),
    ),
}


def cross_entropy(logits, target):
    return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, target))


@pytest.mark.parametrize("loss", LOSSES, ids=get_name)
def test_values_equal_the_papers(loss):
    discriminator, generator, _ = FORMULAS[type(loss)]
    real, fake = REAL.numpy(), FAKE.numpy()
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(discriminator(real, fake).mean())
    real_logits = REAL if loss.relativistic else None
    assert loss.generator(real_logits, FAKE).item() == pytest.approx(generator(real, fake).mean())


@pytest.mark.parametrize("loss", LOSSES, ids=get_name)
def test_gradients_equal_the_papers(loss):
    """The minimax gradient of the generator vanishes for a confident discriminator; the other losses' does not."""
    expected = [torch.as_tensor(slope / 5.0) for slope in FORMULAS[type(loss)][2](REAL.numpy(), FAKE.numpy())]
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    ours = torch.autograd.grad(loss.discriminator(real, fake), [real, fake])
    ours += torch.autograd.grad(loss.generator(real if loss.relativistic else None, fake), [fake])
    torch.testing.assert_close(list(ours), expected)


@pytest.mark.parametrize("loss", [Minimax(), NonSaturating()], ids=get_name)
def test_the_discriminators_loss_is_the_cross_entropy(loss):
    expected = cross_entropy(REAL, 1) + cross_entropy(FAKE, 0)
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), expected)


@pytest.mark.parametrize("loss", LOSSES, ids=get_name)
def test_losses_and_gradients_are_finite_at_any_logit(loss):
    real = torch.tensor([-1e4, -1e4, 1e4, 1e4], requires_grad=True)
    fake = torch.tensor([-1e4, 1e4, -1e4, 1e4], requires_grad=True)
    total = loss.discriminator(real, fake) + loss.generator(real if loss.relativistic else None, fake)
    total.backward()
    assert total.isfinite()
    assert real.grad.isfinite().all()
    assert fake.grad.isfinite().all()


def test_the_discriminators_loss_at_the_equilibrium_is_log_four():
    """Goodfellow et al. 2014, theorem 1."""
    logits = torch.zeros(3)
    assert NonSaturating().discriminator(logits, logits).item() == pytest.approx(torch.log(torch.tensor(4.0)).item())


def test_a_relativistic_loss_is_invariant_to_a_constant_shift_of_all_logits():
    loss = RelativisticPaired()
    torch.testing.assert_close(loss.discriminator(REAL + 3, FAKE + 3), loss.discriminator(REAL, FAKE))
    torch.testing.assert_close(loss.generator(REAL + 3, FAKE + 3), loss.generator(REAL, FAKE))


def train(model):
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.rand(20, 1, 28, 28), torch.zeros(20)), 10)
    trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(model, loader)
    return max(parameter.abs().max().item() for parameter in model.discriminator.parameters())


def test_weights_are_clipped_after_each_discriminator_update():
    model = gan(loss=Wasserstein(clip=0.01), discriminator_steps=2)
    bounds = []
    model.discriminator.register_forward_hook(
        lambda module, args, output: bounds.append(max(weight.abs().max().item() for weight in module.parameters()))
    )
    assert train(model) == pytest.approx(0.01)
    after_first_update = bounds[2:]
    assert all(bound <= 0.01 + 1e-9 for bound in after_first_update)
    assert train(gan(loss=Wasserstein())) > 0.02


def test_wasserstein_refuses_a_clip_that_is_not_positive():
    with pytest.raises(ValueError, match="Choose above 0"):
        Wasserstein(clip=0.0)


@pytest.mark.parametrize(
    ("loss", "real_accuracy", "fake_accuracy"),
    [
        (NonSaturating(), 2 / 5, 2 / 5),  # boundary 0; a logit of 0 counts on neither side
        (Hinge(), 2 / 5, 2 / 5),
        (LeastSquares(), 2 / 5, 4 / 5),  # boundary 1/2
        (Wasserstein(), 2 / 5, 3 / 5),  # boundary 0.28, the midpoint of the means 1.1 and -0.54
        (RelativisticPaired(), 2 / 5, 3 / 5),
    ],
    ids=lambda value: get_name(value) if not isinstance(value, float) else "",
)
def test_accuracies_are_fractions_on_the_correct_side_of_the_losss_boundary(loss, real_accuracy, fake_accuracy):
    statistics = compute_logit_statistics(loss, REAL, FAKE)
    assert statistics["logit_gap"].item() == pytest.approx(1.1 - -0.54)
    assert statistics["real_accuracy"].item() == pytest.approx(real_accuracy)
    assert statistics["fake_accuracy"].item() == pytest.approx(fake_accuracy)


@pytest.mark.parametrize("loss", LOSSES, ids=get_name)
def test_accuracies_of_perfectly_separated_logits_are_one(loss):
    statistics = compute_logit_statistics(loss, REAL + 100, FAKE - 100)
    assert (statistics["real_accuracy"], statistics["fake_accuracy"]) == (1, 1)


@pytest.mark.parametrize("loss", [Wasserstein(), RelativisticPaired()], ids=get_name)
def test_a_constant_shift_of_all_logits_changes_no_accuracy_of_a_relative_loss(loss):
    one, other = compute_logit_statistics(loss, REAL, FAKE), compute_logit_statistics(loss, REAL + 50, FAKE + 50)
    for name in ("logit_gap", "real_accuracy", "fake_accuracy"):
        torch.testing.assert_close(one[name], other[name])
