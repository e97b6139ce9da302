"""Pictures of a latent space, decoded along paths through it, as PNG files in the run directory and in W&B."""

from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torchvision.utils import make_grid, save_image

from callbacks.pictures import PeriodicPictures, check_images
from gen_lightning.checks import check_range
from gen_lightning.contracts import (
    CodeModel,
    ExampleData,
    LatentModel,
    LayeredDistribution,
    PosteriorModel,
    PriorModel,
    find_datamodule,
    offers,
    require,
)
from gen_lightning.errors import UserError

# Traversals end at this distance from 0, in standard deviations of the prior.
_TRAVERSAL_END = 3.0


class _LatentPictures(PeriodicPictures):
    """Pictures of models whose latents are made from standard normal noise; a row of images for each row of noise.

    The noise is the latent itself or, if the prior has layers, the noise that its layers are drawn with.
    """

    seed = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder's path; refuse data that are not images, and latents not made from normal noise."""
        super().setup(trainer, pl_module, stage)
        check_images(self, pl_module)
        require(pl_module, LatentModel, type(self).__name__)
        if not _has_normal_latents(pl_module):
            raise UserError(
                f"{type(self).__name__} draws latents that are normal, in one layer or in several, and the latents of"
                f" this model have another prior, or codes. Choose another prior, or do without {type(self).__name__}."
            )

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and write the picture."""
        model = require(pl_module, LatentModel, type(self).__name__)
        with model.evaluating(self.seed):
            noise, *condition = self.choose_noise(pl_module)
            z = transform_noise(pl_module, noise.flatten(0, 1))
            images = model(z, *(labels.flatten() for labels in condition)).float().cpu()
        self.write(trainer, partial(save_image, make_grid(images, nrow=noise.shape[1]), format="png"))

    def choose_noise(self, pl_module: LightningModule) -> tuple[Tensor, ...]:
        """Return noise `[rows, columns, Z]` and, for a conditional model, labels `[rows, columns]`."""
        raise NotImplementedError


class LatentInterpolations(_LatentPictures):
    """Interpolations between pairs of latents on great circles, one a row: every n iterations and at the end.

    A straight path would pass closer to the origin than almost all latents of the prior are (White 2016). For a prior
    with layers, the noise of the layers is interpolated. The rows of a conditional model rotate through the classes.

    Args:
        every_n_iterations: number of iterations between two pictures; at least 1
        num_pairs: number of rows; at least 1
        num_steps: number of columns, including the two ends; at least 1
        seed: seed of the latents

    Raises:
        UserError: a number is too small; in `setup`, the latent has one dimension.
    """

    def __init__(self, every_n_iterations: int = 500, num_pairs: int = 8, num_steps: int = 10, seed: int = 0) -> None:
        check_range(self, at_least=1, num_pairs=num_pairs, num_steps=num_steps)
        super().__init__("interpolations", every_n_iterations)
        self.num_pairs = num_pairs
        self.num_steps = num_steps
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse also latents of one dimension, because two ends have equal or opposite directions."""
        super().setup(trainer, pl_module, stage)
        latent_dim = require(pl_module, LatentModel, "LatentInterpolations").latent_dim
        if latent_dim < 2:
            raise UserError(
                f"LatentInterpolations follows great circles, and `latent_dim` is {latent_dim}. Set --model.latent_dim"
                " to at least 2, or do without LatentInterpolations."
            )

    def choose_noise(self, pl_module: LightningModule) -> tuple[Tensor, ...]:
        """Return the noise on arcs between pairs of latents."""
        model = require(pl_module, LatentModel, "LatentInterpolations")
        starts, ends = recover_noise(pl_module, model.sample_latents(2 * self.num_pairs)).unsqueeze(1).chunk(2)
        fractions = torch.linspace(0, 1, self.num_steps, device=starts.device).unsqueeze(1)
        noise = slerp(starts, ends, fractions)
        if model.num_classes is None:
            return (noise,)
        labels = torch.arange(self.num_pairs, device=noise.device) % model.num_classes
        return noise, labels.unsqueeze(1).expand(noise.shape[:2])


class LatentTraversals(_LatentPictures):
    """Traversals of the most active latent dimensions, one a row: every n iterations and at the end.

    Each row shows the latent of the first validation image with one dimension varied from -3 to 3. The dimensions are
    ordered by activity, the variance of their posterior means over validation images (Burda et al. 2016). For a prior
    with layers, the noise of the layers is varied and ordered by its variance; layers that are drawn later follow.

    Needs a model with `encode(x, *condition)`, and a data module with `examples(split, n)`.

    Args:
        every_n_iterations: number of iterations between two pictures; at least 1
        num_dimensions: number of rows, if there are as many dimensions; at least 1
        num_steps: number of columns; at least 1
        num_images: number of validation images from which the activity is computed; at least 2

    Raises:
        UserError: a number is too small; in `setup`, the model infers no latents, or the data module has no examples.
    """

    def __init__(
        self, every_n_iterations: int = 500, num_dimensions: int = 10, num_steps: int = 11, num_images: int = 1000
    ) -> None:
        check_range(self, at_least=1, num_dimensions=num_dimensions, num_steps=num_steps)
        check_range(self, at_least=2, num_images=num_images)
        super().__init__("traversals", every_n_iterations)
        self.num_dimensions = num_dimensions
        self.num_steps = num_steps
        self.num_images = num_images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse also models that infer no latents, and read the images."""
        super().setup(trainer, pl_module, stage)
        require(pl_module, PosteriorModel, "LatentTraversals")
        data = require(find_datamodule(trainer), ExampleData, "LatentTraversals")
        if stage == "fit":
            # Read once, because binarizing a split for each picture would take longer than drawing the picture.
            self._examples = list(data.examples("val", self.num_images))

    def choose_noise(self, pl_module: LightningModule) -> tuple[Tensor, ...]:
        """Return the noise of the first image with one dimension a row varied."""
        model = require(pl_module, PosteriorModel, "LatentTraversals")
        inputs = [model.get_inputs(batch) for batch in self._examples]
        means = torch.cat([recover_noise(pl_module, model.encode(*parts).mean) for parts in inputs])
        noise = traverse(means[0], rank_by_activity(means, self.num_dimensions), self.num_steps)
        return noise, *(labels[0].expand(noise.shape[:2]) for labels in inputs[0][1:])


class LatentManifold(_LatentPictures):
    """A two-dimensional latent space laid out as a square: every n iterations and at the end.

    The steps are equal in the cumulative distribution of the prior, or of the noise of its layers, so that each image
    represents the same probability (Kingma & Welling 2014, figure 4).

    Args:
        every_n_iterations: number of iterations between two pictures; at least 1
        num_steps: number of rows and of columns; at least 1

    Raises:
        UserError: a number is too small; in `setup`, the latent does not have two dimensions, or the model is
            class-conditional.
    """

    def __init__(self, every_n_iterations: int = 500, num_steps: int = 20) -> None:
        check_range(self, at_least=1, num_steps=num_steps)
        super().__init__("manifold", every_n_iterations)
        self.num_steps = num_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse also latents of other dimensions, and conditional models, which have a manifold for each class."""
        super().setup(trainer, pl_module, stage)
        model = require(pl_module, LatentModel, "LatentManifold")
        if model.num_classes is not None:
            raise UserError(
                "LatentManifold draws unconditional models, and this model is class-conditional. Choose unconditional"
                " networks, or do without LatentManifold."
            )
        if model.latent_dim != 2:
            raise UserError(
                f"LatentManifold draws two latent dimensions, and `latent_dim` is {model.latent_dim}. Set"
                " --model.latent_dim=2, or do without LatentManifold."
            )

    def choose_noise(self, pl_module: LightningModule) -> tuple[Tensor, ...]:
        """Return the noise on a grid of quantiles."""
        return (quantile_grid(self.num_steps).to(pl_module.device),)


def transform_noise(pl_module: LightningModule, noise: Tensor) -> Tensor:
    """Return the latents `[N, Z]` that a model makes from standard normal noise `[N, Z]`."""
    prior = _get_prior(pl_module)
    return prior.transform_noise(noise) if offers(prior, LayeredDistribution) else noise


def recover_noise(pl_module: LightningModule, z: Tensor) -> Tensor:
    """Return the noise `[N, Z]` from which a model makes latents `[N, Z]`."""
    prior = _get_prior(pl_module)
    return prior.recover_noise(z) if offers(prior, LayeredDistribution) else z


def _has_normal_latents(pl_module: LightningModule) -> bool:
    """Return whether latents are made from standard normal noise: in one layer, as in a GAN, or in several."""
    prior = _get_prior(pl_module)
    normal = prior is None or isinstance(prior, Independent) or offers(prior, LayeredDistribution)
    return normal and not (offers(pl_module, CodeModel) and pl_module.codes is not None)


def _get_prior(pl_module: LightningModule) -> Distribution | None:
    return pl_module.prior() if offers(pl_module, PriorModel) else None


def slerp(start: Tensor, end: Tensor, fraction: Tensor) -> Tensor:
    """Return the spherical linear interpolation of latents (Shoemake 1985; White 2016).

    Equal steps of the fraction are equal angles between the directions.

    Args:
        start: latents `[..., Z]`
        end: latents `[..., Z]`, not opposite to `start`
        fraction: completed fraction of the path, in [0, 1], broadcast with `[..., Z]`
    """
    cosine = torch.cosine_similarity(start, end, dim=-1).unsqueeze(-1)
    # The clamp makes the path between latents in the same direction a straight line, without a division by 0.
    angle = cosine.clamp(-1, 1 - 1e-6).acos()
    return (((1 - fraction) * angle).sin() * start + (fraction * angle).sin() * end) / angle.sin()


def rank_by_activity(means: Tensor, n: int) -> Tensor:
    """Return the n dimensions whose posterior means `[N, Z]` vary most, the most active first; all if fewer than n."""
    return means.var(0).argsort(descending=True)[:n]


def traverse(z: Tensor, dimensions: Tensor, num_steps: int) -> Tensor:
    """Return copies of a latent `[Z]`, `[D, num_steps, Z]`, with each of D dimensions varied from -3 to 3 in a row."""
    rows = z.repeat(len(dimensions), num_steps, 1)
    steps = torch.linspace(-_TRAVERSAL_END, _TRAVERSAL_END, num_steps).to(z)
    rows[torch.arange(len(dimensions)), :, dimensions] = steps
    return rows


def quantile_grid(num_steps: int) -> Tensor:
    """Return points `[num_steps, num_steps, 2]` at equally spaced quantiles of the standard normal distribution.

    As in a plot, the first coordinate rises along a row, and the second falls from row to row.
    """
    quantiles = Normal(0.0, 1.0).icdf((torch.arange(num_steps) + 0.5) / num_steps)
    second, first = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
    return torch.stack([first, second], -1)
