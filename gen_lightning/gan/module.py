"""GANModule: two players, two optimizers, one clock."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from gen_lightning.base import GenerativeModule
from gen_lightning.clock import exclude_from_global_step
from gen_lightning.errors import UserError
from gen_lightning.gan.codes import LatentCodes
from gen_lightning.gan.ema import EMA
from gen_lightning.gan.losses import GANLoss, check_constraint, logit_statistics
from gen_lightning.gan.regularizers import (
    DiscriminatorPass,
    DiscriminatorRegularizer,
    check_differentiable_twice,
    check_regularizers,
)
from gen_lightning.networks import common_num_classes
from gen_lightning.numerics import promote_to_float32
from gen_lightning.schedules import Schedule


class GANModule(GenerativeModule):
    """A generative adversarial network (Goodfellow et al. 2014).

    An iteration splits its batch into `discriminator_steps` parts, updates the discriminator once on each
    (algorithm 1: every update sees examples of its own), and then the generator once, on a batch of the size of a part.
    Its labels, and what a relativistic loss compares with, are of the last part.

    Where both networks have `num_classes`, the batch's labels condition them: each takes the labels, int64 `[N]`, as
    its second argument, and generated data are of the same classes as the real ones.

    With `codes`, the latent is noise and codes, and the generator is to make data from which they can be told (InfoGAN,
    Chen et al. 2016): L below is the latent's whole dimension, and otherwise latent_dim.

    Args:
        generator: called with (L, data_shape): latents `[N, L]` -> data `[N, *data_shape]`
        discriminator: called with (data_shape): data `[N, *data_shape]` -> logits `[N]`
        loss: what the players minimize
        generator_optimizer: called with the generator's parameters, and those of the codes' network
        discriminator_optimizer: called with the discriminator's parameters
        data_shape: the shape of one example; the command line takes it from the data module
        regularizers: terms added to the discriminator's loss
        ema: called with the generator; the average that is sampled and evaluated in its place, while it is trained
        codes: called with (data_shape); what is in the latent beside noise, and the network that tells it from data
        latent_dim: the dimension of the standard normal latent, or of the noise in it
        discriminator_steps: discriminator updates per iteration
        micro_batches: the equal parts of each update's batch, whose losses are computed one after the other, so that
            memory is that of one part; the gradients are those of the losses' mean. What sees a batch as a whole sees
            a part: batch and spectral normalization, and the averages of `LeCam`, move once with each.
        gradient_clip_norm: each player's gradients are scaled down to this norm (Pascanu et al. 2013); None leaves
            them. The norm before is logged as `train/generator_gradient_norm` and `train/discriminator_gradient_norm`;
            the codes' network is part of the generator's.
        schedules: of the optimizers' options, by names such as `generator_optimizer.lr` and
            `discriminator_optimizer.beta2`
        seed: of all randomness in training

    Raises:
        UserError: latent_dim, discriminator_steps or micro_batches is less than 1; gradient_clip_norm is not positive;
            two regularizers have one name, or one of them, the loss or the generator does not go with the
            discriminator.
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
        if latent_dim < 1 or discriminator_steps < 1:
            raise UserError(
                f"latent_dim is {latent_dim} and discriminator_steps {discriminator_steps}: choose 1 or more for both."
            )
        if micro_batches < 1:
            raise UserError(f"micro_batches is {micro_batches}: choose 1 or more.")
        if gradient_clip_norm is not None and gradient_clip_norm <= 0:
            raise UserError(f"gradient_clip_norm is {gradient_clip_norm}: choose a positive norm, or null for none.")
        self.save_hyperparameters(logger=False)
        self.automatic_optimization = False
        self.codes = codes(self.data_shape) if codes else None
        self.generator = generator(latent_dim + (self.codes.dim if self.codes else 0), self.data_shape)
        self.discriminator = discriminator(self.data_shape)
        self.ema = ema(self.generator) if ema else None
        self.loss = loss
        self.regularizers = cast(Sequence[DiscriminatorRegularizer], nn.ModuleList(regularizers or []))
        check_regularizers(self.regularizers, self.discriminator)
        check_constraint(loss, self.discriminator)
        self.num_classes = common_num_classes(generator=self.generator, discriminator=self.discriminator)
        self.latent_dim = latent_dim
        self.discriminator_steps = discriminator_steps
        self.micro_batches = micro_batches
        self.gradient_clip_norm = gradient_clip_norm
        self._gradient_norms: dict[str, Tensor] = {}
        self._generator_optimizer = generator_optimizer
        self._discriminator_optimizer = discriminator_optimizer

    def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Data `[N, *data_shape]` from latents `[N, L]`, by the average where there is one."""
        return self.generator(z, *condition) if self.ema is None else self.ema(z, *condition)

    def latents(self, n: int) -> Tensor:
        """Latents `[n, L]`: from the standard normal, and codes behind it where there are codes."""
        noise = torch.randn(n, self.latent_dim, device=self.device, dtype=self.dtype)
        return noise if self.codes is None else self.codes.append_codes(noise)

    def draw(self, n: int, *condition: Tensor) -> Tensor:
        """Generated data `[n, *data_shape]`, by the average where there is one."""
        return self(self.latents(n), *condition)

    def logits(self, data: Tensor, *condition: Tensor) -> Tensor:
        """The discriminator's logits `[N]`, in float32 under any precision."""
        return promote_to_float32(self.discriminator(data, *condition))

    def configure_callbacks(self) -> list[Callback]:
        """Adds none; refuses what would be refused without a word on what to do.

        Raises:
            UserError: the Trainer is to clip gradients, or to accumulate them.
        """
        # Lightning knows one optimizer's gradients only, and says no more than that between this hook and `setup`.
        if self.trainer.gradient_clip_val:
            raise UserError(
                "Each player's gradients are clipped by themselves: set model.gradient_clip_norm instead of"
                " trainer.gradient_clip_val."
            )
        return super().configure_callbacks()

    def setup(self, stage: str) -> None:
        """Lets the plain `ddp` strategy train two players.

        Raises:
            UserError: a callback has compiled a discriminator that a regularizer differentiates twice.
        """
        super().setup(stage)
        if stage == "fit":
            check_differentiable_twice(self.regularizers, self.discriminator)
        if isinstance(self.trainer.strategy, DDPStrategy):
            # One player's backward pass leaves the other's parameters unused, which DDP takes for an error.
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def configure_optimizers(self) -> list[Optimizer]:
        """The generator's optimizer, then the discriminator's."""
        return [
            self._generator_optimizer([*self.generator.parameters(), *(self.codes.parameters() if self.codes else ())]),
            self._discriminator_optimizer(self.discriminator.parameters()),
        ]

    def on_fit_start(self) -> None:
        """Looks at the schedules, and at the optimizers, before anything is trained.

        Raises:
            UserError: a schedule is of what no optimizer has; float16's scaler is left to a fused optimizer.
        """
        super().on_fit_start()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and any(hasattr(one, "_step_supports_amp_scaling") for one in self.trainer.optimizers):
            raise UserError(
                "A fused optimizer divides gradients by 16-mixed's scale within its step, after they are clipped and"
                " their norms are logged: leave fused out, or set --trainer.precision=bf16-mixed."
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Looks at the size of the first batch, too, which is to be divided.

        Raises:
            UserError: it is no multiple of the discriminator's steps and their micro-batches.
        """
        parts = self.discriminator_steps * self.micro_batches
        if not self._data_checked and len(batch[0]) % parts:
            raise UserError(
                f"A batch of {len(batch[0])} does not divide into discriminator_steps={self.discriminator_steps} times"
                f" micro_batches={self.micro_batches} equal parts: choose a multiple of {parts} for data.batch_size."
            )
        super().on_train_batch_start(batch, batch_idx)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One iteration: `discriminator_steps` updates of the discriminator, then one of the generator."""
        generator_optimizer, discriminator_optimizer = self.optimizers()
        exclude_from_global_step(discriminator_optimizer)
        parts = (tensor.chunk(self.discriminator_steps) for tensor in (batch[0], *self.get_condition(batch)))
        for real, *condition in zip(*parts, strict=True):
            scalars = self._update_discriminator(real, condition, discriminator_optimizer)
        scalars |= self._update_generator(real, condition, generator_optimizer)
        if self.ema is not None:
            self.ema.update(self.generator, self.global_step - 1, len(batch[0]) * self.trainer.world_size)
        self.log_iteration(scalars | self._gradient_norms, self.global_step, len(batch[0]))

    def _update_discriminator(
        self, real: Tensor, condition: Sequence[Tensor], optimizer: LightningOptimizer
    ) -> dict[str, Tensor]:
        scalars = self._step(optimizer, self._discriminator_terms, real, self.latents(len(real)), *condition)
        self.loss.constrain(self.discriminator)
        return scalars

    def _discriminator_terms(
        self, real: Tensor, latents: Tensor, *condition: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what is logged of it."""
        with torch.no_grad():
            # Regularizers leave autocast, under which the generator's output may have less than the data's precision.
            fake = self.generator(latents, *condition).to(real.dtype)
        if self.regularizers:
            real, fake = real.detach().requires_grad_(), fake.requires_grad_()
        real_logits, fake_logits = self.logits(real, *condition), self.logits(fake, *condition)
        terms = {"discriminator_loss": self.loss.discriminator(real_logits, fake_logits)}
        state = DiscriminatorPass(self.discriminator, real, fake, real_logits, fake_logits, self.global_step, condition)
        terms |= {regularizer.name: regularizer(state) for regularizer in self.regularizers}
        loss = torch.stack(list(terms.values())).sum()
        if self.is_logged(self.global_step + 1):
            terms |= logit_statistics(self.loss, real_logits, fake_logits)
        return loss, terms

    def _update_generator(
        self, real: Tensor, condition: Sequence[Tensor], optimizer: LightningOptimizer
    ) -> dict[str, Tensor]:
        with self.toggled_optimizer(optimizer):
            return self._step(optimizer, self._generator_terms, real, self.latents(len(real)), *condition)

    def _generator_terms(self, real: Tensor, latents: Tensor, *condition: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what is logged of it."""
        fake = self.generator(latents, *condition)
        fake_logits = self.logits(fake, *condition)
        real_logits = self.logits(real, *condition) if self.loss.relativistic else None
        loss = self.loss.generator(real_logits, fake_logits)
        if self.codes is None:
            return loss, {"generator_loss": loss}
        information = self.codes.mutual_information(latents, fake)
        logged = {f"mutual_information/{name}": nats for name, nats in information.items()}
        return loss - self.codes.weighted(information), {"generator_loss": loss} | logged

    def _step(
        self, optimizer: LightningOptimizer, terms_of: Callable[..., tuple[Tensor, dict[str, Tensor]]], *batch: Tensor
    ) -> dict[str, Tensor]:
        """One update by the mean loss of the batch's parts, and the means of what is logged of them."""
        optimizer.zero_grad()
        logged = []
        for part in zip(*(tensor.chunk(self.micro_batches) for tensor in batch), strict=True):
            loss, terms = terms_of(*part)
            logged.append({name: term.detach() for name, term in terms.items()})
            self._accumulate(loss / self.micro_batches, is_last=len(logged) == self.micro_batches)
        optimizer.step()
        return _average(logged)

    def _accumulate(self, loss: Tensor, is_last: bool) -> None:
        strategy = self.trainer.strategy
        # The ranks average what they have accumulated once, in the last backward pass.
        alone = not is_last and isinstance(strategy, ParallelStrategy)
        synchronisation = strategy.block_backward_sync() if alone else nullcontext()
        # Under autocast, the backward pass would round what the forward pass has kept in float32.
        with synchronisation, torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips one player's gradients, which no scaler of mixed precision scales here; their norm before is logged."""
        if self.gradient_clip_norm is None and not self.is_logged(self.global_step + 1):
            return
        player = "generator" if optimizer is self.trainer.optimizers[0] else "discriminator"
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
        if self.gradient_clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.gradient_clip_norm, norm)
        self._gradient_norms[f"{player}_gradient_norm"] = norm

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The discriminator's loss and accuracies on held-out data."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The discriminator's loss and accuracies on test data."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        real, condition = batch[0], self.get_condition(batch)
        real_logits = self.logits(real, *condition)
        fake_logits = self.logits(self.draw(len(real), *condition), *condition)
        scalars = {"discriminator_loss": self.loss.discriminator(real_logits, fake_logits)}
        self.log_evaluation(scalars | logit_statistics(self.loss, real_logits, fake_logits), stage, len(real))


def _average(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The means of scalars over parts, by name."""
    first, *others = parts
    return {name: torch.stack([part[name] for part in parts]).mean() for name in first} if others else first
