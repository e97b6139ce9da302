"""What the two players minimize, as functions of logits `[N]`.

With D = sigmoid(logit), log D = -softplus(-logit) and log(1 - D) = -softplus(logit), stable at any logit.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from gen_lightning.errors import UserError


class GANLoss(ABC):
    """Both players' losses.

    `relativistic` says that the generator's looks at the real logits too, `clips_weights` that `constrain` bounds the
    discriminator's weights. `boundary` is the logit above which the discriminator takes an example for a real one; None
    where the loss sees differences of logits only, and the middle between real and generated examples takes its place.
    """

    relativistic = False
    boundary: float | None = 0.0
    clips_weights = False

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The discriminator's loss, a scalar."""

    @abstractmethod
    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """The generator's loss, a scalar. `real_logits` is None unless the loss is relativistic."""

    def constrain(self, discriminator: nn.Module) -> None:  # noqa: B027, since most losses have no constraint
        """Called after each update of the discriminator: puts it back where the loss allows it to be."""


class Minimax(GANLoss):
    """The zero-sum game of Goodfellow et al. 2014, equation 1."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """-E[log D(x)] - E[log(1 - D(G(z)))]."""
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """E[log(1 - D(G(z)))]."""
        return -F.softplus(fake_logits).mean()


class NonSaturating(Minimax):
    """The same discriminator, and the generator of Goodfellow et al. 2014, end of section 3."""

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """-E[log D(G(z))]."""
        return F.softplus(-fake_logits).mean()


class LeastSquares(GANLoss):
    """Mao et al. 2017, equation 9: logits go to 1 on real and to 0 on generated data, and at equilibrium to 1/2."""

    boundary = 0.5

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[(logit(x) - 1)^2] / 2 + E[logit(G(z))^2] / 2."""
        return (real_logits - 1).square().mean() / 2 + fake_logits.square().mean() / 2

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """E[(logit(G(z)) - 1)^2] / 2."""
        return (fake_logits - 1).square().mean() / 2


class Wasserstein(GANLoss):
    """Arjovsky, Chintala & Bottou 2017, equations 2 and 3: the negative of an estimate of the distance.

    That needs a Lipschitz discriminator: by clipping its weights (algorithm 1, with a bound of 0.01), or else by a
    `GradientPenalty` or by `SpectralNorm`.

    Args:
        clip: the bound of every weight of the discriminator after each of its updates; None leaves them free

    Raises:
        UserError: clip is not positive.
    """

    boundary = None

    def __init__(self, clip: float | None = None) -> None:
        if clip is not None and clip <= 0:
            raise UserError(f"Wasserstein's clip is {clip}: choose a positive bound, or null for none.")
        self.clip = clip
        self.clips_weights = clip is not None

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[logit(G(z))] - E[logit(x)]."""
        return fake_logits.mean() - real_logits.mean()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """-E[logit(G(z))]."""
        return -fake_logits.mean()

    @torch.no_grad()
    def constrain(self, discriminator: nn.Module) -> None:
        """Clips every weight to [-clip, clip]."""
        if self.clip is not None:
            for parameter in discriminator.parameters():
                parameter.clamp_(-self.clip, self.clip)


class Hinge(GANLoss):
    """Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17: logits beyond the margins count no more."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[max(0, 1 - logit(x))] + E[max(0, 1 + logit(G(z)))]."""
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """-E[logit(G(z))]."""
        return -fake_logits.mean()


class RelativisticPaired(GANLoss):
    """RpGAN (Jolicoeur-Martineau 2019, section 4; Huang et al. 2024, equation 2, with softplus).

    The real and the generated example of one index are a pair, and only the difference of their logits counts.
    """

    relativistic = True
    boundary = None

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[softplus(logit(G(z)) - logit(x))]."""
        return F.softplus(fake_logits - real_logits).mean()

    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """E[softplus(logit(x) - logit(G(z)))]."""
        assert real_logits is not None
        return F.softplus(real_logits - fake_logits).mean()


def logit_statistics(loss: GANLoss, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """Who is winning: the means of the logits, their gap, and the discriminator's accuracies, all scalars.

    The accuracies, in [0, 1], are the shares of real logits above and of generated ones below the loss's boundary. Both
    are about 1/2 where the discriminator cannot tell the two apart, and 1 where it has won.

    Args:
        loss: whose boundary it is
        real_logits: `[N]`
        fake_logits: `[N]`
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
    """Refuses two Lipschitz constraints of which one undoes the other.

    Raises:
        UserError: the loss clips weights that spectral normalization scales to norm 1.
    """
    if loss.clips_weights and any(isinstance(module, _SpectralNorm) for module in discriminator.modules()):
        raise UserError(
            "Weight clipping has no effect behind spectral normalization: set the loss's clip to null, or take a"
            " discriminator without spectral normalization."
        )
