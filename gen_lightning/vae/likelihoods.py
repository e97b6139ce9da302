"""Likelihoods p(x | z): distributions of the data, computed from the decoder's outputs.

Probabilities of discrete data: Bernoulli and its variants (binary pixels), DiscretizedLogistic and its mixture (256
levels n / 255). Densities of continuous data: ContinuousBernoulli and the Gaussians. The nats of a probability and of a
density are not comparable. Every likelihood refuses data outside its support. Densities and probabilities of 256 levels
also refuse binary data, and densities warn about data of 256 levels. Means of images are in [0, 1].
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from gen_lightning.checks import check_range
from gen_lightning.contracts import ImageData, require
from gen_lightning.errors import UserError
from gen_lightning.vae import distributions
from gen_lightning.vae.autoregressive import Autoregressive, LocalAutoregression


class Likelihood(nn.Module):
    """A family of distributions of data `[*data_shape]`, built with that shape; it may have parameters to learn."""

    parameters_shape: tuple[int, ...]
    """The shape of the decoder's outputs for one example."""

    levels: int | None = None
    """The number of levels of a pixel if this is a probability; None if it is a density."""

    @property
    def kind(self) -> str:
        """The kind of the likelihood; nats are comparable only between equal kinds."""
        return "a density" if self.levels is None else f"a probability of {self.levels} levels"

    def check_data(self, data: Tensor) -> None:
        """Raise UserError if the first data `[N, *data_shape]` are of another kind than those of the distributions."""

    def supports(self, data: Tensor) -> Tensor:
        """Return whether all values of any data are in the support, a boolean scalar, without a synchronization."""
        return torch.ones((), dtype=torch.bool, device=data.device)

    def initialize(self, datamodule: object) -> None:
        """Initialize from the data module, or None without one; called once, before the first iteration.

        Raises:
            UserError: the likelihood needs something that the data module does not offer.
        """

    def fit(self, parameters: Tensor, data: Tensor) -> None:
        """Set parameters whose optimum has a closed form; called before `forward`, only in training.

        Args:
            parameters: outputs of the decoder, `[K, N, *parameters_shape]`, detached
            data: batch, `[N, *data_shape]`
        """

    def forward(self, parameters: Tensor) -> Distribution:
        """Return p(x | z): outputs `[..., *parameters_shape]` -> batch shape `[...]`, event shape `[*data_shape]`.

        The `mean` of the distribution may be a random estimate.
        """
        raise NotImplementedError

    def generate(self, distribution: Distribution) -> Tensor:
        """Return generated data `[..., *data_shape]`: by default the mean of p(x | z), as is usual for images."""
        return distribution.mean

    def predict(self, distribution: Distribution) -> Tensor:
        """Return one value `[..., *data_shape]` for each distribution: by default its mean."""
        return distribution.mean


class Bernoulli(Likelihood):
    """Independent binary pixels; the decoder returns their logits (Kingma & Welling 2014, equation 11).

    Args:
        data_shape: shape of one example
    """

    levels = 2

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.parameters_shape = tuple(data_shape)

    def check_data(self, data: Tensor) -> None:
        """Raise UserError unless every value is 0 or 1."""
        if not _is_binary(data):
            raise UserError(
                "A Bernoulli likelihood needs binary data, and these are not binary. For MNISTDataModule, set"
                " --data.binarization=dynamic. For other data, choose DiscretizedLogistic or Gaussian."
            )

    def supports(self, data: Tensor) -> Tensor:
        """Return whether every value is 0 or 1."""
        # Comparisons, which give booleans, take five times as long on a CPU.
        return (data - data.square()).abs().amax() == 0

    def forward(self, parameters: Tensor) -> Distribution:
        """Return p(x | z): logits `[..., *data_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        return _combine_pixels(distributions.Bernoulli(logits=parameters, validate_args=False), self.parameters_shape)


class CenteredBernoulli(Bernoulli):
    """Independent binary pixels; the decoder returns the differences of their logits from those of the mean image.

    It equals a decoder whose last bias is initialized to the logits of the mean image (Burda et al. 2016, in the
    authors' code), and works with any last layer. The mean is over the training images, clamped to 0.001 to 0.999.

    Args:
        data_shape: shape of one example

    Raises:
        UserError: when training starts, the data module has no images.
    """

    offset: Tensor

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__(data_shape)
        self.register_buffer("offset", torch.zeros(self.parameters_shape))

    def initialize(self, datamodule: object) -> None:
        """Set the offset to the logits of the mean image."""
        total, n = torch.zeros(self.offset.shape, dtype=torch.float64), 0
        for batch in require(datamodule, ImageData, type(self).__name__).images("train"):
            total += batch.cpu().double().sum(0)
            n += len(batch)
        self.offset.copy_((total / n).clamp(0.001, 0.999).logit())

    def forward(self, parameters: Tensor) -> Distribution:
        """Return p(x | z): differences `[..., *data_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        return super().forward(parameters + self.offset)


class AutoregressiveBernoulli(CenteredBernoulli):
    """Binary pixels, each given the latent and the pixels before it in a window (Chen et al. 2017).

    The latent carries what is not local. The decoder returns logits as for `CenteredBernoulli`, and a context of
    `width` maps. A small network uses the context and the pixels above and to the left of a pixel to correct the
    pixel's logits. Samples are drawn pixel by pixel. The mean is estimated from one sample, as the probability of each
    pixel given the pixels drawn before it.

    Args:
        data_shape: shape of one image, `(C, H, W)`
        width: channels of the network's hidden layer; at least 1
        window: height and width of the window that a pixel depends on; odd, at least 3

    Raises:
        UserError: the data are not images; width or window is out of range.
    """

    def __init__(self, data_shape: Sequence[int], width: int = 16, window: int = 11) -> None:
        super().__init__(data_shape)
        _check_images(self, data_shape, "Bernoulli")
        self.network = _build_autoregression(self, data_shape, data_shape[0], width, window)
        self.parameters_shape = (data_shape[0] + width, *data_shape[1:])

    def forward(self, parameters: Tensor) -> Autoregressive:
        """Return p(x | z), with batch shape `[...]` and event shape `(C, H, W)`.

        Args:
            parameters: differences of the logits from those of the mean image, and the context, concatenated to
                `[..., C + width, H, W]`
        """
        logits, context = parameters.tensor_split([self.offset.shape[0]], -3)
        # Bernoulli's own `forward`: the offset is that of a whole image, and pixels are drawn one by one.
        return Autoregressive(logits + self.offset, context, self.network, super(CenteredBernoulli, self).forward)


class ContinuousBernoulli(Likelihood):
    """Independent pixels with a density on [0, 1]; the decoder returns their logits (Loaiza-Ganem & Cunningham 2019).

    Its nats are those of a density. They are not comparable with those of a probability of 256 grey levels.

    Args:
        data_shape: shape of one example
    """

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.parameters_shape = tuple(data_shape)

    def check_data(self, data: Tensor) -> None:
        """Raise UserError if values are outside [0, 1], or all values are 0 or 1."""
        _check_density(data, 0, 1)

    def supports(self, data: Tensor) -> Tensor:
        """Return whether every value is in [0, 1]."""
        return _is_within(data, 0, 1)

    def forward(self, parameters: Tensor) -> Independent:
        """Return p(x | z): logits `[..., *data_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        return _combine_pixels(
            distributions.ContinuousBernoulli(logits=parameters, validate_args=False), self.parameters_shape
        )


class Gaussian(Likelihood):
    """Independent normal pixels with one fixed scale; the decoder returns the means.

    Its nats are those of a density, like the nats of all Gaussians here.

    Args:
        data_shape: shape of one example
        scale: standard deviation, in the data's units; above 0 and finite
        squash: called without arguments; returns the layer from the decoder's outputs to the means. The default's means
            are in [0, 1], for images; use torch.nn.Identity for unbounded data
        noisy_samples: whether generated data are drawn from p(x | z); by default they are its means, as is usual for
            images

    Raises:
        UserError: scale is not positive, or infinite.
    """

    scale: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        scale: float = 1.0,
        squash: Callable[[], nn.Module] = nn.Sigmoid,
        noisy_samples: bool = False,
    ) -> None:
        super().__init__()
        check_range(self, above=0, below=math.inf, scale=scale)
        self.noisy_samples = noisy_samples
        self.parameters_shape = self.data_shape = tuple(data_shape)
        self.squash = squash()
        self._range = self.squash(torch.tensor([-torch.inf, torch.inf])).tolist()
        self.register_buffer("scale", torch.tensor(float(scale)), persistent=False)

    def check_data(self, data: Tensor) -> None:
        """Raise UserError if values are outside the range of the means, or all values are 0 or 1."""
        _check_density(data, *self._range)

    def supports(self, data: Tensor) -> Tensor:
        """Return whether every value is in the range of the means."""
        return _is_within(data, *self._range)

    def forward(self, parameters: Tensor) -> Independent:
        """Return p(x | z): outputs `[..., *data_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        # A copy, because `fit` may change the scale in place before the gradient is computed.
        return _combine_pixels(
            Normal(self.squash(parameters), self.scale.clone(), validate_args=False), self.data_shape
        )

    def generate(self, distribution: Distribution) -> Tensor:
        """Return generated data `[..., *data_shape]`: samples of p(x | z), or its means."""
        return distribution.sample() if self.noisy_samples else distribution.mean


class OptimalScaleGaussian(Gaussian):
    """Independent normal pixels with one shared scale at its optimum: the sigma-VAE (Rybkin et al. 2021).

    In training the variance is the batch's mean squared error, which maximizes the batch's likelihood. In evaluation it
    is the variance of the last training batch, so that the density does not depend on held-out data. If this variance
    differs from the variance of all data by a fraction d, the difference costs about D d^2 / 4 nats for D pixels, so
    use large batches. The scale is at least 1e-4, because the density of data without an error would be unbounded.

    Args:
        data_shape: shape of one example
        squash: layer of the means, as for `Gaussian`
        noisy_samples: whether generated data are drawn from p(x | z), as for `Gaussian`
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        squash: Callable[[], nn.Module] = nn.Sigmoid,
        noisy_samples: bool = False,
    ) -> None:
        super().__init__(data_shape, squash=squash, noisy_samples=noisy_samples)
        self.register_buffer("scale", self.scale, persistent=True)

    def fit(self, parameters: Tensor, data: Tensor) -> None:
        """Set the scale to the root mean squared error."""
        self.scale.copy_((data - self.squash(parameters)).square().mean().sqrt().clamp(min=1e-4))


class LearnedScaleGaussian(Gaussian):
    """Independent normal pixels; the decoder returns means and scales (Kingma & Welling 2014, appendix C.2).

    Args:
        data_shape: shape of one example
        min_scale: smallest standard deviation, above 0 and finite; without it, pixels that never change would have an
            unbounded density
        squash: layer of the means, as for `Gaussian`
        noisy_samples: whether generated data are drawn from p(x | z), as for `Gaussian`

    Raises:
        UserError: min_scale is not positive, or infinite.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        min_scale: float = 0.01,
        squash: Callable[[], nn.Module] = nn.Sigmoid,
        noisy_samples: bool = False,
    ) -> None:
        check_range(self, above=0, below=math.inf, min_scale=min_scale)
        super().__init__(data_shape, min_scale, squash, noisy_samples)
        self.parameters_shape = (2 * self.data_shape[0], *self.data_shape[1:])

    def forward(self, parameters: Tensor) -> Independent:
        """Return p(x | z): outputs `[..., 2 C, ...]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        mean, scale = parameters.chunk(2, -len(self.data_shape))
        pixels = Normal(self.squash(mean), self.scale + F.softplus(scale), validate_args=False)
        return _combine_pixels(pixels, self.data_shape)


class DiscretizedLogistic(Likelihood):
    """A probability of the 256 levels of each pixel: a discretized logistic (Kingma et al. 2016).

    The decoder returns the mean and the scale of each pixel and channel.

    Args:
        data_shape: shape of one example
    """

    levels = distributions.LEVELS

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.parameters_shape = (2 * self.data_shape[0], *self.data_shape[1:])

    def check_data(self, data: Tensor) -> None:
        """Raise UserError unless every value is one of n / 255, and some value is neither 0 nor 1."""
        _check_levels(data)

    def supports(self, data: Tensor) -> Tensor:
        """Return whether every value is one of n / 255."""
        return _are_levels(data)

    def forward(self, parameters: Tensor) -> Independent:
        """Return p(x | z): outputs `[..., 2 C, ...]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        return _combine_pixels(_build_logistics(*parameters.chunk(2, -len(self.data_shape))), self.data_shape)


class DiscretizedLogisticMixture(Likelihood):
    """A probability of the 256 levels of each pixel: a mixture of discretized logistics (Salimans et al. 2017).

    The decoder returns the weights, means and scales of each pixel and channel. Channels are independent given z.

    Args:
        data_shape: shape of one example
        num_components: number of logistics in the mixture; at least 1

    Raises:
        UserError: num_components is less than 1.
    """

    levels = distributions.LEVELS

    def __init__(self, data_shape: Sequence[int], num_components: int = 10) -> None:
        super().__init__()
        check_range(self, at_least=1, num_components=num_components)
        self.data_shape = tuple(data_shape)
        self.num_components = num_components
        self.parameters_shape = (3 * num_components * self.data_shape[0], *self.data_shape[1:])

    def check_data(self, data: Tensor) -> None:
        """Raise UserError unless every value is one of n / 255, and some value is neither 0 nor 1."""
        _check_levels(data)

    def supports(self, data: Tensor) -> Tensor:
        """Return whether every value is one of n / 255."""
        return _are_levels(data)

    def forward(self, parameters: Tensor) -> Independent:
        """Return p(x | z): outputs `[..., 3 M C, ...]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        channels = -len(self.data_shape)
        split = parameters.unflatten(channels, (3, self.num_components, -1)).movedim(channels - 1, -1)
        logits, loc, scale = split.unbind(channels - 2)
        weights = Categorical(logits=logits, validate_args=False)
        return _combine_pixels(
            MixtureSameFamily(weights, _build_logistics(loc, scale), validate_args=False), self.data_shape
        )


class ColourLogisticMixture(Likelihood):
    """A probability of the 256 levels of each pixel, in which channels depend on each other (Salimans et al. 2017).

    The decoder returns, for each pixel, the weights of the components, and means, scales and coefficients of each
    component. All channels of a pixel are of the same component, and the mean of a channel depends linearly on the
    channels before it, such as green on red, and blue on both. The coefficients are in [-1, 1], by a tanh. For grey
    images it equals `DiscretizedLogisticMixture`.

    Its mean is that of each channel, given the means of the channels before it.

    Args:
        data_shape: shape of one image, `(C, H, W)`
        num_components: number of components, M; at least 1

    Raises:
        UserError: the data are not images; num_components is less than 1.
    """

    levels = distributions.LEVELS

    def __init__(self, data_shape: Sequence[int], num_components: int = 10) -> None:
        super().__init__()
        _check_images(self, data_shape, "DiscretizedLogisticMixture")
        check_range(self, at_least=1, num_components=num_components)
        self.num_components = num_components
        channels = data_shape[0]
        self._sizes = [num_components * size for size in (1, channels, channels, channels * (channels - 1) // 2)]
        self.parameters_shape = (sum(self._sizes), *data_shape[1:])

    def check_data(self, data: Tensor) -> None:
        """Raise UserError unless every value is one of n / 255, and some value is neither 0 nor 1."""
        _check_levels(data)

    def supports(self, data: Tensor) -> Tensor:
        """Return whether every value is one of n / 255."""
        return _are_levels(data)

    def forward(self, parameters: Tensor) -> Distribution:
        """Return p(x | z), with batch shape `[...]` and event shape `(C, H, W)`.

        Args:
            parameters: for M components, M logits, M C means, M C logarithms of scales, and M C (C - 1) / 2
                coefficients before the tanh, concatenated to `[..., 10 M, H, W]` if C is 3
        """
        logits, *others = parameters.split(self._sizes, -3)
        loc, log_scale, coefficients = (part.unflatten(-3, (self.num_components, -1)) for part in others)
        logistics = _build_logistics(loc, log_scale)
        return distributions.ColourLogisticMixture(logits, logistics.loc, logistics.scale, coefficients.tanh())


class AutoregressiveLogisticMixture(ColourLogisticMixture):
    """Pixels of 256 levels, each given the latent and the pixels before it in a window (Chen et al. 2017).

    The latent carries what is not local. The decoder returns the parameters of `ColourLogisticMixture`, and a context
    of `width` maps. A small network uses the context and the pixels above and to the left of a pixel to correct the
    pixel's parameters. Samples are drawn pixel by pixel. The mean is estimated from one sample, as the mean of each
    pixel given the pixels drawn before it.

    Args:
        data_shape: shape of one image, `(C, H, W)`
        num_components: number of components of the mixture; at least 1
        width: channels of the network's hidden layer; at least 1
        window: height and width of the window that a pixel depends on; odd, at least 3

    Raises:
        UserError: the data are not images; another argument is out of range.
    """

    def __init__(self, data_shape: Sequence[int], num_components: int = 10, width: int = 32, window: int = 5) -> None:
        super().__init__(data_shape, num_components)
        num_parameters = self.parameters_shape[0]
        self.network = _build_autoregression(self, data_shape, num_parameters, width, window)
        self.parameters_shape = (num_parameters + width, *data_shape[1:])

    def forward(self, parameters: Tensor) -> Autoregressive:
        """Return p(x | z), with batch shape `[...]` and event shape `(C, H, W)`.

        Args:
            parameters: parameters of `ColourLogisticMixture`, and the context, concatenated along the third last
                dimension
        """
        pixels, context = parameters.tensor_split([sum(self._sizes)], -3)
        return Autoregressive(pixels, context, self.network, super().forward)


def _check_images(likelihood: Likelihood, data_shape: Sequence[int], alternative: str) -> None:
    if len(data_shape) != 3:
        raise UserError(
            f"{type(likelihood).__name__} is a likelihood of images (C, H, W), and the data have shape"
            f" {tuple(data_shape)}. Choose {alternative}."
        )


def _build_autoregression(
    likelihood: Likelihood, data_shape: Sequence[int], num_parameters: int, width: int, window: int
) -> LocalAutoregression:
    """Return the network of an autoregressive likelihood; refuse arguments out of range."""
    check_range(likelihood, at_least=1, width=width)
    check_range(likelihood, at_least=3, window=window)
    if window % 2 == 0:
        raise UserError(f"`{type(likelihood).__name__}.window` is {window}. Choose an odd number.")
    return LocalAutoregression(data_shape[0], num_parameters, width, window)


def _combine_pixels(distribution: Distribution, data_shape: Sequence[int]) -> Independent:
    return Independent(distribution, len(data_shape), validate_args=False)


def _build_logistics(loc: Tensor, log_scale: Tensor) -> distributions.DiscretizedLogistic:
    """Return the logistics of outputs in Salimans et al.'s units, in which pixels are in [-1, 1].

    The lower limit of the scale is theirs. The upper limit is ours: at it, all but a thousandth of the mass is black or
    white.
    """
    return distributions.DiscretizedLogistic((loc + 1) / 2, log_scale.clamp(-7, 7).exp() / 2, validate_args=False)


def _is_binary(data: Tensor) -> bool:
    return bool(((data == 0) | (data == 1)).all())


def _refuse_binary(data: Tensor, likelihood: str) -> None:
    if _is_binary(data):
        raise UserError(
            f"This likelihood is {likelihood}, and the data are binary. Set --data.binarization=none, or choose"
            " gen_lightning.vae.Bernoulli."
        )


def _check_density(data: Tensor, lowest: float, highest: float) -> None:
    _refuse_binary(data, "a density of continuous data")
    if data.min() < lowest or data.max() > highest:
        raise UserError(
            f"The data range from {data.min():.3g} to {data.max():.3g}, and the likelihood is for data from"
            f" {lowest:.3g} to {highest:.3g}. Scale the data, or choose a Gaussian with squash=torch.nn.Identity."
        )
    if _are_levels(data):
        rank_zero_warn(
            "This likelihood is a density of continuous data, and the data have 256 levels, at which a density may grow"
            " without bound. Set --data.dequantize=true (MNISTDataModule), or choose"
            " gen_lightning.vae.DiscretizedLogistic, whose nats are those of a probability."
        )


def _is_within(data: Tensor, lowest: float, highest: float) -> Tensor:
    smallest, largest = data.aminmax()
    return (smallest >= lowest) & (largest <= highest)


def _are_levels(data: Tensor) -> Tensor:
    levels = data * (distributions.LEVELS - 1)
    # The tolerance is far above the rounding of n / 255 in float32.
    return _is_within(data, 0, 1) & ((levels - levels.round()).abs().amax() <= 1e-3)


def _check_levels(data: Tensor) -> None:
    _refuse_binary(data, "a probability of pixels of 256 levels")
    if not _are_levels(data):
        raise UserError(
            "This likelihood is a probability of 256 levels, n / 255, and the data have other values. Set"
            " --data.dequantize=false, or choose a density such as gen_lightning.vae.Gaussian."
        )
