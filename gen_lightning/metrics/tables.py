"""Metrics of the encoded rows of a table: the distances of its columns, and of their associations."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from gen_lightning.metrics.estimates import Estimate, bootstrap, bootstrap_each

Places = Sequence[tuple[int, int]]
"""For each column, the index of its first feature and the number of its features: 1 for a number, more if one-hot."""


def column_distances(held_out: Tensor, samples: Tensor, places: Places) -> list[Estimate]:
    """Return the distance of each column's distributions in two sets of rows, in [0, 1].

    It is the Kolmogorov-Smirnov statistic of a number, which is the largest difference of the distribution functions
    and does not depend on the scale, and the total variation distance of a category. Both are 0 for equal
    distributions. Each has its standard error by the bootstrap.

    Args:
        held_out: encoded real rows, `[M, D]`
        samples: encoded generated rows, `[N, D]`
        places: the features of each column
    """
    return bootstrap_each(partial(compute_column_distances, places=places), held_out, samples)


def summarize_distances(held_out: Tensor, samples: Tensor, places: Places) -> tuple[Estimate, Estimate]:
    """Return the mean and the largest of the column distances, each with its standard error by the bootstrap.

    Args:
        held_out: encoded real rows, `[M, D]`
        samples: encoded generated rows, `[N, D]`
        places: the features of each column
    """

    def summarize(held_out: Tensor, samples: Tensor) -> Tensor:
        distances = compute_column_distances(held_out, samples, places)
        return torch.stack([distances.mean(), distances.amax()])

    mean, worst = bootstrap_each(summarize, held_out, samples)
    return mean, worst


def association_error(held_out: Tensor, samples: Tensor, places: Places) -> Estimate:
    """Return the mean absolute difference of the associations of all pairs of columns in two sets of rows.

    The difference of such matrices is a usual measure of generated tables (Zhao et al. 2021, section 4.2). With fewer
    than two columns it is 0. The standard error is by the bootstrap.

    Args:
        held_out: encoded real rows, `[M, D]`
        samples: encoded generated rows, `[N, D]`
        places: the features of each column
    """
    pairs = torch.ones(len(places), len(places)).tril(-1).bool()

    def compute(*sets: Tensor) -> Tensor:
        ours, theirs = (compute_associations(rows, places)[pairs] for rows in sets)
        return (ours - theirs).abs().sum() / max(len(ours), 1)

    return bootstrap(compute, held_out, samples)


def compute_column_distances(held_out: Tensor, samples: Tensor, places: Places) -> Tensor:
    """Return the distance of each column's distributions, as for `column_distances`, `[columns]`."""
    return torch.stack(
        [
            _compute_total_variation(held_out[:, first : first + size], samples[:, first : first + size])
            if size > 1
            else _compute_kolmogorov_smirnov(held_out[:, first], samples[:, first])
            for first, size in places
        ]
    )


def compute_associations(rows: Tensor, places: Places) -> Tensor:
    """Return the associations of all pairs of columns, `[columns, columns]`.

    They are Pearson's correlation of two numbers, in [-1, 1]; the correlation ratio of a number and a category (Fisher
    1925); and Cramér's V of two categories (Cramér 1946); the latter two are in [0, 1].

    Args:
        rows: encoded rows, `[N, D]`
        places: the features of each column
    """
    firsts, sizes = (torch.tensor(part) for part in zip(*places, strict=True))
    rows = rows.double()
    mean = rows.mean(0)
    covariance = (rows - mean).T @ (rows - mean) / len(rows)
    column = torch.arange(len(places)).repeat_interleave(sizes)
    # For one-hot features, the probabilities in place of the variances give the terms of chi squared and of the
    # variance between classes. Features without variance have no association.
    weights = torch.where(sizes[column] > 1, mean, covariance.diag())
    terms = covariance.square() / (weights[:, None] * weights).where(weights[:, None] * weights > 0, torch.inf)
    blocks = torch.zeros(len(places), rows.shape[1], dtype=torch.float64).index_add_(0, column, terms)
    blocks = torch.zeros(len(places), len(places), dtype=torch.float64).index_add_(1, column, blocks)
    degrees = (sizes - 1).clamp(min=1)
    strength = (blocks / torch.minimum(degrees[:, None], degrees)).sqrt()
    signs = covariance[firsts][:, firsts].sign()
    return torch.where((sizes[:, None] == 1) & (sizes == 1), signs * strength, strength)


def _compute_kolmogorov_smirnov(one: Tensor, other: Tensor) -> Tensor:
    values = torch.cat([one, other])
    ranks = (torch.searchsorted(part.sort().values, values, right=True) / len(part) for part in (one, other))
    return torch.sub(*ranks).abs().amax().double()


def _compute_total_variation(one: Tensor, other: Tensor) -> Tensor:
    return (one.double().mean(0) - other.double().mean(0)).abs().sum() / 2
