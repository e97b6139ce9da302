"""The founding papers' networks: two hidden layers."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


def mlp(sizes: Sequence[int], negative_slope: float = 0.2) -> nn.Sequential:
    """Linear layers of the given sizes with leaky ReLUs between them."""
    layers: list[nn.Module] = []
    for in_features, out_features in pairwise(sizes):
        layers += [nn.Linear(in_features, out_features), nn.LeakyReLU(negative_slope)]
    return nn.Sequential(*layers[:-1])


class MLPEncoder(nn.Module):
    """Data `[N, *data_shape]` -> features `[N, out_features]`.

    Args:
        data_shape: the shape of one example
        out_features: the number of outputs
        hidden_dims: the sizes of the hidden layers
    """

    def __init__(self, data_shape: Sequence[int], out_features: int, hidden_dims: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.layers = mlp([math.prod(data_shape), *hidden_dims, out_features])

    def forward(self, data: Tensor) -> Tensor:
        """Features `[N, out_features]`."""
        return self.layers(data.flatten(1))


class MLPDecoder(nn.Module):
    """Latents `[N, latent_dim]` -> unbounded outputs `[N, *data_shape]`.

    Args:
        latent_dim: the dimension of the latent
        data_shape: the shape of one output
        hidden_dims: the sizes of the hidden layers
    """

    def __init__(self, latent_dim: int, data_shape: Sequence[int], hidden_dims: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.layers = mlp([latent_dim, *hidden_dims, math.prod(data_shape)])

    def forward(self, z: Tensor) -> Tensor:
        """Outputs `[N, *data_shape]`."""
        return self.layers(z).unflatten(-1, self.data_shape)


class MLPDiscriminator(MLPEncoder):
    """Data `[N, *data_shape]` -> logits `[N]`.

    Args:
        data_shape: the shape of one example
        hidden_dims: the sizes of the hidden layers
    """

    def __init__(self, data_shape: Sequence[int], hidden_dims: Sequence[int] = (128, 128)) -> None:
        super().__init__(data_shape, 1, hidden_dims)

    def forward(self, data: Tensor) -> Tensor:
        """Logits `[N]`."""
        return super().forward(data).squeeze(-1)


class MLPGenerator(MLPDecoder):
    """Latents `[N, latent_dim]` -> images in [0, 1]; `MLPDecoder` is the generator of unbounded data."""

    def forward(self, z: Tensor) -> Tensor:
        """Images `[N, *data_shape]` in [0, 1]."""
        return super().forward(z).sigmoid()
