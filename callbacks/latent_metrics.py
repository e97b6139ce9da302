"""Metrics of a VAE's latent variables: how many are active, and how much information they have."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributions import Distribution

from callbacks.loggers import alert
from gen_lightning.checks import check_range
from gen_lightning.clock import Stream, derive_seed, draws_from
from gen_lightning.contracts import (
    ExampleData,
    LayeredDistribution,
    PosteriorModel,
    SplitName,
    find_datamodule,
    offers,
    require,
)
from gen_lightning.evaluation import Row, make_row
from gen_lightning.metrics.estimates import Estimate
from gen_lightning.metrics.latents import active_units, mutual_information, probe_accuracies

# The posterior has collapsed if a smaller share of dimensions is active, or if z has less information about x.
_MIN_ACTIVE, _MIN_NATS = 0.05, 0.1

# The k-nearest-neighbour probe uses five neighbours.
_MIN_TRAINING_IMAGES = 5


class LatentMetrics(Callback):
    """Metrics of the latents of the test images. They use the encoder alone; nothing is decoded.

    The rows of `test`, each with its standard error, logged as `test/...`:

    - `active_units`: the number of active dimensions (Burda et al. 2016). For latents in L layers also
      `active_units/1` to `active_units/L`, from the layer next to the data upwards. The mean of a layer is its mean
      given the means of the layers drawn before it. A layer of a `Ladder` is therefore active whenever the layers
      before it are, even if it adds no information; its `rate/L` in the report shows that.
    - `mutual_information`: the mutual information of image and latent, in nats, at most log N. See
      `gen_lightning.metrics.latents.mutual_information` for its bias.
    - `linear_accuracy`, `knn_accuracy`: the accuracies of probes fitted to the posterior means of training images. They
      are left out for a conditional model, whose posterior gets the label as an input, and for data of one class.
    - `posterior_collapse`: 1 if less than 5 % of the dimensions, or none, are active, or if the mutual information is
      below 0.1 nats, which it is whenever the rate is; else 0. A collapse also gives a warning.

    In `fit`, each validation logs `val/active_units` of all its images. The first validation in which the active
    dimensions are so few gives a warning in the log and a W&B alert.

    Needs a model with `encode(x, *condition)`, whose distributions have a mean, and a data module with
    `examples(split, n)`.

    Args:
        num_training_images: number of training images, the first ones of the split, to which the probes are fitted; at
            least 5, the number of neighbours
        seed: seed of the latents; at least 0

    Raises:
        UserError: num_training_images is less than 5.
    """

    def __init__(self, num_training_images: int = 10_000, seed: int = 0) -> None:
        check_range(self, at_least=_MIN_TRAINING_IMAGES, num_training_images=num_training_images)
        self.num_training_images = num_training_images
        self.seed = seed
        self.rows: dict[str, Row] = {}
        self.identifying_row = "active_units"
        self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse models that infer no latents, and data without examples.

        Raises:
            UserError: the model has no `encode`, or the data module has no `examples`.
        """
        require(pl_module, PosteriorModel, "LatentMetrics")
        require(find_datamodule(trainer), ExampleData, "LatentMetrics")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of active dimensions, and warn once if it is too small."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        _, means, _ = _encode_split(trainer, pl_module, "val")
        active, latent_dim = active_units(means).value, means.shape[1]
        pl_module.log("val/active_units", active)
        if _is_too_few(active, latent_dim) and not self._warned:
            self._warned = True
            text = _describe_collapse(active, latent_dim, f" at iteration {trainer.global_step:,}")
            rank_zero_warn(text)
            alert(trainer, "The posterior has collapsed", text)

    def state_dict(self) -> dict[str, Any]:
        """Return whether a collapse was reported, so that a resumed run does not warn again."""
        return {"warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._warned = state_dict["warned"]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics."""
        posteriors, means, labels = _encode_split(trainer, pl_module, "test")
        with draws_from(derive_seed(Stream.LATENTS, self.seed), pl_module.device):
            latents = [posterior.sample() for posterior in posteriors]
        estimates = {
            **_count_active_units(posteriors[0], means),
            "mutual_information": mutual_information(posteriors, latents),
        }
        if require(pl_module, PosteriorModel, "LatentMetrics").num_classes is None:
            training = _encode_split(trainer, pl_module, "train", self.num_training_images)
            if len(training[2].unique()) > 1:
                estimates |= probe_accuracies(*training[1:], means, labels)
        estimates["posterior_collapse"] = _judge_collapse(estimates, means.shape[1])
        self.rows = {name: make_row(name, estimate, len(means)) for name, estimate in estimates.items()}
        pl_module.log_dict({f"test/{name}": row.value for name, row in self.rows.items()})


@torch.no_grad()
def _encode_split(
    trainer: Trainer, pl_module: LightningModule, split: SplitName, n: int | None = None
) -> tuple[list[Distribution], Tensor, Tensor]:
    """Return the posteriors of the first n examples in batches, their means `[n, Z]`, and the labels `[n]`.

    The means and the labels are on the CPU.
    """
    model = require(pl_module, PosteriorModel, "LatentMetrics")
    batches = list(require(find_datamodule(trainer), ExampleData, "LatentMetrics").examples(split, n))
    posteriors = [model.encode(*model.get_inputs(batch)) for batch in batches]
    means, labels = torch.cat([posterior.mean for posterior in posteriors]), torch.cat([batch[1] for batch in batches])
    return posteriors, means.cpu(), labels.cpu()


def _count_active_units(posterior: Distribution, means: Tensor) -> dict[str, Estimate]:
    """Return the number of active dimensions and, if there are several layers, the number in each layer."""
    layer_dims = list(posterior.layer_dims) if offers(posterior, LayeredDistribution) else [means.shape[1]]
    layers = means.split(layer_dims, 1)
    by_layer = {f"active_units/{number}": active_units(layer) for number, layer in enumerate(layers, 1)}
    return {"active_units": active_units(means)} | (by_layer if len(layers) > 1 else {})


def _is_too_few(active: float, latent_dim: int) -> bool:
    return active < max(1, _MIN_ACTIVE * latent_dim)


def _judge_collapse(estimates: dict[str, Estimate], latent_dim: int) -> Estimate:
    """Return 1 and warn if the posterior has collapsed, else return 0."""
    active, nats = estimates["active_units"].value, estimates["mutual_information"].value
    collapsed = _is_too_few(active, latent_dim) or nats < _MIN_NATS
    if collapsed:
        details = f", and the mutual information of image and latent is {nats:.2g} nats"
        rank_zero_warn(_describe_collapse(active, latent_dim, details))
    return Estimate(float(collapsed), 0.0)


def _describe_collapse(active: float, latent_dim: int, details: str) -> str:
    return (
        f"The posterior has collapsed: {active:.0f} of {latent_dim} latent dimensions are active{details}. Train with a"
        " warm-up (gen_lightning.vae.Beta), with FreeBits, or with a smaller latent_dim."
    )
