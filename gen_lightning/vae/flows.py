"""Normalizing flows: Gaussians transformed by invertible layers, for posteriors with correlated dimensions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.types import _size

from gen_lightning.numerics import promote_to_float32
from gen_lightning.vae.hierarchy import Network


class AffineCoupling(nn.Module):
    """Scales and shifts one half of a latent by functions of the other half and a context.

    Dinh et al. 2017, equations 4 and 5. The layer starts as the identity. A scale is between 1 / e and e.

    Args:
        latent_dim: dimension of the latent, Z; at least 2
        context_dim: dimension of the context, C
        network: network that computes scales and shifts; called with ((number of inputs,), number of outputs)
        upper: whether the upper half is transformed and the lower half is kept
    """

    def __init__(self, latent_dim: int, context_dim: int, network: Network, upper: bool) -> None:
        super().__init__()
        half = latent_dim // 2
        self.sizes = (half, latent_dim - half)
        self.upper = upper
        kept, moved = self.sizes if upper else reversed(self.sizes)
        self.network = network((kept + context_dim,), 2 * moved)
        self.gain = nn.Parameter(torch.zeros(2 * moved))

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """Transform latents `[..., Z]`, given contexts `[..., C]`."""
        kept, moved = self._split(z)
        shift, log_scale = self._compute_affine(kept, context)
        return self._join(kept, moved * log_scale.exp() + shift)

    def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents `[..., Z]` that `forward` transforms to `z`, and its log-determinant `[...]` there."""
        kept, moved = self._split(z)
        shift, log_scale = self._compute_affine(kept, context)
        return self._join(kept, (moved - shift) * (-log_scale).exp()), log_scale.sum(-1)

    def _compute_affine(self, kept: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        shape = torch.broadcast_shapes(kept.shape[:-1], context.shape[:-1])
        inputs = torch.cat([part.expand(*shape, -1) for part in (kept, context)], -1)
        outputs = promote_to_float32(self.network(inputs.reshape(-1, inputs.shape[-1])))
        shift, log_scale = (self.gain * outputs).reshape(*shape, -1).chunk(2, -1)
        return shift, log_scale.tanh()

    def _split(self, z: Tensor) -> tuple[Tensor, ...]:
        halves = z.split(self.sizes, -1)
        return halves if self.upper else halves[::-1]

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        kept = kept.expand(*moved.shape[:-1], -1)
        return torch.cat([kept, moved] if self.upper else [moved, kept], -1)


class Flow(Distribution):
    """A base distribution transformed by invertible layers (Rezende & Mohamed 2015, equation 7).

    Args:
        base: distribution with batch shape `[...]` and event shape `[Z]`
        layers: layers, in the order in which they transform a sample of the base
        context: input that conditions all layers, `[..., C]`
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, base: Distribution, layers: Sequence[AffineCoupling], context: Tensor) -> None:
        self.base = base
        self.layers = layers
        self.context = context
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Return reparameterized samples, `[*sample_shape, ..., Z]`."""
        return self._transform(self.base.rsample(torch.Size(sample_shape)))

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Return samples, `[*sample_shape, ..., Z]`."""
        return self.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """The transformed mean of the base, `[..., Z]`: an approximation of the mean, which has no closed form."""
        return self._transform(self.base.mean)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the exact log-density `[...]` of latents `[..., Z]`."""
        log_determinants = []
        for layer in reversed(self.layers):
            z, log_determinant = layer.inverse(z, self.context)
            log_determinants.append(log_determinant)
        return self.base.log_prob(z) - torch.stack(log_determinants).sum(0)

    def _transform(self, z: Tensor) -> Tensor:
        for layer in self.layers:
            z = layer(z, self.context)
        return z
