"""InfoGAN (Chen et al. 2016): latent codes that can be recovered from generated data."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.numerics import promote_to_float32

# The minimum standard deviation of a continuous code, whose range is (-1, 1). Without a minimum, a single wrong but
# confident prediction could cost any number of nats.
_MIN_DEVIATION = 0.1


class LatentCodes(nn.Module):
    """Latent codes c, which follow the noise in a latent vector, and the network Q that recovers them from data.

    Categorical codes are one-hot vectors times `scale`, with equally likely categories. Continuous codes are uniform in
    (-1, 1). Given data x, Q predicts an independent distribution of each code: a categorical distribution, or a
    Gaussian whose mean and standard deviation both depend on x (appendix C).

    Args:
        data_shape: shape of one example
        encoder: function of (data_shape, number of outputs) that returns Q. Its outputs for data `[N, *data_shape]` are
            the logits of each categorical code, then the means of the continuous codes, then the logarithms of their
            standard deviations minus 0.1.
        categories: number of categories of each categorical code; at least 2 each
        num_continuous: number of continuous codes; at least 0
        categorical_weight: lambda in equation 6 for the categorical codes; at least 0
        continuous_weight: lambda in equation 6 for the continuous codes; at least 0
        scale: factor of the one-hot codes; above 0. D dimensions of noise have a norm of about the square root of D. A
            large scale makes the category the main difference between the samples of an untrained generator.

    Raises:
        UserError: an argument is out of range, or there is no code at all.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        encoder: Callable[[Sequence[int], int], nn.Module],
        categories: Sequence[int] = (10,),
        num_continuous: int = 2,
        categorical_weight: float = 1.0,
        continuous_weight: float = 0.1,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_range(
            self,
            at_least=0,
            num_continuous=num_continuous,
            categorical_weight=categorical_weight,
            continuous_weight=continuous_weight,
        )
        check_range(self, above=0, scale=scale)
        if min([2, *categories]) < 2 or len(categories) + num_continuous == 0:
            raise UserError(
                f"`LatentCodes.categories` is {list(categories)} and `num_continuous` is {num_continuous}. Choose at"
                " least one code, and at least 2 categories for each categorical code."
            )
        self.categories = tuple(categories)
        self.num_continuous = num_continuous
        self.scale = scale
        self.weights = {"categorical": categorical_weight, "continuous": continuous_weight}
        self.encoder = encoder(data_shape, sum(categories) + 2 * num_continuous)

    @property
    def dim(self) -> int:
        """The number of dimensions of a latent vector that are codes, which are its last ones."""
        return sum(self.categories) + self.num_continuous

    def append_codes(self, noise: Tensor) -> Tensor:
        """Return latents `[N, D + dim]`: noise `[N, D]`, then codes drawn from torch's default generators."""
        n, device = len(noise), noise.device
        categories = [torch.randint(size, (n,), device=device) for size in self.categories]
        one_hot = [self.scale * F.one_hot(*pair) for pair in zip(categories, self.categories, strict=True)]
        continuous = 2 * torch.rand(n, self.num_continuous, device=device, dtype=noise.dtype) - 1
        return torch.cat([noise, *one_hot, continuous], 1)

    def bound_mutual_information(self, latents: Tensor, data: Tensor) -> dict[str, Tensor]:
        """Return lower bounds of I(c; x) = H(c) - H(c | x), scalars in nats: E[log Q(c | x)] + H(c) (equation 5).

        Args:
            latents: latents, `[N, D + dim]`
            data: data generated from these latents, `[N, *data_shape]`

        Returns:
            The sum over the categorical codes ("categorical") and the sum over the continuous codes ("continuous"). A
            sum without codes is left out.
        """
        *one_hot, values = latents[:, -self.dim :].split([*self.categories, self.num_continuous], 1)
        *logits, means, log_deviations = promote_to_float32(self.encoder(data)).split(
            [*self.categories, self.num_continuous, self.num_continuous], 1
        )
        bounds = {}
        if self.categories:
            bounds["categorical"] = self._bound_categorical(logits, one_hot)
        if self.num_continuous:
            bounds["continuous"] = _bound_continuous(means, log_deviations, values)
        return bounds

    def _bound_categorical(self, logits: Sequence[Tensor], one_hot: Sequence[Tensor]) -> Tensor:
        pairs = zip(logits, one_hot, strict=True)
        cross_entropies = [F.cross_entropy(prediction, code / self.scale) for prediction, code in pairs]
        return math.log(math.prod(self.categories)) - torch.stack(cross_entropies).sum()

    def weigh(self, bounds: dict[str, Tensor]) -> Tensor:
        """Return lambda times the bounds of `bound_mutual_information`, summed, which the generator maximizes."""
        return torch.stack([self.weights[name] * bound for name, bound in bounds.items()]).sum()

    def classify(self, data: Tensor) -> Tensor:
        """Return the most likely category of the first categorical code, int64 `[N]`, for data `[N, *data_shape]`."""
        return self.encoder(data)[:, : self.categories[0]].argmax(1)

    def traverse(self, latents: Tensor) -> Tensor:
        """Return copies of latents in which one code at a time is varied, in rows of C as in figure 2.

        For each category there is one row: the C latents, all with this category. Then there are C rows for each
        continuous code: each row repeats one of the latents, with this code varied from -2 to 2.

        Args:
            latents: C latents, `[C, D + dim]`

        Returns:
            The rows one after the other, `[rows * C, D + dim]`.
        """
        rows, start = [], latents.shape[1] - self.dim
        for size in self.categories:
            for one_hot in self.scale * torch.eye(size).to(latents):
                rows.append(latents.clone())
                rows[-1][:, start : start + size] = one_hot
            start += size
        for code in range(start, latents.shape[1]):
            for latent in latents:
                rows.append(latent.repeat(len(latents), 1))
                rows[-1][:, code] = torch.linspace(-2, 2, len(latents))
        return torch.cat(rows)


def _bound_continuous(means: Tensor, log_deviations: Tensor, values: Tensor) -> Tensor:
    densities = Normal(means, _MIN_DEVIATION + log_deviations.exp(), validate_args=False)
    return (densities.log_prob(values) + math.log(2)).sum(1).mean()
