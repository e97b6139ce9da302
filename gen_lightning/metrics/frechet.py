"""The Fréchet distance between Gaussians that are fitted to two sets of features: FID, given Inception's."""

import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, bootstrap, check_features


def frechet_distance(real: Tensor, fake: Tensor) -> Tensor:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017, equation 6), float64 `[]`, 0 or more.

    m are the means and S the unbiased covariances of the two sets.

    Args:
        real: features of real images, `[M, D]`
        fake: features of samples, `[N, D]`

    Raises:
        UserError: the features are not finite or are constant, or a set has D rows or fewer.
    """
    _check(real, fake)
    return _distance(real.double(), fake.double())


def frechet_estimate(real: Tensor, fake: Tensor) -> Estimate:
    """`frechet_distance`, with its standard error by the bootstrap over both sets.

    Near a distance of 0, where it is a quadratic statistic, the bootstrap's error is up to twice the true one. It says
    nothing about the bias, which is positive and falls as 1/N (Chong & Forsyth 2020): compare distances at equal M and
    N only.
    """
    _check(real, fake)
    return bootstrap(_distance, real.double(), fake.double())


def _check(real: Tensor, fake: Tensor) -> None:
    check_features(real, "real images")
    check_features(fake, "samples")
    dim = real.shape[1]
    if min(len(real), len(fake)) <= dim:
        raise UserError(
            f"The covariance of {dim} features is singular for {len(real)} real images and {len(fake)} samples:"
            f" take more than {dim} of each, or an extractor of fewer features."
        )


def _distance(real: Tensor, fake: Tensor) -> Tensor:
    real_root, fake_root = _covariance_root(real), _covariance_root(fake)
    # The eigenvalues of S1 S2 are the squared singular values of R1 R2^T. Nothing is squared on the way, so that no
    # digits are lost where a covariance is nearly singular (dead features).
    trace_of_root = torch.linalg.svdvals(real_root @ fake_root.T).sum()
    traces = real_root.square().sum() + fake_root.square().sum()
    means = (real.mean(0) - fake.mean(0)).square().sum()
    return (means + traces - 2 * trace_of_root).clamp(min=0)


def _covariance_root(features: Tensor) -> Tensor:
    """R with R^T R = S, `[D, D]`."""
    centred = features - features.mean(0)
    return torch.linalg.qr(centred / (len(features) - 1) ** 0.5, mode="r").R
