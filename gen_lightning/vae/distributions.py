"""Distributions of pixels that torch.distributions lacks, or is slow at."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

LEVELS = 256


class Bernoulli(torch.distributions.Bernoulli):
    """torch's own, with log-probabilities that are quicker on CPUs, where they take most of the time of an NLL."""

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability `[...]` of values 0 and 1."""
        return value * self.logits + _log_sigmoid(-self.logits)


class ContinuousBernoulli(torch.distributions.ContinuousBernoulli):
    """p(x) = exp(l x) / Z(l) on [0, 1] for a logit l (Loaiza-Ganem & Cunningham 2019), normalized at every logit.

    torch's own clamps the probability away from 0 and 1, so that in float32 its density at a logit of 30 integrates
    to 0.53. Density, mean and samples are of this class; its variance and entropy are still torch's.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density `[...]` of values in [0, 1]."""
        return self.logits * (value - 0.5) - _log_sinhc(self.logits.abs() / 2)

    @property
    def mean(self) -> Tensor:
        """The mean, in [0, 1]: half of 1 + coth(l / 2) - 2 / l."""
        return 0.5 + 0.5 * self.logits.sign() * _langevin(self.logits.abs() / 2)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantiles `[...]` of probabilities in [0, 1], from which samples are drawn."""
        # Of the logit's absolute value, since x is distributed for l as 1 - x is for -l.
        size, negative = self.logits.abs(), self.logits < 0
        probability = torch.where(negative, 1 - value, value)
        # Where the density is nearly flat the formula loses its digits.
        flat = size < 1e-2
        steep = 1 + (probability + (1 - probability) * (-size).exp()).log() / torch.where(flat, 1.0, size)
        quantile = torch.where(flat, probability + size * probability * (1 - probability) / 2, steep)
        # In float32 and from a logit of about 104 on, the least probability has a logarithm of -inf.
        return torch.where(negative, 1 - quantile, quantile).clamp(0, 1)


class _LogSigmoid(torch.autograd.Function):
    """log(1 / (1 + exp(-x))), with an absolute error of a rounding of 1.

    torch's own also has the digits of values near 0, which a sum over pixels loses, by log1p: on CPUs many times as
    slow as log. One function, since a gradient through each of its steps takes longer than all of them.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        softplus = x.abs().neg_().exp_().add_(1).log_()
        return x.clamp(max=0).sub_(softplus)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (-x).sigmoid()


_log_sigmoid = _LogSigmoid.apply


def _log_sinhc(x: Tensor) -> Tensor:
    """log(sinh(x) / x) for x of 0 or more; by its series near 0, where the formula loses its digits."""
    near, far = torch.where(x < 0.25, x, 0.0), torch.where(x < 0.25, 1.0, x)
    series = near**2 / 6 - near**4 / 180 + near**6 / 2835
    return torch.where(x < 0.25, series, far + (-torch.expm1(-2 * far) / (2 * far)).log())


def _langevin(x: Tensor) -> Tensor:
    """coth(x) - 1 / x for x of 0 or more, the derivative of `_log_sinhc`."""
    near, far = torch.where(x < 0.25, x, 0.0), torch.where(x < 0.25, 1.0, x)
    series = near / 3 - near**3 / 45 + 2 * near**5 / 945
    return torch.where(x < 0.25, series, 1 / far.tanh() - 1 / far)


class DiscretizedLogistic(Distribution):
    """A logistic's mass around each of 256 levels n / 255; the outer levels take the tails.

    Kingma et al. 2016; Salimans et al. 2017, equation 2.

    Args:
        loc: the logistic's mean, `[...]`, in the data's units
        scale: its scale, `[...]`, above 0
        validate_args: as in torch.distributions
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape), validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability `[...]` of values n / 255."""
        half = 0.5 / (LEVELS - 1)
        below = _log_sigmoid((self.loc - value + half) / self.scale)
        above = _log_sigmoid((value - self.loc + half) / self.scale)
        # s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)) is exact in the tails too.
        width = (-torch.expm1(-2 * half / self.scale)).log()
        # Levels are as near to n / 255 as rounding has left them.
        lowest, highest = value < half, value > 1 - half
        return (
            torch.where(lowest, 0.0, below)
            + torch.where(highest, 0.0, above)
            + torch.where(lowest | highest, 0.0, width)
        )

    @property
    def mean(self) -> Tensor:
        """The mean over the 256 levels, `[...]`, in [0, 1]."""
        # The sum of P(x > n / 255) over n; one level at a time, since all of them would take 255 times the memory.
        total = torch.zeros_like(self.loc + self.scale)
        for level in range(LEVELS - 1):
            total += ((self.loc - (level + 0.5) / (LEVELS - 1)) / self.scale).sigmoid()
        return total / (LEVELS - 1)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Values n / 255, `[*sample_shape, ...]`."""
        uniform = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        levels = (self.loc + self.scale * uniform.logit()) * (LEVELS - 1)
        return levels.round().clamp(0, LEVELS - 1) / (LEVELS - 1)
