"""Losses against binary cross-entropy in float64, which they are another writing of."""

import pytest
import torch
import torch.nn.functional as F

from gen_lightning.gan import Minimax, NonSaturating

REAL = torch.tensor([-3.0, -0.5, 0.0, 2.0, 7.0], dtype=torch.float64)
FAKE = torch.tensor([4.0, 0.3, 0.0, -1.0, -6.0], dtype=torch.float64)


def cross_entropy(logits, target):
    return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, target))


@pytest.mark.parametrize("loss", [Minimax(), NonSaturating()])
def test_discriminators_loss_is_the_cross_entropy(loss):
    expected = cross_entropy(REAL, 1) + cross_entropy(FAKE, 0)
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), expected)


@pytest.mark.parametrize(("loss", "target", "sign"), [(Minimax(), 0, -1), (NonSaturating(), 1, 1)])
def test_generators_loss(loss, target, sign):
    torch.testing.assert_close(loss.generator(None, FAKE), sign * cross_entropy(FAKE, target))


@pytest.mark.parametrize(
    ("loss", "derivative"),
    [(Minimax(), lambda logits: -torch.sigmoid(logits)), (NonSaturating(), lambda logits: torch.sigmoid(logits) - 1)],
)
def test_generators_gradients(loss, derivative):
    """Minimax vanishes where the discriminator is sure of a fake; non-saturating does not (section 3)."""
    logits = FAKE.clone().requires_grad_()
    loss.generator(None, logits).backward()
    torch.testing.assert_close(logits.grad, derivative(FAKE) / len(FAKE))


@pytest.mark.parametrize("loss", [Minimax(), NonSaturating()])
def test_finite_at_any_logit(loss):
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    total = loss.discriminator(logits, logits) + loss.generator(None, logits)
    total.backward()
    assert total.isfinite()
    assert logits.grad.isfinite().all()


def test_at_the_equilibrium_the_discriminator_loses_log_four():
    """Goodfellow et al. 2014, theorem 1."""
    logits = torch.zeros(3)
    assert NonSaturating().discriminator(logits, logits).item() == pytest.approx(torch.log(torch.tensor(4.0)).item())
