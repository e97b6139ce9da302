"""GANModule: two players, two optimizers, one clock."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from gen_lightning.base import GenerativeModule, full_precision
from gen_lightning.clock import leave_uncounted
from gen_lightning.gan.ema import EMA
from gen_lightning.gan.losses import GANLoss, check_constraint
from gen_lightning.gan.regularizers import (
    DiscriminatorPass,
    DiscriminatorRegularizer,
    check_differentiable_twice,
    check_regularizers,
)
from gen_lightning.schedules import Schedule


class GANModule(GenerativeModule):
    """A generative adversarial network (Goodfellow et al. 2014).

    An iteration splits its batch into `discriminator_steps` parts, updates the discriminator once on each
    (algorithm 1: every update sees examples of its own), and then the generator once.

    Args:
        generator: called with (latent_dim, data_shape): latents `[N, latent_dim]` -> data `[N, *data_shape]`
        discriminator: called with (data_shape): data `[N, *data_shape]` -> logits `[N]`
        loss: what the players minimize
        generator_optimizer: called with the generator's parameters
        discriminator_optimizer: called with the discriminator's parameters
        data_shape: the shape of one example; the command line takes it from the data module
        regularizers: terms added to the discriminator's loss
        ema: called with the generator; the average that is sampled and evaluated in its place, while it is trained
        latent_dim: the dimension of the standard normal latent
        discriminator_steps: discriminator updates per iteration
        schedules: of the optimizers' options, by names such as `generator_optimizer.lr` and
            `discriminator_optimizer.beta2`
        seed: of all randomness in training

    Raises:
        ValueError: latent_dim or discriminator_steps is less than 1; two regularizers have one name, or one of them or
            the loss does not go with the discriminator.
    """

    optimizer_names = ("generator_optimizer", "discriminator_optimizer")

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
        latent_dim: int = 100,
        discriminator_steps: int = 1,
        schedules: dict[str, Schedule] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(data_shape, seed, schedules)
        if latent_dim < 1 or discriminator_steps < 1:
            raise ValueError(
                f"latent_dim is {latent_dim} and discriminator_steps {discriminator_steps}: choose 1 or more for both."
            )
        self.save_hyperparameters(logger=False)
        self.automatic_optimization = False
        self.generator = generator(latent_dim, self.data_shape)
        self.discriminator = discriminator(self.data_shape)
        self.ema = ema(self.generator) if ema else None
        self.loss = loss
        self.regularizers = cast(Sequence[DiscriminatorRegularizer], nn.ModuleList(regularizers or []))
        check_regularizers(self.regularizers, self.discriminator)
        check_constraint(loss, self.discriminator)
        self.latent_dim = latent_dim
        self.discriminator_steps = discriminator_steps
        self._generator_optimizer = generator_optimizer
        self._discriminator_optimizer = discriminator_optimizer

    def forward(self, z: Tensor) -> Tensor:
        """Data `[N, *data_shape]` from latents `[N, latent_dim]`, by the average where there is one."""
        return self.generator(z) if self.ema is None else self.ema(z)

    def latents(self, n: int) -> Tensor:
        """Latents `[n, latent_dim]` from the standard normal."""
        return torch.randn(n, self.latent_dim, device=self.device, dtype=self.dtype)

    def draw(self, n: int) -> Tensor:
        """Generated data `[n, *data_shape]`, by the average where there is one."""
        return self(self.latents(n))

    def logits(self, data: Tensor) -> Tensor:
        """The discriminator's logits `[N]`, in float32 under any precision."""
        return full_precision(self.discriminator(data))

    def setup(self, stage: str) -> None:
        """Lets the plain `ddp` strategy train two players.

        Raises:
            ValueError: a callback has compiled a discriminator that a regularizer differentiates twice.
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
            self._generator_optimizer(self.generator.parameters()),
            self._discriminator_optimizer(self.discriminator.parameters()),
        ]

    def check_data(self, data: Tensor) -> None:
        """Looks at the first batch before it trains anything.

        Raises:
            ValueError: the data have another shape than the model, or are too few for the discriminator's steps.
        """
        super().check_data(data)
        if len(data) % self.discriminator_steps:
            raise ValueError(
                f"A batch of {len(data)} does not divide into discriminator_steps={self.discriminator_steps} equal"
                " parts: choose a multiple of it for data.batch_size."
            )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One iteration: `discriminator_steps` updates of the discriminator, then one of the generator."""
        generator_optimizer, discriminator_optimizer = self.optimizers()
        leave_uncounted(discriminator_optimizer)
        for real in batch[0].chunk(self.discriminator_steps):
            scalars = self._update_discriminator(real, discriminator_optimizer)
        scalars |= self._update_generator(real, generator_optimizer)
        if self.ema is not None:
            self.ema.update(self.generator, self.global_step - 1, len(batch[0]) * self.trainer.world_size)
        self.log_iteration(scalars, self.global_step, len(batch[0]))

    def _update_discriminator(self, real: Tensor, optimizer: LightningOptimizer) -> dict[str, Tensor]:
        with torch.no_grad():
            # Regularizers leave autocast, under which the generator's output may have less than the data's precision.
            fake = self.generator(self.latents(len(real))).to(real.dtype)
        if self.regularizers:
            real, fake = real.detach().requires_grad_(), fake.requires_grad_()
        real_logits, fake_logits = self.logits(real), self.logits(fake)
        terms = {"discriminator_loss": self.loss.discriminator(real_logits, fake_logits)}
        state = DiscriminatorPass(self.discriminator, real, fake, real_logits, fake_logits, self.global_step)
        terms |= {regularizer.name: regularizer(state) for regularizer in self.regularizers}
        self._step(torch.stack(list(terms.values())).sum(), optimizer)
        self.loss.constrain(self.discriminator)
        return terms | {"real_logits": real_logits.mean(), "fake_logits": fake_logits.mean()}

    def _update_generator(self, real: Tensor, optimizer: LightningOptimizer) -> dict[str, Tensor]:
        with self.toggled_optimizer(optimizer):
            fake_logits = self.logits(self.generator(self.latents(len(real))))
            real_logits = self.logits(real) if self.loss.relativistic else None
            loss = self.loss.generator(real_logits, fake_logits)
            self._step(loss, optimizer)
        return {"generator_loss": loss}

    def _step(self, loss: Tensor, optimizer: LightningOptimizer) -> None:
        optimizer.zero_grad()
        # Under autocast, the backward pass would round what the forward pass has kept in float32.
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss)
        optimizer.step()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The discriminator's loss on held-out data."""
        self._evaluate(batch[0], "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The discriminator's loss on test data."""
        self._evaluate(batch[0], "test")

    def _evaluate(self, real: Tensor, stage: str) -> None:
        real_logits, fake_logits = self.logits(real), self.logits(self.draw(len(real)))
        loss = self.loss.discriminator(real_logits, fake_logits)
        scalars = {"discriminator_loss": loss, "real_logits": real_logits.mean(), "fake_logits": fake_logits.mean()}
        self.log_evaluation(scalars, stage, len(real))
