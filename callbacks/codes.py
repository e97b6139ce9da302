"""Agreement between the categories that an InfoGAN has discovered and the classes of the data."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gen_lightning.contracts import CodeModel, ExampleData, LatentCodes, SplitName, find_datamodule, require
from gen_lightning.errors import UserError
from gen_lightning.evaluation import Row, make_row
from gen_lightning.metrics import Estimate
from gen_lightning.metrics.classes import match_classes
from gen_lightning.metrics.estimates import estimate_mean

_METRIC = "code_error"


class CodeClasses(Callback):
    """The classification error of the first categorical code, trained without labels (Chen et al. 2016, section 7.2).

    The codes' network predicts the category of each real image. Categories are matched one to one with classes so that
    as many images as possible are classified correctly.

    In `test`, categories are matched on the validation images, so that the test images are not used for the matching.
    The error on the test images is in `rows`, with its standard error, and is logged as `test/code_error`. After each
    validation, the validation images serve for both the matching and the error, so `val/code_error` is slightly too
    low.

    Needs a model with latent codes, and a data module with `examples(split)`.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.identifying_row = _METRIC

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse models without categorical codes, and data without labels.

        Raises:
            UserError: the model has no categorical code, or the data module has no `examples`.
        """
        codes = require(pl_module, CodeModel, "CodeClasses").codes
        if codes is None or not codes.categories:
            raise UserError(
                f"{type(pl_module).__name__} has no categorical code. Set --model.codes with at least one entry in"
                " categories, or do without CodeClasses."
            )
        require(find_datamodule(trainer), ExampleData, "CodeClasses")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the error on the validation split."""
        if not trainer.sanity_checking:
            predictions = predict_codes(trainer, pl_module, "val")
            pl_module.log(f"val/{_METRIC}", _estimate_error(pl_module, predictions, predictions).value)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the error on the test split."""
        validation, test = (predict_codes(trainer, pl_module, split) for split in ("val", "test"))
        estimate = _estimate_error(pl_module, validation, test)
        self.rows = {_METRIC: make_row(_METRIC, estimate, len(test[1]))}
        pl_module.log(f"test/{_METRIC}", estimate.value)


@torch.no_grad()
def predict_codes(trainer: Trainer, pl_module: LightningModule, split: SplitName) -> tuple[Tensor, Tensor]:
    """Return the predicted categories of a split's images, and their labels, both int64 `[N]` on the CPU."""
    data = require(find_datamodule(trainer), ExampleData, "CodeClasses")
    batches, labels = zip(*data.examples(split), strict=True)
    categories = [_get_codes(pl_module).classify(batch.to(pl_module.device)) for batch in batches]
    return torch.cat(categories).cpu(), torch.cat(labels).cpu()


def _estimate_error(
    pl_module: LightningModule, matching: tuple[Tensor, Tensor], evaluated: tuple[Tensor, Tensor]
) -> Estimate:
    """Return the classification error on one split, with categories matched to classes on another.

    Args:
        pl_module: model with a categorical code
        matching: categories and labels on which categories are matched to classes, int64 `[N]` each
        evaluated: categories and labels on which the error is computed, int64 `[M]` each
    """
    classes = match_classes(*matching, _get_codes(pl_module).categories[0])
    categories, labels = evaluated
    return estimate_mean(classes[categories] != labels)


def _get_codes(pl_module: LightningModule) -> LatentCodes:
    codes = require(pl_module, CodeModel, "CodeClasses").codes
    assert codes is not None, "setup has refused models without codes"
    return codes
