"""The recipes' networks in plain PyTorch loops, and a stopwatch for both sides."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

import train
from datamodules import MNISTDataModule
from datamodules.sources import Source
from gen_lightning.networks import DCGANDiscriminator, DCGANGenerator, MLPDecoder, MLPEncoder

SHAPE = (1, 28, 28)
WARMUP = 20


class Stopwatch(Callback):
    """Measures the iterations per second of a run after its first `WARMUP` iterations."""

    rate = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == WARMUP:
            synchronize(pl_module.device)
            self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == trainer.max_steps:
            synchronize(pl_module.device)
            Stopwatch.rate = (trainer.global_step - WARMUP) / (time.perf_counter() - self.start)


class SideBySide(Callback):
    """Times a run on a CPU and the plain loop on the same networks, a few iterations of each in turn.

    A machine that is shared changes its speed within seconds, and so for both.

    Args:
        recipe: one of `RECIPES`
        iterations: of each turn
    """

    seconds: list[tuple[float, float]]
    """Of each turn: the run's, with all that its callbacks and loggers do, and the loop's."""
    start = 0.0

    def __init__(self, recipe: str, iterations: int) -> None:
        self.make_step = RECIPES[recipe]
        self.iterations = iterations

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        self.step = self.make_step(pl_module.device, False)
        self.batches = scaled_batches(data.source, data.root, pl_module.device)
        self._time_loop(WARMUP)
        SideBySide.seconds = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        done = trainer.global_step - WARMUP
        if done < 0 or done % self.iterations:
            return
        if done:
            seconds_of_run = time.perf_counter() - self.start
            self.seconds.append((seconds_of_run, self._time_loop(self.iterations)))
        self.start = time.perf_counter()

    def _time_loop(self, iterations: int) -> float:
        start = time.perf_counter()
        for _ in range(iterations):
            self.step(next(self.batches))
        return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Waits for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_command(recipe: str, iterations: int, *options: str) -> float:
    """Iterations per second of a recipe through the command line, with its callbacks and loggers."""
    steps = f"--trainer.max_steps={iterations + WARMUP}"
    watch = "--trainer.callbacks+=benchmarks.bare.Stopwatch"
    train.main(["fit", "--config", f"configs/{recipe}.yaml", steps, "--trainer.max_epochs=-1", watch, *options])
    return Stopwatch.rate


def measure_loop(
    make_step: Callable[[torch.device, bool], Callable[[Tensor], None]],
    iterations: int,
    source: Source,
    root: str,
    device: torch.device,
    precision: str = "32-true",
    compiled: bool = False,
) -> float:
    """Iterations per second of a plain loop over the same batches."""
    batches = scaled_batches(source, root, device)
    step = make_step(device, compiled)
    context = torch.autocast(device.type, torch.bfloat16) if precision == "bf16-mixed" else contextlib.nullcontext()
    with context:
        for _ in range(WARMUP):
            step(next(batches))
        synchronize(device)
        start = time.perf_counter()
        for _ in range(iterations):
            step(next(batches))
        synchronize(device)
    return iterations / (time.perf_counter() - start)


def scaled_batches(source: Source, root: str, device: torch.device) -> Iterator[Tensor]:
    """Endless shuffled batches of 128 images in [0, 1], indexed on the device."""
    data = MNISTDataModule(source, root, batch_size=128)
    data.prepare_data()
    data.setup("fit")
    images = data.train_dataloader().split.data.to(device)
    while True:
        for indices in torch.randperm(len(images), device=device).split(128):
            if len(indices) == 128:
                yield images[indices].float() / 255


def dcgan_step(device: torch.device, compiled: bool) -> Callable[[Tensor], None]:
    """One iteration of configs/gan/dcgan.yaml."""
    generator, discriminator = DCGANGenerator(100, SHAPE).to(device), DCGANDiscriminator(SHAPE).to(device)
    if compiled:
        generator.compile()
        discriminator.compile()
    generator_optimizer, discriminator_optimizer = (
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in (generator, discriminator)
    )

    def step(real: Tensor) -> None:
        with torch.no_grad():
            fake = generator(torch.randn(len(real), 100, device=device))
        loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()
        update(discriminator_optimizer, loss)
        discriminator.requires_grad_(False)
        loss = F.softplus(-discriminator(generator(torch.randn(len(real), 100, device=device)))).mean()
        update(generator_optimizer, loss)
        discriminator.requires_grad_(True)

    return step


def vae_step(device: torch.device, compiled: bool) -> Callable[[Tensor], None]:
    """One iteration of configs/vae/vae.yaml."""
    networks = nn.ModuleList([MLPEncoder(SHAPE, 80), MLPDecoder(40, SHAPE)]).to(device)
    encoder, decoder = networks
    if compiled:
        encoder.compile()
        decoder.compile()
    optimizer = torch.optim.Adam(networks.parameters(), 1e-3)

    def step(grey: Tensor) -> None:
        images = grey.bernoulli()
        mean, log_variance = encoder(images).float().chunk(2, dim=1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        reconstruction = F.binary_cross_entropy_with_logits(decoder(z).float(), images, reduction="sum")
        kl = (mean.square() + log_variance.exp() - log_variance - 1).sum() / 2
        update(optimizer, (reconstruction + kl) / len(images))

    return step


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimizer step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


RECIPES = {"gan/dcgan": dcgan_step, "vae/vae": vae_step}
