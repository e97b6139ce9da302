"""The parts of a data set that are held out for validation and tests, the same in every run."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gen_lightning.contracts import SplitName

_SEED = 0


def draw_splits(labels: Tensor, fractions: Mapping[SplitName, float]) -> dict[SplitName, Tensor]:
    """Return the indices of the examples of each held-out split and of `train`, in random order.

    The splits are the same in every run, and stratified: the number of a class in a split is its share within 1.

    Args:
        labels: int64 `[N]`
        fractions: fractions of the N examples that are held out
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))
    place = order.argsort()
    rest = order[labels[order].argsort(stable=True)]
    splits: dict[SplitName, Tensor] = {}
    for split, fraction in fractions.items():
        # Examples at equal distances in the order by class.
        size = min(round(len(labels) * fraction), len(rest))
        chosen = torch.zeros(len(rest), dtype=torch.bool)
        chosen[((torch.arange(size) + 0.5) * len(rest) / max(size, 1)).long()] = True
        splits[split], rest = rest[chosen], rest[~chosen]
    splits["train"] = rest
    return {split: part[place[part].argsort()] for split, part in splits.items()}
