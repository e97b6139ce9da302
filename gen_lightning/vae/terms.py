"""The terms of log p(x, z) - log q(z | x), in nats, from which every objective and bound is computed.

Sizes: K samples of the latent variable for each of N examples. Terms are sums over dimensions, never means.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from gen_lightning.errors import UserError
from gen_lightning.vae.hierarchy import Hierarchy, compute_layer_kls


@dataclass
class Terms:
    """The distributions and samples from one pass of a batch through a VAE.

    Args:
        posterior: q(z | x), batch shape `[N]`
        prior: p(z), batch shape `[]`
        z: samples of the posterior, `[K, N, Z]`
        log_likelihood: log p(x | z), `[K, N]`
    """

    posterior: Distribution
    prior: Distribution
    z: Tensor
    log_likelihood: Tensor

    @cached_property
    def log_prior(self) -> Tensor:
        """Log p(z), `[K, N]`."""
        return self.prior.log_prob(self.z)

    @cached_property
    def log_posterior(self) -> Tensor:
        """Log q(z | x), `[K, N]`."""
        return self.posterior.log_prob(self.z)

    @cached_property
    def log_weights(self) -> Tensor:
        """Log p(x, z) - log q(z | x), `[K, N]`: the logarithms of importance weights whose mean estimates p(x)."""
        return self.log_likelihood + self.log_prior - self.log_posterior

    @cached_property
    def path_log_weights(self) -> Tensor:
        """`log_weights` with log q(z | x) at detached parameters of q, `[K, N]` (Roeder et al. 2017).

        The values are equal to `log_weights`. The gradient reaches q through the samples z only, without the score of
        q.
        """
        log_posterior = self.posterior.log_prob(self.z.detach())
        return self.log_weights + (log_posterior - log_posterior.detach())

    @cached_property
    def kl(self) -> Tensor:
        """KL(q(z | x) || p(z)), `[N]`: in closed form if one exists, otherwise estimated from the K samples.

        For hierarchies with the same layer order: closed-form conditional KLs, averaged over the K samples.
        """
        if self._layer_kls is not None:
            return self._layer_kls.sum(-1)
        try:
            return kl_divergence(self.posterior, self.prior)
        except NotImplementedError:
            return (self.log_posterior - self.log_prior).mean(0)

    @property
    def factors(self) -> Distribution:
        """The posterior q(z_j | x) of each dimension, batch shape `[N, Z]`.

        Raises:
            UserError: the posterior does not factorize over the dimensions.
        """
        return _get_factors(self.posterior)

    @cached_property
    def factor_kls(self) -> Tensor:
        """KL(q(z_j | x) || p(z_j)) for each dimension, `[N, Z]`, in closed form.

        For hierarchies with the same layer order: conditional on the layers drawn before, averaged over the K samples.

        Raises:
            UserError: the posterior or the prior does not factorize over the dimensions.
        """
        if self._layer_kls is not None:
            return self._layer_kls
        return kl_divergence(self.factors, _get_factors(self.prior))

    @property
    def rates(self) -> tuple[Tensor, ...]:
        """The KL of each layer, conditional on the layers drawn before it, `[N]` each.

        Empty unless q and p are hierarchies with the same layer order.
        """
        if self._layer_kls is None:
            return ()
        # `compute_layer_kls` has a result only if the posterior is a hierarchy.
        layer_dims = cast(Hierarchy, self.posterior).layer_dims
        return tuple(kl.sum(-1) for kl in self._layer_kls.split(layer_dims, -1))

    @cached_property
    def _layer_kls(self) -> Tensor | None:
        return compute_layer_kls(self.posterior, self.prior, self.z)

    @cached_property
    def elbo(self) -> Tensor:
        """E_q[log p(x | z)] - KL(q(z | x) || p(z)), `[N]` (Kingma & Welling 2014, equation 3)."""
        return self.log_likelihood.mean(0) - self.kl


def _get_factors(distribution: Distribution) -> Distribution:
    if not isinstance(distribution, Independent):
        raise UserError(
            f"This objective needs independent latents, and a {type(distribution).__name__} does not factorize over"
            " dimensions. Choose a DiagonalGaussian posterior with a StandardNormal prior, or another objective."
        )
    return distribution.base_dist
