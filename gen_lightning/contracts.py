"""Contracts: what data modules, models and callbacks offer each other, and one function that asks for it.

A callback or a command confirms with `require` or `offers` that a data module or a model has a capability before it
uses it. A missing capability is refused before training starts, in one sentence.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeGuard, TypeVar, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor, nn
from torch.distributions import Distribution

from gen_lightning.errors import UserError

if TYPE_CHECKING:
    # Only for the type of `Measurement.rows`: it would make every import of gen_lightning import scikit-learn.
    from gen_lightning.evaluation import Row

SplitName = Literal["train", "val", "test"]


class ShapedData(Protocol):
    """A data module with a known shape of one example."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, such as `(1, 28, 28)`."""
        ...


class IdentifiedData(Protocol):
    """A data module that identifies the examples of its splits."""

    @property
    def identity(self) -> str:
        """A text that is equal for two data modules if and only if their splits hold the same examples."""
        ...


class ImageData(Protocol):
    """A data module with whole splits of images."""

    def images(self, split: SplitName) -> Iterator[Tensor]:
        """Return a whole split, never binarized, in batches of float32 `[N, C, H, W]` in [0, 1].

        Every rank gets all images, in the same order each time.
        """
        ...


class ExampleData(Protocol):
    """A data module with whole splits of labelled examples."""

    def examples(self, split: SplitName, n: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the first n examples of a split (default: all) in batches of (data, labels).

        The data are those that an evaluation sees; for binarized images, the binary ones. Every rank gets all of them.
        """
        ...


class PointData(Protocol):
    """A data module with whole splits of points."""

    def points(self, split: SplitName) -> Tensor:
        """Return a whole split, float32 `[N, D]`."""
        ...


class SignalData(Protocol):
    """A data module with whole splits of one-dimensional series."""

    def signals(self, split: SplitName) -> Iterator[Tensor]:
        """Return a whole split in batches of float32 `[N, C, T]`, in the same order each time."""
        ...


class DequantizableData(Protocol):
    """A data module whose images may be dequantized."""

    dequantize: bool
    """Whether uniform noise is added to the discrete levels."""


class ScaledData(Protocol):
    """A data module that scales its data, and keeps the scale in the checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the scale of a checkpoint."""
        ...

    def restore_units(self, data: Tensor) -> Tensor:
        """Return samples as the data are stored."""
        ...


class WrittenData(Protocol):
    """A data module that writes samples in the format of its own files, and keeps that format in the checkpoint."""

    @property
    def samples_suffix(self) -> str:
        """The ending of the file of samples, such as ".csv"."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the format of a checkpoint."""
        ...

    def write_samples(self, samples: Tensor, file: IO[bytes]) -> None:
        """Write samples `[N, *shape]` to a file."""
        ...


class TableColumn(NamedTuple):
    """The features of one column in the encoded rows `[N, D]` of a table; columns of numbers come first.

    Args:
        name: name of the column
        first: index of its first feature
        size: number of its features: 1 for a number; for a category, which is one-hot, the number of categories
        levels: the values that the feature of a number can have, float32 `[K]`, ascending; empty if it is continuous
        edges: limits between neighbouring levels, float32 `[K - 1]`; empty if the number is continuous
    """

    name: str
    first: int
    size: int
    levels: Tensor
    edges: Tensor


class TableData(Protocol):
    """A data module with the encoded rows of a table."""

    target: str | None
    """The name of the column of classes that other columns predict; None if there is none."""

    @property
    def columns(self) -> Sequence[TableColumn]:
        """The columns in the order of their features."""
        ...


class TextData(Protocol):
    """A data module of texts as token numbers."""

    tokens: Literal["characters", "words"]
    """What a token is."""
    vocabulary_size: int
    """Token numbers are 0 to `vocabulary_size` - 1; `gen_lightning.tokens` says which of them are reserved."""

    def decode(self, data: Tensor) -> list[str]:
        """Return the texts of token numbers `[N, T]`, one line each."""
        ...


class Mixture(Protocol):
    """A mixture of isotropic Gaussians."""

    means: Tensor
    sigma: float
    weights: Tensor


class MixtureData(Protocol):
    """A data module whose examples are drawn from a mixture of Gaussians."""

    mixture: Mixture


class StackedData(Protocol):
    """A data module whose images are stacks of three digits, with 1,000 modes."""

    @property
    def mode_weights(self) -> Tensor:
        """The probability of each mode, `[1000]`."""
        ...


class GenerativeModel(Protocol):
    """A generative model.

    `gen_lightning.GenerativeModule` is one; so is every LightningModule with these members.
    """

    data_shape: tuple[int, ...]
    num_classes: int | None

    def sample(self, n: int, *, generator: torch.Generator, labels: Tensor | None = None) -> Tensor:
        """Return samples `[n, *data_shape]` in evaluation mode, drawn from `generator` alone."""
        ...

    def evaluating(self, seed: int) -> AbstractContextManager[None]:
        """Return a context in evaluation mode, without gradients, with all random numbers drawn from `seed`."""
        ...

    def get_condition(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the labels of a batch if the model is class-conditional, else nothing."""
        ...

    def get_inputs(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the data of a batch, then its condition, on the model's device."""
        ...


class LatentModel(GenerativeModel, Protocol):
    """A model that generates data from latent variables."""

    latent_dim: int

    def sample_latents(self, n: int) -> Tensor:
        """Return latents `[n, Z]`, drawn from torch's default generators."""
        ...

    def __call__(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Return data `[N, *data_shape]` for latents `[N, Z]`."""
        ...


class PosteriorModel(GenerativeModel, Protocol):
    """A model that infers latent variables from data."""

    def encode(self, x: Tensor, *condition: Tensor) -> Distribution:
        """Return q(z | x): data `[N, *data_shape]` -> batch shape `[N]`, event shape `[Z]`."""
        ...


class ReconstructionModel(GenerativeModel, Protocol):
    """A model that reconstructs data."""

    def reconstruct(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Return the reconstructions `[N, *data_shape]` of data."""
        ...


class PriorModel(Protocol):
    """A model with a prior distribution of its latent variables."""

    def prior(self) -> Distribution:
        """Return p(z): batch shape `[]`, event shape `[Z]`."""
        ...


class LikelihoodModel(GenerativeModel, Protocol):
    """A model with a likelihood that importance sampling can estimate."""

    levels: int | None
    """The number of levels of a pixel if p(x) is a probability; None if it is a density."""
    likelihood_kind: str
    """The kind of p(x); bounds are comparable only if their kinds are equal."""

    def log_weights(self, x: Tensor, k: int, *condition: Tensor) -> Tensor:
        """Return log p(x, z) - log q(z | x), `[k, N]`, at k samples of the posterior."""
        ...


class AdversarialModel(GenerativeModel, Protocol):
    """A model with a discriminator."""

    discriminator: nn.Module


class InitializedNetwork(Protocol):
    """A network that is initialized from the data module before the first iteration."""

    def initialize(self, datamodule: object) -> None:
        """Take from the data module, or None without one, what the network needs; it may raise UserError."""
        ...


class LatentCodes(Protocol):
    """Latent codes, and the network that recovers them from data (InfoGAN)."""

    categories: Sequence[int]
    """The number of categories of each categorical code."""

    def classify(self, data: Tensor) -> Tensor:
        """Return the likeliest category of the first categorical code, int64 `[N]`."""
        ...

    def traverse(self, latents: Tensor) -> Tensor:
        """Return copies of C latents in which one code at a time is varied, in rows of C."""
        ...


class CodeModel(Protocol):
    """A model with latent codes."""

    codes: LatentCodes | None


class LayeredDistribution(Protocol):
    """A distribution of latent variables in several layers, each drawn from standard normal noise."""

    layer_dims: Sequence[int]
    """The dimension of each layer, from the layer next to the data upwards."""

    def transform_noise(self, noise: Tensor) -> Tensor:
        """Return the latents `[..., Z]` that standard normal noise `[..., Z]` is transformed to."""
        ...

    def recover_noise(self, z: Tensor) -> Tensor:
        """Return the noise `[..., Z]` that is transformed to latents `[..., Z]`."""
        ...


class Measurement(Protocol):
    """A callback that contributes rows to the report of `test`."""

    rows: "dict[str, Row]"
    """The rows of the last test by name; empty before."""


class IdentifiedMeasurement(Measurement, Protocol):
    """A callback that contributes rows to the report of `test`, and names one of them before the test."""

    identifying_row: str
    """The name of a row that every test writes; two callbacks of a run must not write the same row."""


class TrainerSettings(Protocol):
    """The attributes that the connectors of Lightning 2.6 assign to a Trainer, and that no class declares."""

    callbacks: list[Callback]
    datamodule: LightningDataModule | None
    fast_dev_run: int | bool
    log_every_n_steps: int
    overfit_batches: int | float


_Contract = TypeVar("_Contract")


def offers(candidate: object, contract: type[_Contract]) -> TypeGuard[_Contract]:
    """Return whether an object has every member of a contract."""
    return not _find_missing(candidate, contract)


def require(candidate: object, contract: type[_Contract], for_whom: str) -> _Contract:
    """Return an object, typed by a contract that it fulfils.

    Args:
        candidate: data module or model; None if there is none
        contract: one of the protocols of this module
        for_whom: name of the callback or option that needs it, for the sentence

    Raises:
        UserError: the object lacks a member of the contract.
    """
    if not offers(candidate, contract):
        if reason := _find_reason(candidate, contract):
            raise UserError(f"{for_whom} needs {_describe(contract)}. {reason} Or do without {for_whom}.")
        missing = _enumerate(_find_missing(candidate, contract))
        found = "there is none" if candidate is None else f"{type(candidate).__name__} has no {missing}"
        raise UserError(
            f"{for_whom} needs {_describe(contract)}, but {found}. {_advise(candidate, contract)}, or do without"
            f" {for_whom}."
        )
    return candidate


def is_dequantized(datamodule: LightningDataModule | None) -> bool:
    """Return whether a data module adds uniform noise to the discrete levels of its images."""
    return offers(datamodule, DequantizableData) and datamodule.dequantize


def refuse_equal_rows(callbacks: Sequence[Callback]) -> None:
    """Refuse two callbacks that write the same row of the report of `test`.

    Raises:
        UserError: two callbacks have the same `identifying_row`.
    """
    writers: dict[str, object] = {}
    for callback in callbacks:
        if offers(callback, IdentifiedMeasurement):
            other = writers.setdefault(callback.identifying_row, callback)
            if other is not callback:
                names = " and ".join(dict.fromkeys(type(one).__name__ for one in (other, callback)))
                raise UserError(
                    f"Two callbacks ({names}) write the row {callback.identifying_row} of the report. Remove one of"
                    " them from trainer.callbacks."
                )


def find_datamodule(trainer: Trainer) -> LightningDataModule | None:
    """Return the data module of a Trainer, or None if it was given loaders."""
    return get_settings(trainer).datamodule


def get_settings(trainer: Trainer) -> TrainerSettings:
    """Return a Trainer, typed with the attributes that Lightning assigns without declaring them."""
    return cast(TrainerSettings, trainer)


def _find_missing(candidate: object, contract: type) -> list[str]:
    """Return the names of a contract's members that an object lacks."""
    # isinstance with a runtime-checkable protocol would not do: from Python 3.12 on it looks members up on the class,
    # where it does not find the submodules of an nn.Module.
    return [name for name in _list_members(contract) if not hasattr(candidate, name)]


# Schedules ask for a contract in each iteration, and looking its members up takes 14 us.
@cache
def _list_members(contract: type) -> tuple[str, ...]:
    """Return the names of a protocol's public members, those of its bases first."""
    protocols = [base for base in reversed(contract.__mro__) if getattr(base, "_is_protocol", False)]
    names = [name for base in protocols for name in (*inspect.get_annotations(base), *vars(base))]
    return tuple(name for name in dict.fromkeys(names) if not name.startswith("_"))


def _find_reason(candidate: object, contract: type[Any]) -> str:
    """Return why an object lacks a member that its class has as a property; nothing if the class has none."""
    for name in _find_missing(candidate, contract):
        if isinstance(getattr(type(candidate), name, None), property):
            try:
                getattr(candidate, name)
            except AttributeError as error:
                return str(error)
    return ""


def _describe(contract: type[Any]) -> str:
    """Return what a contract describes, from the first line of its docstring, such as "a data module with images"."""
    first_line = (inspect.getdoc(contract) or "").partition("\n")[0].rstrip(".")
    return first_line[:1].lower() + first_line[1:]


def _advise(candidate: object, contract: type[Any]) -> str:
    """Return what to do about a missing model or data module, or about its missing members."""
    if not _describe(contract).startswith("a data module"):
        return "Choose another one"
    members = " and ".join(f"`{_spell_member(contract, name)}`" for name in _find_missing(candidate, contract))
    return f"Define {members} in it" if candidate is not None else f"Give a LightningDataModule with {members}"


def _spell_member(contract: type[Any], name: str) -> str:
    """Return the name of a member, with the parameters of a method, such as "examples(self, split, n=None)"."""
    member = inspect.getattr_static(contract, name, None)
    if not inspect.isfunction(member):
        return name
    parameters = inspect.signature(member).parameters.values()
    return f"{name}({', '.join(str(one.replace(annotation=one.empty)) for one in parameters)})"


def _enumerate(names: Sequence[str]) -> str:
    """Return names as code in an enumeration, such as "`a`, `b` or `c`"."""
    *others, last = [f"`{name}`" for name in names]
    return f"{', '.join(others)} or {last}" if others else last
