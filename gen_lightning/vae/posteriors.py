"""q(z | x): what the encoder's features say of the latent."""

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal


class Posterior(nn.Module):
    """A family of distributions over latents `[Z]`, built with the latent dimension Z."""

    num_features: int
    """The number of features that the encoder is to give."""

    def forward(self, features: Tensor) -> Distribution:
        """q(z | x): features `[N, num_features]` -> batch shape `[N]`, event shape `[Z]`, reparameterized."""
        raise NotImplementedError


class DiagonalGaussian(Posterior):
    """A normal with a mean and a log-variance for each dimension (Kingma & Welling 2014, equation 9).

    Args:
        latent_dim: the dimension of the latent
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.num_features = 2 * latent_dim

    def forward(self, features: Tensor) -> Independent:
        """q(z | x): features `[N, 2 Z]` -> batch shape `[N]`, event shape `[Z]`."""
        mean, log_variance = features.chunk(2, dim=-1)
        return Independent(Normal(mean, (log_variance / 2).exp(), validate_args=False), 1, validate_args=False)
