"""p(x | z): what the decoder's outputs say of the data.

Probabilities of discrete data: the Bernoullis (binary), DiscretizedLogistic and its mixture (256 levels n / 255).
Densities of continuous data: ContinuousBernoulli and the Gaussians. The two have nothing to do with each other's
numbers. Each refuses data outside its support; densities and probabilities of 256 levels refuse binary data, densities
warn of levels, and the means of images are in [0, 1].
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from gen_lightning.errors import UserError
from gen_lightning.vae import distributions
from gen_lightning.vae.autoregressive import Autoregressive, LocalAutoregression


class Likelihood(nn.Module):
    """A family of distributions over data `[*data_shape]`, built with that shape; it may have parameters to learn."""

    parameters_shape: tuple[int, ...]
    """The shape of what the decoder is to give for one example."""

    levels: int | None = None
    """The levels of a pixel that it is a probability of; None where it is a density."""

    def check_data(self, data: Tensor) -> None:
        """Raises UserError when `data` `[N, *data_shape]` are outside the distributions' support."""

    def initialize(self, batches: Iterator[Tensor]) -> None:
        """Sets what is to start from the training data; called once, before the first iteration.

        Args:
            batches: the training data, `[N, *data_shape]` each, never binarized
        """

    def fit(self, parameters: Tensor, data: Tensor) -> None:
        """Sets what has a closed form and is not left to gradients; called before `forward` in training alone.

        Args:
            parameters: decoder outputs `[K, N, *parameters_shape]`, detached
            data: the batch, `[N, *data_shape]`
        """

    def forward(self, parameters: Tensor) -> Distribution:
        """p(x | z): decoder outputs `[..., *parameters_shape]` -> batch shape `[...]`, event shape `[*data_shape]`.

        Its `mean` may be an estimate that is drawn.
        """
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Independent binary pixels, of which the decoder gives the logits (Kingma & Welling 2014, equation 11).

    Args:
        data_shape: the shape of one example
    """

    levels = 2

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.parameters_shape = tuple(data_shape)

    def check_data(self, data: Tensor) -> None:
        """Raises UserError unless every value is 0 or 1."""
        if not _is_binary(data):
            raise UserError(
                "A Bernoulli likelihood is a probability of binary data, and these are not: of MNISTDataModule, set"
                " --data.binarization=dynamic (or static); of others, take gen_lightning.vae.DiscretizedLogistic for"
                " 256 levels, or gen_lightning.vae.Gaussian."
            )

    def forward(self, parameters: Tensor) -> Distribution:
        """p(x | z): logits `[..., *data_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        return _pixels(distributions.Bernoulli(logits=parameters, validate_args=False), self.parameters_shape)


class CenteredBernoulli(Bernoulli):
    """Independent binary pixels, of which the decoder gives the logits' differences from those of the mean image.

    It is the same as a decoder whose last bias starts there (Burda et al. 2016, in the authors' code), whatever the
    decoder's last layer is. The mean is that of the training images, kept to 0.001 to 0.999.

    Args:
        data_shape: the shape of one example

    Raises:
        UserError: the training data are of no data module with images (when training starts).
    """

    offset: Tensor

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__(data_shape)
        self.register_buffer("offset", torch.zeros(self.parameters_shape))

    def initialize(self, batches: Iterator[Tensor]) -> None:
        """Sets the offset to the logits of the mean image."""
        total, n = torch.zeros(self.offset.shape, dtype=torch.float64), 0
        for batch in batches:
            total += batch.cpu().double().sum(0)
            n += len(batch)
        self.offset.copy_((total / n).clamp(0.001, 0.999).logit())

    def forward(self, parameters: Tensor) -> Distribution:
        """p(x | z): logits' differences `[..., *data_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        return super().forward(parameters + self.offset)


class AutoregressiveBernoulli(CenteredBernoulli):
    """Binary pixels, each given the latent and the pixels before it in a window (Chen et al. 2017).

    The latent is left with what is not local. The decoder gives logits as for `CenteredBernoulli`, and a context of
    `width` maps, with which a small network corrects the logits at each pixel by the pixels above it and left of it.
    Samples are drawn pixel by pixel; the mean is estimated from one of them, by each pixel's probability given those
    drawn before it.

    Args:
        data_shape: the shape of one image, `(C, H, W)`
        width: channels of the network's hidden layer
        window: height and width of what a pixel sees of the image, an odd number of 3 or more

    Raises:
        UserError: the data are no images, or width or window is out of range.
    """

    def __init__(self, data_shape: Sequence[int], width: int = 16, window: int = 11) -> None:
        super().__init__(data_shape)
        if len(data_shape) != 3:
            raise UserError(
                f"AutoregressiveBernoulli is of images (C, H, W), and the data have shape {tuple(data_shape)}: take"
                " Bernoulli."
            )
        if width < 1 or window < 3 or window % 2 == 0:
            raise UserError(
                f"AutoregressiveBernoulli's width is {width} and its window {window}: choose a width of 1 or more, and"
                " a window of an odd number from 3."
            )
        self.network = LocalAutoregression(data_shape[0], width, window)
        self.parameters_shape = (data_shape[0] + width, *data_shape[1:])

    def forward(self, parameters: Tensor) -> Autoregressive:
        """p(x | z): logits' differences and context `[..., C + width, H, W]` -> batch shape `[...]`, of `(C, H, W)`."""
        logits, context = parameters.tensor_split([self.offset.shape[0]], -3)
        return Autoregressive(logits + self.offset, context, self.network)


class ContinuousBernoulli(Likelihood):
    """A density on [0, 1] for each pixel, of which the decoder gives the logits (Loaiza-Ganem & Cunningham 2019).

    In nats of a density: no probability of the 256 levels of a grey image, and comparable with none.

    Args:
        data_shape: the shape of one example
    """

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.parameters_shape = tuple(data_shape)

    def check_data(self, data: Tensor) -> None:
        """Raises UserError when values are outside [0, 1], or all of them are 0 or 1."""
        _check_density(data, 0, 1)

    def forward(self, parameters: Tensor) -> Independent:
        """p(x | z): logits `[..., *data_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        return _pixels(distributions.ContinuousBernoulli(logits=parameters, validate_args=False), self.parameters_shape)


class Gaussian(Likelihood):
    """A normal for each pixel with one fixed scale, of which the decoder gives the means.

    In nats of a density, as all Gaussians.

    Args:
        data_shape: the shape of one example
        scale: the standard deviation, in the data's units
        squash: makes the layer that takes the decoder's outputs to means: the default's are images in [0, 1];
            torch.nn.Identity is for unbounded data

    Raises:
        UserError: scale is not positive.
    """

    scale: Tensor

    def __init__(
        self, data_shape: Sequence[int], scale: float = 1.0, squash: Callable[[], nn.Module] = nn.Sigmoid
    ) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise UserError(f"The Gaussian's scale is {scale}: choose a number above 0, not infinite.")
        self.parameters_shape = self.data_shape = tuple(data_shape)
        self.squash = squash()
        self.register_buffer("scale", torch.tensor(float(scale)), persistent=False)

    def check_data(self, data: Tensor) -> None:
        """Raises UserError when values are outside the means' range, or all of them are 0 or 1."""
        lowest, highest = self.squash(data.new_tensor([-torch.inf, torch.inf])).tolist()
        _check_density(data, lowest, highest)

    def forward(self, parameters: Tensor) -> Independent:
        """p(x | z): outputs `[..., *data_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        # A copy, since `fit` may change the scale before the gradient is taken.
        return _pixels(Normal(self.squash(parameters), self.scale.clone(), validate_args=False), self.data_shape)


class OptimalScaleGaussian(Gaussian):
    """A normal for each pixel with one shared scale, at its optimum: the sigma-VAE (Rybkin et al. 2021).

    In training the variance is the batch's mean squared error, which maximizes the batch's likelihood; otherwise it is
    that of the last training batch, so that held-out data meet a density that does not depend on them. Where that batch
    differs from all data by a part d of the variance, it costs some D d^2 / 4 nats of D pixels: take large batches. The
    scale is at least 1e-4, since the density of data without an error would have no bound.

    Args:
        data_shape: the shape of one example
        squash: as for `Gaussian`
    """

    def __init__(self, data_shape: Sequence[int], squash: Callable[[], nn.Module] = nn.Sigmoid) -> None:
        super().__init__(data_shape, squash=squash)
        self.register_buffer("scale", self.scale, persistent=True)

    def fit(self, parameters: Tensor, data: Tensor) -> None:
        """Sets the scale to the root of the mean squared error."""
        self.scale.copy_((data - self.squash(parameters)).square().mean().sqrt().clamp(min=1e-4))


class LearnedScaleGaussian(Gaussian):
    """A normal for each pixel, of which the decoder gives mean and scale (Kingma & Welling 2014, appendix C.2).

    Args:
        data_shape: the shape of one example
        min_scale: the least standard deviation; without one, pixels that never change have an unbounded density
        squash: as for `Gaussian`

    Raises:
        UserError: min_scale is not positive.
    """

    def __init__(
        self, data_shape: Sequence[int], min_scale: float = 0.01, squash: Callable[[], nn.Module] = nn.Sigmoid
    ) -> None:
        if not 0 < min_scale < math.inf:
            raise UserError(f"LearnedScaleGaussian's min_scale is {min_scale}: choose a number above 0, not infinite.")
        super().__init__(data_shape, min_scale, squash)
        self.parameters_shape = (2 * self.data_shape[0], *self.data_shape[1:])

    def forward(self, parameters: Tensor) -> Independent:
        """p(x | z): outputs `[..., 2 C, ...]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        mean, scale = parameters.chunk(2, -len(self.data_shape))
        pixels = Normal(self.squash(mean), self.scale + F.softplus(scale), validate_args=False)
        return _pixels(pixels, self.data_shape)


class DiscretizedLogistic(Likelihood):
    """A probability of the 256 levels of each pixel: a discretized logistic (Kingma et al. 2016).

    The decoder gives mean and scale for each pixel and channel.

    Args:
        data_shape: the shape of one example
    """

    levels = distributions.LEVELS

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.parameters_shape = (2 * self.data_shape[0], *self.data_shape[1:])

    def check_data(self, data: Tensor) -> None:
        """Raises UserError unless every value is one of n / 255."""
        _check_levels(data)

    def forward(self, parameters: Tensor) -> Independent:
        """p(x | z): outputs `[..., 2 C, ...]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        return _pixels(_logistics(*parameters.chunk(2, -len(self.data_shape))), self.data_shape)


class DiscretizedLogisticMixture(Likelihood):
    """A probability of the 256 levels of each pixel: a mixture of discretized logistics (Salimans et al. 2017).

    The decoder gives weights, means and scales for each pixel and channel; channels are independent given z.

    Args:
        data_shape: the shape of one example
        num_components: logistics in the mixture

    Raises:
        UserError: num_components is less than 1.
    """

    levels = distributions.LEVELS

    def __init__(self, data_shape: Sequence[int], num_components: int = 10) -> None:
        super().__init__()
        if num_components < 1:
            raise UserError(f"num_components is {num_components}: choose 1 or more.")
        self.data_shape = tuple(data_shape)
        self.num_components = num_components
        self.parameters_shape = (3 * num_components * self.data_shape[0], *self.data_shape[1:])

    def check_data(self, data: Tensor) -> None:
        """Raises UserError unless every value is one of n / 255."""
        _check_levels(data)

    def forward(self, parameters: Tensor) -> Independent:
        """p(x | z): outputs `[..., 3 M C, ...]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        channels = -len(self.data_shape)
        split = parameters.unflatten(channels, (3, self.num_components, -1)).movedim(channels - 1, -1)
        logits, loc, scale = split.unbind(channels - 2)
        weights = Categorical(logits=logits, validate_args=False)
        return _pixels(MixtureSameFamily(weights, _logistics(loc, scale), validate_args=False), self.data_shape)


def _pixels(distribution: Distribution, data_shape: Sequence[int]) -> Independent:
    return Independent(distribution, len(data_shape), validate_args=False)


def _logistics(loc: Tensor, log_scale: Tensor) -> distributions.DiscretizedLogistic:
    """Of outputs in Salimans et al.'s units, in which pixels are in [-1, 1], with their least scale.

    At the greatest, which is ours, all but a thousandth is black or white.
    """
    return distributions.DiscretizedLogistic((loc + 1) / 2, log_scale.clamp(-7, 7).exp() / 2, validate_args=False)


def _is_binary(data: Tensor) -> bool:
    return bool(((data == 0) | (data == 1)).all())


def _refuse_binary(data: Tensor, likelihood: str) -> None:
    if _is_binary(data):
        raise UserError(
            f"This likelihood is {likelihood}, and these are binary: set --data.binarization=none, or take"
            " gen_lightning.vae.Bernoulli."
        )


def _check_density(data: Tensor, lowest: float, highest: float) -> None:
    _refuse_binary(data, "a density of continuous data")
    if data.min() < lowest or data.max() > highest:
        raise UserError(
            f"The data reach from {data.min():.3g} to {data.max():.3g}, and the likelihood is for data from"
            f" {lowest:.3g} to {highest:.3g}: scale the data, or take a Gaussian with squash=torch.nn.Identity."
        )
    if _is_levels(data):
        rank_zero_warn(
            "This likelihood is a density of continuous data, and these are of 256 levels, at which a density may grow"
            " without bound: set --data.dequantize=true (of MNISTDataModule), or take"
            " gen_lightning.vae.DiscretizedLogistic, whose nats are those of a probability."
        )


def _is_levels(data: Tensor) -> bool:
    levels = data * (distributions.LEVELS - 1)
    # float32 rounds n / 255 by far less.
    return bool(data.min() >= 0 and data.max() <= 1 and (levels - levels.round()).abs().max() <= 1e-3)


def _check_levels(data: Tensor) -> None:
    _refuse_binary(data, "a probability of pixels of 256 levels")
    if not _is_levels(data):
        raise UserError(
            "This likelihood is a probability of pixels of 256 levels, n / 255, and these are others: set"
            " --data.dequantize=false, round the data, or take a density such as gen_lightning.vae.Gaussian."
        )
