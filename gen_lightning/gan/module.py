"""GANModule: trains a generator against a discriminator, each with an optimizer of its own."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins import FSDPPrecision, MixedPrecision
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from gen_lightning.base import GenerativeModule
from gen_lightning.checks import check_range
from gen_lightning.clock import allow_unused_parameters, exclude_from_global_step, unscales_in_step
from gen_lightning.contracts import InitializedNetwork, find_datamodule, offers
from gen_lightning.errors import UserError
from gen_lightning.gan.codes import LatentCodes
from gen_lightning.gan.ema import EMA
from gen_lightning.gan.losses import GANLoss, check_constraint, compute_logit_statistics
from gen_lightning.gan.regularizers import (
    DiscriminatorPass,
    DiscriminatorRegularizer,
    check_differentiable_twice,
    check_regularizers,
)
from gen_lightning.networks import find_common_num_classes, find_output_range
from gen_lightning.numerics import promote_to_float32
from gen_lightning.schedules import Schedule

# The share of the generator's range by which data may exceed it, for the rounding of scaled data.
_TOLERANCE = 1e-3

_LossAndScalars = tuple[Tensor, dict[str, Tensor]]


class _ComputeLoss(Protocol):
    """A method that returns one network's loss on a micro-batch, and the scalars to log."""

    def __call__(self, real: Tensor, latents: Tensor, *condition: Tensor) -> _LossAndScalars: ...


class GANModule(GenerativeModule):
    """A generative adversarial network (Goodfellow et al. 2014).

    Each iteration splits its batch into `discriminator_steps` parts. The discriminator is updated once on each part, so
    that every update sees new examples (algorithm 1). Then the generator is updated once, with as many generated
    examples as one part has. This update uses the labels of the last part, and a relativistic loss compares with the
    real examples of the last part.

    The first batch must be divisible by `discriminator_steps` times `micro_batches`. A later batch, such as a short
    last one, may have any size from `discriminator_steps` on; the sizes of its parts differ by at most one example.

    Data outside the generator's attribute `output_range` are refused; a generator without it may return any value.

    If both networks have the attribute `num_classes`, the model is class-conditional: each network takes the labels,
    int64 `[N]`, as its second argument, and generated examples have the same labels as the real ones.

    With `codes`, the latent vector consists of noise and latent codes, and the generator learns to produce data from
    which the codes can be recovered (InfoGAN, Chen et al. 2016). Below, L is the dimension of the whole latent vector;
    without codes it equals `latent_dim`.

    Args:
        generator: function of (L, data_shape) that returns the generator, latents `[N, L]` -> data `[N, *data_shape]`
        discriminator: function of (data_shape) that returns the discriminator, data `[N, *data_shape]` -> logits `[N]`
        loss: losses of the discriminator and the generator
        generator_optimizer: function of the parameters of the generator and of the codes' network
        discriminator_optimizer: function of the discriminator's parameters
        data_shape: shape of one example; the command line takes it from the data module
        regularizers: terms added to the discriminator's loss
        ema: function of the generator that returns its exponential moving average; if given, the average is sampled and
            evaluated, while training uses the generator itself
        codes: function of (data_shape) that returns the latent codes and the network that recovers them from data
        latent_dim: dimension of the standard normal noise; at least 1
        discriminator_steps: number of discriminator updates per iteration; at least 1
        micro_batches: number of parts of each update's batch; at least 1. Their losses are computed one after the
            other, so that memory holds one part at a time. The gradients are those of the mean loss over the examples,
            whatever the sizes of the parts. Batch normalization, spectral normalization and the averages of `LeCam` see
            one part at a time, and are updated once per part.
        gradient_clip_norm: maximum norm of each network's gradients (Pascanu et al. 2013), above 0; None disables
            clipping. The norms before clipping are logged as `train/generator_gradient_norm` and
            `train/discriminator_gradient_norm`. The generator's norm includes the codes' network.
        schedules: schedules by the name of an optimizer's option, such as `generator_optimizer.lr` or
            `discriminator_optimizer.beta2`
        seed: seed of all randomness in training

    Raises:
        UserError: an argument is out of range, two regularizers have the same name, or a regularizer, the loss or the
            generator does not fit the discriminator.
    """

    optimizer_names = ("generator_optimizer", "discriminator_optimizer")
    batch_options = "data.batch_size and model.micro_batches"

    def __init__(
        self,
        generator: Callable[[int, Sequence[int]], nn.Module],
        discriminator: Callable[[Sequence[int]], nn.Module],
        loss: GANLoss,
        generator_optimizer: OptimizerCallable,
        discriminator_optimizer: OptimizerCallable,
        data_shape: Sequence[int],
        regularizers: list[DiscriminatorRegularizer] | None = None,
        ema: Callable[[nn.Module], EMA] | None = None,
        codes: Callable[[Sequence[int]], LatentCodes] | None = None,
        latent_dim: int = 100,
        discriminator_steps: int = 1,
        micro_batches: int = 1,
        gradient_clip_norm: float | None = None,
        schedules: dict[str, Schedule] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(data_shape, seed, schedules)
        check_range(
            self,
            at_least=1,
            latent_dim=latent_dim,
            discriminator_steps=discriminator_steps,
            micro_batches=micro_batches,
        )
        check_range(self, above=0, gradient_clip_norm=gradient_clip_norm)
        self.save_hyperparameters(logger=False)
        self.automatic_optimization = False
        self.codes = codes(self.data_shape) if codes else None
        self.generator = generator(latent_dim + (self.codes.dim if self.codes else 0), self.data_shape)
        self.discriminator = discriminator(self.data_shape)
        self.ema = ema(self.generator) if ema else None
        self.loss = loss
        # nn.ModuleList is not generic: the cast keeps the type of its elements.
        self.regularizers = cast(Sequence[DiscriminatorRegularizer], nn.ModuleList(regularizers or []))
        check_regularizers(self.regularizers, self.discriminator)
        check_constraint(loss, self.discriminator)
        self.num_classes = find_common_num_classes(generator=self.generator, discriminator=self.discriminator)
        self.latent_dim = latent_dim
        self.discriminator_steps = discriminator_steps
        self.micro_batches = micro_batches
        self.num_parts = discriminator_steps * micro_batches
        self.gradient_clip_norm = gradient_clip_norm
        self._gradient_norms: dict[str, Tensor] = {}
        self._generator_optimizer = generator_optimizer
        self._discriminator_optimizer = discriminator_optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Run one iteration: `discriminator_steps` discriminator updates, then one generator update."""
        generator_optimizer, discriminator_optimizer = self._get_optimizers()
        # global_step counts iterations, so only the generator's step may advance it.
        exclude_from_global_step(discriminator_optimizer)
        for update, (real, *condition) in enumerate(self._split_batch(batch)):
            mean_size = self._average_part_size(update)
            scalars = self._update(
                discriminator_optimizer, self._compute_discriminator_loss, real, condition, mean_size
            )
            self.loss.constrain(self.discriminator)
        with self.toggled_optimizer(generator_optimizer):
            scalars |= self._update(generator_optimizer, self._compute_generator_loss, real, condition, mean_size)
        if self.ema is not None:
            images = sum(self.batch_sizes)
            self.ema.update(self.generator, self.global_step - 1, images, self.images_seen - images)
        self.log_iteration(scalars | self._gradient_norms, self.global_step, len(batch[0]))

    def _compute_discriminator_loss(self, real: Tensor, latents: Tensor, *condition: Tensor) -> _LossAndScalars:
        """Return the loss on real and generated data plus the regularizers, and the scalars to log."""
        with torch.no_grad():
            # Regularizers run without autocast, under which the generator's output may be less precise than the data.
            fake = self.generator(latents, *condition).to(real.dtype)
        if self.regularizers:
            real, fake = real.detach().requires_grad_(), fake.requires_grad_()
        real_logits, fake_logits = self.logits(real, *condition), self.logits(fake, *condition)
        terms = {"discriminator_loss": self.loss.discriminator(real_logits, fake_logits)}
        state = DiscriminatorPass(self.discriminator, real, fake, real_logits, fake_logits, self.global_step, condition)
        terms |= {regularizer.name: regularizer(state) for regularizer in self.regularizers}
        loss = torch.stack(list(terms.values())).sum()
        if self.is_logged(self.global_step + 1):
            terms |= compute_logit_statistics(self.loss, real_logits, fake_logits)
        return loss, terms

    def _compute_generator_loss(self, real: Tensor, latents: Tensor, *condition: Tensor) -> _LossAndScalars:
        """Return the loss on generated data minus the weighted bounds of the codes, and the scalars to log."""
        fake = self.generator(latents, *condition)
        fake_logits = self.logits(fake, *condition)
        real_logits = self.logits(real, *condition) if self.loss.relativistic else None
        loss = self.loss.generator(real_logits, fake_logits)
        if self.codes is None:
            return loss, {"generator_loss": loss}
        bounds = self.codes.bound_mutual_information(latents, fake)
        logged = {f"mutual_information/{name}": bound for name, bound in bounds.items()}
        return loss - self.codes.weigh(bounds), {"generator_loss": loss} | logged

    def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Return data `[N, *data_shape]` generated from latents `[N, L]`, by the EMA generator if there is one."""
        return (self.generator if self.ema is None else self.ema)(self.cast(z), *condition)

    def sample_latents(self, n: int) -> Tensor:
        """Return latents `[n, L]`: standard normal noise, followed by the latent codes if the model has them."""
        dtype = cast(torch.dtype, self.dtype)
        noise = torch.randn(n, self.latent_dim, device=self.device, dtype=dtype)
        return noise if self.codes is None else self.codes.append_codes(noise)

    def draw(self, n: int, *condition: Tensor) -> Tensor:
        """Return generated data `[n, *data_shape]`, by the EMA generator if there is one."""
        return self(self.sample_latents(n), *condition)

    def logits(self, data: Tensor, *condition: Tensor) -> Tensor:
        """Return the discriminator's logits `[N]`, in float32 under any precision."""
        return promote_to_float32(self.discriminator(data, *condition))

    def _split_batch(self, batch: tuple[Tensor, Tensor]) -> Iterable[tuple[Tensor, ...]]:
        """Split data and labels into one part per discriminator update."""
        return zip(*(tensor.tensor_split(self.discriminator_steps) for tensor in self.get_inputs(batch)), strict=True)

    def _average_part_size(self, update: int) -> float:
        """Return the mean over the ranks of the number of examples in a part of `_split_batch`."""
        steps = self.discriminator_steps
        # As tensor_split does, the first parts have one example more if the number is no multiple.
        sizes = [size // steps + (update < size % steps) for size in self.batch_sizes]
        return sum(sizes) / len(sizes)

    def _update(
        self,
        optimizer: LightningOptimizer,
        compute_loss: _ComputeLoss,
        real: Tensor,
        condition: Sequence[Tensor],
        mean_size: float,
    ) -> dict[str, Tensor]:
        """Take an optimizer step on the mean loss of the examples, and return the means of the scalars.

        Args:
            optimizer: optimizer of one network
            compute_loss: function of a micro-batch
            real: real data, `[N, *data_shape]`
            condition: labels `[N]` of a class-conditional model
            mean_size: mean over the ranks of N
        """
        tensors = (real, self.sample_latents(len(real)), *condition)
        optimizer.zero_grad()
        logged, sizes = [], []
        num_parts = min(self.micro_batches, len(real))
        for part in zip(*(tensor.tensor_split(num_parts) for tensor in tensors), strict=True):
            loss, terms = compute_loss(*part)
            logged.append({name: term.detach() for name, term in terms.items()})
            sizes.append(len(part[0]))
            # The sum over the parts and DDP's mean over the ranks give the mean over all examples.
            self._backpropagate(loss / (mean_size / sizes[-1]), is_last=len(logged) == num_parts)
        optimizer.step()
        return _average(logged, sizes)

    def _backpropagate(self, loss: Tensor, is_last: bool) -> None:
        """Add the loss's gradients to the accumulated ones, and average over ranks after the last micro-batch."""
        strategy = self.trainer.strategy
        synchronization: AbstractContextManager[None] = nullcontext()
        if isinstance(strategy, ParallelStrategy) and not is_last:
            synchronization = strategy.block_backward_sync()
        # Under autocast, the backward pass would round what the forward pass has kept in float32.
        with synchronization, torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Record the norm of one network's gradients, then clip them. Here mixed precision has unscaled them."""
        if self.gradient_clip_norm is None and not self.is_logged(self.global_step + 1):
            return
        network = "generator" if optimizer is self.trainer.optimizers[0] else "discriminator"
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
        if self.gradient_clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.gradient_clip_norm, norm)
        self._gradient_norms[f"{network}_gradient_norm"] = norm

    def check_extremes(self, lowest: float, highest: float, split: str) -> None:
        """Refuse data outside the generator's `output_range`; a generator without this attribute may return any value.

        Raises:
            UserError: a value is outside the range.
        """
        smallest, largest = find_output_range(self.generator) or (-math.inf, math.inf)
        tolerance = _TOLERANCE * sum(abs(bound) for bound in (smallest, largest) if math.isfinite(bound))
        if lowest < smallest - tolerance or highest > largest + tolerance:
            raise UserError(
                f"The {split} data range from {lowest:.4g} to {highest:.4g}, and {type(self.generator).__name__}"
                f" returns {smallest:g} to {largest:g}. Scale the data, or choose an unbounded generator such as"
                " gen_lightning.networks.MLPDecoder."
            )

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the generator's optimizer and the discriminator's, in this order."""
        generator_parameters = [*self.generator.parameters(), *(self.codes.parameters() if self.codes else ())]
        return [
            self._generator_optimizer(generator_parameters),
            self._discriminator_optimizer(self.discriminator.parameters()),
        ]

    def _get_optimizers(self) -> list[LightningOptimizer]:
        """Return Lightning's wrappers of the generator's and the discriminator's optimizer."""
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return optimizers

    def configure_callbacks(self) -> list[Callback]:
        """Add no callback, and refuse what Lightning would refuse without saying what to do.

        Raises:
            UserError: the Trainer clips or accumulates gradients.
        """
        # Lightning refuses both for several optimizers after this hook and before `setup`, without naming our options.
        if self.trainer.gradient_clip_val:
            raise UserError(
                "trainer.gradient_clip_val cannot clip the gradients of two optimizers. Set model.gradient_clip_norm"
                " instead."
            )
        return super().configure_callbacks()

    def setup(self, stage: str) -> None:
        """Check the discriminator, and let the plain `ddp` strategy train two networks.

        Raises:
            UserError: a callback has compiled a discriminator that a regularizer differentiates twice.
        """
        super().setup(stage)
        if stage == "fit":
            check_differentiable_twice(self.regularizers, self.discriminator)
        # Each network's backward pass leaves the other's parameters unused.
        allow_unused_parameters(self.trainer.strategy)

    def on_fit_start(self) -> None:
        """Check schedules and optimizers before training starts, and initialize networks from the data module.

        Raises:
            UserError: no optimizer has a scheduled option, or a fused optimizer meets the gradient scaler of float16; a
                network needs something that the data module does not offer.
        """
        super().on_fit_start()
        if self.iteration == 0:
            for network in (self.generator, self.discriminator, self.ema):
                _initialize(network, find_datamodule(self.trainer))
        plugin = self.trainer.precision_plugin
        scaled = isinstance(plugin, MixedPrecision | FSDPPrecision) and plugin.scaler is not None
        if scaled and any(map(unscales_in_step, self.trainer.optimizers)):
            raise UserError(
                "A fused optimizer unscales the gradients of 16-mixed only after they are clipped and their norms are"
                " logged. Remove fused, or set --trainer.precision=bf16-mixed."
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Do what every model does at the start of an iteration, and check that the batch can be split.

        Raises:
            UserError: the size of the first batch is not a multiple of discriminator_steps times micro_batches; a later
                batch has fewer examples than discriminator_steps; the model cannot be trained on the batch.
        """
        is_first = not self.data_checked
        super().on_train_batch_start(batch, batch_idx)
        size, steps, parts = len(batch[0]), self.discriminator_steps, self.num_parts
        if is_first and size % parts:
            raise UserError(
                f"A batch of {size} cannot be split into {parts} equal parts (discriminator_steps={steps} times"
                f" micro_batches={self.micro_batches}). Choose a multiple of {parts} for data.batch_size."
            )
        if size < steps:
            raise UserError(
                f"A batch has {size} example(s), too few for discriminator_steps={steps}. Set drop_last=True in the"
                " data loader, or choose another batch size."
            )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the discriminator's loss and accuracies on validation data."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the discriminator's loss and accuracies on test data."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        real, *condition = self.get_inputs(batch)
        real_logits = self.logits(real, *condition)
        fake_logits = self.logits(self.draw(len(real), *condition), *condition)
        scalars = {"discriminator_loss": self.loss.discriminator(real_logits, fake_logits)}
        self.log_evaluation(scalars | compute_logit_statistics(self.loss, real_logits, fake_logits), stage, len(real))


def _initialize(network: nn.Module | None, datamodule: object) -> None:
    """Initialize a network from the data module, or the networks that it wraps, as ConditionalGenerator does."""
    if offers(network, InitializedNetwork):
        network.initialize(datamodule)
    elif isinstance(network, nn.Module):
        for child in network.children():
            _initialize(child, datamodule)


def _average(parts: list[dict[str, Tensor]], sizes: list[int]) -> dict[str, Tensor]:
    """Return the mean of each scalar over the parts, weighted by their sizes, by name."""
    first, *others = parts
    if not others:
        return first
    weights = torch.tensor(sizes) / sum(sizes)
    values = {name: torch.stack([part[name] for part in parts]) for name in first}
    return {name: weights.to(value) @ value for name, value in values.items()}
