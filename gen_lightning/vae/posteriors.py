"""q(z | x): what the encoder's features say of the latent."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from gen_lightning.networks import MLPEncoder
from gen_lightning.vae.hierarchy import (
    Choose,
    Hierarchy,
    Network,
    check_layer_dims,
    diagonal_gaussian,
    gaussian_given,
)


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
        return diagonal_gaussian(features)


class BottomUp(Posterior):
    """Layers of latents, each a diagonal Gaussian given the one below it (Burda et al. 2016, equation 2).

    q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}), of which the encoder's features are those of z_1.

    Args:
        latent_dim: the dimension of the latent, all layers together
        layer_dims: the dimension of each layer, from the data on
        network: of each layer but the first; called with ((dimension below,), number of features)

    Raises:
        ValueError: the layers are not those of such a latent.
    """

    def __init__(self, latent_dim: int, layer_dims: Sequence[int], network: Network = MLPEncoder) -> None:
        super().__init__()
        self.layer_dims = check_layer_dims("BottomUp", latent_dim, layer_dims)
        self.num_features = 2 * self.layer_dims[0]
        self.networks = nn.ModuleList(network((below,), 2 * above) for below, above in pairwise(self.layer_dims))

    def forward(self, features: Tensor) -> Hierarchy:
        """q(z | x): features `[N, 2 Z_1]` -> batch shape `[N]`, event shape `[Z]`."""

        def ascend(choose: Choose) -> None:
            z = choose(0, diagonal_gaussian(features))
            for layer, network in enumerate(self.networks, 1):
                z = choose(layer, gaussian_given(network, z))

        return Hierarchy(self.layer_dims, features.shape[:-1], ascend)
