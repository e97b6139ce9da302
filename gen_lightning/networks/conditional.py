"""Networks that know the class: each takes the labels, int64 `[N]` in 0..num_classes-1, beside its input.

A network is conditional when it, or a network within it, has the attribute `num_classes`.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.errors import UserError


class ConditionalGenerator(nn.Module):
    """Gives any generator, or a VAE's decoder, a learned embedding of the label beside the latent.

    Mirza & Osindero 2014, figure 1; Sohn et al. 2015, figure 2.

    Args:
        latent_dim: the dimension of the latent
        data_shape: the shape of one example
        generator: called with (latent_dim + embedding_dim, data_shape): latents -> data `[N, *data_shape]`
        num_classes: how many classes there are
        embedding_dim: the dimension of the embedding
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
        # Of variance 1 at first, like the latent.
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        self.generator = generator(latent_dim + embedding_dim, data_shape)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Data `[N, *data_shape]` of the classes `labels`, from latents `[N, latent_dim]`."""
        return self.generator(torch.cat([z, self.embedding(labels)], 1))


class ConditionalEncoder(nn.Module):
    """Gives any encoder a learned channel of the label beside those of the data (Sohn et al. 2015, figure 2).

    Args:
        data_shape: the shape of one example
        out_features: the number of outputs
        encoder: called with ((data_shape[0] + 1, *data_shape[1:]), out_features): data -> features `[N, out_features]`
        num_classes: how many classes there are
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
        """Features `[N, out_features]` of data `[N, *data_shape]` of the classes `labels`."""
        channel = self.embedding(labels).unflatten(1, self.channel_shape)
        return self.encoder(torch.cat([data, channel], 1))


class ProjectionDiscriminator(nn.Module):
    """logit = psi(phi(x)) + <embedding(y), phi(x)>, with psi linear (Miyato & Koyama 2018, equation 3).

    Args:
        data_shape: the shape of one example
        encoder: called with (data_shape, num_features); behind it and a ReLU, as in the paper, are the features phi(x)
        num_classes: how many classes there are
        num_features: the dimension of phi(x)
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
        # As in the authors' code; PyTorch's standard normal would leave little of psi.
        nn.init.xavier_uniform_(self.embedding.weight)

    def forward(self, data: Tensor, labels: Tensor) -> Tensor:
        """Logits `[N]` of data `[N, *data_shape]` that are said to be of the classes `labels`."""
        features = F.relu(self.encoder(data))
        return self.linear(features).squeeze(1) + (self.embedding(labels) * features).sum(1)


def find_num_classes(network: nn.Module) -> int | None:
    """How many classes a network, or one within it, is conditional on; None where it is not conditional."""
    numbers = (getattr(part, "num_classes", None) for part in network.modules())
    return next((number for number in numbers if number is not None), None)


def common_num_classes(**networks: nn.Module) -> int | None:
    """How many classes the networks of a model are conditional on; None where none of them is conditional.

    Args:
        networks: two, by their names in the model

    Raises:
        UserError: they are conditional on other numbers of classes.
    """
    numbers = {name: find_num_classes(network) for name, network in networks.items()}
    if len(set(numbers.values())) > 1:
        raise UserError(
            f"num_classes is {' and '.join(f'{number} of the {name}' for name, number in numbers.items())}: make both"
            " conditional on as many classes (ConditionalGenerator, ConditionalEncoder, ProjectionDiscriminator), or"
            " neither."
        )
    return next(iter(numbers.values()))
