"""Lightning's Trainer with the command line's verbs `test` and `sample`."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchvision.utils import make_grid, save_image

from callbacks import (
    Evaluation,
    ExampleEvaluation,
    ExampleMeans,
    SampleMeasure,
    SignalEvaluation,
    StopOnNaN,
    TableEvaluation,
    TextEvaluation,
)
from cli.checkpoints import load_checkpoint
from cli.extractor import train_extractor
from gen_lightning import GenerativeModule, VAEModule
from gen_lightning.contracts import ExampleData, IdentifiedData, ScaledData, WrittenData, offers, require
from gen_lightning.errors import StorageError, UserError
from gen_lightning.evaluation import get_extractor_path
from gen_lightning.metrics import FeatureExtractor
from gen_lightning.stopping import begin_deferral, end_deferral
from gen_lightning.storage import atomic_write, check_space, name_file_in_errors
from gen_lightning.vae import fit_latent_mixture

Latents = Literal["prior", "gmm"]

EXAMPLE_EVALUATIONS: tuple[type[ExampleEvaluation], ...] = (TableEvaluation, SignalEvaluation, TextEvaluation)
"""The evaluations of data that are no images; `test` adds the first one whose contract the data fulfil."""


class Trainer(LightningTrainer):
    """Lightning's Trainer with the verbs `test` and `sample` of the command line."""

    # Lightning's connectors assign these without declaring them.
    callbacks: list[Callback]
    fast_dev_run: bool | int
    test_seconds: float
    unmeasured = ""
    """What `test` does not measure, with its reason; empty if it measures samples."""

    def save_checkpoint(
        self, filepath: str | Path, weights_only: bool | None = None, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint.

        Raises:
            DivergenceError: a weight or a state is not finite.
            StorageError: the file cannot be written.
        """
        for callback in self.callbacks:
            # Lightning calls the callbacks' own hook only for a checkpoint of the full training state.
            if weights_only and isinstance(callback, StopOnNaN):
                callback.check_states(self, self.lightning_module)
        super().save_checkpoint(filepath, weights_only, storage_options)

    # Lightning's test takes other arguments; the command line takes this method's for its options.
    def test(  # type: ignore[override]
        self,
        model: GenerativeModule,
        ckpt_path: str,
        datamodule: LightningDataModule | None = None,
        num_samples: PositiveInt | None = None,
        extractor: FeatureExtractor | None = None,
        latents: Latents = "prior",
    ) -> None:
        """Measure a checkpoint on the test split: its samples, and what the model itself measures.

        Args:
            model: the model, built from the checkpoint's configuration
            ckpt_path: the checkpoint
            datamodule: the data
            num_samples: number of samples for each sample metric; default: the recipe's number, or the number of test
                images
            extractor: the network whose features are compared; default: the recipe's
            latents: source of the latents of a VAE's samples: prior, or gmm, a mixture of 10 Gaussians fitted to the
                latents of the training images
        """
        if find_evaluation(self) is None:
            self._add_evaluation(model, datamodule, extractor)
        for callback in self.callbacks:
            if isinstance(callback, SampleMeasure):
                callback.num_samples = num_samples or callback.num_samples
                callback.latents = latents
        if (evaluation := find_evaluation(self)) and extractor:
            evaluation.set_extractor(extractor)
        if latents == "gmm":
            self._load_weights(model, ckpt_path)
            load_units(datamodule, ckpt_path)
            fit_mixture_prior(model, datamodule, Path(ckpt_path).parent)
        start = time.perf_counter()
        super().test(model, ckpt_path=ckpt_path, datamodule=datamodule, weights_only=True, verbose=False)
        self.test_seconds = time.perf_counter() - start

    def sample(
        self,
        model: GenerativeModule,
        ckpt_path: str,
        datamodule: LightningDataModule | None = None,
        num_samples: PositiveInt = 64,
        labels: int | list[int] | None = None,
        latents: Latents = "prior",
        output: str = "samples",
        seed: NonNegativeInt = 0,
        overwrite: bool = False,
    ) -> None:
        """Write samples of a checkpoint as a picture and as an array.

        Args:
            model: the model, built from the checkpoint's configuration
            ckpt_path: the checkpoint
            datamodule: the data whose latents the mixture of `latents` is fitted to
            num_samples: number of samples
            labels: class of a conditional model, or classes that are repeated in order; default: each class is equally
                likely
            latents: source of the latents of a VAE's samples: prior, or gmm, a mixture of 10 Gaussians fitted to the
                latents of the training images
            output: directory of grid.png (at most 400 samples, if they have 1 or 3 channels) and samples.npz (arr_0:
                uint8 [N, H, W, C], or float32 [N, ...] if the data are not such images; as the file stores them if the
                data are an ArrayDataModule; labels: int64 [N] if the model is conditional); or of samples.csv, .tsv or
                .parquet, as the training file, if the data are a table; or of samples.txt, one sample a line, if the
                data are a text
            seed: seed of the samples
            overwrite: replace the files that are in the directory
        """
        folder = Path(output)
        self._load_weights(model, ckpt_path)
        load_units(datamodule, ckpt_path)
        suffix = datamodule.samples_suffix if offers(datamodule, WrittenData) else ".npz"
        grid_path, samples_path = folder / "grid.png", folder / f"samples{suffix}"
        check_output([grid_path, samples_path], overwrite)
        if latents == "gmm":
            fit_mixture_prior(model, datamodule, Path(ckpt_path).parent)
        generator = torch.Generator().manual_seed(seed)
        classes = model.draw_labels(num_samples, generator) if labels is None else cycle_labels(labels, num_samples)
        # 500 samples fit in any memory. Another block size would draw other samples from the same seed.
        blocks = [
            model.sample(len(block), generator=generator, labels=None if classes is None else classes[block]).cpu()
            for block in torch.arange(num_samples).split(500)
        ]
        samples = torch.cat(blocks)
        arrays: dict[str, Any] = {} if classes is None else {"labels": classes.numpy()}
        with contextlib.ExitStack() as files:
            files.callback(end_deferral)
            if len(model.data_shape) == 3 and model.data_shape[0] in (1, 3):
                grid = make_grid(samples[:400], nrow=math.ceil(min(num_samples, 400) ** 0.5))
                save_image(grid, files.enter_context(atomic_write(grid_path)), format="png")
            samples_file = files.enter_context(atomic_write(samples_path))
            if offers(datamodule, WrittenData):
                datamodule.write_samples(samples, samples_file)
            else:
                arrays["arr_0"] = convert_samples(samples, datamodule).numpy()
                np.savez_compressed(samples_file, **arrays)
            # A signal leaves both files or none.
            begin_deferral()
        print(f"Wrote {num_samples} samples to {folder}")

    def _add_evaluation(
        self, model: GenerativeModule, datamodule: LightningDataModule | None, extractor: FeatureExtractor | None
    ) -> None:
        """Add the evaluation that fits the data, or only the means of what the model itself measures if none fits.

        Raises:
            UserError: the samples cannot be evaluated, although an extractor is given.
        """
        fitting = [one for one in EXAMPLE_EVALUATIONS if offers(datamodule, one.contract)]
        if fitting and not extractor:
            self.callbacks.append(ExampleMeans())
            if not any(isinstance(callback, fitting[0]) for callback in self.callbacks):
                self.callbacks.append(fitting[0]())
            return
        evaluation = Evaluation(extractor)
        try:
            evaluation.check_data(self, model.data_shape, datamodule)
        except UserError as error:
            if extractor:
                raise
            # Other callbacks may measure samples of such data.
            if not any(isinstance(callback, SampleMeasure) for callback in self.callbacks):
                self.unmeasured = f"Samples are not measured. {error}"
            self.callbacks.append(ExampleMeans())
        else:
            self.callbacks.append(evaluation)

    def train_extractor(
        self,
        model: GenerativeModule,
        ckpt_path: str | None = None,
        datamodule: LightningDataModule | None = None,
        epochs: PositiveInt = 15,
        output: str | None = None,
        seed: NonNegativeInt = 0,
        overwrite: bool = False,
    ) -> None:
        """Train the network whose features `test` compares, on the images of a recipe or of a checkpoint.

        Args:
            model: the model, which is not used
            ckpt_path: the checkpoint of a run on the data; default: the data of --config
            datamodule: the data, with images
            epochs: number of passes over the training images
            output: safetensors file; default: one in the machine's cache, which `test` finds by the data
            seed: seed of the extractor's weights, of the order and of the augmentation
            overwrite: replace the file
        """
        assert datamodule is not None
        datamodule.trainer = self
        identity = require(datamodule, IdentifiedData, "train_extractor").identity
        path = Path(output) if output else get_extractor_path(identity)
        check_output([path], overwrite)
        train_extractor(datamodule, epochs, seed, path, self.strategy.root_device)

    def _load_weights(self, model: GenerativeModule, ckpt_path: str) -> None:
        """Load a checkpoint's weights in the configured precision, and move the model to the device."""
        self.precision_plugin.convert_module(model)
        model.load_state_dict(load_checkpoint(ckpt_path)["state_dict"])
        model.to(self.strategy.root_device)


def run_on_rank_zero(trainer: LightningTrainer, action: Callable[[], None]) -> None:
    """Run a function on rank 0 before the training; if it refuses, all ranks do.

    Raises:
        UserError: the function has raised it, on rank 0.
        StorageError: the function has raised it, on rank 0.
    """

    @rank_zero_only
    def attempt() -> Exception | None:
        try:
            action()
        except (UserError, StorageError) as error:
            return error
        return None

    refusal = attempt()
    environment = getattr(trainer.strategy, "cluster_environment", None)
    # Lightning's own launcher starts the other ranks after this, so that a refusal leaves none of them.
    if environment is not None and not isinstance(environment, LightningEnvironment):
        trainer.strategy.setup_environment()
        refusal = trainer.strategy.broadcast(refusal)
    if refusal is not None:
        raise refusal


class NoProfiler(PassThroughProfiler):
    """Lightning's default profiler, without a new context for each hook of each callback, about 100 an iteration."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        """Return a context that does nothing."""
        return self._nothing


def check_trainer_options(options: Namespace) -> None:
    """Refuse options of the Trainer that a run cannot follow.

    Raises:
        UserError: a run would keep no checkpoint or no metrics, or an interval is not positive.
    """
    if options.enable_checkpointing is False:
        raise UserError(
            "`--trainer.enable_checkpointing` is false, and every run keeps checkpoints/last.ckpt. Remove the option,"
            " or raise --checkpoint.every_n_iterations to save less often."
        )
    if options.barebones:
        raise UserError(
            "`--trainer.barebones` is true, and every run keeps its metrics and a checkpoint. Remove the option."
        )
    # Lightning accepts 0, and then divides by it.
    for name in ("log_every_n_steps", "check_val_every_n_epoch"):
        if options[name] is not None and options[name] < 1:
            raise UserError(f"`--trainer.{name}` is {options[name]}. Choose at least 1.")
    # Lightning accepts every negative number, and runs no batch below -1.
    if options.num_sanity_val_steps is not None and options.num_sanity_val_steps < -1:
        raise UserError(
            f"`--trainer.num_sanity_val_steps` is {options.num_sanity_val_steps}. Choose 0 or more, or -1 for all"
            " batches."
        )


def check_output(paths: list[Path], overwrite: bool) -> None:
    """Make the directory of files that will be written, and check that none of them exists.

    Raises:
        UserError: a file exists, if only as a symbolic link, and is not to be overwritten.
        StorageError: the directory cannot be made or written.
    """
    for path in paths:
        if not overwrite and os.path.lexists(path):
            raise UserError(f"{path} exists already. Add --overwrite, or choose another --output.")
        with name_file_in_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        check_space(path, 0)


def check_budget(options: Namespace) -> None:
    """Refuse a training without an end, for which Lightning would choose 1,000 epochs.

    Raises:
        UserError: neither epochs, iterations nor time are limited.
    """
    if options.max_epochs is None and options.max_steps == -1 and not (options.max_time or options.fast_dev_run):
        raise UserError(
            "Nothing ends the training. Add --trainer.max_epochs N, --trainer.max_steps N or --trainer.max_time"
            " DD:HH:MM:SS."
        )


def fit_mixture_prior(model: GenerativeModule, datamodule: LightningDataModule | None, folder: Path) -> None:
    """Replace the VAE's prior by a Gaussian mixture fitted to the training latents.

    The mixture is stored in `folder`. The data are read only if no mixture of these data is stored there.

    Raises:
        UserError: the model infers no latents or too many dimensions of them; the data have no examples or identity.
    """
    if not isinstance(model, VAEModule):
        raise UserError(f"{type(model).__name__} infers no latents to fit a mixture to. Remove --latents.")
    examples = require(datamodule, ExampleData, "--latents gmm")
    identity = require(datamodule, IdentifiedData, "--latents gmm").identity

    def read_training_examples() -> Iterator[tuple[Tensor, Tensor]]:
        assert datamodule is not None
        datamodule.prepare_data()
        datamodule.setup("test")
        yield from examples.examples("train")

    model.fitted_prior = fit_latent_mixture(model, read_training_examples, identity, folder)


def load_units(datamodule: object, ckpt_path: str) -> None:
    """Give a data module that scales or encodes its data the units or the encoding of a checkpoint."""
    if offers(datamodule, ScaledData) or offers(datamodule, WrittenData):
        datamodule.load_state_dict(load_checkpoint(ckpt_path).get(type(datamodule).__qualname__, {}))


def convert_samples(samples: Tensor, datamodule: LightningDataModule | None) -> Tensor:
    """Return samples as they are written: as the data module stores its data, or images as uint8 `[N, H, W, C]`."""
    if offers(datamodule, ScaledData):
        return datamodule.restore_units(samples)
    if samples.ndim != 4 or samples.shape[1] not in (1, 3):
        return samples
    return (samples.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def cycle_labels(labels: int | list[int], n: int) -> Tensor:
    """Return one label, or several that are repeated in order, int64 `[n]`.

    Raises:
        UserError: there is no label.
    """
    if labels == []:
        raise UserError("--labels is empty. Give at least one class, such as --labels 3 or --labels '[0,1,2]'.")
    classes = torch.tensor(labels).reshape(-1)
    return classes[torch.arange(n) % len(classes)]


def find_evaluation(trainer: Trainer) -> Evaluation | None:
    """Return the Evaluation among a run's callbacks, if there is one."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Evaluation)), None)
