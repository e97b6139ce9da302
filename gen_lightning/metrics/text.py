"""Metrics of sets of texts, `[N, T]` token numbers as in `gen_lightning.tokens`; bootstrap errors over the texts."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gen_lightning.metrics.estimates import Estimate, bootstrap, estimate_mean
from gen_lightning.tokens import END, count_tokens


class _Items(NamedTuple):
    """What is counted in texts: kinds int64 `[M]`, and the texts that they are in, int64 `[M]`."""

    kinds: Tensor
    texts: Tensor


def measure_distinct(texts: Tensor, n: int) -> Estimate:
    """Return the number of different n-grams divided by the number of n-grams, distinct-n (Li et al. 2016).

    It decreases with the number of texts, so compare it at equal N. It is 0 if no text has n tokens.

    Args:
        texts: token numbers, `[N, T]`
        n: number of tokens of an n-gram; at least 1
    """
    items = _list_ngrams(texts, n)

    def compute(chosen: Tensor) -> Tensor:
        counts = _count(items, chosen)
        return (counts > 0).sum() / counts.sum().clamp(min=1)

    return bootstrap(compute, torch.arange(len(texts)))


def measure_ngram_divergence(held_out: Tensor, samples: Tensor, n: int) -> Estimate:
    """Return the Jensen-Shannon divergence of the n-grams of two sets of texts, in bits (Lin 1991, equation 4.2).

    0 means equal frequencies, 1 that no n-gram is in both sets. Few texts have a large divergence, so compare it with
    its floor, at equal N.

    Args:
        held_out: token numbers of real texts, `[M, T]`
        samples: token numbers of generated texts, `[N, T]`
        n: number of tokens of an n-gram; at least 1
    """
    return _measure_divergence(_list_ngrams(torch.cat([held_out, samples]), n), len(held_out), len(samples))


def measure_length_divergence(held_out: Tensor, samples: Tensor) -> Estimate:
    """Return the Jensen-Shannon divergence of the numbers of tokens of two sets of texts, in bits.

    Args:
        held_out: token numbers of real texts, `[M, T]`
        samples: token numbers of generated texts, `[N, T]`
    """
    lengths = count_tokens(torch.cat([held_out, samples]))
    return _measure_divergence(_Items(lengths, torch.arange(len(lengths))), len(held_out), len(samples))


def measure_copies(samples: Tensor, training: Tensor) -> Estimate:
    """Return the share of texts that are also training texts.

    Args:
        samples: token numbers of generated texts, `[N, T]`
        training: token numbers of training texts, `[M, T]`
    """
    known = set(map(tuple, training.tolist()))
    return estimate_mean(torch.tensor([tuple(one) in known for one in samples.tolist()]))


def _measure_divergence(items: _Items, num_held_out: int, num_samples: int) -> Estimate:
    """Return the divergence of the kinds in the first texts from those in the other ones."""

    def compute(held_out: Tensor, samples: Tensor) -> Tensor:
        p, q = (_count(items, chosen) for chosen in (held_out, samples))
        if p.sum() == 0 or q.sum() == 0:
            return torch.tensor(1.0)
        p, q = p / p.sum(), q / q.sum()
        entropy, *entropies = (torch.special.entr(one).sum() for one in ((p + q) / 2, p, q))
        return ((entropy - sum(entropies) / 2) / math.log(2)).clamp(0, 1)

    return bootstrap(compute, torch.arange(num_held_out), num_held_out + torch.arange(num_samples))


def _list_ngrams(texts: Tensor, n: int) -> _Items:
    """Return the n-grams of texts; the end of a text is in none."""
    if texts.shape[-1] < n:
        return _Items(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    windows = texts.long().unfold(-1, n, 1)
    places = (windows > END).all(-1)
    tokens = windows[places]
    kinds = tokens[:, 0]
    for column in tokens.T[1:]:
        # The number of kinds is renewed at each step, so that it never exceeds int64.
        kinds = (kinds * (column.max() + 1) + column if len(column) else column).unique(return_inverse=True)[1]
    return _Items(kinds, places.nonzero()[:, 0])


def _count(items: _Items, chosen: Tensor) -> Tensor:
    """Return the number of each kind in chosen texts, float64; a text that is chosen twice counts twice."""
    num_kinds, num_texts = (int(one.max()) + 1 if len(one) else 1 for one in items)
    weights = torch.bincount(chosen, minlength=num_texts).double()
    return torch.bincount(items.kinds, weights[items.texts], minlength=num_kinds)
