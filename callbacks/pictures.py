"""Pictures of samples, codes and reconstructions, as PNG files in the run directory and in W&B."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torchvision.utils import make_grid, save_image

from callbacks.loggers import find_wandb_loggers
from gen_lightning.checks import check_range
from gen_lightning.contracts import (
    CodeModel,
    GenerativeModel,
    LatentModel,
    PointData,
    ReconstructionModel,
    find_datamodule,
    get_settings,
    require,
)
from gen_lightning.errors import UserError
from gen_lightning.storage import atomic_write, name_file_in_errors


class PictureCallback(Callback):
    """A callback that writes pictures as `FOLDER/iteration_*.png` in the run directory, and logs them to W&B.

    Args:
        folder: name of the folder, and of the pictures in W&B
    """

    suffix = "png"

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder's path; all ranks do it, because `log_dir` is broadcast."""
        self._directory = Path(trainer.log_dir or trainer.default_root_dir) / self.folder
        self._made = False

    def write(self, trainer: Trainer, save: Callable[[IO[bytes]], None]) -> None:
        """Write a picture with a function that writes it to a file as PNG, and log it at the current iteration.

        Raises:
            StorageError: the picture cannot be written, or its directory has been removed.
        """
        path = self._directory / f"iteration_{trainer.global_step:07d}.{self.suffix}"
        if not self._made:
            with name_file_in_errors(path):
                self._directory.mkdir(parents=True, exist_ok=True)
            self._made = True
        with atomic_write(path) as file:
            save(file)
        for logger in find_wandb_loggers(trainer):
            self.log_file(logger, path, trainer.global_step)

    # Lightning replaces a method `log` of a callback by the model's.
    def log_file(self, logger: WandbLogger, path: Path, iteration: int) -> None:
        """Log a written picture to W&B."""
        # W&B would take the values of a tensor to be in 0 to 255, so it gets the file.
        logger.log_image(self.folder, [str(path)], step=iteration)


class PeriodicPictures(PictureCallback):
    """A callback that draws a picture every n iterations and at the end of the training.

    Args:
        folder: name of the folder, and of the pictures in W&B
        every_n_iterations: number of iterations between two pictures; at least 1

    Raises:
        UserError: every_n_iterations is less than 1.
    """

    def __init__(self, folder: str, every_n_iterations: int) -> None:
        super().__init__(folder)
        check_range(self, at_least=1, every_n_iterations=every_n_iterations)
        self.every_n_iterations = every_n_iterations

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw a picture if the number of iterations is a multiple of `every_n_iterations`."""
        if trainer.global_step % self.every_n_iterations == 0:
            self._draw_on_rank_zero(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last picture, unless the last iteration has drawn it."""
        if trainer.global_step % self.every_n_iterations:
            self._draw_on_rank_zero(trainer, pl_module)

    def _draw_on_rank_zero(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not get_settings(trainer).fast_dev_run:
            self.draw(trainer, pl_module)

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the picture; called on rank 0 only."""
        raise NotImplementedError


class SamplePictures(PeriodicPictures):
    """Base class of pictures of samples, always from the same latents, with the classes of a model in rotation."""

    def __init__(self, every_n_iterations: int, num_samples: int, seed: int) -> None:
        super().__init__("samples", every_n_iterations)
        self._num_samples = num_samples
        self.seed = seed

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the samples."""
        model = require(pl_module, GenerativeModel, type(self).__name__)
        labels = None if model.num_classes is None else torch.arange(self._num_samples) % model.num_classes
        generator = torch.Generator().manual_seed(self.seed)
        samples = model.sample(self._num_samples, generator=generator, labels=labels).cpu()
        self.write(trainer, partial(self._save, trainer, model.num_classes, samples))

    def _save(self, trainer: Trainer, num_classes: int | None, samples: Tensor, file: IO[bytes]) -> None:
        raise NotImplementedError


class SampleGrid(SamplePictures):
    """A grid of samples, always from the same latents: every n iterations and at the end.

    The grid is a square; for a conditional model it has one column for each class.

    Args:
        every_n_iterations: number of iterations between two grids; at least 1
        num_images: number of samples in the grid; at least 1. The grid is full if it is a square number or, for a
            conditional model, a multiple of the number of classes.
        seed: seed of the latents

    Raises:
        UserError: a number is too small; in `setup`, the data are not images.
    """

    def __init__(self, every_n_iterations: int = 500, num_images: int = 64, seed: int = 0) -> None:
        check_range(self, at_least=1, num_images=num_images)
        super().__init__(every_n_iterations, num_images, seed)
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder's path; refuse data that are not images."""
        super().setup(trainer, pl_module, stage)
        check_images(self, pl_module)

    def _save(self, trainer: Trainer, num_classes: int | None, samples: Tensor, file: IO[bytes]) -> None:
        save_image(make_grid(samples, nrow=num_classes or round(self.num_images**0.5)), file, format="png")


class LatentCodeGrid(PeriodicPictures):
    """The effect of each latent code of an InfoGAN: every n iterations and at the end.

    The layout is that of figure 2 of Chen et al. 2016. The first rows show the categories, one a row; all images of a
    column share the noise and the other codes. A square follows for each continuous code; a row shows one latent with
    that code from -2 to 2, beyond its training range.

    Args:
        every_n_iterations: number of iterations between two grids; at least 1
        num_columns: number of latents; at least 1
        seed: seed of the latents

    Raises:
        UserError: a number is too small; in `setup`, the data are not images, or the model has no codes or is
            class-conditional.
    """

    def __init__(self, every_n_iterations: int = 500, num_columns: int = 10, seed: int = 0) -> None:
        check_range(self, at_least=1, num_columns=num_columns)
        super().__init__("codes", every_n_iterations)
        self.num_columns = num_columns
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder's path; refuse data that are not images, and models without codes or with classes."""
        super().setup(trainer, pl_module, stage)
        check_images(self, pl_module)
        codes = require(pl_module, CodeModel, "LatentCodeGrid").codes
        if codes is None or require(pl_module, LatentModel, "LatentCodeGrid").num_classes is not None:
            raise UserError(
                "LatentCodeGrid draws models with codes that are not class-conditional. Set --model.codes, choose"
                " unconditional networks, or do without LatentCodeGrid."
            )

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the grid."""
        model = require(pl_module, LatentModel, "LatentCodeGrid")
        codes = require(pl_module, CodeModel, "LatentCodeGrid").codes
        assert codes is not None, "setup has refused models without codes"
        with model.evaluating(self.seed):
            images = model(codes.traverse(model.sample_latents(self.num_columns)))
        grid = make_grid(images.float().cpu(), nrow=self.num_columns)
        self.write(trainer, partial(save_image, grid, format="png"))


class ScatterPlot(SamplePictures):
    """A plot of 2-D samples over real points, always from the same latents: every n iterations and at the end.

    The axes are those of the real points, with a margin; samples outside are not shown. Needs a data module with
    `points(split)`.

    Args:
        every_n_iterations: number of iterations between two plots; at least 1
        num_points: number of samples, and the largest number of validation points; at least 1
        seed: seed of the latents

    Raises:
        UserError: a number is too small; in `setup`, the data are not points in the plane.
    """

    def __init__(self, every_n_iterations: int = 500, num_points: int = 2500, seed: int = 0) -> None:
        check_range(self, at_least=1, num_points=num_points)
        super().__init__(every_n_iterations, num_points, seed)
        self.num_points = num_points

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder's path; refuse data that are not points in the plane."""
        super().setup(trainer, pl_module, stage)
        data_shape = require(pl_module, GenerativeModel, "ScatterPlot").data_shape
        if data_shape != (2,):
            raise UserError(
                f"ScatterPlot draws points in the plane, and the data have shape {data_shape}. Choose data such as"
                " GaussianMixtureDataModule, or do without ScatterPlot."
            )
        require(find_datamodule(trainer), PointData, "ScatterPlot")

    def _save(self, trainer: Trainer, num_classes: int | None, samples: Tensor, file: IO[bytes]) -> None:
        points = require(find_datamodule(trainer), PointData, "ScatterPlot").points("val")
        save_scatter(points[: self.num_points], samples, file)


class Reconstructions(PictureCallback):
    """The first images of each validation, each above its reconstruction.

    Args:
        num_images: number of images; at least 1. A row has eight.

    Raises:
        UserError: num_images is less than 1; in `setup`, the data are not images, or the model has no reconstructions.
    """

    def __init__(self, num_images: int = 32) -> None:
        check_range(self, at_least=1, num_images=num_images)
        super().__init__("reconstructions")
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder's path; refuse data that cannot be drawn, and models without reconstructions."""
        super().setup(trainer, pl_module, stage)
        self._check_data(pl_module)
        require(pl_module, ReconstructionModel, type(self).__name__)

    def _check_data(self, pl_module: LightningModule) -> None:
        check_images(self, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw and write the grid after the first batch."""
        skipped = trainer.state.fn != "fit" or trainer.sanity_checking or get_settings(trainer).fast_dev_run
        if batch_idx or skipped or not trainer.is_global_zero:
            return
        model = require(pl_module, ReconstructionModel, type(self).__name__)
        images, *condition = (part[: self.num_images] for part in (batch[0], *model.get_condition(batch)))
        with model.evaluating(seed=0):
            reconstructions = model.reconstruct(images, *condition)
        self.write(trainer, partial(self._save, images.cpu(), reconstructions.cpu()))

    def _save(self, images: Tensor, reconstructions: Tensor, file: IO[bytes]) -> None:
        rows = zip(_split_rows(images), _split_rows(reconstructions), strict=True)
        save_image(make_grid(torch.cat([row for pair in rows for row in pair]), nrow=8), file, format="png")


def check_images(callback: Callback, pl_module: LightningModule) -> None:
    """Refuse models of data that are not images.

    Raises:
        UserError: the data of the model are neither grey nor RGB images.
    """
    name = type(callback).__name__
    data_shape = require(pl_module, GenerativeModel, name).data_shape
    if len(data_shape) != 3 or data_shape[0] not in (1, 3):
        raise UserError(
            f"{name} draws grey or RGB images, and the data have shape {data_shape}. Choose image data, or do without"
            f" {name}."
        )


def save_scatter(real: Tensor, samples: Tensor, file: IO[bytes]) -> None:
    """Draw samples over real points, `[N, 2]` each, as a PNG file."""
    # Matplotlib is slow to import, and most runs do not need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.scatter(real[:, 0], real[:, 1], s=20, color="lightgray", label="real")
    axes.margins(0.2)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    axes.scatter(samples[:, 0], samples[:, 1], s=4, color="C0", alpha=0.4, linewidths=0, label="samples")
    axes.set_aspect("equal")
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(file, format="png", dpi=100)


def _split_rows(images: Tensor) -> tuple[Tensor, ...]:
    """Return images in rows of eight; the last row is filled up with black images."""
    return F.pad(images, (0,) * 7 + (-len(images) % 8,)).split(8)
