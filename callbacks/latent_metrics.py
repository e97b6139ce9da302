"""What a VAE's latents hold, and whether they hold anything."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributions import Distribution

from callbacks.loggers import alert
from gen_lightning.clock import derive_seed, draws_from
from gen_lightning.errors import UserError
from gen_lightning.evaluation import Row, make_row
from gen_lightning.metrics.estimates import Estimate
from gen_lightning.metrics.latents import active_units, mutual_information, probe_accuracies

# A stream of seeds apart from those of the models, the data loaders and the likelihood.
_LATENTS = 5

# The posterior has collapsed when fewer dimensions are active, or z tells less of x.
_LEAST_ACTIVE, _LEAST_NATS = 0.05, 0.1


class LatentMetrics(Callback):
    """What the latents tell of the test images, by the encoder alone: nothing is decoded.

    As `rows` of `test`, each with its standard error, logged as `test/...`: `active_units` (Burda et al. 2016), in
    dimensions; of latents in L layers also `active_units/1` to `active_units/L`, from the data on, the mean of a layer
    being that given the means of the layers drawn before it (so that a layer of a `Ladder` is active where the layers
    before it are, though it adds nothing to them: its `rate/L` in the report tells); `mutual_information` of image and
    latent, in nats, which log N bounds (`gen_lightning.metrics.latents.mutual_information` says with what bias);
    `linear_accuracy` and `knn_accuracy` of probes fitted to the posterior means of training images, but not of a
    conditional model, whose posterior is told the label; and `posterior_collapse`, 1 or 0: whether no unit, or less
    than 5 % of them, is active, or the mutual information is below 0.1 nats, as it is wherever the rate is. It is
    warned of.

    In `fit`, each validation logs `val/active_units`, of all its images, and of the first one with so few it is warned,
    in the log and by W&B alerts.

    Needs a model with `encode(x, *condition)`, whose distributions have a mean, and a data module with
    `examples(split, n)`: the first n of a split, as it is evaluated on, in batches of (data, labels).

    Args:
        num_training_images: the first ones of the training split, which the probes are fitted to
        seed: of the latents, 0 or more

    Raises:
        UserError: num_training_images is less than 5.
    """

    def __init__(self, num_training_images: int = 10_000, seed: int = 0) -> None:
        if num_training_images < 5:
            raise UserError(
                f"LatentMetrics' num_training_images is {num_training_images}: choose 5 or more, as many as the neighbours."
            )
        self.num_training_images = num_training_images
        self.seed = seed
        self.rows: dict[str, Row] = {}
        self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses what has no latents to infer.

        Raises:
            UserError: the model has no `encode`, or the data module no `examples`.
        """
        if not hasattr(pl_module, "encode"):
            raise UserError(
                f"{type(pl_module).__name__} has no posterior: leave LatentMetrics out of trainer.callbacks."
            )
        if not hasattr(trainer.datamodule, "examples"):
            raise UserError("LatentMetrics needs a data module with examples(split, n), such as MNISTDataModule.")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs how many units are active, and says so when they are hardly any."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        _, means, _ = _encoded(trainer, pl_module, "val")
        active, latent_dim = active_units(means).value, means.shape[1]
        pl_module.log("val/active_units", active)
        if _hardly_any(active, latent_dim) and not self._warned:
            self._warned = True
            text = _sentence(active, latent_dim, f" at iteration {trainer.global_step:,}")
            rank_zero_warn(text)
            alert(trainer, "The posterior has collapsed", text)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know, so that it warns of nothing twice."""
        return {"warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self._warned = state_dict["warned"]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, and logs what was measured."""
        posteriors, means, labels = _encoded(trainer, pl_module, "test")
        with draws_from(derive_seed(_LATENTS, self.seed), pl_module.device):
            latents = [posterior.sample() for posterior in posteriors]
        estimates = {
            **_active_units(posteriors[0], means),
            "mutual_information": mutual_information(posteriors, latents),
        }
        if pl_module.num_classes is None:
            _, training_means, training_labels = _encoded(trainer, pl_module, "train", self.num_training_images)
            estimates |= probe_accuracies(training_means, training_labels, means, labels)
        estimates["posterior_collapse"] = _collapse(estimates, means.shape[1])
        self.rows = {name: make_row(name, estimate, len(means)) for name, estimate in estimates.items()}
        pl_module.log_dict({f"test/{name}": row.value for name, row in self.rows.items()})


@torch.no_grad()
def _encoded(
    trainer: Trainer, pl_module: LightningModule, split: str, n: int | None = None
) -> tuple[list[Distribution], Tensor, Tensor]:
    """The posteriors of a split in batches, their means `[N, Z]`, and the labels `[N]`, both on the CPU."""
    batches = list(trainer.datamodule.examples(split, n))
    posteriors = [pl_module.encode(*pl_module.get_inputs(batch)) for batch in batches]
    means, labels = torch.cat([posterior.mean for posterior in posteriors]), torch.cat([batch[1] for batch in batches])
    return posteriors, means.cpu(), labels.cpu()


def _active_units(posterior: Distribution, means: Tensor) -> dict[str, Estimate]:
    """Of all dimensions, and of those of each layer where there are several."""
    layers = means.split(getattr(posterior, "layer_dims", means.shape[1]), 1)
    by_layer = {f"active_units/{number}": active_units(layer) for number, layer in enumerate(layers, 1)}
    return {"active_units": active_units(means)} | (by_layer if len(layers) > 1 else {})


def _hardly_any(active: float, latent_dim: int) -> bool:
    return active < max(1, _LEAST_ACTIVE * latent_dim)


def _collapse(estimates: dict[str, Estimate], latent_dim: int) -> Estimate:
    """1 where the posterior has collapsed, of which it warns, else 0."""
    active, nats = estimates["active_units"].value, estimates["mutual_information"].value
    collapsed = _hardly_any(active, latent_dim) or nats < _LEAST_NATS
    if collapsed:
        rank_zero_warn(_sentence(active, latent_dim, f", and they tell {nats:.2g} nats of an image"))
    return Estimate(float(collapsed), 0.0)


def _sentence(active: float, latent_dim: int, more: str) -> str:
    return (
        f"The posterior has collapsed: {active:.0f} of {latent_dim} latent dimensions are active{more}; train with a"
        " warm-up (gen_lightning.vae.Beta) or FreeBits, or a smaller latent_dim."
    )
