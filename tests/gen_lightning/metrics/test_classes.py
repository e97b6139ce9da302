"""Metrics of class probabilities: extreme cases, and agreement with torch-fidelity."""

import itertools
import math

import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from gen_lightning.metrics.classes import class_balance, classifier_score, match_classes


def logits(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot(labels, num_classes=10):
    return torch.nn.functional.one_hot(labels, num_classes).float()


def test_uniform_probabilities_score_1():
    assert classifier_score(torch.full((50, 10), 0.1)) == pytest.approx((1, 0))


def test_certain_and_balanced_classes_score_the_number_of_classes():
    assert classifier_score(one_hot(torch.arange(50) % 10)).value == pytest.approx(10)


def test_samples_of_one_class_score_1():
    assert classifier_score(one_hot(torch.full((50,), 3))) == pytest.approx((1, 0))


def test_the_score_agrees_with_torch_fidelity():
    expected = isc_features_to_metric(logits(500, 10), splits=1)["inception_score_mean"]
    assert classifier_score(logits(500, 10).softmax(1)).value == pytest.approx(expected, rel=1e-12)


def test_the_error_of_the_score_is_its_standard_deviation_over_repeated_experiments():
    estimates = [classifier_score(logits(300, 5, seed=seed).softmax(1)) for seed in range(200)]
    values, errors = torch.tensor(estimates).T
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.2)


def test_equal_class_frequencies_are_balanced():
    probabilities = logits(100, 10).softmax(1)
    assert class_balance(probabilities, probabilities.flip(0)).value == pytest.approx(0, abs=1e-14)


def test_the_balance_of_one_class_among_ten_is_log_10():
    balanced, one = one_hot(torch.arange(1000) % 10), one_hot(torch.full((100,), 3))
    value, error = class_balance(balanced, one)
    assert value == pytest.approx(math.log(10))
    # The error is that of log p, with p the share of the class in the real images: sqrt((1 - p) / (p M)).
    assert error == pytest.approx((0.9 / 0.1 / 1000) ** 0.5, rel=0.5)


def test_the_balance_agrees_with_torchs_kl_divergence():
    real, fake = logits(100, 10).softmax(1), logits(80, 10, seed=1).softmax(1)
    expected = torch.nn.functional.kl_div(real.mean(0).log(), fake.mean(0), reduction="sum").item()
    assert class_balance(real, fake).value == pytest.approx(expected, rel=1e-12)


def test_the_balance_is_infinite_if_samples_have_a_class_that_no_real_image_has():
    labels = torch.arange(100) % 5
    assert class_balance(one_hot(labels), one_hot(labels + 5)).value == math.inf


def test_a_class_that_neither_set_has_does_not_change_the_balance():
    labels = torch.arange(100) % 5
    assert class_balance(one_hot(labels), one_hot(labels)).value == 0


def test_logits_are_refused():
    with pytest.raises(ValueError, match=r"samples are not class probabilities\. Give the softmax"):
        classifier_score(logits(10, 3))
    with pytest.raises(ValueError, match="real images are not class probabilities"):
        class_balance(logits(10, 3).exp(), logits(10, 3).softmax(1))


def test_the_sentence_for_nan_names_a_diverged_model():
    with pytest.raises(ValueError, match="samples contain NaN or Inf: the model has diverged"):
        classifier_score(logits(10, 3).softmax(1) * torch.nan)


def test_permuted_classes_are_matched_exactly():
    categories = torch.tensor([3, 0, 4, 1, 2])
    labels = torch.arange(100) % 5
    assert torch.equal(match_classes(categories[labels], labels, 5)[categories], torch.arange(5))


@pytest.mark.parametrize("seed", range(5))
def test_no_other_matching_classifies_more_examples_correctly(seed):
    generator = torch.Generator().manual_seed(seed)
    categories, labels = torch.randint(4, (2, 60), generator=generator)
    correct = (match_classes(categories, labels, 4)[categories] == labels).sum()
    others = [(torch.tensor(classes)[categories] == labels).sum() for classes in itertools.permutations(range(4))]
    assert correct == max(others)


def test_with_more_categories_than_classes_some_categories_have_no_class():
    """Categories 0 and 1 share class 0; the larger one takes it."""
    categories, labels = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 0, 1])
    assert match_classes(categories, labels, 3).tolist() == [-1, 0, 1]


def test_with_fewer_categories_than_classes_some_classes_have_no_category():
    categories, labels = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 2, 2])
    assert match_classes(categories, labels, 2).tolist() == [0, 2]
