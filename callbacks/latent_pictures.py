"""Pictures of a latent space, decoded along paths through it, as PNG files in the run's folder and in W&B."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.distributions import Independent, Normal
from torchvision.utils import make_grid, save_image

from callbacks.counts import check_counts
from callbacks.pictures import _check_images, _PeriodicPictures
from gen_lightning.errors import UserError

# Traversals and their like go as far from 0, in standard deviations of the prior.
_FARTHEST = 3.0


class _LatentPictures(_PeriodicPictures):
    """Pictures of models whose latents are made of standard normal noise, a row of images for each row of noise.

    The noise is the latents themselves, or where the prior has layers, what each of them is drawn with.
    """

    seed = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses data that are no images, and latents that are not made of normal noise."""
        super().setup(trainer, pl_module, stage)
        _check_images(self, pl_module)
        in_one_layer = not hasattr(pl_module, "prior") or isinstance(pl_module.prior(), Independent)
        of_another_prior = not in_one_layer and _prior_in_layers(pl_module) is None
        if of_another_prior or getattr(pl_module, "codes", None) is not None:
            raise UserError(
                f"{type(self).__name__} draws latents that are normal, in one layer or in several, and this model's"
                " have another prior, or codes: leave it out of trainer.callbacks."
            )

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with pl_module.evaluating(self.seed):
            noise, *condition = self._noise(trainer, pl_module)
            z = _transform_noise(pl_module, noise.flatten(0, 1))
            images = pl_module(z, *(labels.flatten() for labels in condition)).float().cpu()
        self._write(trainer, partial(save_image, make_grid(images, nrow=noise.shape[1])))

    def _noise(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Tensor, ...]:
        """What is drawn: noise `[rows, columns, Z]`, and labels `[rows, columns]` of a conditional model."""
        raise NotImplementedError


class LatentInterpolations(_LatentPictures):
    """Ways from one latent to another on great circles, one a row: every n iterations and at the end.

    Straight ways would pass nearer to the origin than almost all of the prior's latents are (White 2016). Of layers, it
    is their noise that goes on circles. The rows of a conditional model are of each class in turn.

    Args:
        every_n_iterations: how often
        num_pairs: rows, 1 or more
        num_steps: columns, 1 or more, the two ends included
        seed: of the latents

    Raises:
        UserError: a number is too small; the latent has one dimension (in `setup`).
    """

    def __init__(self, every_n_iterations: int = 500, num_pairs: int = 8, num_steps: int = 10, seed: int = 0) -> None:
        check_counts(self, num_pairs=num_pairs, num_steps=num_steps)
        super().__init__("interpolations", every_n_iterations)
        self.num_pairs = num_pairs
        self.num_steps = num_steps
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a latent of one dimension, too, whose ends have the same direction or opposite ones."""
        super().setup(trainer, pl_module, stage)
        if pl_module.latent_dim < 2:
            raise UserError(
                "LatentInterpolations goes on circles, and latent_dim is 1: set model.latent_dim to 2 or more, or leave"
                " it out of trainer.callbacks."
            )

    def _noise(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Tensor, ...]:
        starts, ends = _recover_noise(pl_module, pl_module.sample_latents(2 * self.num_pairs)).unsqueeze(1).chunk(2)
        way = torch.linspace(0, 1, self.num_steps, device=starts.device).unsqueeze(1)
        noise = slerp(starts, ends, way)
        if pl_module.num_classes is None:
            return (noise,)
        labels = torch.arange(self.num_pairs, device=noise.device) % pl_module.num_classes
        return noise, labels.unsqueeze(1).expand(noise.shape[:2])


class LatentTraversals(_LatentPictures):
    """What the most active latent dimensions change, one a row: every n iterations and at the end.

    Each row is of the latent of the first validation image, with one dimension from -3 to 3. The dimensions are in the
    order of their activity, the variance of their posterior means over validation images (Burda et al. 2016). Of layers
    it is the noise that goes from -3 to 3, and by whose variance they are ordered: layers drawn later follow.

    Needs a model with `encode(x, *condition)`, and a data module with `examples(split, n)`.

    Args:
        every_n_iterations: how often
        num_dimensions: rows, 1 or more, at most as many as there are dimensions
        num_steps: columns, 1 or more
        num_images: the first validation images, 2 or more, by which the activity is measured

    Raises:
        UserError: a number is too small; the model infers no latents (in `setup`).
    """

    def __init__(
        self, every_n_iterations: int = 500, num_dimensions: int = 10, num_steps: int = 11, num_images: int = 1000
    ) -> None:
        check_counts(self, num_dimensions=num_dimensions, num_steps=num_steps)
        check_counts(self, 2, num_images=num_images)
        super().__init__("traversals", every_n_iterations)
        self.num_dimensions = num_dimensions
        self.num_steps = num_steps
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses models that infer no latents, too, and reads the images."""
        super().setup(trainer, pl_module, stage)
        if not hasattr(pl_module, "encode") or not hasattr(trainer.datamodule, "examples"):
            raise UserError(
                "LatentTraversals needs a model with a posterior, and a data module with examples(split, n), such as"
                " MNISTDataModule: leave it out of trainer.callbacks."
            )
        if stage == "fit":
            # Once, since binarizing a split for each picture takes longer than drawing it.
            self._examples = list(trainer.datamodule.examples("val", self.num_images))

    def _noise(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Tensor, ...]:
        inputs = [pl_module.get_inputs(batch) for batch in self._examples]
        means = torch.cat([_recover_noise(pl_module, pl_module.encode(*parts).mean) for parts in inputs])
        noise = traversals(means[0], most_active(means, self.num_dimensions), self.num_steps)
        return noise, *(labels[0].expand(noise.shape[:2]) for labels in inputs[0][1:])


class LatentManifold(_LatentPictures):
    """A latent of two dimensions laid out as a square: every n iterations and at the end.

    At equal steps of the distribution function of the prior, or of its layers' noise, so that each image stands for as
    much of the prior (Kingma & Welling 2014, figure 4).

    Args:
        every_n_iterations: how often
        num_steps: rows, and columns, 1 or more

    Raises:
        UserError: a number is too small; the latent has not two dimensions (in `setup`).
    """

    def __init__(self, every_n_iterations: int = 500, num_steps: int = 20) -> None:
        check_counts(self, num_steps=num_steps)
        super().__init__("manifold", every_n_iterations)
        self.num_steps = num_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses latents of other dimensions, and conditional models, which have a manifold for each class, too."""
        super().setup(trainer, pl_module, stage)
        if pl_module.num_classes is not None:
            raise UserError(
                "LatentManifold draws a latent alone, and this model is conditional: take networks that are not, or"
                " leave it out of trainer.callbacks."
            )
        if pl_module.latent_dim != 2:
            raise UserError(
                f"LatentManifold draws two latent dimensions, and latent_dim is {pl_module.latent_dim}: set"
                " model.latent_dim to 2, or leave it out of trainer.callbacks."
            )

    def _noise(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Tensor, ...]:
        return (quantile_grid(self.num_steps).to(pl_module.device),)


def _transform_noise(pl_module: LightningModule, noise: Tensor) -> Tensor:
    """The latents `[N, Z]` that noise `[N, Z]` is turned into."""
    layers = _prior_in_layers(pl_module)
    return noise if layers is None else layers.transform_noise(noise)


def _recover_noise(pl_module: LightningModule, z: Tensor) -> Tensor:
    """The noise `[N, Z]` that is turned into latents `[N, Z]`."""
    layers = _prior_in_layers(pl_module)
    return z if layers is None else layers.recover_noise(z)


def _prior_in_layers(pl_module: LightningModule) -> Any:
    """The prior if it has layers, else None."""
    prior = pl_module.prior() if hasattr(pl_module, "prior") else None
    return prior if hasattr(prior, "transform_noise") else None


def slerp(start: Tensor, end: Tensor, way: Tensor) -> Tensor:
    """Spherical linear interpolation of latents (Shoemake 1985; White 2016): at equal angles between their directions.

    Args:
        start: `[..., Z]`
        end: `[..., Z]`, not opposite to `start`
        way: how far it is gone, from 0 to 1, broadcast with `[..., Z]`
    """
    cosine = torch.cosine_similarity(start, end, dim=-1).unsqueeze(-1)
    # Latents in the same direction have a straight way.
    angle = cosine.clamp(-1, 1 - 1e-6).acos()
    return (((1 - way) * angle).sin() * start + (way * angle).sin() * end) / angle.sin()


def most_active(means: Tensor, n: int) -> Tensor:
    """The n dimensions, or all if they are fewer, whose posterior means `[N, Z]` vary most, the most active first."""
    return means.var(0).argsort(descending=True)[:n]


def traversals(z: Tensor, dimensions: Tensor, num_steps: int) -> Tensor:
    """A latent `[Z]` with each of D dimensions from -3 to 3, one after another: `[D, num_steps, Z]`."""
    rows = z.repeat(len(dimensions), num_steps, 1)
    rows[torch.arange(len(dimensions)), :, dimensions] = torch.linspace(-_FARTHEST, _FARTHEST, num_steps).to(z)
    return rows


def quantile_grid(num_steps: int) -> Tensor:
    """Points `[num_steps, num_steps, 2]` of the standard normal's quantiles, the first rising along a row.

    The second falls from row to row, as in a plot.
    """
    quantiles = Normal(0.0, 1.0).icdf((torch.arange(num_steps) + 0.5) / num_steps)
    second, first = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
    return torch.stack([first, second], -1)
