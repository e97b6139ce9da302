"""The metrics of samples by classifiers, on sets whose answers are known."""

import math

import pytest
import torch
from scipy.stats import norm

from gen_lightning.metrics import classifier_two_sample_test, train_on_samples


def draw(n, seed, shift=0.0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)) + shift


def test_equal_distributions_cannot_be_told_apart():
    value, error = classifier_two_sample_test(draw(1000, 0), draw(1000, 1))
    assert abs(value - 0.5) < 4 * error
    assert error == pytest.approx(math.sqrt(0.25 / 2000), rel=0.01)


def test_the_accuracy_approaches_that_of_the_best_classifier():
    """Two normal distributions at a distance d are told apart with accuracy Phi(d / 2)."""
    value, error = classifier_two_sample_test(draw(2000, 0), draw(3000, 1, shift=1.0))
    best = norm.cdf(math.sqrt(2) / 2)
    assert best - 0.05 < value < best + 4 * error


def test_disjoint_sets_are_always_told_apart():
    assert classifier_two_sample_test(draw(100, 0), draw(100, 1, shift=20.0)) == (1.0, 0.0)


def test_a_classifier_trained_on_perfect_samples_does_as_well_as_the_best():
    targets = torch.arange(2000) % 2
    samples, held_out = (draw(2000, seed) + 3 * targets[:, None] for seed in (0, 1))
    value, _ = train_on_samples(samples, targets, held_out, targets)
    assert value > norm.cdf(3 * math.sqrt(2) / 2) - 0.02


def test_samples_with_wrong_classes_train_a_classifier_that_is_always_wrong():
    targets = torch.arange(200) % 2
    data = draw(200, 0) + 100 * targets[:, None]
    assert train_on_samples(data, 1 - targets, data, targets).value == 0


def test_samples_of_one_class_train_a_classifier_that_always_answers_it():
    targets = torch.tensor([0, 0, 0, 1])
    assert train_on_samples(draw(9, 0), torch.zeros(9, dtype=torch.int64), draw(4, 1), targets).value == 0.75
