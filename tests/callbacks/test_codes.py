"""The classification error of latent codes and the pictures of them, for given codes."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import Examples, GivenModel, gan
from lightning.pytorch import Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CodeClasses, LatentCodeGrid
from gen_lightning.gan import LatentCodes
from gen_lightning.networks import ConditionalGenerator, MLPEncoder, MLPGenerator, ProjectionDiscriminator

IMAGE = (1, 28, 28)
LABELS = torch.arange(100) % 10


class Splits(Examples):
    """Data that are the categories themselves, in given splits."""

    def __init__(self, **splits):
        super().__init__(splits["test"], LABELS)
        self.splits = splits

    def examples(self, split, n=None):
        return zip(self.splits[split].split(7), LABELS.split(7), strict=True)

    def val_dataloader(self):
        return self.test_dataloader()


class Identity(GivenModel):
    """A model whose codes' network returns the data as the categories."""

    def __init__(self, num_categories=10):
        super().__init__()
        self.codes = SimpleNamespace(categories=(num_categories,), classify=lambda data: data, traverse=None)


def run(verb, data, module=None):
    callback = CodeClasses()
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False)
    getattr(trainer, verb)(module or Identity(), data, verbose=False)
    return callback.rows, trainer.callback_metrics


def test_permuted_categories_have_no_error():
    renamed = (LABELS + 3) % 10
    rows, logged = run("test", Splits(val=renamed, test=renamed))
    row = rows["code_error"]
    assert (row.value, row.error, row.n, row.better) == (0, 0, 100, "lower")
    assert logged["test/code_error"] == 0


def test_a_single_category_is_right_on_one_class():
    rows, _ = run("test", Splits(val=LABELS * 0, test=LABELS * 0))
    assert rows["code_error"].value == pytest.approx(0.9)
    assert rows["code_error"].error == pytest.approx((0.9 * 0.1 / 99) ** 0.5)


def test_test_images_are_classified_by_the_matching_on_validation_images():
    """A matching that fits the test images better is not used."""
    data = Splits(val=LABELS, test=LABELS.where(LABELS > 1, 1 - LABELS))
    assert run("test", data)[0]["code_error"].value == pytest.approx(0.2)
    assert run("validate", data)[1]["val/code_error"] == 0


@pytest.mark.parametrize(("verb", "splits"), [("validate", ["val"]), ("test", ["val", "test"])])
def test_each_split_is_encoded_once(verb, splits):
    asked = []

    class Counted(Splits):
        def examples(self, split, n=None):
            asked.append(split)
            return super().examples(split, n)

    run(verb, Counted(val=LABELS, test=LABELS))
    assert asked == splits


def test_two_classes_in_one_category_are_half_wrong():
    merged = LABELS // 2
    _, logged = run("validate", Splits(val=merged, test=merged), Identity(num_categories=5))
    assert logged["val/code_error"] == pytest.approx(0.5)


class Shade(nn.Module):
    """A generator whose grey level is k / 8 for category k of 4, plus the continuous code / 8; noise has no effect."""

    def __init__(self, *arguments):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, z):
        level = z[:, 3:7].argmax(1) / 8 + z[:, 7] / 8 + 0.25 + self.slope
        return level.view(-1, 1, 1, 1).expand(-1, *IMAGE)


def infogan(**arguments):
    codes = partial(LatentCodes, encoder=MLPEncoder, categories=(4,), num_continuous=1)
    return gan(**{"codes": codes, "latent_dim": 3} | arguments)


def fit(model, callback, tmp_path):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, callbacks=[callback], **quiet)
    trainer.fit(model, DataLoader(TensorDataset(torch.rand(4, *IMAGE), torch.zeros(4, dtype=torch.int64)), 4))


def test_the_rows_of_the_grid_are_categories_and_then_a_code_from_minus_2_to_2(tmp_path):
    model = infogan(generator=Shade)
    with model.evaluating(0):
        latents = model.sample_latents(3)
    fit(model, LatentCodeGrid(num_columns=3), tmp_path)
    (path,) = tmp_path.glob("codes/*.png")
    centers = np.asarray(Image.open(path))[16::30, 16::30, 0].astype(int)
    category, value = latents[:, 3:7].argmax(1), latents[:, 7]
    rows = [torch.full((3,), k) / 8 + value / 8 for k in range(4)]
    rows += [k / 8 + torch.tensor([-2, 0, 2]) / 8 for k in category]
    expected = ((torch.stack(rows) + 0.25).clamp(0, 1) * 255).numpy()
    assert np.abs(centers - expected).max() <= 3


class TestRefusals:
    def test_a_model_without_codes(self, tmp_path):
        with pytest.raises(ValueError, match="has no categorical code"):
            fit(gan(), CodeClasses(), tmp_path)
        with pytest.raises(ValueError, match="LatentCodeGrid draws models with codes"):
            fit(gan(), LatentCodeGrid(), tmp_path)

    def test_continuous_codes_alone(self, tmp_path):
        codes = partial(LatentCodes, encoder=MLPEncoder, categories=())
        with pytest.raises(ValueError, match="has no categorical code"):
            fit(infogan(codes=codes), CodeClasses(), tmp_path)

    def test_a_class_conditional_model_for_the_grid(self, tmp_path):
        model = infogan(
            generator=partial(ConditionalGenerator, generator=MLPGenerator),
            discriminator=partial(ProjectionDiscriminator, encoder=MLPEncoder),
        )
        with pytest.raises(ValueError, match="that are not class-conditional"):
            fit(model, LatentCodeGrid(), tmp_path)

    def test_data_without_labels(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"CodeClasses needs a data module with .* labelled examples, but there is none"
        ):
            fit(infogan(), CodeClasses(), tmp_path)
