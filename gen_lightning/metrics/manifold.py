"""Metrics of nearest neighbours: precision and recall, density and coverage, and memorization."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, bootstrap, check_features, estimate_mean

# Number of rows in a block of distances, so that memory grows with _BLOCK x N and not with N x N.
_BLOCK = 256

# Number of groups of samples that the jackknife leaves out, one after the other.
_GROUPS = 20

# Number of pairs of a point and a ball that are compared at once, so that memory is bounded if most pairs are members.
_PAIRS = 2**16


def manifold_metrics(real: Tensor, fake: Tensor, neighbours: int = 5) -> dict[str, Estimate]:
    """Return precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020, section 3).

    The ball of a point reaches to its k-th nearest neighbour in its own set.

    - Precision is the share of samples that lie in the ball of a real image, from 0 to 1.
    - Recall is the share of real images that lie in the ball of a sample, from 0 to 1.
    - Density is the mean number of real balls that contain a sample, divided by k; it can exceed 1.
    - Coverage is the share of real balls that contain a sample, from 0 to 1.

    The standard errors are those of new samples, for the given real images, since models are compared on the same real
    images. If the real images were drawn anew as well, precision and density would vary up to twice as much, or more
    with fewer real images than samples. Precision and density are means over independent samples. Recall and coverage
    are means over real images, and one sample can change many of their terms: an outlying sample has a large ball. By
    the law of total variance, their variance is the sum of

    - the variance over real images with the samples held fixed, which assumes that real images are independent, and
    - the variance by the samples, from a delete-a-group jackknife over 20 random groups of samples (Kott 2001), whose
      balls are computed anew. The share that each real image contributes by itself is in the first term, and is
      subtracted.

    Args:
        real: features of real images, `[M, D]`
        fake: features of samples, `[N, D]`
        neighbours: number of neighbours, k; at least 1 and below M and N

    Returns:
        Estimates by name: precision, recall, density and coverage.

    Raises:
        UserError: the features are not finite or are constant, or k is not in [1, min(M, N)).
    """
    check_features(real, "real images")
    check_features(fake, "samples")
    if not 1 <= neighbours < min(len(real), len(fake)):
        raise UserError(
            f"`manifold_metrics.neighbours` is {neighbours} for {len(real)} real images and {len(fake)} samples. Choose"
            " at least 1, and use more images and samples than neighbours."
        )
    # Centred, so that few digits cancel in the expansion of the squared distances.
    real, fake = real.double() - real.double().mean(0), fake.double() - real.double().mean(0)
    balls, recalled, covered = _find_members(real, fake, neighbours)
    return {
        "precision": estimate_mean(balls > 0),
        "recall": _estimate_share(recalled),
        "density": estimate_mean(balls.double() / neighbours),
        "coverage": _estimate_share(covered),
    }


def _estimate_share(members: Tensor) -> Estimate:
    """Return the share of members among points, with the error of new samples and new points.

    Args:
        members: whether each point is a member, with all samples and without each group of them, bool `[M, 1 + G]`
    """
    value, error = estimate_mean(members[:, 0])
    replicates = members[:, 1:].double()
    variance = _compute_jackknife_variance(replicates.mean(0))
    # What the points contribute one by one is the variance over points, which `error` holds.
    variance = variance - _compute_jackknife_variance(replicates).sum() / len(members) ** 2
    return Estimate(value, (error**2 + variance.clamp(min=0).item()) ** 0.5)


def _compute_jackknife_variance(replicates: Tensor) -> Tensor:
    """Return the variance `[...]` of a statistic from its values without each of G groups of examples, `[..., G]`."""
    return (replicates.shape[-1] - 1) * replicates.var(-1, correction=0)


def _find_members(real: Tensor, fake: Tensor, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count the real balls that contain each sample, and find the real images that are recalled or covered.

    Returns:
        Number of real balls that contain each sample, `[N]`; whether a sample's ball contains each real image, and
        whether the ball of each real image contains a sample, with all samples and without each group of them,
        bool `[M, 1 + G]`.
    """
    num_groups = min(_GROUPS, len(fake))
    groups = (torch.randperm(len(fake), generator=torch.Generator().manual_seed(0)) % num_groups).to(fake.device)
    real_radii = _compute_squared_radii(real, neighbours)
    fake_radii = _compute_squared_radii_without_groups(fake, neighbours, groups, num_groups)
    largest_radii = fake_radii.amax(1)
    in_group = F.one_hot(groups, num_groups).bool()
    kept = torch.cat([torch.ones_like(in_group[:, :1]), ~in_group], 1).int()
    balls = torch.zeros_like(groups)
    num_samples, num_balls = (kept.new_zeros(len(real), 1 + num_groups) for _ in range(2))
    for start in range(0, len(real), _BLOCK):
        distances = _compute_squared_distances(real[start : start + _BLOCK], fake)
        for rows, samples in _find_pairs(distances <= real_radii[start : start + _BLOCK, None]):
            balls += samples.bincount(minlength=len(fake))
            num_samples.index_add_(0, start + rows, kept[samples])
        # Few samples are near a real image, so that only these are compared with the balls of each group.
        for rows, samples in _find_pairs(distances <= largest_radii):
            contained = distances[rows, samples, None] <= fake_radii[samples]
            num_balls.index_add_(0, start + rows, kept[samples] * contained)
    return balls, num_balls > 0, num_samples > 0


def _find_pairs(mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the row and the column of each True of a mask, int64 `[P]` each, in parts."""
    return (pairs.unbind(1) for pairs in mask.nonzero().split(_PAIRS))


def _compute_squared_radii(features: Tensor, neighbours: int) -> Tensor:
    """Return the squared distance of each point to its k-th nearest other point, `[N]`."""
    return torch.cat([distances[:, -1] for distances, _ in _find_neighbours(features, neighbours)])


def _compute_squared_radii_without_groups(features: Tensor, neighbours: int, groups: Tensor, num_groups: int) -> Tensor:
    """Return the squared radii with all points, and without each group of them, `[N, 1 + G]`.

    Args:
        features: features of the points, `[N, D]`
        neighbours: number of neighbours, k
        groups: group of each point, int64 `[N]`
        num_groups: number of groups, G
    """
    # Random groups seldom hold so many of a point's neighbours that its k-th one of the others is not among these. The
    # last one is then used, as also if fewer than k are left.
    num_found = min(4 * neighbours, len(features) - 1)
    radii = []
    for distances, found in _find_neighbours(features, num_found):
        counted = ~F.one_hot(groups[found], num_groups).bool()
        ranks = torch.cat([torch.ones_like(counted[..., :1]), counted], 2).cumsum(1)
        radii.append(distances.gather(1, (ranks < neighbours).sum(1).clamp(max=num_found - 1)))
    return torch.cat(radii)


def _find_neighbours(features: Tensor, neighbours: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the squared distances and the indices of each point's k nearest other points, `[B, k]`, in blocks."""
    for rows in features.split(_BLOCK):
        distances, indices = _compute_squared_distances(rows, features).topk(neighbours + 1, largest=False)
        # The nearest of the k + 1 points is the point itself.
        yield distances[:, 1:], indices[:, 1:]


def _compute_squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    products = torch.addmm(others.square().sum(1), rows, others.T, alpha=-2)
    return products.add_(rows.square().sum(1, keepdim=True)).clamp_(min=0)


def memorization(samples: Tensor, held_out: Tensor, training: Tensor, quantile: float | None = None) -> Estimate:
    """Return the share of samples that are nearer to a training image than all but a `quantile` of held-out images.

    It is `quantile` for a perfect model, 1 for copies, and 0 for samples far from the data. This is a three-sample test
    in the spirit of Meehan, Chaudhuri & Dasgupta (2020), whose statistic compares the same distances by rank. The
    standard error is by the bootstrap over samples and held-out images.

    Args:
        samples: features of samples, `[N, D]`
        held_out: features of real images that the model was not trained on, `[M, D]`
        training: features of the training images, `[T, D]`
        quantile: share of held-out images that count as copies; at least 1 / M and below 1; default: 0.01, or 1 / M
            if M is less than 100

    Raises:
        UserError: the features are not finite or are constant, or `quantile` is not in [1 / M, 1).
    """
    check_features(samples, "samples")
    check_features(held_out, "held-out images")
    check_features(training, "training images")
    quantile = max(0.01, 1 / len(held_out)) if quantile is None else quantile
    if not 1 / len(held_out) <= quantile < 1:
        raise UserError(
            f"`memorization.quantile` is {quantile} for {len(held_out)} held-out images. Choose at least"
            f" 1 / {len(held_out)}, and below 1."
        )
    distances = (_compute_nearest_distances(features.double(), training.double()) for features in (samples, held_out))
    return bootstrap(lambda ours, theirs: _compute_copy_share(ours, theirs.quantile(quantile)), *distances)


def _compute_copy_share(distances: Tensor, threshold: Tensor) -> Tensor:
    # A sample at exactly the threshold is no nearer than held-out images are, so it does not count. A sample at a
    # distance of 0 always counts: if the data contain duplicates, a perfect model scores their share in the data.
    return ((distances < threshold) | (distances == 0)).double().mean()


def _compute_nearest_distances(features: Tensor, training: Tensor) -> Tensor:
    """Return the distance of each row to its nearest training image, `[N]`; exactly 0 for copies."""
    centre = training.mean(0)
    features, training = features - centre, training - centre
    norms = training.square().sum(1)
    # |y|^2 - 2 x . y orders the training images by distance. Only the distance of the nearest one is then computed.
    blocks = (torch.addmm(norms, rows, training.T, alpha=-2) for rows in features.split(_BLOCK))
    nearest = torch.cat([block.argmin(1) for block in blocks])
    return (features - training[nearest]).norm(dim=1)
