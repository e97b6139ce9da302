"""Bounds of log p(x) from importance weights, and the units they are reported in."""

import math
from collections.abc import Sequence

from torch import Tensor

from gen_lightning.errors import UserError


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """The lower bound of log p(x) from K importance weights, `[N]` (Burda et al. 2016, equation 8).

    It is the ELBO for K = 1, does not fall with K, and tends to log p(x).

    Args:
        log_weights: log p(x, z) - log q(z | x) in nats, `[K, N]`, at samples of q(z | x)
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def mean_bound(log_weights: Tensor, k: int) -> Tensor:
    """The importance weighted bound at k weights, `[N]`, its mean over as many groups of k as the K weights make.

    Args:
        log_weights: as for `importance_weighted_bound`, `[K, N]`
        k: weights in a group, 1 to K

    Raises:
        UserError: k is less than 1, or there are fewer weights.
    """
    if not 1 <= k <= len(log_weights):
        available = len(log_weights)
        raise UserError(f"A bound at {k} weights cannot be taken of {available}: choose 1 to {available}.")
    groups = log_weights[: len(log_weights) // k * k].unflatten(0, (-1, k))
    return importance_weighted_bound(groups.movedim(1, 0)).mean(0)


def bits_per_dimension(nats: Tensor, data_shape: Sequence[int]) -> Tensor:
    """A negative log-likelihood as bits for each pixel and channel, of the same shape as `nats`.

    It is a code length where the likelihood is a probability, and then comparable: images of 256 levels cost 8 bits
    by guessing. Of a density it depends on the units of the data, and can be negative.

    Args:
        nats: -log p(x), or a bound of it
        data_shape: the shape of one example
    """
    return nats / (math.log(2) * math.prod(data_shape))
