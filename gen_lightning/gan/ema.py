"""The exponential moving average of a generator, which samples better than the generator itself."""

import copy

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from gen_lightning.errors import UserError
from gen_lightning.schedules import Schedule, value_at


class EMA(nn.Module):
    """A frozen copy of the generator that follows it: what it remembers of old weights halves in each half-life.

    In an iteration of B images, those of all ranks, average = d * average + (1 - d) * generator with
    d = 0.5^(B / half-life) (Karras et al. 2018, section 4.2; Karras et al. 2020, with half-life and ramp in images).
    Buffers, such as batch normalization's statistics, are copied.

    Args:
        generator: the network that is trained
        half_life: in images, 0 or more; 0 follows the generator without delay
        ramp: bounds the half-life by this fraction of the images seen so far, so that early samples are not of the
            first weights; None is without a bound

    Raises:
        UserError: half_life or ramp is negative.
    """

    def __init__(
        self, generator: nn.Module, half_life: float | Schedule = 500_000.0, ramp: float | None = 0.05
    ) -> None:
        super().__init__()
        if value_at(half_life, 0) < 0 or (ramp is not None and ramp < 0):
            raise UserError(f"EMA's half_life is {half_life} and ramp {ramp}: choose 0 or more for both.")
        self.half_life = half_life
        self.ramp = ramp
        self.network = copy.deepcopy(generator).requires_grad_(False)

    def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Data `[N, *data_shape]` of the average, from what the generator takes."""
        return self.network(z, *condition)

    def decay(self, iteration: int, images: int) -> float:
        """How much of the old average is left after an iteration, in [0, 1).

        Args:
            iteration: the number of iterations completed before it
            images: the images of one iteration, of all ranks
        """
        half_life = value_at(self.half_life, iteration)
        if self.ramp is not None:
            half_life = min(half_life, self.ramp * iteration * images)
        return 0.5 ** (images / half_life) if half_life > 0 else 0.0

    def update(self, generator: nn.Module, iteration: int, images: int) -> None:
        """Moves the average towards the generator; the arguments of `decay` say how far."""
        average = get_ema_multi_avg_fn(self.decay(iteration, images))
        average(list(self.network.parameters()), list(generator.parameters()), 0)
        for buffer, newest in zip(self.network.buffers(), generator.buffers(), strict=True):
            buffer.copy_(newest)
