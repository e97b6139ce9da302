"""Objectives that a VAE maximizes, as functions of the terms of log p(x, z) - log q(z | x), in nats.

Sizes: K samples of the latent for each of N examples. Values are sums over dimensions. The loss is the negative mean of
an objective over the batch. A run always reports the ELBO of the same terms, whatever the objective is.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gen_lightning.checks import check_range
from gen_lightning.metrics.bounds import importance_weighted_bound
from gen_lightning.schedules import Schedule
from gen_lightning.vae.terms import Terms


class Objective(ABC):
    """A function of the terms of `num_samples` latents for each example.

    Args:
        num_samples: number of latents for each example, K; at least 1

    Raises:
        UserError: num_samples is less than 1.
    """

    num_samples: int = 1

    def __init__(self, num_samples: int = 1) -> None:
        check_range(self, at_least=1, num_samples=num_samples)
        self.num_samples = num_samples

    @abstractmethod
    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return the values to maximize, `[N]`.

        Args:
            terms: terms of K = `num_samples` latents for each example
            iteration: number of completed iterations, for objectives with a schedule
        """


class ELBO(Objective):
    """The evidence lower bound (Kingma & Welling 2014, equation 3).

    Args:
        num_samples: number of latents for each example, over which the expected log-likelihood is averaged
    """

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return the bound, `[N]`."""
        return terms.elbo


class Beta(Objective):
    """The ELBO with a weight on its KL term (Higgins et al. 2017, equation 4).

    Args:
        beta: weight; at least 0
        warmup: schedule of a factor that multiplies the weight; by default the factor is 1
        num_samples: number of latents for each example

    Raises:
        UserError: beta is negative.
    """

    def __init__(self, beta: float = 1.0, warmup: Schedule | None = None, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        check_range(self, at_least=0, beta=beta)
        self.beta = beta
        self.warmup = warmup

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return the weighted bound, `[N]`."""
        return terms.log_likelihood.mean(0) - self.beta * _evaluate(self.warmup, iteration) * terms.kl


class FreeBits(Objective):
    """The ELBO in which each latent dimension's KL has a minimum cost (Kingma et al. 2016, equation 15).

    A dimension's KL is used if its mean over this rank's batch exceeds the minimum; otherwise the minimum is used.

    Args:
        free_nats: minimum for each latent dimension in nats; at least 0
        num_samples: number of latents for each example

    Raises:
        UserError: free_nats is negative; at the first iteration, the posterior or the prior does not factorize.
    """

    def __init__(self, free_nats: float, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        check_range(self, at_least=0, free_nats=free_nats)
        self.free_nats = free_nats

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return values `[N]` whose mean is the objective."""
        kl = terms.factor_kls
        paid = torch.where(kl.mean(0) > self.free_nats, kl, self.free_nats)
        return terms.log_likelihood.mean(0) - paid.sum(-1)


class Capacity(Objective):
    """The log-likelihood minus the weighted distance of the KL from a capacity (Burgess et al. 2018, equation 8).

    The distance is computed for each example. If the KL has no closed form, the noise of its estimate increases the
    distance. In this case use more samples, or a Gaussian posterior and prior.

    Args:
        capacity: target of each example's KL in nats; at least 0
        gamma: weight of the distance; at least 0
        warmup: schedule of a factor that multiplies the capacity; by default the factor is 1
        num_samples: number of latents for each example

    Raises:
        UserError: capacity or gamma is negative.
    """

    def __init__(
        self, capacity: float, gamma: float = 1000.0, warmup: Schedule | None = None, num_samples: int = 1
    ) -> None:
        super().__init__(num_samples)
        check_range(self, at_least=0, capacity=capacity, gamma=gamma)
        self.capacity = capacity
        self.gamma = gamma
        self.warmup = warmup

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return the objective, `[N]`."""
        distance = (terms.kl - self.capacity * _evaluate(self.warmup, iteration)).abs()
        return terms.log_likelihood.mean(0) - self.gamma * distance


class IWAE(Objective):
    """The importance-weighted bound (Burda et al. 2016, equation 8).

    Args:
        num_samples: number of latents for each example, k
    """

    def __init__(self, num_samples: int = 5) -> None:
        super().__init__(num_samples)

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return the bound, `[N]`."""
        return importance_weighted_bound(terms.log_weights)


class STL(IWAE):
    """The importance-weighted bound without the score of q in its gradient: sticking the landing (Roeder et al. 2017).

    For k = 1 the gradient is unbiased, and its variance is 0 if q is the exact posterior. For k > 1 it is biased
    (Tucker et al. 2019).

    Args:
        num_samples: number of latents for each example, k
    """

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return the bound, `[N]`, with the gradient of this estimator."""
        return importance_weighted_bound(terms.path_log_weights)


class DReG(IWAE):
    """The importance-weighted bound with the doubly reparameterized gradient (Tucker et al. 2019).

    Like the gradient of IWAE it is unbiased. The gradient through a latent is multiplied by the square of the latent's
    normalized weight, every other gradient by the weight. The encoder's gradient has less variance, except with
    `VampPrior`, which uses the encoder too: there its variance is about twice that of IWAE's.

    Args:
        num_samples: number of latents for each example, k
    """

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return the bound, `[N]`, with the gradient of this estimator. Call it once for the same terms."""
        weights = terms.log_weights.detach().softmax(0)
        if terms.z.requires_grad:
            # The gradient of the weighted sum reaches q through z, where this hook multiplies it by the second weight.
            terms.z.register_hook(lambda gradient: weights.unsqueeze(-1) * gradient)
        surrogate = (weights * terms.path_log_weights).sum(0)
        return importance_weighted_bound(terms.log_weights).detach() + (surrogate - surrogate.detach())


def _evaluate(schedule: Schedule | None, iteration: int) -> float:
    return 1.0 if schedule is None else schedule(iteration)
