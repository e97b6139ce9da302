"""Latents in several layers, each a diagonal Gaussian given the layers that are drawn before it."""

import itertools
from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence
from torch.types import _size

from gen_lightning.errors import UserError
from gen_lightning.numerics import promote_to_float32

Choose = Callable[[int, Independent], Tensor]
"""A layer's index and its distribution `[..., Z_l]`, given the layers before it, to its latents `[..., Z_l]`."""

Network = Callable[[Sequence[int], int], nn.Module]
"""Called with ((Z,), number of outputs): latents `[N, Z]` of a layer -> features of the next one's distribution."""


class Hierarchy(Distribution):
    """A distribution of latents z = [z_1, ..., z_L], the layers from the data on, side by side.

    Args:
        layer_dims: the dimension of each layer, from the data on
        batch_shape: that of the layer which is drawn first
        visit: goes through the layers in the order in which they are drawn; calls its argument `choose` for each one,
            and goes on with the latents that `choose` returns
        descending: whether that order is from the last layer to the first
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(
        self, layer_dims: Sequence[int], batch_shape: _size, visit: Callable[[Choose], object], descending: bool
    ) -> None:
        self.layer_dims = tuple(layer_dims)
        self.visit = visit
        self.descending = descending
        super().__init__(torch.Size(batch_shape), torch.Size([sum(layer_dims)]), validate_args=False)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Reparameterized samples, `[*sample_shape, *batch_shape, Z]`."""
        # The layers behind the first have its shape.
        shapes = itertools.chain([torch.Size(sample_shape)], itertools.repeat(torch.Size()))
        return self._collect(lambda layer, conditional: conditional.rsample(next(shapes)))

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Samples, `[*sample_shape, *batch_shape, Z]`."""
        return self.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """The mean of each layer given the means of those drawn before it, `[*batch_shape, Z]`.

        It is the mean of what is drawn first, and of the others as far as their means are linear in it.
        """
        return self._collect(lambda layer, conditional: conditional.mean)

    def conditionals(self, z: Tensor) -> dict[int, Independent]:
        """The distribution of each layer given those before it, at latents `[..., Z]`, in the order of drawing."""
        layers = z.split(self.layer_dims, -1)
        conditionals: dict[int, Independent] = {}

        def look(layer: int, conditional: Independent) -> Tensor:
            conditionals[layer] = conditional
            return layers[layer]

        self.visit(look)
        return conditionals

    def transform_noise(self, noise: Tensor) -> Tensor:
        """The latents `[..., Z]` that standard normal noise `[..., Z]` is turned into, layer by layer."""
        parts = noise.split(self.layer_dims, -1)
        return self._collect(lambda layer, conditional: conditional.mean + conditional.base_dist.scale * parts[layer])

    def recover_noise(self, z: Tensor) -> Tensor:
        """The noise `[..., Z]` that `transform_noise` turns into latents `[..., Z]`."""
        layers, conditionals = z.split(self.layer_dims, -1), self.conditionals(z)
        parts = ((layers[i] - conditionals[i].mean) / conditionals[i].base_dist.scale for i in sorted(conditionals))
        return torch.cat(list(parts), -1)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density `[...]` of latents `[..., Z]`."""
        layers = z.split(self.layer_dims, -1)
        return reduce(
            torch.add, (conditional.log_prob(layers[layer]) for layer, conditional in self.conditionals(z).items())
        )

    def _collect(self, choose: Choose) -> Tensor:
        layers: dict[int, Tensor] = {}

        def keep(layer: int, conditional: Independent) -> Tensor:
            layers[layer] = choose(layer, conditional)
            return layers[layer]

        self.visit(keep)
        return torch.cat([layers[layer] for layer in sorted(layers)], -1)


def compute_layer_kls(posterior: Distribution, prior: Distribution, z: Tensor) -> Tensor | None:
    """KL(q_l || p_l) of each dimension of each layer, in closed form, given the layers drawn before it.

    Args:
        posterior: of the latents, batch shape `[N]`
        prior: of the latents, batch shape `[]`
        z: samples of the posterior, `[K, N, Z]`

    Returns:
        The mean over the samples, `[N, Z]`; None where the two are not of the same layers, drawn in the same order.
    """
    if not (isinstance(posterior, Hierarchy) and isinstance(prior, Hierarchy)):
        return None
    if (posterior.layer_dims, posterior.descending) != (prior.layer_dims, prior.descending):
        return None
    ours, theirs = posterior.conditionals(z), prior.conditionals(z)
    divergences = [kl_divergence(ours[layer].base_dist, theirs[layer].base_dist) for layer in sorted(ours)]
    return torch.cat([divergence.expand(*z.shape[:-1], -1) for divergence in divergences], -1).mean(0)


def merge(prior: Independent, features: Tensor) -> Independent:
    """The normalized product of a diagonal Gaussian `[..., Z]` and that of means and log-variances `[..., 2 Z]`.

    Precisions add up, and means are weighted with them. Log-variances may be anything: where they are large, the prior
    is left.
    """
    mean, log_variance = features.chunk(2, dim=-1)
    log_ratio = log_variance - 2 * prior.base_dist.scale.log()
    merged = Normal(
        prior.mean + (-log_ratio).sigmoid() * (mean - prior.mean),
        prior.base_dist.scale * (F.logsigmoid(log_ratio) / 2).exp(),
        validate_args=False,
    )
    return Independent(merged, 1, validate_args=False)


def diagonal_gaussian(features: Tensor) -> Independent:
    """Of means and log-variances `[..., 2 Z]`: batch shape `[...]`, event shape `[Z]`."""
    mean, log_variance = features.chunk(2, dim=-1)
    return Independent(Normal(mean, (log_variance / 2).exp(), validate_args=False), 1, validate_args=False)


def gaussian_given(network: nn.Module, z: Tensor) -> Independent:
    """The diagonal Gaussian of which a network tells, given a layer's latents `[..., Z]`: batch shape `[...]`."""
    features = promote_to_float32(network(z.reshape(-1, z.shape[-1])))
    return diagonal_gaussian(features.reshape(*z.shape[:-1], features.shape[-1]))


def check_layer_dims(name: str, latent_dim: int, layer_dims: Sequence[int]) -> tuple[int, ...]:
    """`layer_dims`, or a ValueError when they are not those of a latent of dimension `latent_dim`."""
    if not layer_dims or min(layer_dims) < 1:
        raise UserError(f"{name}'s layer_dims are {list(layer_dims)}: choose one or more, each 1 or more.")
    if sum(layer_dims) != latent_dim:
        raise UserError(
            f"{name}'s layer_dims {list(layer_dims)} add up to {sum(layer_dims)}, and latent_dim is {latent_dim}: set"
            f" model.latent_dim to {sum(layer_dims)}, or choose others."
        )
    return tuple(layer_dims)
