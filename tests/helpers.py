"""Helpers for tests: checkpoints, small models, train.py in a process of its own, and W&B's offline file."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import scipy.stats
import torch
import wandb
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from wandb.proto import wandb_internal_pb2

from datamodules import ImageFolderDataModule
from gen_lightning import GANModule, VAEModule
from gen_lightning.evaluation import Row
from gen_lightning.gan import NonSaturating
from gen_lightning.networks import MLPDecoder, MLPDiscriminator, MLPEncoder, MLPGenerator
from gen_lightning.vae import ELBO, Bernoulli, BottomUp, Gaussian, Ladder, Objective, TopDown

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
IMAGE = (1, 28, 28)

# The state of an optimizer without parameters.
OPTIMIZER_STATE = {"state": {}, "param_groups": [{"params": []}]}


def load(path: Path) -> dict:
    """Return the content of a checkpoint, loaded with `weights_only=True` as users load it."""
    return torch.load(path, weights_only=True)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


class SignalsWandbService(Callback):
    """Sends W&B's process a signal after three iterations.

    An operating system that runs out of memory sends SIGKILL; a cluster that suspends a job sends SIGSTOP.

    Args:
        name: name of the signal
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_end(self, trainer: Trainer, *_) -> None:
        if trainer.global_step == 3:
            subprocess.run(["pkill", f"-{self.name}", "-P", str(os.getpid()), "wandb-core"], check=True)


def gan(**arguments) -> GANModule:
    """Return a small GAN with the non-saturating loss; arguments replace its defaults."""
    defaults = {
        "generator": MLPGenerator,
        "discriminator": MLPDiscriminator,
        "loss": NonSaturating(),
        "generator_optimizer": adam,
        "discriminator_optimizer": adam,
        "data_shape": IMAGE,
        "latent_dim": 8,
    }
    return GANModule(**defaults | arguments)


def vae(**arguments) -> VAEModule:
    """Return a small VAE with a Bernoulli likelihood; arguments replace its defaults."""
    defaults = {
        "encoder": MLPEncoder,
        "decoder": MLPDecoder,
        "likelihood": Bernoulli,
        "objective": ELBO(),
        "optimizer": adam,
        "data_shape": IMAGE,
        "latent_dim": 8,
    }
    return VAEModule(**defaults | arguments)


def linear_gaussian(posterior_error: float = 0.0) -> VAEModule:
    """Return a float64 VAE whose likelihood and posterior are known exactly: 4 dimensions, 2 latent dimensions.

    x = W z + b + 0.5 e, where z and e are standard normal (Tipping & Bishop 1999). The columns of W are orthogonal, so
    that the exact posterior is a diagonal Gaussian.

    Args:
        posterior_error: standard deviation of the noise that is added to the encoder's parameters; 0: q is exact
    """
    torch.manual_seed(0)
    model = vae(
        encoder=lambda shape, num_features: nn.Linear(*shape, num_features),
        decoder=lambda latent_dim, shape: nn.Linear(latent_dim, *shape),
        likelihood=partial(Gaussian, scale=0.5, squash=nn.Identity),
        data_shape=(4,),
        latent_dim=2,
    ).double()
    columns = torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64)).Q
    strength = torch.tensor([1.5, 0.7], dtype=torch.float64)
    variance = 0.25 / (strength**2 + 0.25)
    encoder, decoder = model.encoder, model.decoder
    decoder.weight.data = columns * strength
    encoder.weight.data[:2] = (variance / 0.25).unsqueeze(1) * decoder.weight.data.T
    encoder.weight.data[2:] = 0
    encoder.bias.data[:2] = -encoder.weight.data[:2] @ decoder.bias.data
    encoder.bias.data[2:] = variance.log()
    torch.manual_seed(2)
    for parameter in encoder.parameters():
        parameter.data += posterior_error * torch.randn_like(parameter)
    return model


def two_layer_linear_gaussian(posterior_error: float = 0.0) -> VAEModule:
    """Return `linear_gaussian` with a second layer: z = a z_2 + (1 - a^2)^(1/2) e in each dimension.

    z_2 and e are standard normal, so p(x) is the same as without the second layer. The exact posterior
    q(z | x) q(z_2 | z) has diagonal factors.
    """
    model = _build_two_layers(partial(BottomUp, layer_dims=(2, 2), network=_build_linear))
    model.encoder.load_state_dict(linear_gaussian().encoder.state_dict())
    # By symmetry, z_2 given z is distributed like z given z_2.
    model.posterior.networks.load_state_dict(model.prior.networks.state_dict())
    return _perturb_posterior(model, posterior_error)


def ladder_linear_gaussian(posterior_error: float = 0.0) -> VAEModule:
    """Return the two-layer model with a top-down posterior, q(z_2 | x) q(z | z_2, x).

    Each factor is the prior times a message, p(x | z_2) or p(x | z).
    """
    model = _build_two_layers(Ladder)
    weight, bias = model.decoder.weight.data, model.decoder.bias.data
    strength = weight.square().sum(0)
    regression, variance = weight.T / strength.unsqueeze(1), 0.25 / strength
    slope = SLOPE.unsqueeze(1)
    none = torch.zeros_like(regression)
    model.encoder.weight.data = torch.cat([regression, none, regression / slope, none])
    model.encoder.bias.data = -model.encoder.weight.data @ bias
    model.encoder.bias.data[2:4] = variance.log()
    model.encoder.bias.data[6:] = ((1 - SLOPE**2 + variance) / SLOPE**2).log()
    return _perturb_posterior(model, posterior_error)


SLOPE = torch.tensor([0.9, 0.6], dtype=torch.float64)


def _build_linear(shape: tuple[int, ...], num_features: int) -> nn.Module:
    return nn.Linear(*shape, num_features)


def _build_two_layers(posterior) -> VAEModule:
    model = vae(
        encoder=_build_linear,
        decoder=lambda latent_dim, shape: nn.Linear(latent_dim, *shape),
        likelihood=partial(Gaussian, scale=0.5, squash=nn.Identity),
        posterior=posterior,
        prior=partial(TopDown, layer_dims=(2, 2), network=_build_linear),
        data_shape=(4,),
        latent_dim=4,
    ).double()
    model.decoder.load_state_dict(linear_gaussian().decoder.state_dict())
    (network,) = model.prior.networks
    network.weight.data = torch.cat([SLOPE.diag(), torch.zeros_like(SLOPE.diag())])
    network.bias.data = torch.cat([torch.zeros_like(SLOPE), (1 - SLOPE**2).log()])
    return model


def _perturb_posterior(model: VAEModule, posterior_error: float) -> VAEModule:
    torch.manual_seed(2)
    for parameter in [*model.encoder.parameters(), *model.posterior.parameters()]:
        parameter.data += posterior_error * torch.randn_like(parameter)
    return model


def compute_exact_log_likelihood(model: VAEModule, x: torch.Tensor) -> torch.Tensor:
    """Return log N(x; b, W W^T + 0.25 I) of a linear Gaussian model with one or two layers, by SciPy."""
    weight, bias = model.decoder.weight.detach().numpy(), model.decoder.bias.detach().numpy()
    covariance = weight @ weight.T + 0.25 * np.eye(4)
    return torch.tensor(scipy.stats.multivariate_normal(bias, covariance).logpdf(x.numpy()))


class GivenModel(LightningModule):
    """A generative model without parameters. Tests override the methods that they test."""

    data_shape = IMAGE
    num_classes: int | None = None

    def sample(self, n, *, generator, labels=None):
        raise NotImplementedError

    def evaluating(self, seed):
        return torch.no_grad()

    def get_condition(self, batch):
        return ()

    def get_inputs(self, batch):
        return (batch[0],)

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass


class Examples(LightningDataModule):
    """Batches of data `[N, ...]` with labels `[N]`; the test split equals the training split."""

    def __init__(self, data: torch.Tensor, labels: torch.Tensor | None = None, batch_size: int = 10) -> None:
        super().__init__()
        self.tensors = (data, torch.arange(len(data)) % 2 if labels is None else labels)
        self.batch_size = batch_size

    def test_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*self.tensors), self.batch_size)

    def examples(self, split, n=None):
        return zip(*(tensor[:n].split(self.batch_size) for tensor in self.tensors), strict=True)


def compute_gradients(model: VAEModule, objective: Objective, x: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """Return the gradients of an objective's mean over x, one flat tensor each for q(z | x) and for p(x, z).

    The noise is a function of the seed.
    """
    model.zero_grad()
    torch.manual_seed(seed)
    objective(model.terms(x, objective.num_samples), 0).mean().backward()
    # A ladder's prior is also a part of q, so the path gradient alone gives it another gradient.
    prior = [] if isinstance(model.posterior, Ladder) else [model.prior]
    parts = nn.ModuleList([model.encoder, model.posterior]), nn.ModuleList([model.decoder, *prior])
    return [torch.cat([p.grad.flatten() for p in part.parameters()]) for part in parts]


def compute_posterior_gradients(model: VAEModule, objective: Objective, x: torch.Tensor, seed: int) -> torch.Tensor:
    """Return 40 independent estimates of the posterior's gradient, `[40, P]`, each the mean of 200 draws for each x."""
    return torch.stack([compute_gradients(model, objective, x.repeat(200, 1), seed + i)[0] for i in range(40)])


def standardize_differences(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the standardized differences `[P]` between the means of two sets of estimates, `[R, P]` each.

    They are standard normal if the expectations are equal.
    """
    return (one.mean(0) - other.mean(0)) / ((one.var(0) + other.var(0)) / len(one)).sqrt()


def run_test(
    callback: Callback, module: LightningModule, data: LightningDataModule, enable_progress_bar: bool = False
) -> dict[str, Row]:
    """Test a module with a callback, and return the callback's rows."""
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=enable_progress_bar)
    trainer.test(module, data, verbose=False)
    return callback.rows


def run_python(*args: str, cwd: Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess:
    """Run Python in a process of its own, and return the process with its output as text."""
    environment = make_environment() | environment
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )


def make_environment() -> dict[str, str]:
    """Return the environment of a process that shares nothing with this one."""
    # With WANDB_SERVICE, it would log through this process's service, in which a killed run remains active.
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    # Two ranks with several threads each would compete for the cores.
    return inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_command(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run train.py in a process of its own."""
    return run_python(str(ROOT / "train.py"), *args, cwd=cwd, **environment)


def run_until(when: Callable[[str], bool], signal_number: int, *args: str, cwd: Path) -> int:
    """Run train.py in a process of its own, send it a signal, and return its exit status.

    Args:
        when: condition on the output so far; the signal is sent when it is true
        signal_number: signal to send; if it kills the process, `subprocess` makes the exit status negative
        args: arguments of train.py
        cwd: working directory
    """
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "train.py"), *args],
        cwd=cwd,
        env=make_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output = ""
        while not when(output):
            part = process.stdout.read1()
            assert part, output
            output += part.decode(errors="ignore")
        process.send_signal(signal_number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode


def read_wandb_records(run_folder: Path) -> list:
    """Return the records of a run's newest offline W&B file: protocol buffers in LevelDB's log format."""
    # W&B's service writes the file. The end of a run does not wait for it, but its teardown does.
    wandb.teardown()
    path = max(run_folder.glob("wandb/offline-run-*/run-*.wandb"))
    data = path.read_bytes()
    position, message, records = 7, b"", []  # after the header: `:W&B`, magic number and version
    while position + 7 <= len(data):
        left_in_block = 32768 - position % 32768  # blocks of 32 KiB
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            records.append(wandb_internal_pb2.Record.FromString(message))
            message = b""
    return records


def write_image(path: Path, size: tuple[int, int] = (40, 40), mode: str = "RGB", seed: int = 0) -> Path:
    """Write an image of random pixels, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    bands = Image.new(mode, (1, 1)).getbands()
    levels = [Image.fromarray(random.integers(0, 256, size[::-1], dtype=np.uint8)) for _ in bands]
    image = Image.merge(mode, levels) if len(bands) > 1 else levels[0].convert(mode)
    image.save(path)
    return path


def write_images(root: Path, n: int, classes: Sequence[str] = ("",), size: int = 40) -> Path:
    """Write n images in each class folder, all different, and return the folder."""
    for label, name in enumerate(classes):
        for index in range(n):
            write_image(root / name / f"{index:04}.png", (size, size), seed=label * n + index)
    return root


def build_image_cache(arguments: list[str]) -> None:
    """Read a folder of images in a process of its own; see `faults.processes.Run`."""
    root, image_size = arguments
    ImageFolderDataModule(root, int(image_size)).prepare_data()
