"""The likelihood of held-out data, by importance sampling."""

import math
from collections.abc import Iterator

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

from callbacks.counts import check_counts
from gen_lightning.clock import derive_seed, draws_from
from gen_lightning.errors import UserError
from gen_lightning.evaluation import Row, make_row
from gen_lightning.metrics.bounds import bits_per_dimension, mean_bound
from gen_lightning.metrics.estimates import mean_estimate

# A stream of seeds apart from those of the models and the data loaders.
_LATENTS = 4

# Latents that are decoded at once: with it, and one image at a time, memory and rounding depend on nothing else.
_CHUNK = 500

_GREY_LEVELS = 256


class ImportanceSampledLikelihood(Callback):
    """The negative log-likelihood of the test images, from k latents of each one's posterior (Burda et al. 2016).

    As `rows` of `test`, in nats, each the mean over the images with its standard error: the importance weighted bound
    at 1, 64 and k latents, all of the same k log-weights, as `bound/1`, `bound/64`, `bound/K`; the last one's negative,
    which bounds the negative log-likelihood from above, as `nll/K`; and, of a model whose likelihood is a probability
    of 256 levels, the same as `bits_per_dimension/K`. Of dequantized images, it is the bits for the levels that the
    density bounds: 8 more than its own. Logged as `test/...`.

    An image's latents are a function of the seed, its index in the split and the kind of device alone, and it is
    measured by itself, so that its bounds are the same bits whatever the batch size and the number of ranks. Where the
    Trainer has a progress bar, one counts the images.

    Needs a model with `log_weights(x, k, *condition)`, and a data module with `examples(split, n)`: the first n of a
    split, as it is evaluated on, in batches of (data, labels). Of a conditional model it is log p(x | label).

    Args:
        num_samples: latents for each image, k
        num_images: the first images of the split; by default all
        seed: of the latents, 0 or more

    Raises:
        UserError: num_samples is less than 1, or num_images less than 2.
    """

    def __init__(self, num_samples: int = 5000, num_images: int | None = None, seed: int = 0) -> None:
        check_counts(self, num_samples=num_samples)
        check_counts(self, 2, num_images=num_images)
        self.num_samples = num_samples
        self.num_images = num_images
        self.seed = seed
        self.rows: dict[str, Row] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses what has no likelihood.

        Raises:
            UserError: the model has no `log_weights`, or the data module no `examples`.
        """
        if not hasattr(pl_module, "log_weights"):
            raise UserError(
                f"{type(pl_module).__name__} has no likelihood: leave ImportanceSampledLikelihood out of"
                " trainer.callbacks."
            )
        if not hasattr(trainer.datamodule, "examples"):
            raise UserError(
                "ImportanceSampledLikelihood needs a data module with examples(split, n), such as MNISTDataModule."
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, each rank its share of the images, and logs what was measured."""
        ks = sorted({1, min(64, self.num_samples), self.num_samples})
        bounds = self._bounds(trainer, pl_module, ks)
        estimates = {f"bound/{k}": bounds[:, i] for i, k in enumerate(ks)}
        estimates[f"nll/{self.num_samples}"] = -bounds[:, -1]
        dequantized = getattr(trainer.datamodule, "dequantize", False)
        if dequantized or getattr(pl_module, "levels", None) == _GREY_LEVELS:
            bits = bits_per_dimension(-bounds[:, -1], pl_module.data_shape)
            # A level is 1 / 256 wide, and the density's mean over it bounds its probability (Theis et al. 2016, 3.1).
            estimates[f"bits_per_dimension/{self.num_samples}"] = bits + (math.log2(_GREY_LEVELS) if dequantized else 0)
        self.rows = {name: make_row(name, mean_estimate(values), len(values)) for name, values in estimates.items()}
        pl_module.log_dict({f"test/{name}": row.value for name, row in self.rows.items()})

    def _bounds(self, trainer: Trainer, pl_module: LightningModule, ks: list[int]) -> Tensor:
        """The bounds of each image at each k, float64 `[N, len(ks)]`, the same on all ranks."""
        rank, elsewhere = trainer.global_rank, torch.zeros(len(ks), dtype=torch.float64)
        silent = trainer.progress_bar_callback is None or rank > 0
        examples = tqdm(list(self._examples(trainer)), "Likelihood", mininterval=1, disable=silent, unit="image")
        bounds = torch.stack(
            [
                self._bound_example(example, index, pl_module, ks) if index % trainer.world_size == rank else elsewhere
                for index, example in enumerate(examples)
            ]
        )
        # Apple's GPUs, of which Lightning uses one at most, have no float64.
        device = trainer.strategy.root_device if trainer.world_size > 1 else bounds.device
        return trainer.strategy.reduce(bounds.to(device), reduce_op="sum").cpu()

    def _examples(self, trainer: Trainer) -> Iterator[tuple[Tensor, ...]]:
        """Batches of one image and its label."""
        batches = trainer.datamodule.examples("test", self.num_images)
        return (example for batch in batches for example in zip(*(part.split(1) for part in batch), strict=True))

    def _bound_example(
        self, example: tuple[Tensor, ...], index: int, pl_module: LightningModule, ks: list[int]
    ) -> Tensor:
        x, *condition = pl_module.get_inputs(example)
        sizes = [min(_CHUNK, self.num_samples - start) for start in range(0, self.num_samples, _CHUNK)]
        with torch.no_grad(), draws_from(derive_seed(_LATENTS, self.seed, index), pl_module.device):
            log_weights = torch.cat([pl_module.log_weights(x, size, *condition).cpu().double() for size in sizes])
        return torch.cat([mean_bound(log_weights, k) for k in ks])
