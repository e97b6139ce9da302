"""Metrics of nearest neighbours: precision and recall, density and coverage, and memorization."""

import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, bootstrap, check_features, estimate_mean

# Number of rows in a block of distances, so that memory grows with _BLOCK x N and not with N x N.
_BLOCK = 256


def manifold_metrics(real: Tensor, fake: Tensor, neighbours: int = 5) -> dict[str, Estimate]:
    """Return precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020, section 3).

    The ball of a point reaches to its k-th nearest neighbour in its own set.

    - Precision is the share of samples that lie in the ball of a real image, from 0 to 1.
    - Recall is the share of real images that lie in the ball of a sample, from 0 to 1.
    - Density is the mean number of real balls that contain a sample, divided by k; it can exceed 1.
    - Coverage is the share of real balls that contain a sample, from 0 to 1.

    The standard errors are over points, with the balls held fixed. They compare models on the same real images. If the
    real images were drawn anew as well, precision and density would vary up to twice as much.

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
        "recall": estimate_mean(recalled),
        "density": estimate_mean(balls / neighbours),
        "coverage": estimate_mean(covered),
    }


def _find_members(real: Tensor, fake: Tensor, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count the real balls that contain each sample, and find the real images that are recalled or covered.

    Returns:
        Number of real balls that contain each sample, `[N]`; whether a sample's ball contains each real image, `[M]`;
        whether the ball of each real image contains a sample, `[M]`.
    """
    real_radii, fake_radii = _compute_squared_radii(real, neighbours), _compute_squared_radii(fake, neighbours)
    balls = torch.zeros_like(fake_radii)
    recalled, covered = [], []
    for rows, radii in zip(real.split(_BLOCK), real_radii.split(_BLOCK), strict=True):
        distances = _compute_squared_distances(rows, fake)
        in_real_ball = distances <= radii[:, None]
        balls += in_real_ball.sum(0)
        covered.append(in_real_ball.any(1))
        recalled.append((distances <= fake_radii).any(1))
    return balls, torch.cat(recalled), torch.cat(covered)


def _compute_squared_radii(features: Tensor, neighbours: int) -> Tensor:
    """Return the squared distance of each point to its k-th nearest other point, `[N]`."""
    # The nearest of the k + 1 points is the point itself.
    blocks = (_compute_squared_distances(rows, features) for rows in features.split(_BLOCK))
    return torch.cat([block.topk(neighbours + 1, largest=False).values[:, -1] for block in blocks])


def _compute_squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    products = torch.addmm(others.square().sum(1), rows, others.T, alpha=-2)
    return products.add_(rows.square().sum(1, keepdim=True)).clamp_(min=0)


def memorization(samples: Tensor, held_out: Tensor, training: Tensor, quantile: float = 0.01) -> Estimate:
    """Return the share of samples that are nearer to a training image than all but a `quantile` of held-out images.

    It is `quantile` for a perfect model, 1 for copies, and 0 for samples far from the data. This is a three-sample test
    in the spirit of Meehan, Chaudhuri & Dasgupta (2020), whose statistic compares the same distances by rank. The
    standard error is by the bootstrap over samples and held-out images.

    Args:
        samples: features of samples, `[N, D]`
        held_out: features of real images that the model was not trained on, `[M, D]`
        training: features of the training images, `[T, D]`
        quantile: share of held-out images that count as copies; at least 1 / M and below 1

    Raises:
        UserError: the features are not finite or are constant, or `quantile` is not in [1 / M, 1).
    """
    check_features(samples, "samples")
    check_features(held_out, "held-out images")
    check_features(training, "training images")
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
