"""What a VAE maximizes, as functions of the terms of log p(x, z) - log q(z | x), in nats.

Sizes: K samples of the latent for each of N examples. Sums over dimensions always, means over nothing: the loss is the
negative mean of an objective over the batch. What a run reports is the ELBO of the same terms, whatever the objective.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.bounds import importance_weighted_bound
from gen_lightning.schedules import Schedule
from gen_lightning.vae.terms import Terms


class Objective(ABC):
    """A function of `num_samples` latents for each example.

    Args:
        num_samples: latents for each example, K

    Raises:
        UserError: num_samples is less than 1.
    """

    num_samples: int = 1

    def __init__(self, num_samples: int = 1) -> None:
        if num_samples < 1:
            raise UserError(f"{type(self).__name__}'s num_samples is {num_samples}: choose 1 or more.")
        self.num_samples = num_samples

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

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """The bound, `[N]`."""
        return terms.elbo


class Beta(Objective):
    """The ELBO with a weight on its KL term (Higgins et al. 2017, equation 4).

    Args:
        beta: the weight, 0 or more
        warmup: what the weight is multiplied by at each iteration; by default 1
        num_samples: latents for each example

    Raises:
        UserError: beta is negative.
    """

    def __init__(self, beta: float = 1.0, warmup: Schedule | None = None, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        self.beta = not_negative("Beta's beta", beta)
        self.warmup = warmup

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """The weighted bound, `[N]`."""
        return terms.log_likelihood.mean(0) - self.beta * _value(self.warmup, iteration) * terms.kl


class FreeBits(Objective):
    """The ELBO in which a latent dimension is not paid for below a minimum (Kingma et al. 2016, equation 15).

    A dimension's KL counts where its mean over the rank's batch exceeds the minimum; elsewhere the minimum counts.

    Args:
        free_nats: the minimum for each latent dimension in nats, 0 or more
        num_samples: latents for each example

    Raises:
        UserError: free_nats is negative; posterior or prior do not factorize (at the first iteration).
    """

    def __init__(self, free_nats: float, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        self.free_nats = not_negative("FreeBits' free_nats", free_nats)

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Values `[N]` whose mean is the objective."""
        kl = terms.factor_kls
        paid = torch.where(kl.mean(0) > self.free_nats, kl, self.free_nats)
        return terms.log_likelihood.mean(0) - paid.sum(-1)


class Capacity(Objective):
    """The log-likelihood, with a weight on the KL's distance from a capacity (Burgess et al. 2018, equation 8).

    The distance is of each example. Where the KL is not in closed form, that of its estimate is larger, by the
    estimate's noise: take more samples there, or a Gaussian posterior and prior.

    Args:
        capacity: what the KL of each example is drawn to in nats, 0 or more
        gamma: the weight, 0 or more
        warmup: what the capacity is multiplied by at each iteration; by default 1
        num_samples: latents for each example

    Raises:
        UserError: capacity or gamma is negative.
    """

    def __init__(
        self, capacity: float, gamma: float = 1000.0, warmup: Schedule | None = None, num_samples: int = 1
    ) -> None:
        super().__init__(num_samples)
        self.capacity = not_negative("Capacity's capacity", capacity)
        self.gamma = not_negative("Capacity's gamma", gamma)
        self.warmup = warmup

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """The objective, `[N]`."""
        distance = (terms.kl - self.capacity * _value(self.warmup, iteration)).abs()
        return terms.log_likelihood.mean(0) - self.gamma * distance


class IWAE(Objective):
    """The importance weighted bound (Burda et al. 2016, equation 8).

    Args:
        num_samples: latents for each example, k
    """

    def __init__(self, num_samples: int = 5) -> None:
        super().__init__(num_samples)

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """The bound, `[N]`."""
        return importance_weighted_bound(terms.log_weights)


class STL(IWAE):
    """The importance weighted bound without the score of q in its gradient: sticking the landing (Roeder et al. 2017).

    For k = 1 the gradient is unbiased, and has no variance where q is the exact posterior. For more it is biased
    (Tucker et al. 2019).

    Args:
        num_samples: latents for each example, k
    """

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """The bound, `[N]`, with the estimator's gradient."""
        return importance_weighted_bound(terms.path_log_weights)


class DReG(IWAE):
    """The importance weighted bound with the doubly reparameterized gradient (Tucker et al. 2019).

    Unbiased as IWAE's own gradient, with less variance for q: a latent's path counts with its normalized weight
    squared, everything else with the weight.

    Args:
        num_samples: latents for each example, k
    """

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """The bound, `[N]`, with the estimator's gradient; to be called once for the same terms."""
        weights = terms.log_weights.detach().softmax(0)
        if terms.z.requires_grad:
            # On its way to q, the gradient of the weighted sum passes z, where it meets the second weight.
            terms.z.register_hook(lambda gradient: weights.unsqueeze(-1) * gradient)
        surrogate = (weights * terms.path_log_weights).sum(0)
        return importance_weighted_bound(terms.log_weights).detach() + (surrogate - surrogate.detach())


def _value(schedule: Schedule | None, iteration: int) -> float:
    return 1.0 if schedule is None else schedule(iteration)


def not_negative(name: str, value: float) -> float:
    """`value`, or a ValueError that names it."""
    if not value >= 0:
        raise UserError(f"{name} is {value}: choose 0 or more.")
    return value
