"""Contracts: what data modules and models offer, and one function that asks for it.

Callbacks and the command line use a capability of a data module or a model only after `require` or `offers` has
confirmed it, so that a missing one is refused before training starts, in one sentence.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, TypeGuard, TypeVar

from torch import Tensor
from torch.distributions import Distribution

from gen_lightning.errors import UserError

SplitName = Literal["train", "val", "test"]


class ShapedData(Protocol):
    """A data module that knows the shape of one example."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, such as `(1, 28, 28)`."""
        ...


class ImageData(Protocol):
    """A data module with whole splits of images, never binarized."""

    def images(self, split: SplitName) -> Iterator[Tensor]:
        """Return a whole split in batches of float32 `[N, C, H, W]` in [0, 1], the same on every rank."""
        ...


class ExampleData(Protocol):
    """A data module with whole splits of labelled examples, as they are evaluated on."""

    def examples(self, split: SplitName, n: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the first n examples of a split (default: all) in batches of (data, labels)."""
        ...


class PointData(Protocol):
    """A data module with whole splits of points."""

    def points(self, split: SplitName) -> Tensor:
        """Return a whole split, float32 `[N, D]`."""
        ...


class IdentifiedData(Protocol):
    """A data module that says which examples its splits hold."""

    @property
    def identity(self) -> str:
        """A text that is the same on every machine exactly if the examples are the same."""
        ...


class DequantizableData(Protocol):
    """A data module that may add uniform noise to discrete levels."""

    dequantize: bool


class Mixture(Protocol):
    """A mixture of isotropic Gaussians."""

    means: Tensor
    sigma: float
    weights: Tensor


class MixtureData(Protocol):
    """A data module whose examples are points of a mixture of Gaussians."""

    mixture: Mixture


class StackedData(Protocol):
    """A data module whose images are stacks of three digits, with 1,000 modes."""

    @property
    def mode_weights(self) -> Tensor:
        """The probability of each mode, `[1000]`."""
        ...


class LatentModel(Protocol):
    """A model that decodes latent variables."""

    latent_dim: int

    def sample_latents(self, n: int) -> Tensor:
        """Return latents `[n, Z]`."""
        ...


class PosteriorModel(Protocol):
    """A model that infers latent variables."""

    latent_dim: int

    def encode(self, x: Tensor, *condition: Tensor) -> Distribution:
        """Return q(z | x): data `[N, *data_shape]` -> batch shape `[N]`, event shape `[Z]`."""
        ...

    def reconstruct(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Return the reconstructions `[N, *data_shape]` of data."""
        ...


class PriorModel(Protocol):
    """A model with a prior distribution of its latent variables."""

    def prior(self) -> Distribution:
        """Return p(z): batch shape `[]`, event shape `[Z]`."""
        ...


class LikelihoodModel(Protocol):
    """A model with a tractable estimate of log p(x)."""

    levels: int | None
    likelihood_kind: str

    def log_weights(self, x: Tensor, k: int, *condition: Tensor) -> Tensor:
        """Return log p(x, z) - log q(z | x), `[k, N]`, at k samples of the posterior."""
        ...


class AdversarialModel(Protocol):
    """A model with a discriminator."""

    def logits(self, data: Tensor, *condition: Tensor) -> Tensor:
        """Return the discriminator's logits `[N]`."""
        ...


class LatentCodes(Protocol):
    """Latent codes and the network that recovers them from data (InfoGAN)."""

    categories: Sequence[int]

    def classify(self, data: Tensor) -> Tensor:
        """Return the likeliest category of the first categorical code, int64 `[N]`."""
        ...

    def traversals(self, latents: Tensor) -> Tensor:
        """Return latents in which one code at a time is varied."""
        ...


class CodeModel(Protocol):
    """A model that may have latent codes."""

    codes: LatentCodes | None


class Measurement(Protocol):
    """A callback that contributes rows to the report of `test`."""

    rows: dict[str, Any]


_Contract = TypeVar("_Contract")


def offers(candidate: object, contract: type[_Contract]) -> TypeGuard[_Contract]:
    """Return whether an object has every member of a contract."""
    # isinstance would not do: from Python 3.12 on it looks members up on the class, where a submodule of an nn.Module
    # is not found.
    return all(hasattr(candidate, name) for name in _members(contract))


def require(candidate: object, contract: type[_Contract], for_whom: str) -> _Contract:
    """Return the object, typed by the contract.

    Args:
        candidate: a data module or a model
        contract: one of the protocols of this module
        for_whom: the name of what needs it, for the sentence

    Raises:
        UserError: the object lacks a member of the contract.
    """
    if not offers(candidate, contract):
        missing = [name for name in _members(contract) if not hasattr(candidate, name)]
        kind = (inspect.getdoc(contract) or "").partition("\n")[0].rstrip(".")
        kind = kind[:1].lower() + kind[1:]
        raise UserError(
            f"{for_whom} needs {kind}, but {type(candidate).__name__} has no `{', '.join(missing)}`."
            f" Choose another one, or remove {for_whom}."
        )
    return candidate


def _members(contract: type[Any]) -> list[str]:
    """Return the names of a protocol's public members, in their order."""
    annotated = inspect.get_annotations(contract)
    return [name for name in dict.fromkeys([*annotated, *vars(contract)]) if not name.startswith("_")]
