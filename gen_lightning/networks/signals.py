"""Residual networks of one-dimensional series of any length from 8 on.

They are the one-dimensional form of `StridedEncoder` and `ResidualDecoder`: each stage halves or doubles the length,
and residual blocks (Child 2021) replace normalization. Lengths are halved with the remainder dropped, such as 25 to 12
to 6, and the decoder takes the same lengths in reverse. Its upsampling repeats values, since transposed convolutions
leave artefacts of their stride in series (Donahue et al. 2019, section 3.2).
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.networks.residual import ResidualBlock

_SMALLEST = 8
# Without a limit, a series of 16,000 values would have 2,048 times the width at the shortest length.
_MAX_EXPANSION = 8


class SignalEncoder(nn.Module):
    """Series `[N, C, T]` -> features `[N, out_features]`.

    Args:
        data_shape: shape of one series, `(C, T)`, with T of at least 8
        out_features: number of outputs
        width: number of channels at the full length, which double when the length halves, up to eight times as many; at
            least 1
        num_blocks: number of residual blocks at each length; at least 1

    Raises:
        UserError: the data are not such series, or an argument is out of range.
    """

    def __init__(self, data_shape: Sequence[int], out_features: int, width: int = 32, num_blocks: int = 1) -> None:
        super().__init__()
        lengths, channels = _plan_stages(self, data_shape, width, num_blocks)
        layers: list[nn.Module] = [nn.Conv1d(data_shape[0], width, 3, padding=1), *_build_blocks(width, num_blocks)]
        for inputs, outputs in pairwise(channels):
            downsampling = nn.Conv1d(inputs, outputs, 4, stride=2, padding=1)
            layers += [nn.SiLU(), downsampling, *_build_blocks(outputs, num_blocks)]
        head = nn.Linear(channels[-1] * lengths[-1], out_features)
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Flatten(), head)

    def forward(self, signals: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.layers(signals)


class SignalDecoder(nn.Module):
    """Latents `[N, latent_dim]` -> unbounded outputs `[N, C, T]`; also a generator of series.

    Args:
        latent_dim: dimension of the latent
        data_shape: shape of one output, as for `SignalEncoder`
        width: number of channels at the full length, as for `SignalEncoder`
        num_blocks: number of residual blocks at each length; at least 1

    Raises:
        UserError: as for `SignalEncoder`.
    """

    def __init__(self, latent_dim: int, data_shape: Sequence[int], width: int = 32, num_blocks: int = 1) -> None:
        super().__init__()
        lengths, channels = (values[::-1] for values in _plan_stages(self, data_shape, width, num_blocks))
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, channels[0] * lengths[0]),
            nn.Unflatten(1, (channels[0], lengths[0])),
            *_build_blocks(channels[0], num_blocks),
        ]
        for length, (inputs, outputs) in zip(lengths[1:], pairwise(channels), strict=True):
            upsampling = [nn.Upsample(length), nn.Conv1d(inputs, outputs, 3, padding=1)]
            layers += [nn.SiLU(), *upsampling, *_build_blocks(outputs, num_blocks)]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv1d(width, data_shape[0], 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Return outputs `[N, C, T]`."""
        return self.layers(z)


class SignalDiscriminator(SignalEncoder):
    """Series `[N, C, T]` -> logits `[N]`.

    Args:
        data_shape: shape of one series, as for `SignalEncoder`
        width: number of channels at the full length, as for `SignalEncoder`
        num_blocks: number of residual blocks at each length; at least 1
    """

    def __init__(self, data_shape: Sequence[int], width: int = 32, num_blocks: int = 1) -> None:
        super().__init__(data_shape, 1, width, num_blocks)

    def forward(self, signals: Tensor) -> Tensor:
        """Return logits `[N]`."""
        return super().forward(signals).squeeze(-1)


def _plan_stages(
    network: nn.Module, data_shape: Sequence[int], width: int, num_blocks: int
) -> tuple[list[int], list[int]]:
    """Return the lengths of the stages, from T to 4 to 7, and their numbers of channels."""
    check_range(network, at_least=1, width=width, num_blocks=num_blocks)
    if len(data_shape) != 2 or data_shape[1] < _SMALLEST:
        raise UserError(
            f"The data have shape {tuple(data_shape)}, and {type(network).__name__} needs series (C, T) with T of at"
            f" least {_SMALLEST}. Choose longer series, or MLP networks."
        )
    lengths = [data_shape[1]]
    while lengths[-1] >= _SMALLEST:
        lengths.append(lengths[-1] // 2)
    return lengths, [width * min(2**stage, _MAX_EXPANSION) for stage in range(len(lengths))]


def _build_blocks(width: int, num_blocks: int) -> list[nn.Module]:
    return [ResidualBlock(width, nn.Conv1d) for _ in range(num_blocks)]
