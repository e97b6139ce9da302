"""Metrics of nearest neighbours: what of the data the samples reach, and whether they copy it."""

import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, bootstrap, check_features, mean_estimate

# Rows of a block of distances: memory grows with _BLOCK x N, not with N x N.
_BLOCK = 256


def manifold_metrics(real: Tensor, fake: Tensor, neighbours: int = 5) -> dict[str, Estimate]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020, section 3).

    Every point has a ball that reaches to its k-th nearest neighbour in its own set. Precision is the share of samples
    within a ball of a real image, and recall the share of real images within a ball of a sample; density counts the
    real balls around each sample, over k; coverage is the share of real balls that hold a sample. All are in [0, 1]
    but density, which can exceed 1. The standard errors are over points, for balls as they are: of models judged by the
    same real images. Were those drawn anew too, precision and density would vary up to twice as much.

    Args:
        real: features of real images, `[M, D]`
        fake: features of samples, `[N, D]`
        neighbours: k

    Returns:
        Estimates by the names precision, recall, density and coverage.

    Raises:
        UserError: the features are not finite or are constant, or k is not in [1, min(M, N)).
    """
    check_features(real, "real images")
    check_features(fake, "samples")
    if not 1 <= neighbours < min(len(real), len(fake)):
        raise UserError(
            f"{neighbours} neighbours in {len(real)} real images and {len(fake)} samples: choose 1 or more neighbours,"
            " and more images than that."
        )
    # Distances to the common mean are small, so that the expansion of the squares cancels little.
    real, fake = real.double() - real.double().mean(0), fake.double() - real.double().mean(0)
    balls, recalled, covered = _memberships(real, fake, neighbours)
    return {
        "precision": mean_estimate(balls > 0),
        "recall": mean_estimate(recalled),
        "density": mean_estimate(balls / neighbours),
        "coverage": mean_estimate(covered),
    }


def _memberships(real: Tensor, fake: Tensor, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """How many real balls hold each sample, `[N]`; which real images a sample's ball holds; which hold one, `[M]`."""
    real_radii, fake_radii = _squared_radii(real, neighbours), _squared_radii(fake, neighbours)
    balls = torch.zeros_like(fake_radii)
    recalled, covered = [], []
    for rows, radii in zip(real.split(_BLOCK), real_radii.split(_BLOCK), strict=True):
        distances = _squared_distances(rows, fake)
        in_real_ball = distances <= radii[:, None]
        balls += in_real_ball.sum(0)
        covered.append(in_real_ball.any(1))
        recalled.append((distances <= fake_radii).any(1))
    return balls, torch.cat(recalled), torch.cat(covered)


def _squared_radii(features: Tensor, neighbours: int) -> Tensor:
    """Squared distances to the k-th nearest other point, `[N]`."""
    # The nearest of the k + 1 is the point itself.
    blocks = (_squared_distances(rows, features) for rows in features.split(_BLOCK))
    return torch.cat([block.topk(neighbours + 1, largest=False).values[:, -1] for block in blocks])


def _squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    products = torch.addmm(others.square().sum(1), rows, others.T, alpha=-2)
    return products.add_(rows.square().sum(1, keepdim=True)).clamp_(min=0)


def memorization(samples: Tensor, held_out: Tensor, training: Tensor, quantile: float = 0.01) -> Estimate:
    """The share of samples that lie nearer to a training image than all but a quantile of held-out images do.

    `quantile` for a perfect model, 1 for copies, and 0 for samples far from the data. A test of three samples in the
    spirit of Meehan, Chaudhuri & Dasgupta (2020), whose statistic compares the same distances by rank. Its standard
    error is by the bootstrap over samples and held-out images.

    Args:
        samples: features of samples, `[N, D]`
        held_out: features of real images that were not trained on, `[M, D]`
        training: features of the training images, `[T, D]`
        quantile: the share of held-out images that pass for copies, in [1 / M, 1)

    Raises:
        UserError: the features are not finite or are constant, or `quantile` is not in [1 / M, 1).
    """
    check_features(samples, "samples")
    check_features(held_out, "held-out images")
    check_features(training, "training images")
    if not 1 / len(held_out) <= quantile < 1:
        raise UserError(
            f"The quantile of {len(held_out)} held-out images is {quantile}:"
            f" choose 1 / {len(held_out)} or more, and less than 1."
        )
    distances = (_nearest_distances(features.double(), training.double()) for features in (samples, held_out))
    return bootstrap(lambda ours, theirs: _copy_share(ours, theirs.quantile(quantile)), *distances)


def _copy_share(distances: Tensor, threshold: Tensor) -> Tensor:
    # Ties with the threshold are as near as held-out images come, so they do not count. At distance 0 they do: a copy
    # is one even where the data repeat themselves, and a perfect model then scores the data's own share of copies.
    return ((distances < threshold) | (distances == 0)).double().mean()


def _nearest_distances(features: Tensor, training: Tensor) -> Tensor:
    """Distances to the nearest training image, `[N]`: exactly 0 for copies."""
    centre = training.mean(0)
    features, training = features - centre, training - centre
    norms = training.square().sum(1)
    # |y|^2 - 2 x . y orders the training images by distance; only the nearest one's distance is then computed.
    blocks = (torch.addmm(norms, rows, training.T, alpha=-2) for rows in features.split(_BLOCK))
    nearest = torch.cat([block.argmin(1) for block in blocks])
    return (features - training[nearest]).norm(dim=1)
