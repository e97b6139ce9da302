"""Losses of discriminator and generator, as functions of logits `[N]`.

With D = sigmoid(logit), log D = -softplus(-logit) and log(1 - D) = -softplus(logit). Both are stable at any logit.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError


class GANLoss(ABC):
    """The losses of discriminator and generator.

    Attributes:
        relativistic: whether the generator's loss depends on the real logits too
        boundary: logit above which the discriminator classifies an example as real. None if the loss depends only on
            differences of logits; accuracies then use the midpoint between the mean logits of real and generated
            examples.
        clips_weights: whether `constrain` bounds the discriminator's weights
    """

    relativistic = False
    boundary: float | None = 0.0
    clips_weights = False

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the discriminator's loss, a scalar."""

    @abstractmethod
    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """Return the generator's loss, a scalar. `real_logits` is None unless the loss is relativistic."""

    def constrain(self, discriminator: nn.Module) -> None:  # noqa: B027, since most losses have no constraint
        """Project the discriminator's weights onto the loss's constraint, after each discriminator update."""


class Minimax(GANLoss):
    """The minimax losses of Goodfellow et al. 2014, equation 1."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return -E[log D(x)] - E[log(1 - D(G(z)))]."""
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """Return E[log(1 - D(G(z)))]."""
        return -F.softplus(fake_logits).mean()


class NonSaturating(Minimax):
    """The minimax loss of the discriminator, and the non-saturating loss of the generator.

    Goodfellow et al. 2014, end of section 3.
    """

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """Return -E[log D(G(z))]."""
        return F.softplus(-fake_logits).mean()


class LeastSquares(GANLoss):
    """The least-squares losses of Mao et al. 2017, equation 9.

    The target logits are 1 for real and 0 for generated data. At the equilibrium all logits are 1/2.
    """

    boundary = 0.5

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return E[(logit(x) - 1)^2] / 2 + E[logit(G(z))^2] / 2."""
        return (real_logits - 1).square().mean() / 2 + fake_logits.square().mean() / 2

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """Return E[(logit(G(z)) - 1)^2] / 2."""
        return (fake_logits - 1).square().mean() / 2


class Wasserstein(GANLoss):
    """The Wasserstein losses of Arjovsky, Chintala & Bottou 2017, equations 2 and 3.

    The discriminator's loss is the negative of an estimate of the Wasserstein distance. The estimate needs a Lipschitz
    discriminator: clip its weights (algorithm 1, with a bound of 0.01), or use `GradientPenalty` or `SpectralNorm`.

    Args:
        clip: bound of the absolute value of every discriminator weight after each update, above 0; None disables
            clipping

    Raises:
        UserError: clip is not positive.
    """

    boundary = None

    def __init__(self, clip: float | None = None) -> None:
        check_range(self, above=0, clip=clip)
        self.clip = clip
        self.clips_weights = clip is not None

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return E[logit(G(z))] - E[logit(x)]."""
        return fake_logits.mean() - real_logits.mean()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """Return -E[logit(G(z))]."""
        return -fake_logits.mean()

    @torch.no_grad()
    def constrain(self, discriminator: nn.Module) -> None:
        """Clip every weight to [-clip, clip]."""
        if self.clip is not None:
            for parameter in discriminator.parameters():
                parameter.clamp_(-self.clip, self.clip)


class Hinge(GANLoss):
    """The hinge losses of Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17.

    Real logits above 1 and generated logits below -1 do not contribute to the discriminator's loss.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return E[max(0, 1 - logit(x))] + E[max(0, 1 + logit(G(z)))]."""
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """Return -E[logit(G(z))]."""
        return -fake_logits.mean()


class RelativisticPaired(GANLoss):
    """The relativistic paired losses, RpGAN (Jolicoeur-Martineau 2019, section 4; Huang et al. 2024, equation 2).

    The real and the generated example with the same index form a pair. The losses are the softplus of the difference
    of their logits.
    """

    relativistic = True
    boundary = None

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return E[softplus(logit(G(z)) - logit(x))]."""
        return F.softplus(fake_logits - real_logits).mean()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """Return E[softplus(logit(x) - logit(G(z)))]."""
        assert real_logits is not None
        return F.softplus(real_logits - fake_logits).mean()


def compute_logit_statistics(loss: GANLoss, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """Return the mean logits, their gap, and the discriminator's accuracies on real and generated data, all scalars.

    The accuracies, in [0, 1], are the fraction of real logits above the loss's boundary and the fraction of generated
    logits below it. Both are about 1/2 if the discriminator cannot distinguish real from generated data, and 1 if it
    separates them perfectly.

    Args:
        loss: loss that defines the boundary
        real_logits: logits of real examples, `[N]`
        fake_logits: logits of generated examples, `[N]`
    """
    real, fake = real_logits.mean(), fake_logits.mean()
    boundary = (real + fake) / 2 if loss.boundary is None else loss.boundary
    return {
        "real_logits": real,
        "fake_logits": fake,
        "logit_gap": real - fake,
        "real_accuracy": (real_logits > boundary).float().mean(),
        "fake_accuracy": (fake_logits < boundary).float().mean(),
    }


def check_constraint(loss: GANLoss, discriminator: nn.Module) -> None:
    """Refuse two Lipschitz constraints that undo each other.

    Raises:
        UserError: the loss clips weights that spectral normalization scales to norm 1.
    """
    if loss.clips_weights and any(isinstance(module, _SpectralNorm) for module in discriminator.modules()):
        raise UserError(
            "Spectral normalization rescales the weights that the loss clips. Set the loss's clip to null, or choose a"
            " discriminator without spectral normalization."
        )
