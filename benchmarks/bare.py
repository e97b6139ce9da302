"""The default recipes as plain PyTorch loops, and callbacks that time a run and its loop."""

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
from gen_lightning.contracts import find_datamodule
from gen_lightning.networks import DCGANDiscriminator, DCGANGenerator, MLPDecoder, MLPEncoder

SHAPE = (1, 28, 28)
WARMUP = 20


class Stopwatch(Callback):
    """Measures the iterations per second of a run, without its first `WARMUP` iterations."""

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
    """Times a run on a CPU and a plain loop with the same networks, in alternating turns of a few iterations.

    A shared machine changes its speed within seconds. With alternating turns, the change affects both sides alike.

    Args:
        recipe: one of `RECIPES`
        iterations: number of iterations in a turn
    """

    seconds: list[tuple[float, float]]
    """The seconds of the run, including its callbacks and loggers, and of the loop, for each turn."""
    start = 0.0

    def __init__(self, recipe: str, iterations: int) -> None:
        self.make_step = RECIPES[recipe]
        self.iterations = iterations

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = find_datamodule(trainer)
        assert isinstance(data, MNISTDataModule)
        self.step = self.make_step(pl_module.device, False)
        self.batches = make_batches(data.source, str(data.root), pl_module.device)
        self._time_loop(WARMUP)
        SideBySide.seconds = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        completed = trainer.global_step - WARMUP
        if completed < 0 or completed % self.iterations:
            return
        if completed:
            run_seconds = time.perf_counter() - self.start
            self.seconds.append((run_seconds, self._time_loop(self.iterations)))
        self.start = time.perf_counter()

    def _time_loop(self, iterations: int) -> float:
        start = time.perf_counter()
        for _ in range(iterations):
            self.step(next(self.batches))
        return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has completed its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_command(recipe: str, iterations: int, *options: str) -> float:
    """Return the iterations per second of a recipe on the command line, with its callbacks and loggers."""
    steps = f"--trainer.max_steps={iterations + WARMUP}"
    stopwatch = "--trainer.callbacks+=benchmarks.bare.Stopwatch"
    train.main(["fit", "--config", f"configs/{recipe}.yaml", steps, "--trainer.max_epochs=-1", stopwatch, *options])
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
    """Return the iterations per second of a plain loop over shuffled batches of the same data."""
    batches = make_batches(source, root, device)
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


def make_batches(source: Source, root: str, device: torch.device) -> Iterator[Tensor]:
    """Yield shuffled batches of 128 images in [0, 1] without end, indexed on the device."""
    data = MNISTDataModule(source, root, batch_size=128)
    data.prepare_data()
    data.setup("fit")
    images = data.train_dataloader().split.data.to(device)
    while True:
        for indices in torch.randperm(len(images), device=device).split(128):
            if len(indices) == 128:
                yield images[indices].float() / 255


def make_dcgan_step(device: torch.device, compiled: bool) -> Callable[[Tensor], None]:
    """Return a function that trains one iteration of configs/gan/dcgan.yaml on a batch."""
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


def make_vae_step(device: torch.device, compiled: bool) -> Callable[[Tensor], None]:
    """Return a function that trains one iteration of configs/vae/vae.yaml on a batch."""
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
    """Take one optimizer step on a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


RECIPES = {"gan/dcgan": make_dcgan_step, "vae/vae": make_vae_step}
