"""Objectives with the aggregate posterior q(z) = E_x q(z | x), which is estimated from a batch of N examples.

Under DDP each rank estimates it from its own batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.vae.objectives import Objective
from gen_lightning.vae.terms import Terms


class KLDecomposition(NamedTuple):
    """The three parts of KL(q(z | x) || p(z)) `[N]`, estimated from samples (Chen et al. 2018, equation 2)."""

    mutual_information: Tensor
    """log q(z | x) - log q(z): between the data's index and the latent."""
    total_correlation: Tensor
    """log q(z) - sum_j log q(z_j): between the latent's dimensions."""
    dimension_wise_kl: Tensor
    """sum_j log q(z_j) - log p(z)."""


def decompose_kl(terms: Terms, dataset_size: int) -> KLDecomposition:
    """Split the KL into three parts, each a mean over the K samples.

    q(z) is estimated by stratified sampling (Chen et al. 2018, appendix C.2, with its weights averaged over the order
    of the batch). The example that z was drawn for represents itself; each other example of the batch represents an
    equal share of the rest of the dataset. The estimate is exact if the batch is the dataset.

    Args:
        terms: terms of different examples of the dataset
        dataset_size: number of examples that q(z) is the mean over

    Raises:
        UserError: the batch has fewer than 2 examples, or more than the dataset; the posterior does not factorize.
    """
    log_factors = terms.factors.log_prob(terms.z.unsqueeze(-2))  # [K, N, N, Z]: log q(z_j of one | x of another)
    log_shares = _compute_log_shares(terms.z.shape[1], dataset_size).to(terms.z)
    log_aggregate = (log_factors.sum(-1) + log_shares).logsumexp(-1)
    log_marginals = (log_factors + log_shares.unsqueeze(-1)).logsumexp(-2).sum(-1)
    return KLDecomposition(
        (terms.log_posterior - log_aggregate).mean(0),
        (log_aggregate - log_marginals).mean(0),
        (log_marginals - terms.log_prior).mean(0),
    )


def _compute_log_shares(batch_size: int, dataset_size: int) -> Tensor:
    """Return the log share of the dataset `[N, N]` that a column's example represents in the q(z) of a row's latent."""
    if not 2 <= batch_size <= dataset_size:
        raise UserError(
            f"The batch has {batch_size} examples, and `dataset_size` is {dataset_size}. Set dataset_size to the number"
            " of training images, and --data.batch_size to at least 2, with drop_last=True in a data loader."
        )
    shares = torch.full((batch_size, batch_size), (dataset_size - 1) / (batch_size - 1), dtype=torch.float64)
    return (shares.fill_diagonal_(1) / dataset_size).log()


class BetaTC(Objective):
    """The ELBO with a weight on the total correlation of the latent (Chen et al. 2018, equation 4, alpha = gamma = 1).

    Args:
        dataset_size: number of training examples
        beta: weight of the total correlation, at least 0; 1 gives the ELBO
        num_samples: number of latents for each example

    Raises:
        UserError: beta is negative; at the first iteration, the batch is too small or too large, or the posterior does
            not factorize.
    """

    def __init__(self, dataset_size: int, beta: float = 6.0, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        check_range(self, at_least=0, beta=beta)
        self.dataset_size = dataset_size
        self.beta = beta

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return the weighted bound, `[N]`."""
        return terms.elbo - (self.beta - 1) * decompose_kl(terms, self.dataset_size).total_correlation


class MMD(Objective):
    """The log-likelihood minus the weighted squared MMD between q(z) and p(z).

    With kl_weight = 0 it is the Wasserstein autoencoder (Tolstikhin et al. 2018, algorithm 2). InfoVAE (Zhao et al.
    2019) has weight = alpha + lambda - 1 and kl_weight = 1 - alpha. With kl_weight < 1 it is not a bound.

    Args:
        weight: weight of the squared MMD; at least 0
        kl_weight: weight of KL(q(z | x) || p(z)); at least 0
        num_samples: number of latents for each example

    Raises:
        UserError: a weight is negative; at the first iteration, the batch has fewer than 2 examples, or the prior is a
            mixture, whose samples have no gradient, and kl_weight is 0, so that the prior would not be trained.
    """

    def __init__(self, weight: float, kl_weight: float = 0.0, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        check_range(self, at_least=0, weight=weight, kl_weight=kl_weight)
        self.weight = weight
        self.kl_weight = kl_weight

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Return values `[N]` whose mean is the objective."""
        if not (terms.prior.has_rsample or self.kl_weight):
            raise UserError(
                f"`MMD.kl_weight` is {self.kl_weight}, which would leave this prior untrained, since its samples have"
                " no gradient. Choose a kl_weight above 0, or StandardNormal or TopDown as the prior."
            )
        draw = terms.prior.rsample if terms.prior.has_rsample else terms.prior.sample
        discrepancy = squared_mmd(terms.z, draw(terms.z.shape[:-1])).mean()
        return terms.log_likelihood.mean(0) - self.kl_weight * terms.kl - self.weight * discrepancy


def squared_mmd(one: Tensor, other: Tensor) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy, `[...]` (Gretton et al. 2012, equation 3).

    The kernel is the inverse multiquadratic C / (C + |x - y|^2) with C = 2 Z, which suits the standard normal
    (Tolstikhin et al. 2018, section 4).

    Args:
        one: N samples of the first distribution, `[..., N, Z]`
        other: N samples of the second distribution, `[..., N, Z]`

    Raises:
        UserError: N is less than 2.
    """
    n = one.shape[-2]
    if n < 2:
        raise UserError(
            f"The batch has {n} example, and MMD compares pairs. Set --data.batch_size to at least 2, or drop_last=True"
            " in the data loader."
        )
    # The kernel of each sample with itself is 1; these N pairs are left out.
    within = (_sum_kernel(one, one) + _sum_kernel(other, other) - 2 * n) / (n * (n - 1))
    return within - 2 * _sum_kernel(one, other) / n**2


def _sum_kernel(one: Tensor, other: Tensor) -> Tensor:
    scale = 2 * one.shape[-1]
    distances = (one.unsqueeze(-2) - other.unsqueeze(-3)).square().sum(-1)
    return (scale / (scale + distances)).sum((-2, -1))
