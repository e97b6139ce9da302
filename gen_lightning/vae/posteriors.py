"""Posteriors q(z | x): distributions of the latent variable, computed from the encoder's features."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.networks import MLPEncoder
from gen_lightning.vae.flows import AffineCoupling, Flow
from gen_lightning.vae.hierarchy import (
    Choose,
    Hierarchy,
    Network,
    build_gaussian,
    check_layer_dims,
    merge,
    predict_gaussian,
)
from gen_lightning.vae.parts import ModelParts


class Posterior(nn.Module):
    """A family of distributions of latents `[Z]`; built with the latent dimension Z."""

    num_features: int
    """Number of features that the encoder must return."""

    def bind(self, parts: ModelParts) -> None:
        """Receive the parts of the built model, for posteriors that are defined by other parts of it."""

    def forward(self, features: Tensor) -> Distribution:
        """Return q(z | x): features `[N, num_features]` -> batch shape `[N]`, event shape `[Z]`, reparameterized."""
        raise NotImplementedError


class DiagonalGaussian(Posterior):
    """A Gaussian with a mean and a log-variance for each dimension (Kingma & Welling 2014, equation 9).

    Args:
        latent_dim: dimension of the latent, Z
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.num_features = 2 * latent_dim

    def forward(self, features: Tensor) -> Independent:
        """Return q(z | x): features `[N, 2 Z]` -> batch shape `[N]`, event shape `[Z]`."""
        return build_gaussian(features)


class BottomUp(Posterior):
    """Layers of latents, each a diagonal Gaussian given the layer below it (Burda et al. 2016, equation 2).

    q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}). The encoder's features are the parameters of q(z_1 | x).

    Args:
        latent_dim: dimension of the latent, all layers together
        layer_dims: dimension of each layer, from the layer next to the data upwards
        network: network of each layer except the first; called with ((dimension below,), number of features)

    Raises:
        UserError: the layers' dimensions do not add up to latent_dim, or one is less than 1.
    """

    def __init__(self, latent_dim: int, layer_dims: Sequence[int], network: Network = MLPEncoder) -> None:
        super().__init__()
        self.layer_dims = check_layer_dims(self, latent_dim, layer_dims)
        self.num_features = 2 * self.layer_dims[0]
        self.networks = nn.ModuleList(network((below,), 2 * above) for below, above in pairwise(self.layer_dims))

    def forward(self, features: Tensor) -> Hierarchy:
        """Return q(z | x): features `[N, 2 Z_1]` -> batch shape `[N]`, event shape `[Z]`."""

        def ascend(choose: Choose) -> None:
            z = choose(0, build_gaussian(features))
            for layer, network in enumerate(self.networks, 1):
                z = choose(layer, predict_gaussian(network, z))

        return Hierarchy(self.layer_dims, features.shape[:-1], ascend, descending=False)


class Ladder(Posterior):
    """The prior's layers, drawn from the uppermost to the lowest and merged with the encoder's (Sønderby et al. 2016).

    The encoder's features are the parameters of one diagonal Gaussian for each layer. Each is multiplied by the prior
    of the layer, given the layers above, and the product is normalized. The posterior has no parameters of its own. It
    works with every prior whose layers are drawn from the uppermost to the lowest.

    Args:
        latent_dim: dimension of the latent, all layers together

    Raises:
        UserError: in `bind`, the prior has no layers that are drawn from the uppermost to the lowest.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.num_features = 2 * latent_dim

    def bind(self, parts: ModelParts) -> None:
        """Keep the prior to merge with."""
        if not parts.prior.descending:
            raise UserError(
                f"Ladder needs a prior with layers, and {type(parts.prior).__name__} has none. Choose TopDown or"
                " ResidualTopDown as the prior, or another posterior."
            )
        # The parts, not the prior: as a submodule of this one, its parameters would appear twice in the checkpoint.
        self._parts = parts

    def forward(self, features: Tensor) -> Hierarchy:
        """Return q(z | x): features `[N, 2 Z]`, concatenated by layer -> batch shape `[N]`, event shape `[Z]`."""
        # `bind` has checked that the prior is a hierarchy.
        prior = cast(Hierarchy, self._parts.prior())
        messages = features.split([2 * layer_dim for layer_dim in prior.layer_dims], -1)

        def descend(choose: Choose) -> None:
            prior.visit(lambda layer, conditional: choose(layer, merge(conditional, messages[layer])))

        return Hierarchy(prior.layer_dims, features.shape[:-1], descend, descending=True)


class CouplingFlow(Posterior):
    """A diagonal Gaussian transformed by affine coupling layers (Rezende & Mohamed 2015; Dinh et al. 2017).

    The layers transform the two halves of the latent alternately, starting from the identity. Each layer sees a context
    of x, which is the last part of the encoder's features, after the Gaussian's parameters.

    Args:
        latent_dim: dimension of the latent; at least 2, because each half is transformed given the other half
        num_layers: number of coupling layers; at least 1
        context_dim: dimension of the context; at least 1
        network: network of each layer; called with ((number of inputs,), number of outputs)

    Raises:
        UserError: latent_dim, num_layers or context_dim is out of range.
    """

    def __init__(
        self, latent_dim: int, num_layers: int = 4, context_dim: int = 64, network: Network = MLPEncoder
    ) -> None:
        super().__init__()
        check_range(self, at_least=2, latent_dim=latent_dim)
        check_range(self, at_least=1, num_layers=num_layers, context_dim=context_dim)
        self.num_features = 2 * latent_dim + context_dim
        self.context_dim = context_dim
        self.layers = nn.ModuleList(
            AffineCoupling(latent_dim, context_dim, network, upper=layer % 2 == 0) for layer in range(num_layers)
        )

    def forward(self, features: Tensor) -> Flow:
        """Return q(z | x): features `[N, 2 Z + C]` -> batch shape `[N]`, event shape `[Z]`."""
        parameters, context = features.tensor_split([self.num_features - self.context_dim], -1)
        # torch types the items of a ModuleList as plain modules.
        return Flow(build_gaussian(parameters), cast(Sequence[AffineCoupling], self.layers), context)
