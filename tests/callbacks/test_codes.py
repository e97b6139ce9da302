"""Categories as classes, and pictures of codes, of codes that are given."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import Examples, gan
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CodeClasses, LatentCodeGrid
from gen_lightning.gan import LatentCodes
from gen_lightning.networks import ConditionalGenerator, MLPEncoder, MLPGenerator, ProjectionDiscriminator

IMAGE = (1, 28, 28)
LABELS = torch.arange(100) % 10


class Splits(Examples):
    """Data that are categories, in splits of their own."""

    def __init__(self, **splits):
        super().__init__(splits["test"], LABELS)
        self.splits = splits

    def examples(self, split, n=None):
        return zip(self.splits[split].split(7), LABELS.split(7), strict=True)

    def val_dataloader(self):
        return self.test_dataloader()


class Told(LightningModule):
    """Takes the data for their categories."""

    def __init__(self, num_categories=10):
        super().__init__()
        self.codes = SimpleNamespace(categories=(num_categories,), classified=lambda data: data)

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass


def run(verb, data, module=None):
    callback = CodeClasses()
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False)
    getattr(trainer, verb)(module or Told(), data, verbose=False)
    return callback.rows, trainer.callback_metrics


def test_classes_under_other_names_have_no_error():
    renamed = (LABELS + 3) % 10
    rows, logged = run("test", Splits(val=renamed, test=renamed))
    row = rows["code_error"]
    assert (row.value, row.error, row.n, row.better) == (0, 0, 100, "lower")
    assert logged["test/code_error"] == 0


def test_one_category_for_all_is_right_on_one_class():
    rows, _ = run("test", Splits(val=LABELS * 0, test=LABELS * 0))
    assert rows["code_error"].value == pytest.approx(0.9)
    assert rows["code_error"].error == pytest.approx((0.9 * 0.1 / 99) ** 0.5)


def test_test_images_are_judged_by_the_names_of_validation():
    """Names that fit the test images better are not taken; in validation they would be."""
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


def test_classes_that_share_a_category_cost_the_smaller_one():
    merged = LABELS // 2
    _, logged = run("validate", Splits(val=merged, test=merged), Told(num_categories=5))
    assert logged["val/code_error"] == pytest.approx(0.5)


class Shade(nn.Module):
    """Grey by the code: category k of 4 is k / 8; the continuous code adds an eighth; the noise nothing."""

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


def test_rows_of_the_grid_are_categories_and_then_a_code_from_minus_2_to_2(tmp_path):
    model = infogan(generator=Shade)
    with model.evaluating(0):
        latents = model.latents(3)
    fit(model, LatentCodeGrid(num_columns=3), tmp_path)
    (path,) = tmp_path.glob("codes/*.png")
    centers = np.asarray(Image.open(path))[16::30, 16::30, 0].astype(int)
    category, value = latents[:, 3:7].argmax(1), latents[:, 7]
    rows = [torch.full((3,), k) / 8 + value / 8 for k in range(4)]
    rows += [k / 8 + torch.tensor([-2, 0, 2]) / 8 for k in category]
    expected = ((torch.stack(rows) + 0.25).clamp(0, 1) * 255).numpy()
    assert np.abs(centers - expected).max() <= 3


class TestRefusals:
    def test_of_a_model_without_codes(self, tmp_path):
        with pytest.raises(ValueError, match="has no categorical code"):
            fit(gan(), CodeClasses(), tmp_path)
        with pytest.raises(ValueError, match="LatentCodeGrid draws models with codes"):
            fit(gan(), LatentCodeGrid(), tmp_path)

    def test_of_continuous_codes_alone(self, tmp_path):
        codes = partial(LatentCodes, encoder=MLPEncoder, categories=())
        with pytest.raises(ValueError, match="has no categorical code"):
            fit(infogan(codes=codes), CodeClasses(), tmp_path)

    def test_of_a_grid_that_classes_would_change_too(self, tmp_path):
        model = infogan(
            generator=partial(ConditionalGenerator, generator=MLPGenerator),
            discriminator=partial(ProjectionDiscriminator, encoder=MLPEncoder),
        )
        with pytest.raises(ValueError, match="that are not class-conditional"):
            fit(model, LatentCodeGrid(), tmp_path)

    def test_of_data_without_labels(self, tmp_path):
        with pytest.raises(ValueError, match="such as MNISTDataModule"):
            fit(infogan(), CodeClasses(), tmp_path)
