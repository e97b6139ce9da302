"""TableLikelihood: log-probabilities in double precision, sums over all rows, samples, and what it refuses."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from helpers import vae

from gen_lightning.contracts import TableColumn
from gen_lightning.errors import UserError
from gen_lightning.vae import TableLikelihood

NONE = torch.empty(0)
LEVELS, EDGES = torch.tensor([-1.5, 0.0, 0.4, 2.0]), torch.tensor([-1.0, 0.1, 1.0])
# A continuous number, a number of four levels, and categories of three and of two.
COLUMNS = [
    TableColumn("height", 0, 1, NONE, NONE),
    TableColumn("children", 1, 1, LEVELS, EDGES),
    TableColumn("city", 2, 3, NONE, NONE),
    TableColumn("sex", 5, 2, NONE, NONE),
]
TABLE = SimpleNamespace(columns=COLUMNS)


def build(columns=COLUMNS):
    torch.manual_seed(0)
    likelihood = TableLikelihood((sum(column.size for column in columns),))
    likelihood.initialize(SimpleNamespace(columns=columns))
    torch.nn.init.normal_(likelihood.raw_scale)
    return likelihood


def list_rows(height):
    """Return all rows with one height, `[24, 7]`."""
    parts = itertools.product(LEVELS.tolist(), torch.eye(3).tolist(), torch.eye(2).tolist())
    return torch.tensor([[height, level, *city, *sex] for level, city, sex in parts])


def compute_reference(likelihood, parameters, rows):
    """Return the log-likelihood of rows, each with its parameters, by SciPy in double precision."""
    parameters, rows = parameters.double().numpy(), rows.double().numpy()
    scale = 0.01 + np.logaddexp(0, likelihood.raw_scale.detach().double().numpy())
    total = scipy.stats.norm.logpdf(rows[:, 0], parameters[:, 0], scale[0])
    edges = np.array([-np.inf, *EDGES.double().tolist(), np.inf])
    index = np.searchsorted(edges, rows[:, 1]) - 1
    logistic = scipy.stats.logistic(parameters[:, 1], scale[1])
    total += np.log(logistic.cdf(edges[index + 1]) - logistic.cdf(edges[index]))
    for part in (slice(2, 5), slice(5, 7)):
        total += (scipy.special.log_softmax(parameters[:, part], 1) * rows[:, part]).sum(1)
    return torch.from_numpy(total)


def test_log_probabilities_are_those_of_scipy():
    likelihood, rows = build(), list_rows(0.7)
    parameters = 2 * torch.randn(24, 7)
    expected = compute_reference(likelihood, parameters, rows)
    torch.testing.assert_close(likelihood(parameters).log_prob(rows).double(), expected, rtol=1e-5, atol=1e-5)
    # k latents for each row
    stacked = likelihood(torch.stack([parameters, parameters + 1])).log_prob(rows)
    torch.testing.assert_close(stacked[1].double(), compute_reference(likelihood, parameters + 1, rows))


def test_rows_of_one_height_have_the_density_of_the_height():
    likelihood = build()
    parameters = torch.randn(7)
    total = likelihood(parameters).log_prob(list_rows(0.3)).double().exp().sum().item()
    scale = 0.01 + torch.nn.functional.softplus(likelihood.raw_scale[0].double()).item()
    assert total == pytest.approx(scipy.stats.norm.pdf(0.3, parameters[0].item(), scale), rel=1e-5)


def test_gradients_are_finite_far_from_the_data():
    likelihood = build()
    for mean in (-1e3, 0.0, 1e3):
        parameters = torch.full((24, 7), mean, requires_grad=True)
        likelihood(parameters).log_prob(list_rows(0.0)).sum().backward()
        assert parameters.grad.isfinite().all()
        assert likelihood.raw_scale.grad.isfinite().all()


def test_samples_are_rows_with_the_probabilities_of_the_likelihood():
    likelihood = build()
    parameters = torch.randn(7)
    torch.manual_seed(1)
    samples = likelihood.generate(likelihood(parameters.expand(40_000, 7)))
    assert likelihood.supports(samples)
    assert set(samples[:, 1].tolist()) <= set(LEVELS.tolist())
    rows = list_rows(0.0)
    found = torch.stack([(samples[:, 1:] == row[1:]).all(1).double().mean() for row in rows])
    expected = likelihood(parameters).log_prob(rows).double().softmax(0)
    # The differences of such shares from their probabilities have a standard error of at most 0.0025.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)
    scale = 0.01 + torch.nn.functional.softplus(likelihood.raw_scale[0]).item()
    assert scipy.stats.kstest(samples[:, 0].numpy(), "norm", (parameters[0].item(), scale)).pvalue > 0.001


def test_the_mean_is_a_row_of_the_nearest_level_and_the_likeliest_categories():
    likelihood = build()
    mean = likelihood(torch.tensor([[0.3, 0.9, 1.0, 3.0, 2.0, 0.5, -1.0]])).mean
    torch.testing.assert_close(mean, torch.tensor([[0.3, 0.4, 0, 1, 0, 1, 0]]))


@pytest.mark.parametrize("kept", [[0], [1], [2, 3], [0, 2]], ids=["density", "levels", "categories", "both"])
def test_any_kinds_of_columns_may_be_absent(kept):
    columns, first = [], 0
    for column in (COLUMNS[index] for index in kept):
        columns.append(column._replace(first=first))
        first += column.size
    likelihood = build(columns)
    samples = likelihood.generate(likelihood(torch.randn(2, 50, first)))
    assert samples.shape == (2, 50, first)
    assert likelihood(torch.randn(50, first)).log_prob(samples).isfinite().all()
    assert likelihood.supports(samples)


def test_rows_that_are_not_one_hot_are_refused():
    likelihood, rows = build(), list_rows(0.0)
    likelihood.check_data(rows)
    for fault in (torch.zeros(3), torch.ones(3), torch.tensor([0.5, 0.5, 0.0])):
        damaged = rows.clone()
        damaged[5, 2:5] = fault
        assert not likelihood.supports(damaged)
        with pytest.raises(UserError, match="not one-hot"):
            likelihood.check_data(damaged)


def test_a_checkpoint_brings_the_columns():
    likelihood, other = build(), TableLikelihood((7,))
    other.load_state_dict(likelihood.state_dict())
    parameters, rows = torch.randn(24, 7), list_rows(0.2)
    assert torch.equal(other(parameters).log_prob(rows), likelihood(parameters).log_prob(rows))


def test_the_kind_tells_densities_from_probabilities():
    model = vae(likelihood=TableLikelihood, data_shape=(7,))
    model.likelihood.initialize(TABLE)
    assert model.likelihood_kind == "a density of 1 numbers and a probability of 1 numbers and 2 categories"
    assert model.levels is None


def test_data_without_columns_and_other_shapes_are_refused():
    with pytest.raises(UserError, match=r"TableLikelihood needs a data module with the columns of a table"):
        TableLikelihood((3,)).initialize(None)
    with pytest.raises(UserError, match=r"have shape \(1, 28, 28\)"):
        TableLikelihood((1, 28, 28))
    with pytest.raises(UserError, match="min_scale"):
        TableLikelihood((3,), min_scale=0.0)
