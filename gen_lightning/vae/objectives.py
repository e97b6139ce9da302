"""What a VAE maximizes, as functions of the terms of log p(x, z) - log q(z | x), in nats.

Sizes: K samples of the latent for each of N examples. Sums over dimensions always, means over nothing.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torch.distributions import Distribution, kl_divergence


@dataclass
class Terms:
    """One pass of a batch through a VAE.

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
    def kl(self) -> Tensor:
        """KL(q(z | x) || p(z)), `[N]`: in closed form where there is one, else estimated from the K samples."""
        try:
            return kl_divergence(self.posterior, self.prior)
        except NotImplementedError:
            return (self.log_posterior - self.log_prior).mean(0)

    @cached_property
    def elbo(self) -> Tensor:
        """E_q[log p(x | z)] - KL(q(z | x) || p(z)), `[N]` (Kingma & Welling 2014, equation 3)."""
        return self.log_likelihood.mean(0) - self.kl


class Objective(ABC):
    """A function of `num_samples` latents for each example."""

    num_samples: int = 1

    @abstractmethod
    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """What to maximize, `[N]`.

        Args:
            terms: of K = `num_samples` latents
            iteration: the number of completed iterations, for objectives that follow a schedule
        """


class ELBO(Objective):
    """The evidence lower bound (Kingma & Welling 2014, equation 3).

    Args:
        num_samples: latents for each example over which the expected log-likelihood is averaged
    """

    def __init__(self, num_samples: int = 1) -> None:
        if num_samples < 1:
            raise ValueError(f"The ELBO's num_samples is {num_samples}: choose 1 or more.")
        self.num_samples = num_samples

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """The bound, `[N]`."""
        return terms.elbo
