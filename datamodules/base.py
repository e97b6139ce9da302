"""What all data modules do: they serve three splits, each of one tensor and its labels."""

from typing import Literal

import torch
from lightning.pytorch import LightningDataModule

from datamodules.loaders import Batch, EvaluationLoader, TrainLoader
from datamodules.sources import Split
from gen_lightning.errors import UserError

SplitName = Literal["train", "val", "test"]

# Whatever is drawn once is part of the data: the same in every run, whatever its seed.
DATA_SEED = 0


class SplitDataModule(LightningDataModule):
    """Serves the splits that a subclass makes in `setup`, in batches that are disjoint between ranks.

    Args:
        batch_size: examples per iteration and device
        device_resident: keep the splits on the training device
        seed: of the order of the training examples, and of what is drawn for each batch

    Raises:
        UserError: batch_size is less than 1, or more than there are training examples (in `train_dataloader`).
    """

    _train_loader: type[TrainLoader] = TrainLoader

    def __init__(self, batch_size: int, device_resident: bool, seed: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: choose 1 or more.")
        self.batch_size = batch_size
        self.device_resident = device_resident
        self.seed = seed
        self._splits: dict[SplitName, Split] = {}

    def train_dataloader(self) -> TrainLoader:
        """Shuffled full batches of the training split; see `TrainLoader`."""
        loader = self._train_loader(
            self._resident(self._for_training()), self.batch_size, self.seed, *self._rank_and_world_size()
        )
        if len(loader) == 0:
            raise UserError(
                f"batch_size {self.batch_size} on {loader.world_size} device(s) is more than the"
                f" {len(loader.split.data):,} training examples: choose a smaller --data.batch_size."
            )
        return loader

    def val_dataloader(self) -> EvaluationLoader:
        """The validation split, in order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> EvaluationLoader:
        """The test split, in order."""
        return self._evaluation_loader("test")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """As Lightning does, without its search for tensors in whatever a batch may be."""
        # As there: a copy from those two must have ended before it is used.
        non_blocking = device.type not in ("cpu", "mps")
        data, labels = (tensor.to(device, non_blocking=non_blocking) for tensor in (batch.data, batch.labels))
        return Batch(data, labels, batch.seed)

    def _evaluation_loader(self, split: SplitName) -> EvaluationLoader:
        served = self._resident(self._for_evaluation(split))
        return EvaluationLoader(served, self.batch_size, *self._rank_and_world_size())

    def _for_training(self) -> Split:
        return self._splits["train"]

    def _for_evaluation(self, split: SplitName) -> Split:
        return self._splits[split]

    def _resident(self, split: Split) -> Split:
        if self.device_resident and self.trainer is not None:
            device = self.trainer.strategy.root_device
            return Split(split.data.to(device), split.labels.to(device))
        return split

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
