"""The Dirac-GAN (Mescheder, Geiger & Nowozin 2018, section 2): which losses and regularizers converge.

The data are the point 0, the generator is a point theta, and the discriminator is the line psi x. If the equilibrium
logit of a loss is not 0, a constant is added to the line. At the equilibrium (0, 0) the Jacobian of the gradient field
is [[0, f], [-f, -gamma]], where f is the slope of the loss and gamma the curvature of the regularizer.
"""

import cmath

import pytest
import torch
from torch import nn

from gen_lightning.gan import (
    DRAGAN,
    R1,
    R2,
    Consistency,
    DiscriminatorPass,
    GradientPenalty,
    Hinge,
    Lazy,
    LeastSquares,
    LeCam,
    Minimax,
    NonSaturating,
    RelativisticPaired,
    Wasserstein,
)

SLOPES = {Minimax: 0.5, NonSaturating: 0.5, LeastSquares: 0.5, Wasserstein: 1.0, Hinge: 1.0, RelativisticPaired: 0.5}
LOSSES = [loss() for loss in SLOPES]


class Shift(nn.Module):
    """An augmentation that shifts data by 1/2, which changes the logit by psi / 2."""

    def forward(self, data):
        return data + 0.5


# Regularizers with curvature gamma at the equilibrium.
CURVED = {
    "r1": lambda gamma: [R1(gamma)],
    "r2": lambda gamma: [R2(gamma)],
    "r1 and r2": lambda gamma: [R1(gamma / 3), R2(2 * gamma / 3)],
    "consistency": lambda gamma: [Consistency(Shift(), 2 * gamma)],
}
# Regularizers without curvature at the equilibrium: they vanish to second order.
FLAT = {
    "nothing": lambda loss: [],
    "one-sided gradient penalty": lambda loss: [GradientPenalty(one_sided=True)],
    "lecam": lambda loss: [build_lecam_at_equilibrium(loss)],
}
# Regularizers with a kink at the equilibrium, which push the slope of the discriminator to 1.
KINKED = {"gradient penalty": lambda loss: [GradientPenalty(2.0)], "dragan": lambda loss: [DRAGAN(2.0)]}


def build_lecam_at_equilibrium(loss):
    regularizer = LeCam().double()
    regularizer.real_average.fill_(get_equilibrium_logit(loss))
    regularizer.fake_average.fill_(get_equilibrium_logit(loss))
    return regularizer


def get_equilibrium_logit(loss):
    return 0.5 if isinstance(loss, LeastSquares) else 0.0


def get_name(value):
    return type(value).__name__ if not isinstance(value, str) else value


def compute_gradients(point, loss, regularizers, iteration=0):
    """Return the derivatives of the generator's loss by theta and of the discriminator's loss by psi."""
    theta, psi = point

    def discriminator(x):
        return get_equilibrium_logit(loss) + psi * x[:, 0]

    real = torch.zeros(1, 1, dtype=torch.float64).requires_grad_()
    fake = theta.view(1, 1)
    real_logits, fake_logits = discriminator(real), discriminator(fake)
    state = DiscriminatorPass(discriminator, real, fake, real_logits, fake_logits, iteration)
    discriminator_loss = loss.discriminator(real_logits, fake_logits)
    discriminator_loss = discriminator_loss + sum(regularizer(state) for regularizer in regularizers)
    generator_loss = loss.generator(real_logits if loss.relativistic else None, fake_logits)
    (by_theta,) = torch.autograd.grad(generator_loss, theta, create_graph=True)
    (by_psi,) = torch.autograd.grad(discriminator_loss, psi, create_graph=True)
    return torch.stack([by_theta, by_psi])


def compute_eigenvalues(loss, regularizers):
    """Return the eigenvalues of the Jacobian of the negative gradients at (0, 0), in a fixed order."""
    # At a point very close to (0, 0), because autograd has no second derivative of the norm at 0.
    point = torch.tensor([0.0, 1e-12], dtype=torch.float64)

    def field(point):
        return -compute_gradients(point.unbind(), loss, regularizers)

    jacobian = torch.autograd.functional.jacobian(field, point)
    return sorted(torch.linalg.eigvals(jacobian).tolist(), key=lambda value: (value.real, value.imag))


def predict_eigenvalues(slope, gamma):
    """Return the paper's eigenvalues with R1 of weight gamma: -gamma / 2 +- sqrt(gamma^2 / 4 - f^2)."""
    root = cmath.sqrt(gamma**2 / 4 - slope**2)
    return sorted([-gamma / 2 - root, -gamma / 2 + root], key=lambda value: (value.real, value.imag))


@pytest.mark.parametrize("gamma", [0.2, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("regularizer", CURVED)
@pytest.mark.parametrize("loss", LOSSES, ids=get_name)
def test_eigenvalues_with_a_curved_regularizer(loss, regularizer, gamma):
    # The double eigenvalue at gamma = 2 f is accurate only to the square root of the precision.
    expected = pytest.approx(predict_eigenvalues(SLOPES[type(loss)], gamma), abs=1e-7)
    assert compute_eigenvalues(loss, CURVED[regularizer](gamma)) == expected


@pytest.mark.parametrize("regularizer", FLAT)
@pytest.mark.parametrize("loss", LOSSES, ids=get_name)
def test_eigenvalues_without_a_curved_regularizer_are_imaginary(loss, regularizer):
    slope = SLOPES[type(loss)]
    assert compute_eigenvalues(loss, FLAT[regularizer](loss)) == pytest.approx([-1j * slope, 1j * slope])


@pytest.mark.parametrize("regularizer", KINKED)
@pytest.mark.parametrize("loss", LOSSES, ids=get_name)
def test_unit_norm_penalties_push_the_discriminator_away_from_the_equilibrium(loss, regularizer):
    """The derivative of 2 (|psi| - 1)^2 jumps from 4 to -4 at 0."""
    for side in (-1, 1):
        point = torch.tensor([0.0, side * 1e-9], dtype=torch.float64).requires_grad_()
        _, by_psi = compute_gradients(point.unbind(), loss, KINKED[regularizer](loss))
        assert by_psi.item() == pytest.approx(-4 * side)


def compute_distances(loss, regularizers, alternating, step_size=0.5, steps=150):
    """Return the distance to the equilibrium after each gradient descent step, relative to the start at (0.1, 0.1).

    Alternating descent updates the discriminator first, as GANModule does.
    """
    theta, psi = (nn.Parameter(torch.tensor(0.1, dtype=torch.float64)) for _ in range(2))
    holder = nn.ParameterList([psi])
    start = torch.stack([theta, psi]).norm().item()
    seen = []
    for iteration in range(steps):
        by_theta, by_psi = compute_gradients((theta, psi), loss, regularizers, iteration)
        psi.data -= step_size * by_psi.detach()
        loss.constrain(holder)
        if alternating:
            by_theta, _ = compute_gradients((theta, psi), loss, [])
        theta.data -= step_size * by_theta.detach()
        seen.append(torch.stack([theta, psi]).norm().item() / start)
    return seen


def converges(slope, gamma, step_size, alternating):
    """Return whether both eigenvalues of the linearized step are inside the unit circle, by Jury's criterion."""
    h = step_size
    if alternating:
        return gamma > 0 and 2 * h * gamma + (h * slope) ** 2 < 4
    return h * slope**2 < gamma and 2 * h * gamma < 4 + (h * slope) ** 2


@pytest.mark.parametrize("alternating", [False, True], ids=["simultaneous", "alternating"])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0, 3.8, 4.1])
@pytest.mark.parametrize("loss", [NonSaturating(), Wasserstein()], ids=get_name)
def test_gradient_descent_with_r1_converges_exactly_if_the_theory_predicts_it(loss, gamma, alternating):
    """With steps of 1/2: simultaneous for f^2 / 2 < gamma < 4 + f^2 / 4, alternating for 0 < gamma < 4 - f^2 / 4."""
    last = compute_distances(loss, [R1(gamma)], alternating, steps=400)[-1]
    if converges(SLOPES[type(loss)], gamma, 0.5, alternating):
        assert last < 1e-3
    else:
        assert last > 0.1


@pytest.mark.parametrize("alternating", [False, True], ids=["simultaneous", "alternating"])
@pytest.mark.parametrize("loss", LOSSES, ids=get_name)
@pytest.mark.parametrize("regularizer", [*CURVED, "lazy r1"])
def test_gradient_descent_converges_with_every_curved_regularizer(loss, regularizer, alternating):
    assert converges(SLOPES[type(loss)], 1.5, 0.5, alternating)
    terms = [Lazy(R1(1.5), interval=2)] if regularizer == "lazy r1" else CURVED[regularizer](1.5)
    assert compute_distances(loss, terms, alternating)[-1] < 1e-3


@pytest.mark.parametrize("alternating", [False, True], ids=["simultaneous", "alternating"])
@pytest.mark.parametrize("loss", [*LOSSES, Wasserstein(clip=0.05)], ids=get_name)
@pytest.mark.parametrize("regularizer", FLAT | KINKED)
def test_gradient_descent_does_not_converge_with_flat_or_kinked_regularizers(loss, regularizer, alternating):
    """Nor with clipped weights. If the loss itself is curved, convergence is slower than exponential."""
    seen = compute_distances(loss, (FLAT | KINKED)[regularizer](loss), alternating)
    assert min(seen[-20:]) > 0.1


@pytest.mark.parametrize("alternating", [False, True], ids=["simultaneous", "alternating"])
@pytest.mark.parametrize("loss", LOSSES, ids=get_name)
def test_the_rate_of_convergence_is_the_spectral_radius(loss, alternating):
    """With gamma = 2 f + 1 both eigenvalues are real, and the larger one dominates."""
    slope = SLOPES[type(loss)]
    h, gamma = 0.25, 2 * slope + 1
    trace, determinant = 2 - h * gamma, 1 - h * gamma + (h * slope) ** 2
    if alternating:
        trace, determinant = trace - (h * slope) ** 2, 1 - h * gamma
    radius = (trace + (trace**2 - 4 * determinant) ** 0.5) / 2
    seen = compute_distances(loss, [R1(gamma)], alternating, step_size=h, steps=200)
    assert seen[-1] / seen[-2] == pytest.approx(radius, abs=1e-5)
