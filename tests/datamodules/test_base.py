"""The base classes: the members that a subclass must define, and the example in the docstring."""

import inspect
import re

import pytest
import torch
from helpers import gan
from lightning.pytorch import Trainer

from datamodules import ImageDataModule, Split, SplitDataModule
from gen_lightning.contracts import ExampleData, IdentifiedData, ImageData, ShapedData, offers
from gen_lightning.networks import MLPDecoder

MEMBERS = {"shape": (2,), "identity": "two points", "make_splits": lambda self: {}}


def read_example() -> str:
    """Return the code of the example in the docstring of SplitDataModule."""
    (code,) = re.findall(r"```python\n(.*?)```", inspect.getdoc(SplitDataModule), re.DOTALL)
    return code


def run_example():
    """Return the class that the example defines."""
    names: dict = {}
    exec(read_example(), names)
    return names["Circle"]


class Squares(ImageDataModule):
    """Images whose pixels all have the value of the index."""

    shape = (1, 2, 2)
    identity = "ten squares"

    def make_splits(self):
        images = torch.arange(10, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *self.shape)
        return dict.fromkeys(("train", "val", "test"), Split(images, torch.arange(10)))


@pytest.mark.parametrize("missing", MEMBERS)
def test_a_subclass_that_lacks_a_member_cannot_be_built(missing):
    members = {name: value for name, value in MEMBERS.items() if name != missing}
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Incomplete", (SplitDataModule,), members)()
    type("Complete", (SplitDataModule,), MEMBERS)()


def test_the_example_has_at_most_ten_lines_in_its_class():
    (body,) = re.findall(r"class Circle.*", read_example(), re.DOTALL)
    assert len([line for line in body.splitlines() if line]) <= 10


def test_the_example_serves_three_splits_of_points_on_the_circle():
    data = run_example()(batch_size=100)
    data.setup("fit")
    assert offers(data, ShapedData)
    assert offers(data, IdentifiedData)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    assert [points.shape for points, _ in batches] == [(100, 2)] * 10
    for split in ("train", "val", "test"):
        points, labels = data.splits[split]
        torch.testing.assert_close(points.norm(dim=1), torch.ones(1000))
        assert torch.equal(labels == 1, points[:, 1] > 0)
    assert len(torch.cat([split.data for split in data.splits.values()]).unique(dim=0)) == 3000


def test_a_model_trains_on_the_example():
    data = run_example()(batch_size=100)
    model = gan(generator=MLPDecoder, data_shape=data.shape)
    before = [parameter.clone() for parameter in model.generator.parameters()]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=3, **quiet)
    trainer.fit(model, data)
    assert trainer.global_step == 3
    assert not any(map(torch.equal, before, model.generator.parameters()))


def test_the_splits_are_made_once():
    calls = []
    data = type(
        "Counted", (SplitDataModule,), MEMBERS | {"make_splits": lambda self: calls.append(1) or {"train": 1}}
    )()
    data.setup("fit")
    data.setup("test")
    assert calls == [1]


def test_whole_splits_of_images_are_scaled_to_the_unit_interval():
    data = Squares()
    data.setup("fit")
    assert offers(data, ImageData)
    assert offers(data, ExampleData)
    expected = torch.arange(10).view(-1, 1, 1, 1).expand(-1, *data.shape) / 255
    assert torch.equal(torch.cat(list(data.images("val"))), expected)
    images, labels = map(torch.cat, zip(*data.examples("test", 7), strict=True))
    assert torch.equal(images, expected[:7])
    assert labels.tolist() == list(range(7))


@pytest.mark.parametrize(
    ("data", "expected"), [(torch.tensor([[0, 255]], dtype=torch.uint8), [[0, 1]]), (torch.ones(1, 2), [[1, 1]])]
)
def test_batches_of_uint8_are_scaled_and_others_are_left(data, expected):
    module = Squares()
    module.splits = {"val": Split(data, torch.zeros(1))}
    (batch,) = module.val_dataloader()
    delivered, _ = module.on_after_batch_transfer(batch, 0)
    assert delivered.dtype == torch.float32
    assert delivered.tolist() == expected
