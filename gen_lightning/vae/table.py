"""The likelihood of the encoded rows of a table, which are numbers and one-hot categories."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal
from torch.types import _size

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.networks.table import TableLayout
from gen_lightning.vae.likelihoods import Likelihood


class TableRow(Distribution):
    """Independent columns of a table: normal numbers, logistic numbers rounded to levels, and categories.

    Args:
        parameters: means of the numbers and logits of the categories, `[..., D]`; the batch shape is `[...]`
        scale: scale of each number, `[P]`
        layout: where numbers and categories are
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, parameters: Tensor, scale: Tensor, layout: TableLayout) -> None:
        self.loc, self.logits = layout.split(parameters, padding=-torch.inf)
        self.scale = scale
        self.layout = layout
        super().__init__(parameters.shape[:-1], parameters.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum of log-densities and log-probabilities `[...]` of rows `[..., D]`."""
        numbers, categories = self.layout.split(value)
        lower, upper = ((edge - self.loc) / self.scale for edge in self.layout.find_levels(numbers))
        # With the sigmoid s: s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)), which is exact in the tails too.
        levels = F.logsigmoid(upper) + F.logsigmoid(-lower) + (-torch.expm1(lower - upper)).log()
        densities = Normal(self.loc, self.scale, validate_args=False).log_prob(numbers)
        log_numbers = torch.where(self.layout.has_levels, levels, densities).sum(-1)
        # A padded logit is -inf, and its probability is not asked for.
        log_probabilities = self.logits.log_softmax(-1).masked_fill(self.logits.isneginf(), 0)
        return log_numbers + (log_probabilities * categories).sum((-2, -1))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Return rows `[*sample_shape, ..., D]`."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            normal = Normal(self.loc, self.scale, validate_args=False).sample(shape)
            logistic = self.loc + self.scale * torch.rand_like(normal).logit(eps=1e-7)
            numbers = torch.where(self.layout.has_levels, logistic, normal)
            indices = Categorical(logits=self.logits, validate_args=False).sample(shape)
            return self._build(numbers, indices)

    @property
    def mean(self) -> Tensor:
        """The means of the numbers, rounded to their levels, and the likeliest categories, `[..., D]`."""
        return self._build(self.loc, self.logits.argmax(-1))

    def _build(self, numbers: Tensor, indices: Tensor) -> Tensor:
        categories = F.one_hot(indices, self.logits.shape[-1]).to(numbers.dtype)
        return self.layout.join(self.layout.round(numbers), categories)


class TableLikelihood(Likelihood):
    """Numbers and categories of a table: a mixed likelihood; the decoder returns means and logits.

    A continuous number is normal. A number with levels is logistic, rounded to its level, as for `DiscretizedLogistic`.
    Both have a scale that is learned for each column. A category is categorical. So the log-likelihood is a sum of
    log-densities and of log-probabilities, in the units of the encoded rows. Samples are drawn from p(x | z), because
    categories have no mean.

    Args:
        data_shape: shape of one row, `(D,)`
        min_scale: smallest scale of a number, above 0 and finite

    Raises:
        UserError: min_scale is not positive, or infinite; the data are no rows; when training starts, the data module
            has no columns.
    """

    def __init__(self, data_shape: Sequence[int], min_scale: float = 0.01) -> None:
        super().__init__()
        check_range(self, above=0, below=math.inf, min_scale=min_scale)
        self.layout = TableLayout(data_shape)
        self.parameters_shape = tuple(data_shape)
        self.min_scale = min_scale
        # The columns are not known yet: a category has no scale, and leaves its one unused.
        self.raw_scale = nn.Parameter(torch.zeros(data_shape[0]))

    @property
    def kind(self) -> str:
        """The kind of the likelihood: which parts are densities, and which are probabilities."""
        num_levels = int(self.layout.has_levels.sum())
        num_densities = self.layout.num_numbers - num_levels
        return (
            f"a density of {num_densities} numbers and a probability of {num_levels} numbers and"
            f" {len(self.layout.slots)} categories"
        )

    def initialize(self, datamodule: object) -> None:
        """Take the columns of a data module.

        Raises:
            UserError: the data module has no columns.
        """
        self.layout.initialize(datamodule, type(self).__name__)

    def check_data(self, data: Tensor) -> None:
        """Raise UserError unless all categories are one-hot."""
        if not self.supports(data):
            raise UserError(
                "The categories of the rows are not one-hot. Choose --data datamodules.TableDataModule, or another"
                " likelihood."
            )

    def supports(self, data: Tensor) -> Tensor:
        """Return whether all categories are one-hot, a boolean scalar."""
        _, categories = self.layout.split(data)
        return ((categories == 0) | (categories == 1)).all() & (categories.sum(-1) == 1).all()

    def forward(self, parameters: Tensor) -> TableRow:
        """Return p(x | z): outputs `[..., D]` -> batch shape `[...]`, event shape `(D,)`."""
        scale = self.min_scale + F.softplus(self.raw_scale[: self.layout.num_numbers])
        return TableRow(parameters, scale, self.layout)

    def generate(self, distribution: Distribution) -> Tensor:
        """Return rows `[..., D]` drawn from p(x | z)."""
        return distribution.sample()
