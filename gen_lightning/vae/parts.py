"""The parts of a VAE that its prior and its posterior may use, without importing the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.distributions import Distribution


class LatentPrior(Protocol):
    """A prior, as a posterior sees it."""

    descending: bool
    """Whether its latents are in layers, drawn from the uppermost layer to the lowest."""

    def __call__(self) -> Distribution:
        """Return p(z): batch shape `[]`, event shape `[Z]`."""
        ...


@dataclass(frozen=True)
class ModelParts:
    """The parts of a VAE, for priors and posteriors that are defined by other parts of the model.

    It is no nn.Module, so that a prior or posterior can keep it without registering the parts a second time.

    Args:
        data_shape: shape of one example
        num_classes: number of classes of a class-conditional model; None for others
        encoder: network that computes the posterior's features
        decoder: network that computes the likelihood's parameters
        prior: p(z)
        encode: function from data `[N, *data_shape]` to q(z | x)
    """

    data_shape: tuple[int, ...]
    num_classes: int | None
    encoder: nn.Module
    decoder: nn.Module
    prior: LatentPrior
    encode: Callable[[Tensor], Distribution]
