"""Distributions of pixels that torch.distributions lacks, or computes slowly or inaccurately."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.types import _size

LEVELS = 256


class Bernoulli(torch.distributions.Bernoulli):
    """torch's Bernoulli with a faster log-probability on CPUs, where it takes most of the time of an NLL estimate."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability `[...]` of values 0 and 1."""
        return value * self.logits + _log_sigmoid(-self.logits)


class ContinuousBernoulli(torch.distributions.ContinuousBernoulli):
    """The density p(x) = exp(l x) / Z(l) on [0, 1] for a logit l (Loaiza-Ganem & Cunningham 2019).

    It is normalized at every logit. torch's class clamps the probability away from 0 and 1, so that in float32 its
    density at a logit of 30 integrates to 0.53. This class replaces torch's density, mean and quantiles (and so its
    samples); variance and entropy are still torch's.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density `[...]` of values in [0, 1]."""
        return self.logits * (value - 0.5) - _log_sinhc(self.logits.abs() / 2)

    @property
    def mean(self) -> Tensor:
        """The mean, in [0, 1]: (1 + coth(l / 2) - 2 / l) / 2."""
        return 0.5 + 0.5 * self.logits.sign() * _log_sinhc_derivative(self.logits.abs() / 2)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantiles `[...]` of probabilities in [0, 1]; sampling uses them."""
        # Computed for the absolute value of the logit: x at logit l has the distribution of 1 - x at logit -l.
        size, negative = self.logits.abs(), self.logits < 0
        probability = torch.where(negative, 1 - value, value)
        # For a nearly flat density the formula loses its digits to cancellation.
        flat = size < 1e-2
        steep = 1 + (probability + (1 - probability) * (-size).exp()).log() / torch.where(flat, 1.0, size)
        quantile = torch.where(flat, probability + size * probability * (1 - probability) / 2, steep)
        # In float32, from a logit of about 104 on, the logarithm for the smallest probability is -inf.
        return torch.where(negative, 1 - quantile, quantile).clamp(0, 1)


class _LogSigmoid(torch.autograd.Function):
    """log(1 / (1 + exp(-x))), with an absolute error as large as the rounding of 1.

    torch's logsigmoid also keeps the digits of results near 0, which a sum over pixels loses anyway. It does so with
    log1p, which is many times slower than log on CPUs. It is one autograd function because a gradient through each
    elementary step takes longer than all the steps.
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
    """Return log(sinh(x) / x) for x >= 0; near 0 by its series, because the formula loses its digits there."""
    near, far = torch.where(x < 0.25, x, 0.0), torch.where(x < 0.25, 1.0, x)
    series = near**2 / 6 - near**4 / 180 + near**6 / 2835
    return torch.where(x < 0.25, series, far + (-torch.expm1(-2 * far) / (2 * far)).log())


def _log_sinhc_derivative(x: Tensor) -> Tensor:
    """Return coth(x) - 1 / x for x >= 0, the derivative of `_log_sinhc`."""
    near, far = torch.where(x < 0.25, x, 0.0), torch.where(x < 0.25, 1.0, x)
    series = near / 3 - near**3 / 45 + 2 * near**5 / 945
    return torch.where(x < 0.25, series, 1 / far.tanh() - 1 / far)


class DiscretizedLogistic(Distribution):
    """A logistic distribution rounded to 256 levels n / 255; the two outer levels have the mass of the tails.

    Kingma et al. 2016; Salimans et al. 2017, equation 2.

    Args:
        loc: mean of the logistic, `[...]`, in the data's units
        scale: scale of the logistic, `[...]`, above 0
        validate_args: as in torch.distributions
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape), validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability `[...]` of values n / 255."""
        half = 0.5 / (LEVELS - 1)
        below = _log_sigmoid((self.loc - value + half) / self.scale)
        above = _log_sigmoid((value - self.loc + half) / self.scale)
        # With the sigmoid s: s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)), which is exact in the tails too.
        width = (-torch.expm1(-2 * half / self.scale)).log()
        # Not `==`: rounding may have moved the data slightly off n / 255.
        lowest, highest = value < half, value > 1 - half
        return (
            torch.where(lowest, 0.0, below)
            + torch.where(highest, 0.0, above)
            + torch.where(lowest | highest, 0.0, width)
        )

    @property
    def mean(self) -> Tensor:
        """The mean over the 256 levels, `[...]`, in [0, 1]."""
        # The sum of P(x > n / 255) over n, one level at a time: all levels at once would take 255 times the memory.
        total = torch.zeros_like(self.loc + self.scale)
        for level in range(LEVELS - 1):
            total += ((self.loc - (level + 0.5) / (LEVELS - 1)) / self.scale).sigmoid()
        return total / (LEVELS - 1)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Return samples, values n / 255, `[*sample_shape, ...]`."""
        uniform = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        levels = (self.loc + self.scale * uniform.logit()) * (LEVELS - 1)
        return levels.round().clamp(0, LEVELS - 1) / (LEVELS - 1)


class ColourLogisticMixture(Distribution):
    """Pixels whose channels depend on each other: a mixture of discretized logistics for each pixel.

    All channels of a pixel are of the same component. Within it, the mean of a channel depends linearly on the channels
    before it: red on none, green on red, and blue on red and green (Salimans et al. 2017, section 2.2 and equation 3).

    Args:
        logits: logits of the M components, `[..., M, H, W]`; the batch shape is `[...]`
        loc: means of the logistics if all channels before are mid-grey, `[..., M, C, H, W]`, in the data's units
        scale: scales of the logistics, `[..., M, C, H, W]`, above 0
        coefficients: slopes of the means, `[..., M, C (C - 1) / 2, H, W]`: of the second channel with respect to the
            first, then of the third with respect to the first and the second, and so on
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, coefficients: Tensor) -> None:
        self.logits, self.loc, self.scale, self.coefficients = logits, loc, scale, coefficients
        super().__init__(logits.shape[:-3], loc.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability `[...]` of images `[..., C, H, W]` of values n / 255."""
        channels = value.unsqueeze(-4).unbind(-3)
        loc = [_shift(self.loc, self.coefficients, channels[:channel]) for channel in range(len(channels))]
        logistics = DiscretizedLogistic(torch.stack(torch.broadcast_tensors(*loc), -3), self.scale, validate_args=False)
        components = self.logits.log_softmax(-3) + logistics.log_prob(value.unsqueeze(-4)).sum(-3)
        return components.logsumexp(-3).sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        """The mean over the components of each channel's mean, given the means of the channels before it.

        `[..., C, H, W]`, in [0, 1]. It is exact for the first channel, and for the others if no value is outside [0, 1]
        before it is rounded.
        """
        channels: list[Tensor] = []
        for scale in self.scale.unbind(-3):
            loc = _shift(self.loc, self.coefficients, channels)
            channels.append(DiscretizedLogistic(loc, scale, validate_args=False).mean)
        return (self.logits.softmax(-3).unsqueeze(-3) * torch.stack(channels, -3)).sum(-4)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Return images of values n / 255, `[*sample_shape, ..., C, H, W]`."""
        component = Categorical(logits=self.logits.movedim(-3, -1), validate_args=False).sample(sample_shape)
        loc, scale, coefficients = (
            _choose_component(parameters, component) for parameters in (self.loc, self.scale, self.coefficients)
        )
        channels: list[Tensor] = []
        for channel_scale in scale.unbind(-3):
            center = _shift(loc, coefficients, channels)
            channels.append(DiscretizedLogistic(center, channel_scale, validate_args=False).sample())
        return torch.stack(channels, -3)


def _shift(loc: Tensor, coefficients: Tensor, before: Sequence[Tensor]) -> Tensor:
    """Return the means `[..., H, W]` of the channel after those in `before`, each `[..., H, W]`."""
    channel = len(before)
    first = channel * (channel - 1) // 2
    slopes = coefficients[..., first : first + channel, :, :].unbind(-3)
    shifts = [slope * (values - 0.5) for slope, values in zip(slopes, before, strict=True)]
    return sum(shifts, loc[..., channel, :, :])


def _choose_component(parameters: Tensor, component: Tensor) -> Tensor:
    """Return the parameters `[..., P, H, W]` of one component for each pixel.

    Args:
        parameters: parameters of all components, `[*batch_shape, M, P, H, W]`
        component: number of the component, int64 `[..., H, W]`, with the batch shape or additional leading dimensions
    """
    index = component[..., None, None, :, :].expand(*component.shape[:-2], 1, *parameters.shape[-3:])
    return parameters.expand(*component.shape[:-2], *parameters.shape[-4:]).gather(-4, index).squeeze(-4)
