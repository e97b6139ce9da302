"""What several tests need: checkpoints, runs of the command line, small modules, and the offline W&B file."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import torch
from wandb.proto import wandb_internal_pb2

from gen_lightning import GANModule, VAEModule
from gen_lightning.gan import NonSaturating
from gen_lightning.networks import MLPDecoder, MLPDiscriminator, MLPEncoder, MLPGenerator
from gen_lightning.vae import ELBO, Bernoulli

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
IMAGE = (1, 28, 28)


def load(path: Path) -> dict:
    """A checkpoint, as safely as users load it."""
    return torch.load(path, weights_only=True)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3)


def gan(**arguments) -> GANModule:
    """The founding GAN, with any argument replaced."""
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
    """The founding VAE, with any argument replaced."""
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


def run_python(*args: str, cwd: Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess:
    """A Python process of its own, whose output is text."""
    # OMP_NUM_THREADS: two ranks of several threads each would fight for the cores.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )


def run_command(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """train.py in a process of its own."""
    return run_python(str(ROOT / "train.py"), *args, cwd=cwd, **environment)


def wandb_records(run_folder: Path) -> list:
    """The records of the newest offline W&B file of a run: protocol buffers in LevelDB's log, in blocks of 32 KiB."""
    path = max(run_folder.glob("wandb/offline-run-*/run-*.wandb"))
    data = path.read_bytes()
    position, message, records = 7, b"", []  # behind the header :W&B, magic number and version
    while position + 7 <= len(data):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(wandb_internal_pb2.Record.FromString(message))
            message = b""
    return records
