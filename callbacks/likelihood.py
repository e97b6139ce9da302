"""The likelihood of held-out data, estimated by importance sampling."""

import math
from collections.abc import Iterator
from typing import get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm

from gen_lightning.checks import check_range
from gen_lightning.clock import Stream, derive_seed, draws_from
from gen_lightning.contracts import (
    ExampleData,
    LikelihoodModel,
    SplitName,
    TextData,
    find_datamodule,
    is_dequantized,
    offers,
    require,
)
from gen_lightning.errors import UserError
from gen_lightning.evaluation import Row, make_row
from gen_lightning.metrics.bounds import bits_per_dimension, mean_bound
from gen_lightning.metrics.estimates import Estimate, estimate_mean, estimate_ratio
from gen_lightning.tokens import count_tokens

# The number of latents that are decoded at once. It is fixed, with one image at a time, so that memory is bounded and
# rounding does not depend on the batch size.
_CHUNK = 500

_GREY_LEVELS = 256


class ImportanceSampledLikelihood(Callback):
    """The negative log-likelihood of held-out images, from k latents of each image's posterior (Burda et al. 2016).

    The rows of `test`, logged as `test/...`, are means over the images in nats, with standard errors:

    - `bound/1`, `bound/64`, `bound/K`: the importance-weighted bounds at 1, 64 and k latents, from the same k
      log-weights;
    - `nll/K`: the negative of the last bound, an upper bound of the negative log-likelihood;
    - `bits_per_dimension/K`: `nll/K` in bits per dimension, if the likelihood is a probability of 256 levels. For
      dequantized images it is 8 bits more than the density's, which bounds the bits of the levels;
    - `nats_per_token/1`, `nats_per_token/K` and their exponentials `perplexity/1`, `perplexity/K`, if the data are
      texts: the negative bound at 1 latent, which is the ELBO, and at k latents, summed over the texts and divided by
      the number of their tokens. The end of a text is a token. The errors are those of the delta method.

    If the split is not the test split, its name is appended to each row's name, as in `nll/5000/val`. Choose between
    models on validation images, and test only the chosen one.

    The latents of an image are a function of the seed, its index in the split and the kind of device. Images are
    evaluated one by one, so that the bounds are bit-identical for any batch size and any number of ranks. If the
    Trainer has a progress bar, a bar counts the images.

    Needs a model with `log_weights(x, k, *condition)`, and a data module with `examples(split, n)`. For a conditional
    model the likelihood is log p(x | label).

    Args:
        num_samples: number of latents for each image, k; at least 1
        num_images: number of images, the first ones of the split; at least 2, by default all
        seed: seed of the latents; at least 0
        split: split of the images: test, val or train

    Raises:
        UserError: num_samples is less than 1, num_images is less than 2, or there is no such split.
    """

    def __init__(
        self, num_samples: int = 5000, num_images: int | None = None, seed: int = 0, split: SplitName = "test"
    ) -> None:
        check_range(self, at_least=1, num_samples=num_samples)
        check_range(self, at_least=2, num_images=num_images)
        self.num_samples = num_samples
        self.num_images = num_images
        if split not in get_args(SplitName):
            raise UserError(f"`ImportanceSampledLikelihood.split` is {split!r}. Choose test, val or train.")
        self.seed = seed
        self.split: SplitName = split
        self._suffix = "" if split == "test" else f"/{split}"
        self.rows: dict[str, Row] = {}
        self.identifying_row = f"bound/1{self._suffix}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse models without a likelihood, and data without examples.

        Raises:
            UserError: the model has no `log_weights`, or the data module has no `examples`.
        """
        require(pl_module, LikelihoodModel, "ImportanceSampledLikelihood")
        require(find_datamodule(trainer), ExampleData, "ImportanceSampledLikelihood")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the bounds; each rank evaluates its share of the images."""
        model = require(pl_module, LikelihoodModel, "ImportanceSampledLikelihood")
        ks = sorted({1, min(64, self.num_samples), self.num_samples})
        bounds = self._compute_bounds(trainer, model, ks)
        estimates = {f"bound/{k}": bounds[:, i] for i, k in enumerate(ks)}
        estimates[f"nll/{self.num_samples}"] = -bounds[:, -1]
        data = find_datamodule(trainer)
        is_text, dequantized = offers(data, TextData), is_dequantized(data)
        if dequantized or (model.levels == _GREY_LEVELS and not is_text):
            bits = bits_per_dimension(-bounds[:, -1], model.data_shape)
            # A level is 1 / 256 wide, and the density's mean over it bounds its probability (Theis et al. 2016, 3.1).
            estimates[f"bits_per_dimension/{self.num_samples}"] = bits + (math.log2(_GREY_LEVELS) if dequantized else 0)
        rows = {name: estimate_mean(values) for name, values in estimates.items()}
        if is_text:
            tokens = torch.cat([count_tokens(example[0]) for example in self._read_examples(trainer)]).cpu()
            rows |= _estimate_perplexity({1: bounds[:, 0], self.num_samples: bounds[:, -1]}, tokens)
        self.rows = {name + self._suffix: make_row(name, one, len(bounds)) for name, one in rows.items()}
        pl_module.log_dict({f"test/{name}": row.value for name, row in self.rows.items()})

    def _compute_bounds(self, trainer: Trainer, model: LikelihoodModel, ks: list[int]) -> Tensor:
        """Return the bounds of each image at each k, float64 `[N, len(ks)]`, the same on all ranks."""
        rank, other_ranks = trainer.global_rank, torch.zeros(len(ks), dtype=torch.float64)
        silent = trainer.progress_bar_callback is None or rank > 0
        examples = tqdm(list(self._read_examples(trainer)), "Likelihood", mininterval=1, disable=silent, unit="example")
        bounds = torch.stack(
            [
                self._bound_example(example, index, model, ks) if index % trainer.world_size == rank else other_ranks
                for index, example in enumerate(examples)
            ]
        )
        # Apple's GPUs have no float64; Lightning uses at most one of them, so nothing needs to be moved there.
        device = trainer.strategy.root_device if trainer.world_size > 1 else bounds.device
        return trainer.strategy.reduce(bounds.to(device), reduce_op="sum").cpu()

    def _read_examples(self, trainer: Trainer) -> Iterator[tuple[Tensor, ...]]:
        """Return batches of one image and its label."""
        data = require(find_datamodule(trainer), ExampleData, "ImportanceSampledLikelihood")
        batches = data.examples(self.split, self.num_images)
        return (example for batch in batches for example in zip(*(part.split(1) for part in batch), strict=True))

    def _bound_example(self, example: tuple[Tensor, ...], index: int, model: LikelihoodModel, ks: list[int]) -> Tensor:
        """Return the bounds of one image at each k, float64 `[len(ks)]`."""
        x, *condition = model.get_inputs(example)
        sizes = [min(_CHUNK, self.num_samples - start) for start in range(0, self.num_samples, _CHUNK)]
        with torch.no_grad(), draws_from(derive_seed(Stream.LIKELIHOOD, self.seed, index), x.device):
            log_weights = torch.cat([model.log_weights(x, size, *condition).cpu().double() for size in sizes])
        return torch.cat([mean_bound(log_weights, k) for k in ks])


def _estimate_perplexity(bounds: dict[int, Tensor], tokens: Tensor) -> dict[str, Estimate]:
    """Return the nats per token and the perplexity per token, by row.

    Args:
        bounds: bounds of log p(x) of each text, float64 `[N]`, by their number of latents
        tokens: number of tokens of each text, int64 `[N]`
    """
    nats = {k: estimate_ratio(-bound, tokens) for k, bound in bounds.items()}
    rows = {f"nats_per_token/{k}": one for k, one in nats.items()}
    perplexities = {k: math.exp(one.value) for k, one in nats.items()}
    return rows | {f"perplexity/{k}": Estimate(one, one * nats[k].error) for k, one in perplexities.items()}
