"""What the latents of a VAE hold, from the posteriors q(z | x) of N examples."""

import math
from collections.abc import Sequence

import torch
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.distributions import Distribution

from gen_lightning.metrics.estimates import Estimate, bootstrap, mean_estimate


def active_units(means: Tensor, threshold: float = 0.01) -> Estimate:
    """The number of dimensions whose posterior mean varies over the data (Burda et al. 2016, section 5.2).

    Args:
        means: E[z | x] of N examples, `[N, Z]`
        threshold: the least variance of an active unit
    """
    return bootstrap(lambda sample: (sample.var(0) > threshold).sum(), means)


def mutual_information(
    posteriors: Sequence[Distribution], latents: Sequence[Tensor], num_latents: int = 1000
) -> Estimate:
    """I_q(x; z) = E[log q(z | x) - log q(z)] in nats: the rate less KL(q(z) || p(z)) (Hoffman & Johnson 2016).

    q(z) is the mean of the N posteriors given, and the expectation a mean over latents of evenly spaced examples. Of
    the N examples that is unbiased. Of their whole distribution it is too low: each latent's own posterior is 1 / N of
    q(z), so that no value can exceed log N, and what comes near to log N says no more than that.

    Args:
        posteriors: q(z | x) in batches, batch shape `[B]`
        latents: a sample of each, `[B, Z]`
        num_latents: the most latents that the mean is over
    """
    log_posterior = torch.cat([posterior.log_prob(z) for posterior, z in zip(posteriors, latents, strict=True)])
    chosen = slice(None, None, math.ceil(len(log_posterior) / num_latents))
    # In parts, so that memory does not grow with num_latents.
    log_aggregate = torch.cat([_log_aggregate(posteriors, z) for z in torch.cat(list(latents))[chosen].split(100)])
    return mean_estimate(log_posterior[chosen].cpu().double() - log_aggregate)


def _log_aggregate(posteriors: Sequence[Distribution], z: Tensor) -> Tensor:
    """Log q(z), `[M]`, of latents `[M, Z]`."""
    log_densities = torch.cat([posterior.log_prob(z.unsqueeze(1)) for posterior in posteriors], 1).cpu().double()
    return log_densities.logsumexp(1) - math.log(log_densities.shape[1])


def probe_accuracies(
    means: Tensor, labels: Tensor, held_out_means: Tensor, held_out_labels: Tensor
) -> dict[str, Estimate]:
    """How well classes are read off posterior means, by logistic regression and by 5 nearest neighbours.

    All on the CPU, where scikit-learn computes.

    Args:
        means: E[z | x] of the examples that the probes are fitted to, `[N, Z]`
        labels: their classes, int64 `[N]`, at least two
        held_out_means: of the examples that they are judged on, `[M, Z]`
        held_out_labels: their classes, int64 `[M]`
    """
    probes: dict[str, ClassifierMixin] = {
        "linear_accuracy": LogisticRegression(max_iter=1000),
        "knn_accuracy": KNeighborsClassifier(n_neighbors=5),
    }
    accuracies = {}
    for name, probe in probes.items():
        predicted = probe.fit(means.numpy(), labels.numpy()).predict(held_out_means.numpy())
        accuracies[name] = mean_estimate(torch.from_numpy(predicted) == held_out_labels)
    return accuracies
