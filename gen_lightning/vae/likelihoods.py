"""p(x | z): what the decoder's outputs say of the data."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent


class Likelihood(nn.Module):
    """A family of distributions over data `[*data_shape]`, built with that shape; it may have parameters to learn."""

    parameters_shape: tuple[int, ...]
    """The shape of what the decoder is to give for one example."""

    def check_data(self, data: Tensor) -> None:
        """Raises ValueError when `data` `[N, *data_shape]` are outside the distributions' support."""

    def forward(self, parameters: Tensor) -> Distribution:
        """p(x | z): decoder outputs `[..., *parameters_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Independent binary pixels, of which the decoder gives the logits (Kingma & Welling 2014, equation 11).

    Args:
        data_shape: the shape of one example
    """

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.parameters_shape = tuple(data_shape)

    def check_data(self, data: Tensor) -> None:
        """Raises ValueError unless every value is 0 or 1."""
        if not ((data == 0) | (data == 1)).all():
            raise ValueError(
                "A Bernoulli likelihood is a probability of binary data, and these are grey: set"
                " --data.binarization=dynamic (or static)."
            )

    def forward(self, parameters: Tensor) -> Independent:
        """p(x | z): logits `[..., *data_shape]` -> batch shape `[...]`, event shape `[*data_shape]`."""
        pixels = torch.distributions.Bernoulli(logits=parameters, validate_args=False)
        return Independent(pixels, len(self.parameters_shape), validate_args=False)
