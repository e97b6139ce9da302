"""What is added to the discriminator's loss, whatever the loss is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class DiscriminatorPass:
    """What one step of the discriminator has computed.

    Args:
        discriminator: the network
        real: real data `[N, ...]`, which require gradients
        fake: generated data `[N, ...]`, which require gradients
        real_logits: `[N]`
        fake_logits: `[N]`
    """

    discriminator: nn.Module
    real: Tensor
    fake: Tensor
    real_logits: Tensor
    fake_logits: Tensor


class DiscriminatorRegularizer(ABC):
    """A term of the discriminator's loss; `name` is its key in the logs."""

    name: str

    @abstractmethod
    def __call__(self, state: DiscriminatorPass) -> Tensor:
        """The weighted term, a scalar."""


class R1(DiscriminatorRegularizer):
    """gamma / 2 * E[|grad D(x)|^2] on real data (Mescheder, Geiger & Nowozin 2018, equation 9).

    Args:
        gamma: the weight, 0 or more
    """

    name = "r1"

    def __init__(self, gamma: float = 1.0) -> None:
        if gamma < 0:
            raise ValueError(f"R1's gamma is {gamma}: choose 0 or more.")
        self.gamma = gamma

    def __call__(self, state: DiscriminatorPass) -> Tensor:
        """The penalty, a scalar."""
        return self.gamma / 2 * squared_gradient_norms(state.real_logits, state.real).mean()


def squared_gradient_norms(logits: Tensor, data: Tensor) -> Tensor:
    """|d logits[i] / d data[i]|^2 for each example, `[N]`, differentiable.

    Args:
        logits: `[N]`, each a function of its own example only (no batch normalization between them)
        data: `[N, ...]`, requiring gradients
    """
    (gradient,) = torch.autograd.grad(logits.sum(), data, create_graph=True)
    return gradient.flatten(1).square().sum(1)
