"""The Fréchet distance between Gaussians fitted to two sets of features; with Inception's features, the FID."""

import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, bootstrap, check_features


def frechet_distance(real: Tensor, fake: Tensor) -> Tensor:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017, equation 6), float64 `[]`, at least 0.

    m1 and m2 are the means of the two sets, and S1 and S2 their unbiased covariances.

    Args:
        real: features of real images, `[M, D]`
        fake: features of samples, `[N, D]`

    Raises:
        UserError: the features are not finite or are constant, or a set has D rows or fewer.
    """
    _check_sets(real, fake)
    return _compute_distance(real.double(), fake.double())


def estimate_frechet_distance(real: Tensor, fake: Tensor) -> Estimate:
    """Return `frechet_distance` with its standard error by the bootstrap over both sets.

    Near a distance of 0, where the statistic is quadratic, the bootstrap's error is up to twice the true one. It does
    not measure the bias, which is positive and decreases as 1/N (Chong & Forsyth 2020). Compare distances only at equal
    M and N.

    Args:
        real: features of real images, `[M, D]`
        fake: features of samples, `[N, D]`

    Raises:
        UserError: the features are not finite or are constant, or a set has D rows or fewer.
    """
    _check_sets(real, fake)
    return bootstrap(_compute_distance, real.double(), fake.double())


def _check_sets(real: Tensor, fake: Tensor) -> None:
    check_features(real, "real images")
    check_features(fake, "samples")
    dim = real.shape[1]
    if min(len(real), len(fake)) <= dim:
        raise UserError(
            f"The covariance of {dim} features is singular for {len(real)} real images and {len(fake)} samples."
            f" Use more than {dim} real images and samples, or an extractor with fewer features."
        )


def _compute_distance(real: Tensor, fake: Tensor) -> Tensor:
    real_root, fake_root = _compute_covariance_root(real), _compute_covariance_root(fake)
    # The eigenvalues of S1 S2 are the squared singular values of R1 R2^T. No intermediate result is squared, so that no
    # digits are lost if a covariance is nearly singular (dead features).
    trace_of_root = torch.linalg.svdvals(real_root @ fake_root.T).sum()
    traces = real_root.square().sum() + fake_root.square().sum()
    means = (real.mean(0) - fake.mean(0)).square().sum()
    return (means + traces - 2 * trace_of_root).clamp(min=0)


def _compute_covariance_root(features: Tensor) -> Tensor:
    """Return R with R^T R = S, the covariance, `[D, D]`."""
    centred = features - features.mean(0)
    return torch.linalg.qr(centred / (len(features) - 1) ** 0.5, mode="r").R
