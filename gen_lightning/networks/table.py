"""Networks of the encoded rows of a table: numbers and one-hot categories, whose places are known from the data."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.networks.mlp import LeakyReLU, build_mlp

# Stands for an infinite edge, whose gradient would be NaN.
_FAR = 1e4


class TableLayout(nn.Module):
    """Where the numbers and the categories of an encoded row `[D]` are, kept in buffers.

    P numbers come first, then C features of G one-hot categories. A number is continuous, or has K levels.

    Args:
        data_shape: shape of one row, `(D,)`

    Raises:
        UserError: the data are no rows.
    """

    edges: Tensor
    """Limits between the levels of each number, `[P, K + 1]`; all but the first of a continuous number are far away."""
    levels: Tensor
    """Levels of each number, `[P, K]`."""
    has_levels: Tensor
    """Whether each number has levels, boolean `[P]`."""
    slots: Tensor
    """The features of each category, counted after the numbers, int64 `[G, M]`; C where it has fewer than M."""
    places: Tensor
    """The position of each feature of categories in the flattened `slots`, int64 `[C]`."""

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        if len(data_shape) != 1:
            raise UserError(
                f"The data have shape {tuple(data_shape)}, and a table has rows of shape (D,). Choose"
                " --data datamodules.TableDataModule, or other networks and likelihoods."
            )
        self.register_buffer("edges", torch.zeros(0, 2))
        self.register_buffer("levels", torch.zeros(0, 1))
        self.register_buffer("has_levels", torch.zeros(0, dtype=torch.bool))
        self.register_buffer("slots", torch.zeros(0, 1, dtype=torch.int64))
        self.register_buffer("places", torch.zeros(0, dtype=torch.int64))

    @property
    def num_numbers(self) -> int:
        """The number of columns of numbers, P."""
        return len(self.edges)

    def initialize(self, datamodule: object, name: str) -> None:
        """Take the columns of a data module.

        Args:
            datamodule: data module that fulfils `contracts.TableData`
            name: name of the network or likelihood, for the error

        Raises:
            UserError: the data module has no columns.
        """
        columns: Any = getattr(datamodule, "columns", None)
        if columns is None:
            raise UserError(
                f"{name} needs a data module with the columns of a table, such as datamodules.TableDataModule. Choose"
                " it with --data, or choose another model."
            )
        device = self.edges.device
        numbers, categories = ([one for one in columns if (one.size > 1) is several] for several in (False, True))
        num_levels = max([1, *(len(one.levels) for one in numbers)])
        self.levels = torch.full((len(numbers), num_levels), _FAR, device=device)
        self.edges = torch.full((len(numbers), num_levels + 1), _FAR, device=device)
        self.edges[:, 0] = -_FAR
        for row, one in enumerate(numbers):
            self.levels[row, : len(one.levels)] = one.levels
            self.edges[row, 1 : len(one.edges) + 1] = one.edges
        self.has_levels = torch.tensor([len(one.levels) > 0 for one in numbers], dtype=torch.bool, device=device)
        sizes = [one.size for one in categories]
        self.slots = torch.full((len(sizes), max([1, *sizes])), sum(sizes), device=device)
        for row, size in enumerate(sizes):
            self.slots[row, :size] = torch.arange(size) + sum(sizes[:row])
        self.places = (self.slots.flatten() < sum(sizes)).nonzero().flatten()

    def split(self, rows: Tensor, padding: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the numbers `[..., P]` and the categories `[..., G, M]` of features `[..., D]`.

        Categories with fewer than M features are padded.
        """
        numbers, features = rows.tensor_split([self.num_numbers], -1)
        return numbers, F.pad(features, (0, 1), value=padding)[..., self.slots]

    def join(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Return the features `[..., D]` of numbers `[..., P]` and categories `[..., G, M]`, the reverse of `split`."""
        return torch.cat([numbers, categories.flatten(-2)[..., self.places]], -1)

    def find_levels(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the limits of the levels that numbers `[..., P]` are in: lower and upper, `[..., P]` each."""
        indices = self._find_indices(numbers)
        return _take(self.edges, indices), _take(self.edges, indices + 1)

    def round(self, numbers: Tensor) -> Tensor:
        """Return numbers `[..., P]`, each at its level unless it is continuous."""
        return torch.where(self.has_levels, _take(self.levels, self._find_indices(numbers)), numbers)

    def _find_indices(self, numbers: Tensor) -> Tensor:
        # torch.searchsorted takes the limits of each row.
        columns = numbers.detach().flatten(end_dim=-2).T.contiguous()
        return torch.searchsorted(self.edges[:, 1:-1].contiguous(), columns).T.reshape(numbers.shape)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load buffers of any size, because the data decide it."""
        for name, buffer in self.named_buffers():
            if isinstance(stored := state_dict.get(prefix + name), Tensor):
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _take(table: Tensor, indices: Tensor) -> Tensor:
    """Return an element of each row of a table `[P, K]`, by indices `[..., P]`."""
    return table[torch.arange(len(table), device=table.device), indices]


class TableGenerator(nn.Module):
    """Latents `[N, latent_dim]` -> encoded rows `[N, D]` of a table.

    Categories are drawn: one-hot in the forward pass, with the gradient of the Gumbel-softmax distribution, the
    straight-through estimator of Jang, Gu & Poole (2017). Numbers with few values are rounded to these values, with the
    gradient of the number before (Bengio et al. 2013). So generated rows have no values that rows of the table cannot
    have. The draws are from torch's default generators: two rows of the same latent may have different categories.

    Args:
        latent_dim: dimension of the latent
        data_shape: shape of one row, `(D,)`
        hidden_dims: number of features of each hidden layer
        activation: function that returns an activation, as for `build_mlp`
        temperature: temperature of the Gumbel-softmax distribution; above 0

    Raises:
        UserError: temperature is not positive, or the data are no rows; when training starts, the data module has no
            columns.
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Sequence[int],
        hidden_dims: Sequence[int] = (256, 256),
        activation: Callable[[], nn.Module] = LeakyReLU,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        check_range(self, above=0, temperature=temperature)
        self.layout = TableLayout(data_shape)
        self.layers = build_mlp([latent_dim, *hidden_dims, data_shape[0]], activation)
        self.temperature = temperature

    def initialize(self, datamodule: object) -> None:
        """Take the columns of a data module.

        Raises:
            UserError: the data module has no columns.
        """
        self.layout.initialize(datamodule, type(self).__name__)

    def forward(self, z: Tensor) -> Tensor:
        """Return rows `[N, D]` of latents `[N, latent_dim]`."""
        numbers, logits = self.layout.split(self.layers(z), padding=-torch.inf)
        soft = F.gumbel_softmax(logits, self.temperature, hard=False, dim=-1)
        hard = F.one_hot(soft.argmax(-1), soft.shape[-1])
        rounded = self.layout.round(numbers).detach()
        # In this order the differences are exactly 0, and the values exactly those of the table.
        return self.layout.join(rounded + (numbers - numbers.detach()), hard + (soft - soft.detach()))
