"""Mixtures of Gaussians, usually in the plane, whose modes are known so that mode collapse can be counted."""

import math

import torch
from torch import Tensor

from datamodules.base import SplitDataModule
from datamodules.sources import Split
from gen_lightning.checks import check_range
from gen_lightning.contracts import SplitName
from gen_lightning.errors import UserError

# Each split is drawn from its own seed, which is a part of the data: it is the same in every run, for any seed.
_SEEDS: dict[SplitName, int] = {"train": 0, "val": 1, "test": 2}


class GaussianMixture:
    """A mixture of isotropic Gaussians with the same standard deviation.

    Args:
        means: means of the modes, `[M, D]`
        sigma: standard deviation of each mode in each dimension; above 0
        weights: weights of the modes, each above 0, with any sum; equal by default

    Raises:
        UserError: the means are not `[M, D]`, sigma is not positive, or the weights are not one positive number a mode.
    """

    def __init__(self, means: list[list[float]], sigma: float, weights: list[float] | None = None) -> None:
        if not means or len({len(mean) for mean in means}) != 1 or not means[0]:
            raise UserError(
                f"`{type(self).__name__}.means` is {means}. Give one list of numbers for each mode, all of one length."
            )
        check_range(self, above=0, sigma=sigma)
        weights = [1.0] * len(means) if weights is None else weights
        if len(weights) != len(means) or min(weights) <= 0:
            raise UserError(
                f"`{type(self).__name__}.weights` is {weights}. Give one positive number for each of the {len(means)}"
                " modes."
            )
        self.means = torch.tensor(means, dtype=torch.float32)
        self.sigma = sigma
        self.weights = torch.tensor(weights, dtype=torch.float64) / math.fsum(weights)

    def draw(self, n: int, generator: torch.Generator) -> Split:
        """Return points, float32 `[n, D]`, and their modes, int64 `[n]`."""
        modes = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator)
        return Split(self.means[modes] + self.sigma * noise, modes)


class Ring(GaussianMixture):
    """Modes evenly spaced on a circle around 0. The published ring has 8 at radius 1 (Srivastava et al. 2017, VEEGAN).

    Args:
        num_modes: number of modes
        radius: radius of the circle
        sigma: standard deviation of each mode
    """

    def __init__(self, num_modes: int = 8, radius: float = 1.0, sigma: float = 0.01) -> None:
        angles = [2 * math.pi * mode / num_modes for mode in range(num_modes)]
        super().__init__([[radius * math.cos(angle), radius * math.sin(angle)] for angle in angles], sigma)


class Grid(GaussianMixture):
    """Modes on a square grid around 0. The published grid has 25 at {-4, -2, 0, 2, 4}^2 (Srivastava et al. 2017).

    Args:
        side: number of modes along each side
        spacing: distance between neighbours
        sigma: standard deviation of each mode
    """

    def __init__(self, side: int = 5, spacing: float = 2.0, sigma: float = 0.05) -> None:
        ticks = [spacing * (index - (side - 1) / 2) for index in range(side)]
        super().__init__([[x, y] for x in ticks for y in ticks], sigma)


class GaussianMixtureDataModule(SplitDataModule):
    """Points of a mixture, delivered as (points, modes): float32 `[N, D]` and int64 `[N]`.

    The training points are drawn once and shuffled in each epoch; 100,000 is the number in PacGAN's experiments (Lin
    et al. 2018). Points keep the mixture's units. To use other units, scale the mixture: `Grid(spacing=0.5,
    sigma=0.0125)` is the published grid in units of 4. No measure of mode coverage depends on the unit.

    Args:
        mixture: `Ring`, `Grid`, or any `GaussianMixture`
        num_samples: number of training points; at least 1
        num_held_out: number of validation points, and of test points; at least 1
        batch_size: number of points per iteration and device; at least 1
        device_resident: whether the splits are kept on the training device
        seed: seed of the order of the training points

    Raises:
        UserError: a number is less than 1.
    """

    def __init__(
        self,
        mixture: GaussianMixture,
        num_samples: int = 100_000,
        num_held_out: int = 10_000,
        batch_size: int = 128,
        device_resident: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, device_resident, seed)
        check_range(self, at_least=1, num_samples=num_samples, num_held_out=num_held_out)
        self.mixture = mixture
        self.num_samples = num_samples
        self.num_held_out = num_held_out

    @property
    def shape(self) -> tuple[int]:
        """The shape of one point, `(D,)`."""
        return (self.mixture.means.shape[1],)

    @property
    def identity(self) -> str:
        """A text that names the points of the splits."""
        mixture = (self.mixture.means.tolist(), self.mixture.sigma, self.mixture.weights.tolist())
        return f"{type(self).__name__} {mixture} {self.num_samples} {self.num_held_out}"

    def make_splits(self) -> dict[SplitName, Split]:
        """Draw the points."""
        sizes = {"train": self.num_samples, "val": self.num_held_out, "test": self.num_held_out}
        return {
            split: self.mixture.draw(sizes[split], torch.Generator().manual_seed(seed))
            for split, seed in _SEEDS.items()
        }

    def points(self, split: SplitName) -> Tensor:
        """Return a whole split, float32 `[N, D]`, the same on every rank."""
        return self.splits[split].data
