"""Mixtures of Gaussians in the plane, on which a collapse can be counted."""

import math

import torch
from torch import Tensor

from datamodules.base import SplitDataModule, SplitName
from datamodules.loaders import Batch
from datamodules.sources import Split
from gen_lightning.errors import UserError

# Each split is drawn from a seed of its own, which is part of the data: the same in every run, whatever its seed.
_SEEDS: dict[SplitName, int] = {"train": 0, "val": 1, "test": 2}


class GaussianMixture:
    """Isotropic Gaussians that share one standard deviation.

    Args:
        means: of the modes, `[M, D]`
        sigma: the standard deviation of each mode in each dimension, above 0
        weights: of the modes, in any unit; by default equal

    Raises:
        UserError: the means are no `[M, D]`, sigma is not positive, or the weights are not one for each mode.
    """

    def __init__(self, means: list[list[float]], sigma: float, weights: list[float] | None = None) -> None:
        if not means or len({len(mean) for mean in means}) != 1 or not means[0]:
            raise UserError("The means of a mixture are lists of one length: give one list of numbers for each mode.")
        if sigma <= 0:
            raise UserError(f"sigma is {sigma}: choose a number above 0.")
        weights = [1.0] * len(means) if weights is None else weights
        if len(weights) != len(means) or min(weights) <= 0:
            raise UserError(f"The weights of a mixture are positive: give {len(means)}, one for each mode.")
        self.means = torch.tensor(means, dtype=torch.float32)
        self.sigma = sigma
        self.weights = torch.tensor(weights, dtype=torch.float64) / math.fsum(weights)

    def draw(self, n: int, generator: torch.Generator) -> Split:
        """Points, float32 `[n, D]`, and the modes that they are of, int64 `[n]`."""
        modes = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator)
        return Split(self.means[modes] + self.sigma * noise, modes)


class Ring(GaussianMixture):
    """Modes evenly spaced on a circle about 0; as published, 8 at radius 1 (Srivastava et al. 2017, VEEGAN).

    Args:
        num_modes: how many
        radius: of the circle
        sigma: the standard deviation of each mode
    """

    def __init__(self, num_modes: int = 8, radius: float = 1.0, sigma: float = 0.01) -> None:
        angles = [2 * math.pi * mode / num_modes for mode in range(num_modes)]
        super().__init__([[radius * math.cos(angle), radius * math.sin(angle)] for angle in angles], sigma)


class Grid(GaussianMixture):
    """Modes on a square grid about 0; as published, 25 at {-4, -2, 0, 2, 4}^2 (Srivastava et al. 2017, VEEGAN).

    Args:
        side: modes along each side
        spacing: between neighbours
        sigma: the standard deviation of each mode
    """

    def __init__(self, side: int = 5, spacing: float = 2.0, sigma: float = 0.05) -> None:
        ticks = [spacing * (index - (side - 1) / 2) for index in range(side)]
        super().__init__([[x, y] for x in ticks for y in ticks], sigma)


class GaussianMixtureDataModule(SplitDataModule):
    """Points of a mixture, delivered as (points, modes): float32 `[N, D]` and int64 `[N]`.

    The training points are drawn once, 100,000 as in PacGAN's experiments (Lin et al. 2018), and shuffled each epoch.
    Points keep the mixture's units. A recipe that wants others scales the mixture: `Grid(spacing=0.5, sigma=0.0125)` is
    the published grid in units of 4, and no measure of mode coverage depends on the unit.

    Args:
        mixture: `Ring`, `Grid`, or any `GaussianMixture`
        num_samples: training points
        num_held_out: validation points, and as many test points
        batch_size: points per iteration and device
        device_resident: keep the splits on the training device
        seed: of the order of the training points

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
        if min(num_samples, num_held_out) < 1:
            raise UserError(f"num_samples is {num_samples} and num_held_out {num_held_out}: choose 1 or more for both.")
        self.mixture = mixture
        self.num_samples = num_samples
        self.num_held_out = num_held_out

    @property
    def shape(self) -> tuple[int]:
        """The shape of one point, `(D,)`."""
        return (self.mixture.means.shape[1],)

    @property
    def identity(self) -> str:
        """Which points the splits hold: the same text on every machine, for any batches and order."""
        mixture = (self.mixture.means.tolist(), self.mixture.sigma, self.mixture.weights.tolist())
        return f"{type(self).__name__} {mixture} {self.num_samples} {self.num_held_out}"

    def setup(self, stage: str) -> None:
        """Draws the points, once."""
        if self._splits:
            return
        sizes = {"train": self.num_samples, "val": self.num_held_out, "test": self.num_held_out}
        for split, seed in _SEEDS.items():
            self._splits[split] = self.mixture.draw(sizes[split], torch.Generator().manual_seed(seed))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Leaves the seed of the batch out: nothing is drawn of it."""
        return batch.data, batch.labels

    def points(self, split: SplitName) -> Tensor:
        """A whole split on every rank, float32 `[N, D]`."""
        return self._splits[split].data
