"""Distributions of latent variables in several layers, each a diagonal Gaussian given the layers drawn before it."""

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
"""Called with (layer index, distribution of the layer given the layers drawn before it); returns the layer's latents.

Both the distribution and the latents have shape `[..., Z_l]`."""

Network = Callable[[Sequence[int], int], nn.Module]
"""Called with ((Z,), number of outputs); returns a network from a layer's latents `[N, Z]` to features `[N, outputs]`.

The features are the parameters of the next layer's distribution."""


class Hierarchy(Distribution):
    """A distribution of latents z = [z_1, ..., z_L], concatenated from the layer next to the data upwards.

    Args:
        layer_dims: dimension of each layer, from the layer next to the data upwards
        batch_shape: batch shape of the layer that is drawn first
        visit: function that goes through the layers in the order in which they are drawn; it calls its argument
            `choose` for each layer and continues with the latents that `choose` returns
        descending: whether the layers are drawn from the last to the first
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
        """Return reparameterized samples, `[*sample_shape, *batch_shape, Z]`."""
        # Only the first layer adds the sample shape: the later layers inherit it from the latents before them.
        shapes = itertools.chain([torch.Size(sample_shape)], itertools.repeat(torch.Size()))
        return self._collect(lambda layer, conditional: conditional.rsample(next(shapes)))

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Return samples, `[*sample_shape, *batch_shape, Z]`."""
        return self.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """The mean of each layer given the means of the layers drawn before it, `[*batch_shape, Z]`.

        For the layer that is drawn first this is the exact mean. For the other layers it is exact only if their
        conditional means are linear in the layers drawn before.
        """
        return self._collect(lambda layer, conditional: conditional.mean)

    def conditionals(self, z: Tensor) -> dict[int, Independent]:
        """Return the distribution of each layer given the layers drawn before it, at latents `[..., Z]`.

        The keys are layer indices, in the order in which the layers are drawn.
        """
        layers = z.split(self.layer_dims, -1)
        conditionals: dict[int, Independent] = {}

        def record(layer: int, conditional: Independent) -> Tensor:
            conditionals[layer] = conditional
            return layers[layer]

        self.visit(record)
        return conditionals

    def transform_noise(self, noise: Tensor) -> Tensor:
        """Return the latents `[..., Z]` that the reparameterization makes from standard normal noise `[..., Z]`."""
        parts = noise.split(self.layer_dims, -1)
        return self._collect(lambda layer, conditional: conditional.mean + conditional.base_dist.scale * parts[layer])

    def recover_noise(self, z: Tensor) -> Tensor:
        """Return the noise `[..., Z]` that `transform_noise` turns into latents `[..., Z]`."""
        layers, conditionals = z.split(self.layer_dims, -1), self.conditionals(z)
        parts = ((layers[i] - conditionals[i].mean) / conditionals[i].base_dist.scale for i in sorted(conditionals))
        return torch.cat(list(parts), -1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density `[...]` of latents `[..., Z]`."""
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
    """Return the closed-form KL(q_l || p_l) of each layer's dimensions, given the layers drawn before.

    Args:
        posterior: distribution of the latents, batch shape `[N]`
        prior: distribution of the latents, batch shape `[]`
        z: samples of the posterior, `[K, N, Z]`

    Returns:
        The mean over the samples, `[N, Z]`; None unless both are hierarchies with equal layers in the same order.
    """
    if not (isinstance(posterior, Hierarchy) and isinstance(prior, Hierarchy)):
        return None
    if (posterior.layer_dims, posterior.descending) != (prior.layer_dims, prior.descending):
        return None
    ours, theirs = posterior.conditionals(z), prior.conditionals(z)
    divergences = [kl_divergence(ours[layer].base_dist, theirs[layer].base_dist) for layer in sorted(ours)]
    return torch.cat([divergence.expand(*z.shape[:-1], -1) for divergence in divergences], -1).mean(0)


def merge(prior: Independent, features: Tensor) -> Independent:
    """Return the normalized product of two diagonal Gaussians.

    The precisions add up, and the mean is the precision-weighted mean. Any log-variance is allowed: as it grows, the
    product approaches the prior.

    Args:
        prior: diagonal Gaussian, event shape `[Z]`
        features: means and log-variances of the other Gaussian, `[..., 2 Z]`
    """
    mean, log_variance = features.chunk(2, dim=-1)
    log_ratio = log_variance - 2 * prior.base_dist.scale.log()
    merged = Normal(
        prior.mean + (-log_ratio).sigmoid() * (mean - prior.mean),
        prior.base_dist.scale * (F.logsigmoid(log_ratio) / 2).exp(),
        validate_args=False,
    )
    return Independent(merged, 1, validate_args=False)


def build_gaussian(features: Tensor) -> Independent:
    """Return the diagonal Gaussian with given means and log-variances.

    Args:
        features: means and log-variances, `[..., 2 Z]`

    Returns:
        Batch shape `[...]`, event shape `[Z]`.
    """
    mean, log_variance = features.chunk(2, dim=-1)
    return Independent(Normal(mean, (log_variance / 2).exp(), validate_args=False), 1, validate_args=False)


def predict_gaussian(network: nn.Module, z: Tensor) -> Independent:
    """Return the next layer's diagonal Gaussian, which a network computes from a layer's latents.

    Args:
        network: network from latents `[N, Z]` to means and log-variances
        z: latents, `[..., Z]`; the Gaussian has batch shape `[...]`
    """
    features = promote_to_float32(network(z.reshape(-1, z.shape[-1])))
    return build_gaussian(features.reshape(*z.shape[:-1], features.shape[-1]))


def check_layer_dims(owner: object, latent_dim: int, layer_dims: Sequence[int]) -> tuple[int, ...]:
    """Return the dimensions of the layers, or refuse them.

    Args:
        owner: prior or posterior whose argument they are
        latent_dim: dimension of the latent, all layers together
        layer_dims: dimension of each layer

    Raises:
        UserError: there is no layer, a layer has no dimension, or the sum is not `latent_dim`.
    """
    name, dims = type(owner).__name__, list(layer_dims)
    if not dims or min(dims) < 1:
        raise UserError(f"`{name}.layer_dims` is {dims}. Choose at least one layer, each of dimension at least 1.")
    if sum(dims) != latent_dim:
        raise UserError(
            f"`{name}.layer_dims` is {dims}, which adds up to {sum(dims)}, and `latent_dim` is {latent_dim}. Set"
            f" --model.latent_dim={sum(dims)}, or choose other layer_dims."
        )
    return tuple(dims)
