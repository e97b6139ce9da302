"""Evaluation of generated texts, and files of them."""

import math
from functools import partial
from pathlib import Path
from typing import IO

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from callbacks.example_evaluation import ExampleEvaluation, Examples
from callbacks.pictures import PeriodicPictures
from gen_lightning.checks import check_range
from gen_lightning.contracts import GenerativeModel, TextData, find_datamodule, require
from gen_lightning.metrics import (
    Estimate,
    estimate_ratio,
    measure_copies,
    measure_distinct,
    measure_length_divergence,
    measure_ngram_divergence,
)
from gen_lightning.tokens import count_tokens

_ORDERS = (1, 2, 3, 4)


class TextEvaluation(ExampleEvaluation):
    """Compares generated texts with held-out texts.

    - `distinct/n` for n = 1 to 4: the number of different n-grams divided by the number of n-grams (Li et al. 2016).
      Texts that repeat each other have a smaller value than real texts;
    - `ngram_divergence/n` for n = 1 to 4: the Jensen-Shannon divergence of the n-grams from those of held-out texts, in
      bits;
    - `length_divergence`: that of the numbers of tokens;
    - `training_lines`, only in `test`: the share of samples that are training texts;
    - `known_words`, only in `test`, and only if tokens are characters: the share of generated words, between white
      space, that occur in the training texts.

    All values depend on N, so compare them with their floors. If the model logs `val/elbo`, `val/perplexity` is logged:
    the bound of the perplexity per token, the ends of the texts included.

    Args:
        num_samples: number of samples, N; 2 to 100,000, by default as many as there are held-out texts
        seed: seed of the samples

    Raises:
        UserError: num_samples is out of range; in `setup`, the data are no texts.
    """

    contract = TextData
    identifying_row = "distinct/1"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse data that are no texts."""
        super().setup(trainer, pl_module, stage)
        self._data = require(find_datamodule(trainer), TextData, type(self).__name__)

    def compare(self, samples: Examples, held_out: Examples) -> dict[str, Estimate]:
        """Return the diversity of n-grams, and the divergences of n-grams and lengths."""
        distinct = {f"distinct/{n}": measure_distinct(samples.data, n) for n in _ORDERS}
        divergences = {
            f"ngram_divergence/{n}": measure_ngram_divergence(held_out.data, samples.data, n) for n in _ORDERS
        }
        return distinct | divergences | {"length_divergence": measure_length_divergence(held_out.data, samples.data)}

    def measure(self, samples: Examples, held_out: Examples, training: Examples) -> dict[str, Estimate]:
        """Return the values of `compare`, and the shares of samples and of words that are in the training texts."""
        estimates = self.compare(samples, held_out)
        estimates["training_lines"] = measure_copies(samples.data, training.data)
        if self._data.tokens == "characters":
            estimates["known_words"] = self._measure_known_words(samples.data, training.data)
        return estimates

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics of `compare`, and the perplexity that the bound implies."""
        super().on_validation_epoch_end(trainer, pl_module)
        bound = trainer.callback_metrics.get("val/elbo")
        if bound is not None and not trainer.sanity_checking:
            tokens = count_tokens(self._read(trainer, "val").data).double().mean()
            pl_module.log("val/perplexity", math.exp(min(-bound.item() / tokens.item(), 700)))

    def _measure_known_words(self, samples: Tensor, training: Tensor) -> Estimate:
        known = {word for line in self._data.decode(training) for word in line.split()}
        words = [line.split() for line in self._data.decode(samples)]
        found = [sum(word in known for word in line) for line in words]
        if not any(words):
            return Estimate(0.0, 0.0)
        return estimate_ratio(torch.tensor(found), torch.tensor([len(line) for line in words]))


class SampleText(PeriodicPictures):
    """A file of generated texts, one a line: every n iterations and at the end.

    The files are `samples/iteration_*.txt` in the run directory; W&B gets a table. If the latents decide what a text
    is like, a line changes little from one file to the next.

    Args:
        every_n_iterations: number of iterations between two files; at least 1
        num_samples: number of texts; at least 1
        seed: seed of the samples

    Raises:
        UserError: a number is too small; in `setup`, the data are no texts.
    """

    suffix = "txt"

    def __init__(self, every_n_iterations: int = 500, num_samples: int = 32, seed: int = 0) -> None:
        super().__init__("samples", every_n_iterations)
        check_range(self, at_least=1, num_samples=num_samples)
        self.num_samples = num_samples
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder's path; refuse data that are no texts."""
        super().setup(trainer, pl_module, stage)
        require(pl_module, GenerativeModel, "SampleText")
        self._data = require(find_datamodule(trainer), TextData, "SampleText")

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the samples."""
        model = require(pl_module, GenerativeModel, "SampleText")
        samples = model.sample(self.num_samples, generator=torch.Generator().manual_seed(self.seed)).cpu()
        self.write(trainer, partial(_write_lines, self._data.decode(samples)))

    def log_file(self, logger: WandbLogger, path: Path, iteration: int) -> None:
        """Log the texts to W&B as a table."""
        lines = path.read_text(encoding="utf-8").splitlines()
        logger.log_text(self.folder, columns=["text"], data=[[line] for line in lines], step=iteration)


def _write_lines(lines: list[str], file: IO[bytes]) -> None:
    file.write("".join(f"{line}\n" for line in lines).encode())
