"""Metrics of texts: known values, extremes, an independent reference, and errors that repeated draws confirm."""

from collections import Counter

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from gen_lightning.metrics import (
    estimate_ratio,
    measure_copies,
    measure_distinct,
    measure_length_divergence,
    measure_ngram_divergence,
)

# "a b a b" and "a", with a = 3 and b = 4.
TEXTS = torch.tensor([[3, 4, 3, 4, 1], [3, 1, 0, 0, 0]])
EMPTY = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]])


def draw_texts(n, seed=0, skew=1.0):
    """Return n texts of 0 to 7 tokens with unequal frequencies."""
    generator = torch.Generator().manual_seed(seed)
    tokens = 3 + torch.multinomial(torch.arange(1.0, 9) ** skew, n * 8, True, generator=generator).view(n, 8)
    lengths = torch.randint(8, (n, 1), generator=generator)
    places = torch.arange(8)
    return torch.where(places < lengths, tokens, (places == lengths).long())


def list_ngrams(texts, n):
    tokens = [[token for token in text if token > 1] for text in texts.tolist()]
    return [tuple(line[start : start + n]) for line in tokens for start in range(len(line) - n + 1)]


@pytest.mark.parametrize(("n", "expected"), [(1, 2 / 5), (2, 2 / 3), (3, 1), (4, 1), (5, 0)])
def test_distinct_ngrams_of_known_texts(n, expected):
    assert measure_distinct(TEXTS, n).value == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_ngrams_equal_a_count_in_plain_python(n):
    held_out, samples = draw_texts(300), draw_texts(200, seed=1, skew=2)
    p, q = Counter(list_ngrams(held_out, n)), Counter(list_ngrams(samples, n))
    assert measure_distinct(samples, n).value == pytest.approx(len(q) / q.total())
    kinds = [*(p | q)]
    expected = jensenshannon([p[kind] for kind in kinds], [q[kind] for kind in kinds], base=2) ** 2
    assert measure_ngram_divergence(held_out, samples, n).value == pytest.approx(expected)


def test_divergences_are_0_for_equal_texts_and_1_for_texts_without_common_ngrams():
    texts = draw_texts(100)
    assert measure_ngram_divergence(texts, texts, 2).value == pytest.approx(0, abs=1e-12)
    assert measure_length_divergence(texts, texts).value == pytest.approx(0, abs=1e-12)
    others = torch.where(texts > 1, texts + 100, texts)
    assert measure_ngram_divergence(texts, others, 2).value == pytest.approx(1)
    assert measure_length_divergence(texts, others).value == pytest.approx(0, abs=1e-12)


def test_texts_without_ngrams_are_as_far_away_as_possible():
    empty = torch.tensor([[1, 0, 0]] * 5)
    assert measure_distinct(empty, 1) == (0, 0)
    assert measure_ngram_divergence(torch.tensor([[3, 4, 1]] * 5), empty, 1).value == 1
    assert measure_length_divergence(torch.tensor([[3, 4, 1]] * 5), empty).value == pytest.approx(1)


def test_copies_are_texts_that_equal_a_training_text():
    samples = torch.tensor([[3, 4, 1], [4, 3, 1], [3, 1, 0], [3, 4, 5]]).float()
    assert measure_copies(samples, torch.tensor([[3, 4, 1], [3, 4, 6], [3, 1, 0]])).value == 0.5


@pytest.mark.parametrize(
    "measure",
    [
        lambda texts: measure_distinct(texts, 3),
        lambda texts: measure_ngram_divergence(draw_texts(400, 999, 2), texts, 1),
        lambda texts: measure_length_divergence(torch.cat([draw_texts(300, 999), EMPTY.expand(100, 8)]), texts),
    ],
    ids=["distinct", "ngram divergence", "length divergence"],
)
def test_errors_are_those_of_repeated_draws(measure):
    estimates = [measure(draw_texts(400, seed)) for seed in range(40)]
    spread = torch.tensor([one.value for one in estimates]).std().item()
    error = torch.tensor([one.error for one in estimates]).mean().item()
    # With held-out texts, the error includes theirs.
    assert 0.5 * spread < error < 2 * spread + 1e-12


def test_the_ratio_of_sums_has_the_error_of_the_delta_method():
    generator = torch.Generator().manual_seed(0)

    def draw():
        lengths = torch.randint(1, 20, (300,), generator=generator).double()
        return 2 * lengths + 3 * torch.randn(300, generator=generator), lengths

    estimates = [estimate_ratio(*draw()) for _ in range(300)]
    values, errors = (torch.tensor(one) for one in zip(*estimates, strict=True))
    assert values.mean().item() == pytest.approx(2, abs=4 * values.std().item() / 300**0.5)
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.15)
