"""InfoGAN (Chen et al. 2016): codes in the latent that the data are to tell of."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from gen_lightning.errors import UserError
from gen_lightning.numerics import promote_to_float32

# Of codes in (-1, 1). Without a least one, a mistake of a Q that had grown sure would be worth any number of nats.
_LEAST_DEVIATION = 0.1


class LatentCodes(nn.Module):
    """Codes c behind the noise of a latent, and the network Q that reads them off the data.

    Categorical codes are one-hot, times `scale`, each category equally likely, and continuous codes uniform in (-1, 1).
    Of data x, Q gives each code a distribution of its own: categorical, or Gaussian with a mean and a standard
    deviation that both depend on x (appendix C).

    Args:
        data_shape: the shape of one example
        encoder: called with (data_shape, number of outputs): data `[N, *data_shape]` -> the logits of each categorical
            code, then the means of the continuous codes, then the logarithms of their standard deviations less 0.1
        categories: the number of categories of each categorical code
        num_continuous: the number of continuous codes
        categorical_weight: lambda of equation 6 for the categorical codes, 0 or more
        continuous_weight: lambda for the continuous codes, 0 or more
        scale: of the one-hot codes, above 0; beside D dimensions of noise, whose norm is about the root of D, a large
            one makes the categories what a new generator's data differ by

    Raises:
        UserError: there is no code, a code has less than two categories, a weight is negative, or scale is not
            positive.
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
        if min([2, *categories]) < 2 or num_continuous < 0 or len(categories) + num_continuous == 0:
            raise UserError(
                f"LatentCodes' categories are {list(categories)} and num_continuous is {num_continuous}: choose"
                " one code or more, and for each categorical one 2 categories or more."
            )
        if categorical_weight < 0 or continuous_weight < 0:
            raise UserError(
                f"LatentCodes' categorical_weight is {categorical_weight} and continuous_weight {continuous_weight}:"
                " choose 0 or more for both."
            )
        if scale <= 0:
            raise UserError(f"LatentCodes' scale is {scale}: choose a number above 0.")
        self.categories = tuple(categories)
        self.num_continuous = num_continuous
        self.scale = scale
        self.weights = {"categorical": categorical_weight, "continuous": continuous_weight}
        self.encoder = encoder(data_shape, sum(categories) + 2 * num_continuous)

    @property
    def dim(self) -> int:
        """The number of a latent's last dimensions that are codes."""
        return sum(self.categories) + self.num_continuous

    def append_codes(self, noise: Tensor) -> Tensor:
        """Latents `[N, D + dim]`: noise `[N, D]`, and behind it codes, drawn from torch's default generators."""
        n, device = len(noise), noise.device
        categories = [torch.randint(size, (n,), device=device) for size in self.categories]
        one_hot = [self.scale * F.one_hot(*pair) for pair in zip(categories, self.categories, strict=True)]
        continuous = 2 * torch.rand(n, self.num_continuous, device=device, dtype=noise.dtype) - 1
        return torch.cat([noise, *one_hot, continuous], 1)

    def mutual_information(self, latents: Tensor, data: Tensor) -> dict[str, Tensor]:
        """Lower bounds of I(c; x) = H(c) - H(c | x), scalars in nats (equation 5): E[log Q(c | x)] + H(c).

        Args:
            latents: `[N, D + dim]`
            data: `[N, *data_shape]`, generated from them

        Returns:
            The sums over the categorical and over the continuous codes, where there are such.
        """
        *one_hot, values = latents[:, -self.dim :].split([*self.categories, self.num_continuous], 1)
        *logits, means, log_deviations = promote_to_float32(self.encoder(data)).split(
            [*self.categories, self.num_continuous, self.num_continuous], 1
        )
        bounds = {}
        if self.categories:
            pairs = zip(logits, one_hot, strict=True)
            cross_entropies = [F.cross_entropy(answer, code / self.scale) for answer, code in pairs]
            bounds["categorical"] = math.log(math.prod(self.categories)) - torch.stack(cross_entropies).sum()
        if self.num_continuous:
            densities = Normal(means, _LEAST_DEVIATION + log_deviations.exp(), validate_args=False)
            log_densities = densities.log_prob(values)
            bounds["continuous"] = (log_densities + math.log(2)).sum(1).mean()
        return bounds

    def weighted(self, bounds: dict[str, Tensor]) -> Tensor:
        """What is added to the generator's aim, a scalar: lambda times the bounds of `mutual_information`."""
        return torch.stack([self.weights[name] * bound for name, bound in bounds.items()]).sum()

    def classified(self, data: Tensor) -> Tensor:
        """The likeliest category of the first categorical code for data `[N, *data_shape]`, int64 `[N]`."""
        return self.encoder(data)[:, : self.categories[0]].argmax(1)

    def traversals(self, latents: Tensor) -> Tensor:
        """Rows in which one code is varied, as in figure 2: latents `[rows * C, D + dim]` of C latents `[C, D + dim]`.

        A row for each category: the C latents, all of that category. Then C rows for each continuous code: one of the
        latents, with that code from -2 to 2.
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
