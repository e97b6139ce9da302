"""The kernel distance between two sets of features; with Inception's features, the KID."""

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, check_features, estimate_mean

_MIN_ROWS = 20


def kernel_distance(real: Tensor, fake: Tensor, subset_size: int = 1000) -> Estimate:
    """Return the unbiased MMD^2 with the kernel (x . y / D + 1)^3 (Binkowski et al. 2018, section 4), in float64.

    Both sets are shuffled and divided into disjoint blocks. Each block of the larger set is paired with one block of
    the smaller set. The distance is averaged over the pairs of each block of the smaller set, then over these blocks.
    They are independent, which gives the standard error. For equal distributions, the value is about 0, and as often
    negative as positive.

    Args:
        real: features of real images, `[M, D]`
        fake: features of samples, `[N, D]`
        subset_size: number of rows in a block; at least 2, and reduced to a tenth of the smaller set if that is fewer

    Raises:
        UserError: the features are not finite or are constant, a set has fewer than 20 rows, or `subset_size` < 2.
    """
    check_range(kernel_distance, at_least=2, subset_size=subset_size)
    check_features(real, "real images")
    check_features(fake, "samples")
    smaller = min(len(real), len(fake))
    if smaller < _MIN_ROWS:
        raise UserError(
            f"There are {len(real)} real images and {len(fake)} samples, too few for the kernel distance. Use at least"
            f" {_MIN_ROWS} real images and {_MIN_ROWS} samples."
        )
    generator = torch.Generator().manual_seed(0)
    size = min(subset_size, smaller // 10)
    real_blocks, fake_blocks = _divide(real, size, generator), _divide(fake, size, generator)
    distances: list[list[Tensor]] = [[] for _ in range(smaller // size)]
    for pair in range(max(len(real_blocks), len(fake_blocks))):
        pair_distance = poly_mmd(real_blocks[pair % len(real_blocks)], fake_blocks[pair % len(fake_blocks)])
        distances[pair % len(distances)].append(pair_distance)
    return estimate_mean(torch.stack([torch.stack(group).mean() for group in distances]))


def _divide(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return disjoint blocks of shuffled rows, `[N // size, size, D]`."""
    # Shuffled, because data are often sorted by class.
    rows = torch.randperm(len(features), generator=generator)[: len(features) // size * size]
    return features[rows.to(features.device)].double().unflatten(0, (-1, size))
