"""Objectives of the aggregate posterior q(z) = E_x q(z | x), which a batch of N examples estimates.

Under DDP each rank's batch estimates it by itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.vae.objectives import Objective, not_negative
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
    """Splits the KL, each part a mean over the K samples.

    q(z) is estimated by stratified sampling (Chen et al. 2018, appendix C.2, with its weights averaged over the order
    of the batch): the example that z belongs to counts as itself, each other one for equally many of the rest. It is
    exact when the batch is the dataset.

    Args:
        terms: of different examples of the dataset
        dataset_size: examples that q(z) is the mean over

    Raises:
        UserError: the batch has fewer than 2 examples, or more than the dataset; the posterior does not factorize.
    """
    log_factors = terms.factors.log_prob(terms.z.unsqueeze(-2))  # [K, N, N, Z]: log q(z_j of one | x of another)
    log_shares = _log_shares(terms.z.shape[1], dataset_size).to(terms.z)
    log_aggregate = (log_factors.sum(-1) + log_shares).logsumexp(-1)
    log_marginals = (log_factors + log_shares.unsqueeze(-1)).logsumexp(-2).sum(-1)
    return KLDecomposition(
        (terms.log_posterior - log_aggregate).mean(0),
        (log_aggregate - log_marginals).mean(0),
        (log_marginals - terms.log_prior).mean(0),
    )


def _log_shares(batch_size: int, dataset_size: int) -> Tensor:
    """The logarithm of the part of the dataset `[N, N]` that each column's example stands for in each row's q(z)."""
    if not 2 <= batch_size <= dataset_size:
        raise UserError(
            f"The aggregate posterior of {dataset_size} examples is estimated from at least 2 of them, and a batch has"
            f" {batch_size}: set dataset_size to the number of training images, and data.batch_size to 2 or more."
        )
    shares = torch.full((batch_size, batch_size), (dataset_size - 1) / (batch_size - 1), dtype=torch.float64)
    return (shares.fill_diagonal_(1) / dataset_size).log()


class BetaTC(Objective):
    """The ELBO with a weight on the total correlation of the latent (Chen et al. 2018, equation 4, alpha = gamma = 1).

    Args:
        dataset_size: the number of training examples
        beta: the weight; 1 makes it the ELBO
        num_samples: latents for each example

    Raises:
        UserError: beta is negative; the batch is too small or too large, or the posterior does not factorize (at the
            first iteration).
    """

    def __init__(self, dataset_size: int, beta: float = 6.0, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        self.dataset_size = dataset_size
        self.beta = not_negative("BetaTC's beta", beta)

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """The weighted bound, `[N]`."""
        return terms.elbo - (self.beta - 1) * decompose_kl(terms, self.dataset_size).total_correlation


class MMD(Objective):
    """The log-likelihood, with a weight on the squared MMD of q(z) and p(z).

    With kl_weight 0 the Wasserstein autoencoder (Tolstikhin et al. 2018, algorithm 2); InfoVAE (Zhao et al. 2019)
    has weight = alpha + lambda - 1 and kl_weight = 1 - alpha. With a kl_weight below 1 it bounds nothing.

    Args:
        weight: of the squared MMD
        kl_weight: of KL(q(z | x) || p(z))
        num_samples: latents for each example

    Raises:
        UserError: a weight is negative; the batch has fewer than 2 examples, or nothing would train the prior, whose
            samples have no gradient where it is a mixture (at the first iteration).
    """

    def __init__(self, weight: float, kl_weight: float = 0.0, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        self.weight = not_negative("MMD's weight", weight)
        self.kl_weight = not_negative("MMD's kl_weight", kl_weight)

    def __call__(self, terms: Terms, iteration: int) -> Tensor:
        """Values `[N]` whose mean is the objective."""
        if not (terms.prior.has_rsample or self.kl_weight):
            raise UserError(
                "MMD without a KL would leave this prior untrained, since samples of a mixture have no gradient: choose"
                " a kl_weight above 0, or StandardNormal or TopDown."
            )
        draw = terms.prior.rsample if terms.prior.has_rsample else terms.prior.sample
        discrepancy = squared_mmd(terms.z, draw(terms.z.shape[:-1])).mean()
        return terms.log_likelihood.mean(0) - self.kl_weight * terms.kl - self.weight * discrepancy


def squared_mmd(one: Tensor, other: Tensor) -> Tensor:
    """The unbiased estimate of the squared maximum mean discrepancy, `[...]` (Gretton et al. 2012, equation 3).

    The kernel is the inverse multiquadratic C / (C + |x - y|^2) with C = 2 Z, which suits the standard normal
    (Tolstikhin et al. 2018, section 4).

    Args:
        one: N samples of one distribution, `[..., N, Z]`
        other: N samples of the other, `[..., N, Z]`

    Raises:
        UserError: N is less than 2.
    """
    n = one.shape[-2]
    if n < 2:
        raise UserError(f"MMD compares pairs of examples, and a batch has {n}: set data.batch_size to 2 or more.")
    # Each of the N pairs of a sample with itself has kernel 1.
    within = (_kernel_sum(one, one) + _kernel_sum(other, other) - 2 * n) / (n * (n - 1))
    return within - 2 * _kernel_sum(one, other) / n**2


def _kernel_sum(one: Tensor, other: Tensor) -> Tensor:
    scale = 2 * one.shape[-1]
    distances = (one.unsqueeze(-2) - other.unsqueeze(-3)).square().sum(-1)
    return (scale / (scale + distances)).sum((-2, -1))
