"""Observers: they sample, compute metrics, and log; they never train."""

from callbacks.checkpoint import AtomicCheckpointIO, LastCheckpoint
from callbacks.compile import Compile
from callbacks.fid import FID
from callbacks.loggers import MetricsCSV, SafeWandbLogger
from callbacks.samples import Reconstructions, SampleGrid

__all__ = [
    "FID",
    "AtomicCheckpointIO",
    "Compile",
    "LastCheckpoint",
    "MetricsCSV",
    "Reconstructions",
    "SafeWandbLogger",
    "SampleGrid",
]
