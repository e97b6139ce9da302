"""Observers: they sample, compute metrics, and log; they never train."""

from callbacks.checkpoint import AtomicCheckpointIO, LastCheckpoint
from callbacks.fid import FID
from callbacks.loggers import MetricsCSV, SafeWandbLogger
from callbacks.samples import Reconstructions, SampleGrid

__all__ = [
    "FID",
    "AtomicCheckpointIO",
    "LastCheckpoint",
    "MetricsCSV",
    "Reconstructions",
    "SafeWandbLogger",
    "SampleGrid",
]
