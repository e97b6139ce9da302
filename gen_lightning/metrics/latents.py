"""Metrics of a VAE's latent variables, from the posteriors q(z | x) of N examples."""

import math
from collections.abc import Sequence

import torch
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.distributions import Distribution

from gen_lightning.metrics.estimates import Estimate, bootstrap, estimate_mean


def active_units(means: Tensor, threshold: float = 0.01) -> Estimate:
    """Return the number of dimensions whose posterior mean varies over the data (Burda et al. 2016, section 5.2).

    Args:
        means: E[z | x] of N examples, `[N, Z]`
        threshold: variance that the mean of an active unit exceeds
    """
    return bootstrap(lambda sample: (sample.var(0) > threshold).sum(), means)


def mutual_information(
    posteriors: Sequence[Distribution], latents: Sequence[Tensor], num_latents: int = 1000
) -> Estimate:
    """Return I_q(x; z) = E[log q(z | x) - log q(z)] in nats: the rate minus KL(q(z) || p(z)) (Hoffman & Johnson 2016).

    q(z) is the mean of the N given posteriors, and the expectation is a mean over the latents of evenly spaced
    examples. For the N examples, the estimate is unbiased. For the distribution that they are drawn from, it is too
    low: each latent's own posterior is 1 / N of q(z), so that no value exceeds log N. A value near log N is therefore
    only a lower bound.

    Args:
        posteriors: q(z | x) in batches, batch shape `[B]`
        latents: one sample of each posterior, in batches `[B, Z]`
        num_latents: largest number of latents that are averaged over
    """
    log_posterior = torch.cat([posterior.log_prob(z) for posterior, z in zip(posteriors, latents, strict=True)])
    chosen = slice(None, None, math.ceil(len(log_posterior) / num_latents))
    # In parts, so that memory does not grow with num_latents.
    parts = torch.cat(list(latents))[chosen].split(100)
    log_aggregate = torch.cat([_evaluate_aggregate(posteriors, z) for z in parts])
    return estimate_mean(log_posterior[chosen].cpu().double() - log_aggregate)


def _evaluate_aggregate(posteriors: Sequence[Distribution], z: Tensor) -> Tensor:
    """Return log q(z), `[M]`, at latents `[M, Z]`."""
    log_densities = torch.cat([posterior.log_prob(z.unsqueeze(1)) for posterior in posteriors], 1).cpu().double()
    return log_densities.logsumexp(1) - math.log(log_densities.shape[1])


def probe_accuracies(
    means: Tensor, labels: Tensor, held_out_means: Tensor, held_out_labels: Tensor
) -> dict[str, Estimate]:
    """Return the accuracies of classifiers of posterior means: logistic regression and 5 nearest neighbours.

    All tensors are on the CPU, where scikit-learn computes.

    Args:
        means: E[z | x] of the examples that the classifiers are fitted to, `[N, Z]`
        labels: classes of these examples, int64 `[N]`; at least two different ones
        held_out_means: E[z | x] of the examples that the classifiers are tested on, `[M, Z]`
        held_out_labels: classes of these examples, int64 `[M]`
    """
    probes: dict[str, ClassifierMixin] = {
        "linear_accuracy": LogisticRegression(max_iter=1000),
        "knn_accuracy": KNeighborsClassifier(n_neighbors=5),
    }
    accuracies = {}
    for name, probe in probes.items():
        predicted = probe.fit(means.numpy(), labels.numpy()).predict(held_out_means.numpy())
        accuracies[name] = estimate_mean(torch.from_numpy(predicted) == held_out_labels)
    return accuracies
