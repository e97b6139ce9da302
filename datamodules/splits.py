"""The parts of a data set that are held out for validation and tests, the same in every run."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from datamodules.sources import Split
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError

_SEED = 0


def choose_fractions(
    val_path: Path | None, test_path: Path | None, val_fraction: float, test_fraction: float
) -> dict[SplitName, float]:
    """Return the fractions of the training file that are held out, by split: none for a split with its own file."""
    fractions: dict[SplitName, float] = {}
    if not val_path:
        fractions["val"] = val_fraction
    if not test_path:
        fractions["test"] = test_fraction
    return fractions


def refuse_empty_splits(sizes: Mapping[SplitName, int], fractions: Mapping[SplitName, float]) -> None:
    """Refuse fractions that leave a split empty.

    Args:
        sizes: number of examples of each split
        fractions: fractions of the examples that are held out, by split

    Raises:
        UserError: a split is empty.
    """
    for split, size in sizes.items():
        if size == 0:
            given = ", ".join(f"`{name}_fraction` is {fraction}" for name, fraction in fractions.items())
            raise UserError(
                f"{given}, which leaves none of {sum(sizes.values()):,} examples for the split {split}. Choose other"
                " fractions, or give more examples."
            )


def hold_out(data: Split, fractions: Mapping[SplitName, float]) -> dict[SplitName, Split]:
    """Return the held-out splits of `fractions`, and the rest as `train`, each in the order of the data.

    Raises:
        UserError: a split is empty.
    """
    indices = draw_splits(data.labels, fractions)
    refuse_empty_splits({name: len(part) for name, part in indices.items()}, fractions)
    # Rows of a file on the disk are read into memory here, once and in order.
    return {name: Split(*(tensor[part.sort().values] for tensor in data)) for name, part in indices.items()}


def draw_splits(labels: Tensor, fractions: Mapping[SplitName, float]) -> dict[SplitName, Tensor]:
    """Return the indices of the examples of each held-out split and of `train`, in random order.

    The splits are the same in every run, and stratified: the number of a class in a split is its share within 2.

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
