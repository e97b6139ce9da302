"""q(z | x): what the encoder's features say of the latent."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from gen_lightning.errors import UserError
from gen_lightning.networks import MLPEncoder
from gen_lightning.vae.flows import AffineCoupling, Flow
from gen_lightning.vae.hierarchy import (
    Choose,
    Hierarchy,
    Network,
    check_layer_dims,
    diagonal_gaussian,
    gaussian_given,
    merge,
)

if TYPE_CHECKING:
    from gen_lightning.vae.module import VAEModule


class Posterior(nn.Module):
    """A family of distributions over latents `[Z]`, built with the latent dimension Z."""

    num_features: int
    """The number of features that the encoder is to give."""

    def bind(self, model: "VAEModule") -> None:
        """Sees the model that it is part of, once that is built; for posteriors that are made of its other parts."""

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
        UserError: the layers are not those of such a latent.
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

        return Hierarchy(self.layer_dims, features.shape[:-1], ascend, descending=False)


class Ladder(Posterior):
    """The prior's layers from the uppermost down, each merged with what the encoder says of it (Sønderby et al. 2016).

    The encoder's features are a diagonal Gaussian for each layer, which is multiplied with the prior's, given the
    layers above, and normalized. Any prior in layers that are drawn so will do, and has all the parameters.

    Args:
        latent_dim: the dimension of the latent, all layers together

    Raises:
        UserError: the prior is not in layers, drawn from the uppermost down (in `bind`).
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.num_features = 2 * latent_dim

    def bind(self, model: "VAEModule") -> None:
        """Keeps the prior that it is merged with."""
        if not model._prior.descending:
            raise UserError(
                f"Ladder is merged with a prior in layers, and {type(model._prior).__name__} has none: take TopDown or"
                " ResidualTopDown, or another posterior."
            )
        # A method and no module, whose parameters are the model's already.
        self._prior = model.prior

    def forward(self, features: Tensor) -> Hierarchy:
        """q(z | x): features `[N, 2 Z]`, layer by layer -> batch shape `[N]`, event shape `[Z]`."""
        prior = cast(Hierarchy, self._prior())
        messages = features.split([2 * layer_dim for layer_dim in prior.layer_dims], -1)

        def descend(choose: Choose) -> None:
            prior.visit(lambda layer, conditional: choose(layer, merge(conditional, messages[layer])))

        return Hierarchy(prior.layer_dims, features.shape[:-1], descend, descending=True)


class CouplingFlow(Posterior):
    """A diagonal Gaussian bent by affine coupling layers (Rezende & Mohamed 2015; Dinh et al. 2017).

    The layers move the two halves of the latent in turn, and at first nothing. Each sees a context of x, which the
    encoder's features hold beside the Gaussian's parameters.

    Args:
        latent_dim: the dimension of the latent, 2 or more
        num_layers: coupling layers, 1 or more
        context_dim: the dimension of the context, 1 or more
        network: of each layer; called with ((number of inputs,), number of outputs)

    Raises:
        UserError: latent_dim, num_layers or context_dim is out of range.
    """

    def __init__(
        self, latent_dim: int, num_layers: int = 4, context_dim: int = 64, network: Network = MLPEncoder
    ) -> None:
        super().__init__()
        if latent_dim < 2:
            raise UserError(
                f"CouplingFlow moves dimensions by each other, and latent_dim is {latent_dim}: choose 2 or more."
            )
        if num_layers < 1 or context_dim < 1:
            raise UserError(
                f"CouplingFlow's num_layers is {num_layers} and its context_dim {context_dim}: choose 1 or more for"
                " both."
            )
        self.num_features = 2 * latent_dim + context_dim
        self.context_dim = context_dim
        self.layers = nn.ModuleList(
            AffineCoupling(latent_dim, context_dim, network, upper=layer % 2 == 0) for layer in range(num_layers)
        )

    def forward(self, features: Tensor) -> Flow:
        """q(z | x): features `[N, 2 Z + C]` -> batch shape `[N]`, event shape `[Z]`."""
        parameters, context = features.tensor_split([self.num_features - self.context_dim], -1)
        return Flow(diagonal_gaussian(parameters), cast(Sequence[AffineCoupling], self.layers), context)
