"""Distances and associations of columns, against SciPy and at their extremes."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from gen_lightning.metrics import association_error, column_distances, summarize_distances
from gen_lightning.metrics.tables import compute_associations

PLACES = [(0, 1), (1, 1), (2, 3), (5, 4)]


def draw(n, seed, shift=0.0):
    """Return rows of two numbers, one of them rounded, and of two categories that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.randn(n, generator=generator) + shift
    rounded = (number + torch.randn(n, generator=generator)).round()
    small = (number > 0).long() + torch.randint(2, (n,), generator=generator)
    large = (small + torch.randint(3, (n,), generator=generator)) % 4
    return torch.cat([torch.stack([number, rounded], 1), F.one_hot(small, 3), F.one_hot(large, 4)], 1)


def test_distances_are_those_of_kolmogorov_and_smirnov_and_of_total_variation():
    one, other = draw(500, 0), draw(300, 1, shift=0.4)
    distances = [estimate.value for estimate in column_distances(one, other, PLACES)]
    for column in (0, 1):
        expected = scipy.stats.ks_2samp(one[:, column].numpy(), other[:, column].numpy()).statistic
        assert distances[column] == pytest.approx(expected)
    for column, part in ((2, slice(2, 5)), (3, slice(5, 9))):
        expected = (one[:, part].mean(0) - other[:, part].mean(0)).abs().sum() / 2
        assert distances[column] == pytest.approx(expected.item(), abs=1e-6)
    mean, worst = summarize_distances(one, other, PLACES)
    assert mean.value == pytest.approx(np.mean(distances))
    assert worst.value == pytest.approx(max(distances))


def test_equal_rows_have_no_distance_and_disjoint_ones_the_distance_1():
    rows = draw(200, 0)
    assert all(estimate.value == 0 for estimate in column_distances(rows, rows.flip(0), PLACES))
    assert association_error(rows, rows.flip(0), PLACES).value == pytest.approx(0, abs=1e-12)
    others = torch.cat([rows[:, :2] + 100, torch.eye(3)[2].expand(200, 3)], 1)
    firsts = torch.cat([rows[:, :2], torch.eye(3)[0].expand(200, 3)], 1)
    assert [estimate.value for estimate in column_distances(firsts, others, PLACES[:3])] == [1, 1, 1]


def test_distances_do_not_depend_on_the_scale_of_numbers():
    one, other = draw(300, 0), draw(300, 1, shift=1.0)
    changed = [torch.cat([rows[:, :2].exp(), rows[:, 2:]], 1) for rows in (one, other)]
    assert column_distances(*changed, PLACES) == column_distances(one, other, PLACES)


def test_associations_are_correlations_correlation_ratios_and_cramers_v():
    rows = draw(1000, 0)
    found = compute_associations(rows, PLACES)
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(found.diag(), torch.ones(4).double())
    numbers, classes = rows[:, :2].double().numpy(), [rows[:, 2:5].argmax(1).numpy(), rows[:, 5:].argmax(1).numpy()]
    assert found[0, 1].item() == pytest.approx(scipy.stats.pearsonr(*numbers.T).statistic)
    counts = scipy.stats.contingency.crosstab(*classes).count
    assert found[2, 3].item() == pytest.approx(scipy.stats.contingency.association(counts))
    for number in (0, 1):
        for category in (0, 1):
            groups = [numbers[classes[category] == value, number] for value in np.unique(classes[category])]
            between = sum(len(group) * (group.mean() - numbers[:, number].mean()) ** 2 for group in groups)
            expected = (between / len(rows) / numbers[:, number].var()) ** 0.5
            assert found[number, 2 + category].item() == pytest.approx(expected)


def test_a_negative_correlation_and_a_function_have_the_extremes():
    number = torch.randn(100)
    classes = F.one_hot((number > 0).long(), 2)
    found = compute_associations(
        torch.cat([number[:, None], -number[:, None], classes, classes], 1), [(0, 1), (1, 1), (2, 2), (4, 2)]
    )
    assert found[0, 1].item() == pytest.approx(-1)
    assert found[2, 3].item() == pytest.approx(1)


def test_columns_without_variance_have_no_association():
    rows = draw(100, 0)
    rows[:, 1] = 3.0
    rows[:, 2:5] = torch.eye(3)[1]
    found = compute_associations(rows, PLACES)
    assert found.isfinite().all()
    assert found[1].abs().sum() == 0
    assert found[0, 2] == 0


def test_the_association_error_is_the_mean_over_pairs():
    one, other = draw(300, 0), draw(300, 1, shift=1.0)
    difference = (compute_associations(one, PLACES) - compute_associations(other, PLACES)).abs()
    expected = np.mean([difference[row, column].item() for row in range(4) for column in range(row)])
    assert association_error(one, other, PLACES).value == pytest.approx(expected)
    assert association_error(one[:, :1], other[:, :1], [(0, 1)]).value == 0


def test_standard_errors_are_those_of_repeated_draws():
    estimates = [summarize_distances(draw(400, 2 * seed), draw(400, 2 * seed + 1, 0.5), PLACES) for seed in range(30)]
    for index in (0, 1):
        values = np.array([pair[index].value for pair in estimates])
        errors = np.array([pair[index].error for pair in estimates])
        assert 0.5 < errors.mean() / values.std(ddof=1) < 2
