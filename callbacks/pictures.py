"""Pictures of what a model has learnt, as PNG files in the run's folder and in W&B."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.utils import make_grid, save_image

from callbacks.counts import check_counts
from callbacks.loggers import wandb_loggers
from gen_lightning.errors import UserError


class _PictureCallback(Callback):
    """Writes pictures as `FOLDER/iteration_*.png` and logs them on the scalars' axis."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resolves the folder on all ranks together."""
        self._directory = Path(trainer.log_dir or trainer.default_root_dir) / self.folder

    def _write(self, trainer: Trainer, save: Callable[[Path], None]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"iteration_{trainer.global_step:07d}.png"
        save(path)
        for logger in wandb_loggers(trainer):
            # The file, since W&B takes the values of a tensor for 0 to 255.
            logger.log_image(self.folder, [str(path)], step=trainer.global_step)


class _PeriodicPictures(_PictureCallback):
    """Pictures every n iterations and at the end."""

    def __init__(self, folder: str, every_n_iterations: int) -> None:
        super().__init__(folder)
        if every_n_iterations < 1:
            raise UserError(
                f"{type(self).__name__}'s every_n_iterations is {every_n_iterations}: choose 1 or more, or leave it out"
                " of trainer.callbacks."
            )
        self.every_n_iterations = every_n_iterations

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws the picture when it is due."""
        if trainer.global_step % self.every_n_iterations == 0:
            self._draw_on_rank_zero(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last picture."""
        if trainer.global_step % self.every_n_iterations:
            self._draw_on_rank_zero(trainer, pl_module)

    def _draw_on_rank_zero(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise NotImplementedError


class _SamplePictures(_PeriodicPictures):
    """Pictures of samples from the same latents each time, of each class in turn."""

    def __init__(self, every_n_iterations: int, num_samples: int, seed: int) -> None:
        super().__init__("samples", every_n_iterations)
        self._num_samples = num_samples
        self.seed = seed

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classes = pl_module.num_classes
        labels = None if classes is None else torch.arange(self._num_samples) % classes
        generator = torch.Generator().manual_seed(self.seed)
        samples = pl_module.sample(self._num_samples, generator=generator, labels=labels).cpu()
        self._write(trainer, partial(self._save, trainer, samples))

    def _save(self, trainer: Trainer, samples: Tensor, path: Path) -> None:
        raise NotImplementedError


class SampleGrid(_SamplePictures):
    """A grid of samples from the same latents each time: every n iterations and at the end.

    The grid is a square, and of a conditional model one column for each class.

    Args:
        every_n_iterations: how often, 1 or more
        num_images: samples in the grid, 1 or more; to fill it, a square number, or a multiple of a conditional
            model's classes
        seed: of the latents

    Raises:
        UserError: a number is too small; the data are no images (in `setup`).
    """

    def __init__(self, every_n_iterations: int = 500, num_images: int = 64, seed: int = 0) -> None:
        check_counts(self, num_images=num_images)
        super().__init__(every_n_iterations, num_images, seed)
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses data that are no images."""
        super().setup(trainer, pl_module, stage)
        _check_images(self, pl_module)

    def _save(self, trainer: Trainer, samples: Tensor, path: Path) -> None:
        images_in_a_row = trainer.lightning_module.num_classes or round(self.num_images**0.5)
        save_image(make_grid(samples, nrow=images_in_a_row), path)


class LatentCodeGrid(_PeriodicPictures):
    """What the codes of an InfoGAN change, as in figure 2 of Chen et al. 2016: every n iterations and at the end.

    First a row for each category: each column has the same noise and other codes throughout. Then a square for each
    continuous code: each row is of one latent, with that code from -2, beyond what it was trained on, to 2.

    Args:
        every_n_iterations: how often, 1 or more
        num_columns: latents, 1 or more
        seed: of the latents

    Raises:
        UserError: a number is too small; the data are no images, or the model is none to be drawn so (in `setup`).
    """

    def __init__(self, every_n_iterations: int = 500, num_columns: int = 10, seed: int = 0) -> None:
        check_counts(self, num_columns=num_columns)
        super().__init__("codes", every_n_iterations)
        self.num_columns = num_columns
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses data that are no images, and models whose codes alone do not say what is drawn."""
        super().setup(trainer, pl_module, stage)
        _check_images(self, pl_module)
        if getattr(pl_module, "codes", None) is None or pl_module.num_classes is not None:
            raise UserError(
                "LatentCodeGrid draws models with codes (model.codes) that are not class-conditional: leave it out of"
                " trainer.callbacks."
            )

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with pl_module.evaluating(self.seed):
            images = pl_module(pl_module.codes.traversals(pl_module.latents(self.num_columns)))
        grid = make_grid(images.float().cpu(), nrow=self.num_columns)
        self._write(trainer, partial(save_image, grid))


class ScatterPlot(_SamplePictures):
    """Samples over real points of the plane, from the same latents each time: every n iterations and at the end.

    Needs a data module with `points(split)`: all of a split, float32 `[N, 2]`. The axes are those of the real points,
    with a margin: samples that lie outside are not shown.

    Args:
        every_n_iterations: how often, 1 or more
        num_points: samples, 1 or more, and at most as many validation points
        seed: of the latents

    Raises:
        UserError: a number is too small; the data are no points of the plane (in `setup`).
    """

    def __init__(self, every_n_iterations: int = 500, num_points: int = 2500, seed: int = 0) -> None:
        check_counts(self, num_points=num_points)
        super().__init__(every_n_iterations, num_points, seed)
        self.num_points = num_points

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses data that are no points of the plane."""
        super().setup(trainer, pl_module, stage)
        if len(pl_module.data_shape) != 1 or pl_module.data_shape[0] != 2 or not hasattr(trainer.datamodule, "points"):
            raise UserError(
                "ScatterPlot draws points of the plane, of a data module such as GaussianMixtureDataModule:"
                " leave it out of trainer.callbacks."
            )

    def _save(self, trainer: Trainer, samples: Tensor, path: Path) -> None:
        save_scatter(trainer.datamodule.points("val")[: self.num_points], samples, path)


class Reconstructions(_PictureCallback):
    """The first images of each validation, each above its reconstruction.

    Args:
        num_images: images in the grid, 1 or more, eight pairs in a row

    Raises:
        UserError: there are less; the model has no reconstructions (in `setup`).
    """

    def __init__(self, num_images: int = 32) -> None:
        check_counts(self, num_images=num_images)
        super().__init__("reconstructions")
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses models that have no reconstructions."""
        super().setup(trainer, pl_module, stage)
        _check_images(self, pl_module)
        if not hasattr(pl_module, "reconstruct"):
            raise UserError(f"{type(pl_module).__name__} does not reconstruct: leave Reconstructions out.")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws the grid at the first batch."""
        in_fit = trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run
        if batch_idx or not in_fit or not trainer.is_global_zero:
            return
        images, *condition = (part[: self.num_images] for part in (batch[0], *pl_module.get_condition(batch)))
        with pl_module.evaluating(seed=0):
            reconstructions = pl_module.reconstruct(images, *condition)
        rows = zip(_split_rows(images), _split_rows(reconstructions), strict=True)
        grid = make_grid(torch.cat([row for pair in rows for row in pair]).cpu(), nrow=8)
        self._write(trainer, partial(save_image, grid))


def _split_rows(images: Tensor) -> tuple[Tensor, ...]:
    """Images in rows, of which the last is filled up with black."""
    return F.pad(images, (0,) * 7 + (-len(images) % 8,)).split(8)


def save_scatter(real: Tensor, samples: Tensor, path: Path) -> None:
    """Draws samples over real points, `[N, 2]` each, as a PNG file."""
    # Slow to import, and of no use to most runs.
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
    figure.savefig(path, dpi=100)


def _check_images(callback: Callback, pl_module: LightningModule) -> None:
    if len(pl_module.data_shape) != 3 or pl_module.data_shape[0] not in (1, 3):
        raise UserError(
            f"{type(callback).__name__} draws grey or RGB images, not data of shape {pl_module.data_shape}:"
            " leave it out of trainer.callbacks."
        )
