"""The kernel distance between two sets of features: KID, given Inception's."""

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, check_features, mean_estimate


def kernel_distance(real: Tensor, fake: Tensor, subset_size: int = 1000) -> Estimate:
    """The unbiased MMD^2 with the kernel (x . y / D + 1)^3 (Binkowski et al. 2018, section 4), in float64.

    Averaged over pairs of blocks, where the blocks of the smaller set meet as many of the larger one's as there are.
    Its blocks are disjoint, and their independence gives the standard error. About 0 for equal distributions, and as
    often below it as above.

    Args:
        real: features of real images, `[M, D]`
        fake: features of samples, `[N, D]`
        subset_size: rows of a block, 2 or more, or a tenth of the smaller set where that is fewer

    Raises:
        UserError: the features are not finite or are constant, a set has fewer than 20 rows, or `subset_size` < 2.
    """
    check_features(real, "real images")
    check_features(fake, "samples")
    smaller = min(len(real), len(fake))
    if smaller < 20:
        raise UserError(f"The kernel distance needs 20 of each, not {len(real)} real images and {len(fake)} samples.")
    if subset_size < 2:
        raise UserError(f"The kernel distance's subset_size is {subset_size}: choose 2 or more.")
    generator = torch.Generator().manual_seed(0)
    size = min(subset_size, smaller // 10)
    real_blocks, fake_blocks = _blocks(real, size, generator), _blocks(fake, size, generator)
    distances: list[list[Tensor]] = [[] for _ in range(smaller // size)]
    for pair in range(max(len(real_blocks), len(fake_blocks))):
        pair_distance = poly_mmd(real_blocks[pair % len(real_blocks)], fake_blocks[pair % len(fake_blocks)])
        distances[pair % len(distances)].append(pair_distance)
    return mean_estimate(torch.stack([torch.stack(group).mean() for group in distances]))


def _blocks(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Disjoint blocks of shuffled rows, `[N // size, size, D]`: data often come sorted by class."""
    rows = torch.randperm(len(features), generator=generator)[: len(features) // size * size]
    return features[rows.to(features.device)].double().unflatten(0, (-1, size))
