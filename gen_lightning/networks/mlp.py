"""Fully connected networks, by default with two hidden layers."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class LeakyReLU(nn.LeakyReLU):
    """max(x, 0.2 x), the usual activation of GANs since DCGAN (Radford, Metz & Chintala 2016)."""

    def __init__(self) -> None:
        super().__init__(0.2)


def build_mlp(
    sizes: Sequence[int],
    activation: Callable[[], nn.Module] = LeakyReLU,
    initialization: Callable[[Tensor], Tensor] | None = None,
    first_layer_scale: float = 1.0,
) -> nn.Sequential:
    """Return linear layers of the given sizes with activations between them.

    Args:
        sizes: number of features of each layer, from the input to the output
        activation: function that returns the activation after each linear layer except the last
        initialization: function that fills a weight in place, such as `torch.nn.init.xavier_uniform_`; biases are then
            0. By default weights and biases have PyTorch's default initialization.
        first_layer_scale: factor of the first layer's initial weights and biases. A large factor, which Sitzmann et al.
            2020 call omega_0, makes steep functions easier to learn.
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
        data_shape: shape of one example
        out_features: number of outputs
        hidden_dims: number of features of each hidden layer
        activation: function that returns an activation, as for `build_mlp`
        initialization: function that fills a weight in place, as for `build_mlp`
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
        self.layers = build_mlp([math.prod(data_shape), *hidden_dims, out_features], activation, initialization)

    def forward(self, data: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.layers(data.flatten(1))


class MLPDecoder(nn.Module):
    """Latents `[N, latent_dim]` -> unbounded outputs `[N, *data_shape]`.

    Args:
        latent_dim: dimension of the latent
        data_shape: shape of one output
        hidden_dims: number of features of each hidden layer
        activation: function that returns an activation, as for `build_mlp`
        initialization: function that fills a weight in place, as for `build_mlp`
        first_layer_scale: factor of the first layer's initial weights and biases, as for `build_mlp`
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
        self.layers = build_mlp(sizes, activation, initialization, first_layer_scale)

    def forward(self, z: Tensor) -> Tensor:
        """Return outputs `[N, *data_shape]`."""
        return self.layers(z).unflatten(-1, self.data_shape)


class MLPDiscriminator(MLPEncoder):
    """Data `[N, *data_shape]` -> logits `[N]`.

    Args:
        data_shape: shape of one example
        hidden_dims: number of features of each hidden layer
    """

    def __init__(self, data_shape: Sequence[int], hidden_dims: Sequence[int] = (128, 128)) -> None:
        super().__init__(data_shape, 1, hidden_dims)

    def forward(self, data: Tensor) -> Tensor:
        """Return logits `[N]`."""
        return super().forward(data).squeeze(-1)


class MLPGenerator(MLPDecoder):
    """Latents `[N, latent_dim]` -> images in [0, 1]. For unbounded data, use `MLPDecoder` as the generator."""

    output_range = (0.0, 1.0)

    def forward(self, z: Tensor) -> Tensor:
        """Return images `[N, *data_shape]` in [0, 1]."""
        return super().forward(z).sigmoid()
