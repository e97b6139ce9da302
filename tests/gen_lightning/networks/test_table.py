"""TableGenerator: rows like those of a table, gradients through them, and its draws."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import gan
from lightning.pytorch import Trainer
from torch import nn

from datamodules import TableDataModule
from gen_lightning.contracts import TableColumn
from gen_lightning.errors import UserError
from gen_lightning.gan import EMA
from gen_lightning.networks import TableGenerator
from gen_lightning.networks.table import TableLayout

NONE = torch.empty(0)
LEVELS = torch.tensor([-1.0, 0.0, 1.0, 2.0])
COLUMNS = [
    TableColumn("height", 0, 1, NONE, NONE),
    TableColumn("children", 1, 1, LEVELS, LEVELS[:-1] + 0.5),
    TableColumn("city", 2, 3, NONE, NONE),
    TableColumn("sex", 5, 2, NONE, NONE),
]
TABLE = SimpleNamespace(columns=COLUMNS)


def build(**options):
    torch.manual_seed(0)
    generator = TableGenerator(4, (7,), **options)
    generator.initialize(TABLE)
    return generator


def assert_rows(rows):
    assert torch.isin(rows[:, 1], LEVELS).all()
    for part in (rows[:, 2:5], rows[:, 5:7]):
        assert torch.isin(part, torch.tensor([0.0, 1.0])).all()
        assert (part.sum(1) == 1).all()


def test_rows_have_only_values_that_rows_of_the_table_can_have():
    generator, z = build(), 5 * torch.randn(300, 4)
    assert_rows(generator(z))
    assert_rows(generator.eval()(z))


def test_split_and_join_are_inverse():
    layout = TableLayout((7,))
    layout.initialize(TABLE, "a test")
    rows = torch.randn(2, 3, 7)
    numbers, categories = layout.split(rows)
    assert (numbers.shape, categories.shape) == ((2, 3, 2), (2, 3, 2, 3))
    assert torch.equal(layout.join(numbers, categories), rows)


@pytest.mark.parametrize("feature", range(7))
def test_every_feature_has_a_gradient(feature):
    generator = build()
    generator(torch.randn(50, 4))[:, feature].sum().backward()
    assert generator.layers[0].weight.grad.abs().sum() > 0


def test_a_rounded_number_has_the_gradient_of_the_number_before():
    generator, z = build(), torch.randn(50, 4)
    weights = torch.randn(50)
    (generator(z)[:, 1] * weights).sum().backward()
    found = generator.layers[0].weight.grad.clone()
    generator.zero_grad()
    (generator.layers(z)[:, 1] * weights).sum().backward()
    torch.testing.assert_close(found, generator.layers[0].weight.grad)


def test_categories_are_drawn_with_the_probabilities_of_the_logits():
    generator = build()
    z = torch.randn(1, 4)
    rows = generator(z.expand(20_000, 4)).detach()
    expected = generator.layers(z)[0, 2:5].softmax(0).detach()
    torch.testing.assert_close(rows[:, 2:5].mean(0), expected, rtol=0, atol=0.015)


def test_draws_are_those_of_the_default_generators():
    generator, z = build(), torch.randn(100, 4)
    rows = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        rows.append(generator(z))
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_averages_and_checkpoints_have_the_columns():
    generator = build()
    average = EMA(generator)
    average.update(generator, 0, 10)
    assert_rows(average(torch.randn(20, 4)))
    other = TableGenerator(4, (7,))
    other.load_state_dict(generator.state_dict())
    assert_rows(other(torch.randn(20, 4)))


@pytest.mark.parametrize("kept", [[0, 1], [2, 3], [1]], ids=["numbers", "categories", "levels"])
def test_any_kinds_of_columns_may_be_absent(kept):
    columns = [COLUMNS[index] for index in kept]
    size = sum(column.size for column in columns)
    generator = TableGenerator(4, (size,), activation=nn.ReLU)
    generator.initialize(SimpleNamespace(columns=columns))
    assert generator(torch.randn(6, 4)).shape == (6, size)


def test_data_without_columns_and_other_shapes_are_refused():
    with pytest.raises(UserError, match="TableGenerator needs a data module with the columns of a table"):
        TableGenerator(4, (7,)).initialize(None)
    with pytest.raises(UserError, match=r"have shape \(1, 28, 28\)"):
        TableGenerator(4, (1, 28, 28))
    with pytest.raises(UserError, match="temperature"):
        TableGenerator(4, (7,), temperature=0.0)


def test_a_wrapped_generator_gets_its_columns_too(tmp_path):
    """Wrappers such as ConditionalGenerator have no `initialize` of their own."""
    path = tmp_path / "people.csv"
    path.write_text("height,city\n" + "1.5,Bern\n1.7,Tokyo\n1.9,Bern\n" * 40)
    data = TableDataModule(str(path), batch_size=16)
    model = gan(
        generator=lambda *sizes: nn.Sequential(TableGenerator(*sizes)),
        ema=partial(EMA, half_life=100.0),
        data_shape=data.shape,
    )
    Trainer(max_steps=1, logger=False, enable_progress_bar=False, default_root_dir=tmp_path).fit(model, data)
    samples = model.sample(9, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (9, *data.shape)
    assert set(data.restore_table(samples)["city"]) <= {"Bern", "Tokyo"}
