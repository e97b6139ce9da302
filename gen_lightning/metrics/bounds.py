"""Bounds of log p(x) that are computed from importance weights, and their conversion to bits per dimension."""

import math
from collections.abc import Sequence

from torch import Tensor

from gen_lightning.checks import check_range


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Return the importance-weighted lower bound of log p(x), `[N]` (Burda et al. 2016, equation 8).

    It is the ELBO for K = 1. Its expectation does not decrease with K, and tends to log p(x).

    Args:
        log_weights: log p(x, z) - log q(z | x) in nats, `[K, N]`, at K samples of q(z | x)
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def mean_bound(log_weights: Tensor, k: int) -> Tensor:
    """Return the importance-weighted bound at k weights, `[N]`, averaged over disjoint groups of k weights.

    Args:
        log_weights: log-weights in nats, `[K, N]`, as for `importance_weighted_bound`
        k: number of weights in a group; 1 to K. The last K mod k weights are not used.

    Raises:
        UserError: k is less than 1, or more than K.
    """
    check_range(mean_bound, at_least=1, at_most=len(log_weights), k=k)
    groups = log_weights[: len(log_weights) // k * k].unflatten(0, (-1, k))
    return importance_weighted_bound(groups.movedim(1, 0)).mean(0)


def bits_per_dimension(nats: Tensor, data_shape: Sequence[int]) -> Tensor:
    """Return a negative log-likelihood in bits per pixel and channel, with the shape of `nats`.

    If the likelihood is a probability, this is a code length, and comparable between models: a uniform guess of 256
    levels costs 8 bits. If it is a density, the value depends on the units of the data and can be negative.

    Args:
        nats: -log p(x), or a bound of it
        data_shape: shape of one example
    """
    return nats / (math.log(2) * math.prod(data_shape))
