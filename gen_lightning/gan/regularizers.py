"""What is added to the discriminator's loss, whatever the loss is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
        iteration: the number of completed iterations, for weights that follow a schedule
    """

    discriminator: nn.Module
    real: Tensor
    fake: Tensor
    real_logits: Tensor
    fake_logits: Tensor
    iteration: int


class DiscriminatorRegularizer(ABC):
    """A term of the discriminator's loss.

    `name` is its key in the logs. `per_example` says that it takes each logit for a function of its own example, which
    batch normalization makes untrue.
    """

    name: str
    per_example = False

    @abstractmethod
    def __call__(self, state: DiscriminatorPass) -> Tensor:
        """The weighted term, a scalar."""


class R1(DiscriminatorRegularizer):
    """gamma / 2 * E[|grad D(x)|^2] on real data (Mescheder, Geiger & Nowozin 2018, equation 9).

    Args:
        gamma: the weight, 0 or more
    """

    name = "r1"
    per_example = True

    def __init__(self, gamma: float = 1.0) -> None:
        if gamma < 0:
            raise ValueError(f"R1's gamma is {gamma}: choose 0 or more.")
        self.gamma = gamma

    def __call__(self, state: DiscriminatorPass) -> Tensor:
        """The penalty, a scalar."""
        return self.gamma / 2 * squared_gradient_norms(state.real_logits, state.real).mean()


def check_regularizers(regularizers: Sequence[DiscriminatorRegularizer], discriminator: nn.Module) -> None:
    """Refuses combinations that would train something else than they say.

    Raises:
        ValueError: two terms have one name, or a term for each example meets batch normalization.
    """
    names = ["discriminator_loss", *(regularizer.name for regularizer in regularizers)]
    if len(set(names)) < len(names):
        raise ValueError(f"Terms of the loss are told apart by their names, and these are {names}: leave one out.")
    normalized = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in discriminator.modules())
    for regularizer in regularizers:
        if regularizer.per_example and normalized:
            raise ValueError(
                f"{type(regularizer).__name__} penalizes each example by itself, and batch normalization mixes them:"
                " take a discriminator without it, or leave the regularizer out."
            )


def squared_gradient_norms(logits: Tensor, data: Tensor) -> Tensor:
    """|d logits[i] / d data[i]|^2 for each example, `[N]`, differentiable.

    Args:
        logits: `[N]`, each a function of its own example only (no batch normalization between them)
        data: `[N, ...]`, requiring gradients
    """
    (gradient,) = torch.autograd.grad(logits.sum(), data, create_graph=True)
    return gradient.flatten(1).square().sum(1)
