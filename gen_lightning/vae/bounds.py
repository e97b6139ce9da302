"""What is reported of a model, as pure functions."""

import math

from torch import Tensor


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """The lower bound of log p(x) from K importance weights, `[N]` (Burda et al. 2016, equation 8).

    It is the ELBO for K = 1, does not fall with K, and tends to log p(x).

    Args:
        log_weights: log p(x, z) - log q(z | x) in nats, `[K, N]`, at samples of q(z | x)
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))
