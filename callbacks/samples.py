"""Pictures of what a model has learnt, as PNG files in the run's folder and in W&B."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torchvision.utils import make_grid, save_image


class _ImageCallback(Callback):
    """Writes grids of images as `FOLDER/iteration_*.png` and logs them on the scalars' axis."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resolves the folder on all ranks together, and refuses data that are no images."""
        if len(pl_module.data_shape) != 3 or pl_module.data_shape[0] not in (1, 3):
            raise ValueError(
                f"{type(self).__name__} draws grey or RGB images, not data of shape {pl_module.data_shape}:"
                " leave it out of trainer.callbacks."
            )
        self._directory = Path(trainer.log_dir or trainer.default_root_dir) / self.folder

    def _write(self, trainer: Trainer, images: Tensor, columns: int) -> None:
        grid = make_grid(images.cpu(), nrow=columns)
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"iteration_{trainer.global_step:07d}.png"
        save_image(grid, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                # The file, since W&B takes the values of a tensor for 0 to 255.
                logger.log_image(self.folder, [str(path)], step=trainer.global_step)


class SampleGrid(_ImageCallback):
    """A grid of samples from the same latents each time: every n iterations and at the end.

    Args:
        every_n_iterations: how often
        num_images: samples in the grid, a square number to fill it
        seed: of the latents
    """

    def __init__(self, every_n_iterations: int = 500, num_images: int = 64, seed: int = 0) -> None:
        super().__init__("samples")
        self.every_n_iterations = every_n_iterations
        self.num_images = num_images
        self.seed = seed

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws the grid when it is due."""
        if trainer.global_step % self.every_n_iterations == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last grid."""
        if trainer.global_step % self.every_n_iterations:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        samples = pl_module.sample(self.num_images, generator=torch.Generator().manual_seed(self.seed))
        self._write(trainer, samples, columns=round(self.num_images**0.5))


class Reconstructions(_ImageCallback):
    """The first images of each validation, each above its reconstruction.

    Args:
        num_images: images in the grid, eight pairs in a row
    """

    def __init__(self, num_images: int = 32) -> None:
        super().__init__("reconstructions")
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses models that have no reconstructions."""
        super().setup(trainer, pl_module, stage)
        if not hasattr(pl_module, "reconstruct"):
            raise ValueError(f"{type(pl_module).__name__} does not reconstruct: leave Reconstructions out.")

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
        images = batch[0][: self.num_images]
        rows = zip(images.split(8), pl_module.reconstruct(images).split(8), strict=True)
        self._write(trainer, torch.cat([row for pair in rows for row in pair]), columns=8)
