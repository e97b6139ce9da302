"""Class-conditional networks: each takes its input and the labels, int64 `[N]` in 0..num_classes-1.

A network is class-conditional if it, or one of its submodules, has the attribute `num_classes`.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.errors import UserError


class ConditionalGenerator(nn.Module):
    """A generator or decoder whose input is the latent concatenated with a learned embedding of the label.

    Mirza & Osindero 2014, figure 1; Sohn et al. 2015, figure 2.

    Args:
        latent_dim: dimension of the latent
        data_shape: shape of one example
        generator: function of (latent_dim + embedding_dim, data_shape) that returns a network, latents -> data
            `[N, *data_shape]`
        num_classes: number of classes
        embedding_dim: dimension of the embedding
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Sequence[int],
        generator: Callable[[int, Sequence[int]], nn.Module],
        num_classes: int = 10,
        embedding_dim: int = 50,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        # Its initial variance is 1, as is the latent's.
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        self.generator = generator(latent_dim + embedding_dim, data_shape)

    @property
    def output_range(self) -> tuple[float, float] | None:
        """The smallest and the largest value that the generator can return; None if unbounded or unknown."""
        return find_output_range(self.generator)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return data `[N, *data_shape]` with the given labels, from latents `[N, latent_dim]`."""
        return self.generator(torch.cat([z, self.embedding(labels)], 1))


class ConditionalEncoder(nn.Module):
    """An encoder whose input is the data concatenated with a learned channel of the label (Sohn et al. 2015, figure 2).

    Args:
        data_shape: shape of one example
        out_features: number of outputs
        encoder: function of ((data_shape[0] + 1, *data_shape[1:]), out_features) that returns a network, data ->
            features `[N, out_features]`
        num_classes: number of classes
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int,
        encoder: Callable[[Sequence[int], int], nn.Module],
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.channel_shape = (1, *data_shape[1:])
        self.embedding = nn.Embedding(num_classes, math.prod(self.channel_shape))
        self.encoder = encoder((data_shape[0] + 1, *data_shape[1:]), out_features)

    def forward(self, data: Tensor, labels: Tensor) -> Tensor:
        """Return features `[N, out_features]` of data `[N, *data_shape]` with the given labels."""
        channel = self.embedding(labels).unflatten(1, self.channel_shape)
        return self.encoder(torch.cat([data, channel], 1))


class ProjectionDiscriminator(nn.Module):
    """logit = psi(phi(x)) + <embedding(y), phi(x)>, with psi linear (Miyato & Koyama 2018, equation 3).

    Args:
        data_shape: shape of one example
        encoder: function of (data_shape, num_features) that returns a network; a ReLU of its output gives phi(x), as in
            the paper
        num_classes: number of classes
        num_features: dimension of phi(x)
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        encoder: Callable[[Sequence[int], int], nn.Module],
        num_classes: int = 10,
        num_features: int = 128,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder = encoder(data_shape, num_features)
        self.linear = nn.Linear(num_features, 1)
        self.embedding = nn.Embedding(num_classes, num_features)
        # As in the authors' code. PyTorch's standard normal initialization would make the psi term negligible.
        nn.init.xavier_uniform_(self.embedding.weight)

    def forward(self, data: Tensor, labels: Tensor) -> Tensor:
        """Return logits `[N]` of pairs of data `[N, *data_shape]` and labels."""
        features = F.relu(self.encoder(data))
        return self.linear(features).squeeze(1) + (self.embedding(labels) * features).sum(1)


def find_output_range(generator: nn.Module) -> tuple[float, float] | None:
    """Return the smallest and the largest value that a generator can return; None if it does not say.

    A bounded generator declares its range in the attribute `output_range`, and a wrapper passes it on.
    """
    return getattr(generator, "output_range", None)


def find_num_classes(network: nn.Module) -> int | None:
    """Return the number of classes that a network or one of its submodules is conditional on, or None."""
    numbers = (getattr(part, "num_classes", None) for part in network.modules())
    return next((number for number in numbers if number is not None), None)


def find_common_num_classes(**networks: nn.Module) -> int | None:
    """Return the number of classes that all networks of a model are conditional on, or None if none is conditional.

    Args:
        networks: two networks by their names in the model

    Raises:
        UserError: the networks have different numbers of classes.
    """
    numbers = {name: find_num_classes(network) for name, network in networks.items()}
    if len(set(numbers.values())) > 1:
        raise UserError(
            f"num_classes is {' and '.join(f'{number} in the {name}' for name, number in numbers.items())}. Choose"
            " two networks with the same num_classes (ConditionalGenerator, ConditionalEncoder,"
            " ProjectionDiscriminator), or two unconditional networks."
        )
    return next(iter(numbers.values()))
