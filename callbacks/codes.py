"""Whether the categories that an InfoGAN has found are the classes."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.evaluation import Row, make_row
from gen_lightning.metrics import Estimate
from gen_lightning.metrics.classes import match_classes
from gen_lightning.metrics.estimates import mean_estimate

_METRIC = "code_error"


class CodeClasses(Callback):
    """The error of the first categorical code as a classifier that has seen no label (Chen et al. 2016, section 7.2).

    The codes' network tells the category of each real image; categories are matched one to one with classes, such that
    the most images are right. In `test` they are matched on the validation images, so that the test images choose
    nothing, and the error on the test images is one of `rows`, with its standard error, and logged as
    `test/code_error`. After each validation, the validation images serve for both, and `val/code_error` is slightly too
    low for it.

    Needs a model with codes, and a data module with `examples(split)`: all of a split in batches of (images, labels).
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses what has no categories or no classes.

        Raises:
            UserError: the model has no categorical code, or the data module no `examples`.
        """
        codes = getattr(pl_module, "codes", None)
        if codes is None or not codes.categories:
            raise UserError(
                f"{type(pl_module).__name__} has no categorical code: set model.codes, or leave CodeClasses out of"
                " trainer.callbacks."
            )
        if not hasattr(trainer.datamodule, "examples"):
            raise UserError("CodeClasses needs a data module with examples(split), such as MNISTDataModule.")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the error on the validation split."""
        if not trainer.sanity_checking:
            told = predict_codes(trainer, pl_module, "val")
            pl_module.log(f"val/{_METRIC}", _error(pl_module, told, told).value)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the error on the test split, and logs it."""
        matched_on, judged = (predict_codes(trainer, pl_module, split) for split in ("val", "test"))
        estimate = _error(pl_module, matched_on, judged)
        self.rows = {_METRIC: make_row(_METRIC, estimate, len(judged[1]))}
        pl_module.log(f"test/{_METRIC}", estimate.value)


def _error(pl_module: LightningModule, matched_on: tuple[Tensor, Tensor], judged: tuple[Tensor, Tensor]) -> Estimate:
    """The error on the categories and labels of one split when they are matched on those of another."""
    matched = match_classes(*matched_on, pl_module.codes.categories[0])
    categories, labels = judged
    return mean_estimate(matched[categories] != labels)


@torch.no_grad()
def predict_codes(trainer: Trainer, pl_module: LightningModule, split: str) -> tuple[Tensor, Tensor]:
    """The categories of a split's images, and their labels, both int64 `[N]` on the CPU."""
    batches, labels = zip(*trainer.datamodule.examples(split), strict=True)
    categories = [pl_module.codes.classified(batch.to(pl_module.device)) for batch in batches]
    return torch.cat(categories).cpu(), torch.cat(labels).cpu()
