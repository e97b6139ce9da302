"""The founding papers' networks: two hidden layers."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class LeakyReLU(nn.LeakyReLU):
    """max(x, 0.2 x), which GANs have had since DCGAN (Radford, Metz & Chintala 2016)."""

    def __init__(self) -> None:
        super().__init__(0.2)


def mlp(
    sizes: Sequence[int],
    activation: Callable[[], nn.Module] = LeakyReLU,
    initialization: Callable[[Tensor], Tensor] | None = None,
    first_layer_scale: float = 1.0,
) -> nn.Sequential:
    """Linear layers of the given sizes with activations between them.

    Args:
        sizes: from the input to the output
        activation: makes the layer behind each linear one but the last
        initialization: fills a weight in place, such as `torch.nn.init.xavier_uniform_`, beside biases of 0; by default
            both are PyTorch's own
        first_layer_scale: multiplies the first layer's initial weights and biases; a large one, which Sitzmann et al.
            2020 call omega_0, makes steep functions easy to learn
    """
    layers: list[nn.Module] = []
    for in_features, out_features in pairwise(sizes):
        linear = nn.Linear(in_features, out_features)
        if initialization is not None:
            initialization(linear.weight)
            nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    with torch.no_grad():
        for parameter in layers[0].parameters():
            parameter.mul_(first_layer_scale)
    return nn.Sequential(*layers[:-1])


class MLPEncoder(nn.Module):
    """Data `[N, *data_shape]` -> features `[N, out_features]`.

    Args:
        data_shape: the shape of one example
        out_features: the number of outputs
        hidden_dims: the sizes of the hidden layers
        activation: as for `mlp`
        initialization: as for `mlp`
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int,
        hidden_dims: Sequence[int] = (128, 128),
        activation: Callable[[], nn.Module] = LeakyReLU,
        initialization: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.layers = mlp([math.prod(data_shape), *hidden_dims, out_features], activation, initialization)

    def forward(self, data: Tensor) -> Tensor:
        """Features `[N, out_features]`."""
        return self.layers(data.flatten(1))


class MLPDecoder(nn.Module):
    """Latents `[N, latent_dim]` -> unbounded outputs `[N, *data_shape]`.

    Args:
        latent_dim: the dimension of the latent
        data_shape: the shape of one output
        hidden_dims: the sizes of the hidden layers
        activation: as for `mlp`
        initialization: as for `mlp`
        first_layer_scale: as for `mlp`
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Sequence[int],
        hidden_dims: Sequence[int] = (128, 128),
        activation: Callable[[], nn.Module] = LeakyReLU,
        initialization: Callable[[Tensor], Tensor] | None = None,
        first_layer_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        sizes = [latent_dim, *hidden_dims, math.prod(data_shape)]
        self.layers = mlp(sizes, activation, initialization, first_layer_scale)

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
