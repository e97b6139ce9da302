"""Base class of the evaluations of samples that are compared with held-out examples as a whole."""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.sampling import SampleMeasure, choose_device
from gen_lightning.checks import check_range
from gen_lightning.contracts import ExampleData, GenerativeModel, SplitName, find_datamodule, require
from gen_lightning.errors import UserError
from gen_lightning.evaluation import Row, make_row
from gen_lightning.metrics import Estimate

# Sets of this size fit in the memory of any machine, and are compared in minutes.
_MAX_SAMPLES = 100_000


class Examples(NamedTuple):
    """Real or generated data `[N, *shape]`, and their labels, int64 `[N]`, or None if they are unknown."""

    data: Tensor
    labels: Tensor | None


class ExampleEvaluation(SampleMeasure):
    """Base class of callbacks that compare samples with held-out examples.

    After each validation, the metrics of `compare` are logged as `val/METRIC/N`, and as `val/METRIC` for checkpoints
    to monitor. In `test`, those of `measure` are computed with their standard errors and floors, and are in `rows`. A
    floor is the metric of real training examples instead of samples: of as many as there are samples, or of half of
    the training examples if they are fewer. A class-conditional model samples the classes of the held-out examples.
    Ranks share the sampling; the values do not depend on the number of ranks.

    A subclass defines `contract`, `identifying_row` and `compare`, and may define `measure`.

    Args:
        num_samples: number of samples, N; 2 to 100,000, by default as many as there are held-out examples
        seed: seed of the samples

    Raises:
        UserError: num_samples is out of range; in `setup`, the data module does not fulfil the contract.
    """

    contract: type[Any]
    """The protocol of `gen_lightning.contracts` that describes the data."""

    identifying_row: str
    """The name of a row that every test writes."""

    def __init__(self, num_samples: int | None = None, seed: int = 0) -> None:
        check_range(self, at_least=2, at_most=_MAX_SAMPLES, num_samples=num_samples)
        super().__init__(num_samples, seed)
        self._real: dict[SplitName, Examples] = {}

    @abstractmethod
    def compare(self, samples: Examples, held_out: Examples) -> dict[str, Estimate]:
        """Return metrics that take seconds, by name: samples compared with held-out examples, on the CPU."""

    def measure(self, samples: Examples, held_out: Examples, training: Examples) -> dict[str, Estimate]:
        """Return all metrics of a test by name, the same names for any samples.

        Args:
            samples: generated examples, or training examples for the floor
            held_out: test examples
            training: training examples; for the floor, without those that replace the samples
        """
        return self.compare(samples, held_out)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse data that cannot be compared, before training or the test starts.

        Raises:
            UserError: the data module does not fulfil the contract or has no whole splits; num_samples is out of range.
        """
        # `test --num_samples` sets the attribute after the constructor has checked its argument.
        check_range(self, at_least=2, at_most=_MAX_SAMPLES, num_samples=self.num_samples)
        self._real = {}
        for contract in (self.contract, ExampleData):
            require(find_datamodule(trainer), contract, type(self).__name__)
        require(pl_module, GenerativeModel, type(self).__name__)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics of `compare` with respect to the validation split."""
        if trainer.sanity_checking:
            return
        held_out = self._read(trainer, "val")
        samples = self._draw(trainer, pl_module, held_out)
        for name, estimate in self.compare(samples, held_out).items():
            self.log_validation(pl_module, name, name, estimate.value, len(samples.data))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log all metrics and their floors."""
        held_out, training = self._read(trainer, "test"), self._read(trainer, "train")
        samples = self._draw(trainer, pl_module, held_out)
        order = torch.randperm(len(training.data), generator=torch.Generator().manual_seed(0))
        floor_n = min(len(samples.data), len(order) // 2)
        real, rest = _select(training, order[:floor_n]), _select(training, order[floor_n:])
        # Every rank computes the metrics, so that an error stops all ranks.
        estimates = self.measure(samples, held_out, training)
        floors = self.measure(Examples(real.data, None if samples.labels is None else real.labels), held_out, rest)
        rows = {name: make_row(name, estimate, len(samples.data)) for name, estimate in estimates.items()}
        rows = {name: _add_floor(row, floors[name], floor_n) for name, row in rows.items()}
        self.rows = self.label_latents(rows)
        pl_module.log_dict({f"test/{name}/{row.n}": row.value for name, row in self.rows.items()})

    def _read(self, trainer: Trainer, split: SplitName) -> Examples:
        """Return a whole split, on the CPU."""
        if split not in self._real:
            batches = require(find_datamodule(trainer), ExampleData, type(self).__name__).examples(split)
            data, labels = (torch.cat(parts).cpu() for parts in zip(*batches, strict=True))
            self._real[split] = Examples(data, labels)
        return self._real[split]

    def _draw(self, trainer: Trainer, pl_module: LightningModule, held_out: Examples) -> Examples:
        """Return samples, the same on all ranks, on the CPU.

        Raises:
            UserError: a sample is not finite.
        """
        n = self.num_samples or len(held_out.data)
        zeros = torch.zeros(n, *held_out.data.shape[1:], device=choose_device(trainer))
        labels = None
        if require(pl_module, GenerativeModel, type(self).__name__).num_classes is not None:
            assert held_out.labels is not None
            # In random order, because data are often sorted by class.
            order = torch.randperm(len(held_out.labels), generator=torch.Generator().manual_seed(self.seed))
            labels = held_out.labels[order[torch.arange(n) % len(order)]]
        samples = self.map_samples(lambda data: data, zeros, trainer, pl_module, labels).cpu()
        if not samples.isfinite().all():
            raise UserError(
                "The samples contain NaN or Inf: the model has diverged. Test an earlier checkpoint, or lower the"
                " learning rate."
            )
        return Examples(samples, labels)


def _select(examples: Examples, indices: Tensor) -> Examples:
    data, labels = examples
    return Examples(data[indices], None if labels is None else labels[indices])


def _add_floor(row: Row, floor: Estimate, floor_n: int) -> Row:
    return Row(row.value, row.error, row.n, floor.value, floor.error, floor_n, row.better)
