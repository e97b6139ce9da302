"""Base classes of the data modules: three splits, each one tensor of data and one of labels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from datamodules.loaders import Batch, EvaluationLoader, TrainLoader
from datamodules.sources import Split
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName, get_settings
from gen_lightning.errors import UserError

# What is drawn once, such as fixed binary pixels, is a part of the data: it is the same in every run, for any seed.
DATA_SEED = 0

# The number of images in a batch of `images` and `examples`, which does not depend on the batch size of the training.
_EXAMPLES_PER_BATCH = 500


class SplitDataModule(LightningDataModule, ABC):
    """Base class of data modules with a training, a validation and a test split.

    It serves the splits in batches (data, labels) that are disjoint between ranks, in an order that is a function of
    the seed and the epoch, so that a resumed run continues with the next batch. A subclass defines `shape`, `identity`
    and `make_splits`:

    ```python
    import torch
    from datamodules import Split, SplitDataModule

    class Circle(SplitDataModule):
        shape = (2,)
        identity = "Circle, 1,000 points in each split"

        def make_splits(self):
            return {name: self.draw(seed) for seed, name in enumerate(("train", "val", "test"))}

        def draw(self, seed):
            angles = 2 * torch.pi * torch.rand(1000, generator=torch.Generator().manual_seed(seed))
            return Split(torch.stack([angles.cos(), angles.sin()], 1), (angles < torch.pi).long())
    ```

    `Trainer.fit(model, Circle(batch_size=100))` trains on it, with a model that is built with `data_shape=(2,)`. On the
    command line, `--data=my_module.Circle --data.batch_size=100` does. For images, see `ImageDataModule`.

    Args:
        batch_size: number of examples per iteration and device; at least 1
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training examples, and of what is drawn for each batch

    Raises:
        UserError: batch_size is less than 1 or, in `train_dataloader`, more than the number of training examples.
    """

    train_loader_class: type[TrainLoader] = TrainLoader

    def __init__(self, batch_size: int = 128, device_resident: bool = False, seed: int = 0) -> None:
        super().__init__()
        check_range(self, at_least=1, batch_size=batch_size)
        self.batch_size = batch_size
        self.device_resident = device_resident
        self.seed = seed
        self.splits: dict[SplitName, Split] = {}

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, such as `(1, 28, 28)`."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """A text that names the examples of the splits.

        It is equal on every machine, for any batch size and seed, if the examples are the same, and different if they
        are not. Reports are comparable only between equal identities.
        """

    @abstractmethod
    def make_splits(self) -> dict[SplitName, Split]:
        """Return the training, the validation and the test split, the same in every run, for any seed."""

    def setup(self, stage: str) -> None:
        """Make the splits, once."""
        if not self.splits:
            self.splits = self.make_splits()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Return converted data, and labels, on the device."""
        return self.convert(batch.data), batch.labels

    def convert(self, data: Tensor) -> Tensor:
        """Return stored data as models see them: uint8 as float32 in [0, 1], anything else as is."""
        # In place: with a second tensor for the quotient, batches of 128 RGB images of 64 x 64 took ten times as long
        # (one thread, glibc's allocator as it is by default).
        return data.float().div_(255) if data.dtype == torch.uint8 else data

    def get_training_split(self) -> Split:
        """Return the split that training batches are taken from; a subclass may transform it."""
        return self.splits["train"]

    def get_evaluation_split(self, split: SplitName) -> Split:
        """Return a split as it is evaluated on; a subclass may transform it."""
        return self.splits[split]

    def examples(self, split: SplitName, n: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the first n examples of a split (default: all) as they are evaluated on, in batches (data, labels).

        Every rank gets all of them. The data are converted on the device of the split.
        """
        data, labels = (tensor[:n].split(_EXAMPLES_PER_BATCH) for tensor in self.get_evaluation_split(split))
        return zip(map(self.convert, data), labels, strict=True)

    def train_dataloader(self) -> TrainLoader:
        """Return a loader of shuffled full batches of the training split; see `TrainLoader`.

        With the Trainer's `overfit_batches`, all epochs have the same batches.
        """
        split = self._move_to_device(self.get_training_split())
        overfits = self.trainer is not None and get_settings(self.trainer).overfit_batches > 0
        loader = self.train_loader_class(
            split, self.batch_size, self.seed, *self._get_rank_and_world_size(), repeats=overfits
        )
        if len(loader) == 0:
            raise UserError(
                f"`batch_size` is {self.batch_size} on {loader.world_size} device(s), which is more than the"
                f" {len(split.data):,} training examples. Choose a smaller --data.batch_size."
            )
        return loader

    def val_dataloader(self) -> EvaluationLoader:
        """Return a loader of the validation split, in order."""
        return self._build_evaluation_loader("val")

    def test_dataloader(self) -> EvaluationLoader:
        """Return a loader of the test split, in order."""
        return self._build_evaluation_loader("test")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch to a device, as Lightning does, but without its search for tensors in any kind of batch."""
        # As in Lightning: a copy from the CPU or from Apple's GPU must be complete before it is used.
        non_blocking = device.type not in ("cpu", "mps")
        data, labels = (tensor.to(device, non_blocking=non_blocking) for tensor in (batch.data, batch.labels))
        return Batch(data, labels, batch.seed)

    def _build_evaluation_loader(self, split: SplitName) -> EvaluationLoader:
        served = self._move_to_device(self.get_evaluation_split(split))
        return EvaluationLoader(served, self.batch_size, *self._get_rank_and_world_size())

    def _move_to_device(self, split: Split) -> Split:
        if self.device_resident and self.trainer is not None:
            device = self.trainer.strategy.root_device
            return Split(split.data.to(device), split.labels.to(device))
        return split

    def _get_rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


class ImageDataModule(SplitDataModule):
    """Base class of data modules of images, whose splits hold uint8 `[N, C, H, W]`.

    With `images`, callbacks such as `callbacks.Evaluation` can use whole splits. A subclass defines the same members as
    one of `SplitDataModule`.
    """

    def images(self, split: SplitName) -> Iterator[Tensor]:
        """Return a whole split, never binarized, in batches of float32 `[N, C, H, W]` in [0, 1].

        Every rank gets all images, in the same order each time.
        """
        return map(self.convert, self.splits[split].data.split(_EXAMPLES_PER_BATCH))
