"""What the two players minimize, as functions of logits `[N]`.

With D = sigmoid(logit), log D = -softplus(-logit) and log(1 - D) = -softplus(logit), stable at any logit.
"""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor


class GANLoss(ABC):
    """Both players' losses. `relativistic` says that the generator's looks at the real logits too."""

    relativistic = False

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The discriminator's loss, a scalar."""

    @abstractmethod
    def generator(self, real_logits: Tensor | None, fake_logits: Tensor) -> Tensor:
        """The generator's loss, a scalar. `real_logits` is None unless the loss is relativistic."""


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
