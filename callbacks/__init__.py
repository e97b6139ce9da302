"""Observers: they sample, compute metrics, and log; they never train."""

from callbacks.checkpoint import AtomicCheckpointIO, LastCheckpoint
from callbacks.codes import CodeClasses
from callbacks.collapse import CollapseMonitor
from callbacks.compile import Compile
from callbacks.conditional import ConditionalAccuracy
from callbacks.divergence import DivergenceError, StopOnNaN
from callbacks.evaluation import Evaluation
from callbacks.latent_metrics import LatentMetrics
from callbacks.latent_pictures import LatentInterpolations, LatentManifold, LatentTraversals
from callbacks.likelihood import ImportanceSampledLikelihood
from callbacks.loggers import MetricsCSV, SafeWandbLogger, finish_wandb_runs, wandb_loggers
from callbacks.modes import ModeCoverage
from callbacks.pictures import LatentCodeGrid, Reconstructions, SampleGrid, ScatterPlot
from callbacks.sampling import SampleMeasure

__all__ = [
    "AtomicCheckpointIO",
    "CodeClasses",
    "CollapseMonitor",
    "Compile",
    "ConditionalAccuracy",
    "DivergenceError",
    "Evaluation",
    "ImportanceSampledLikelihood",
    "LastCheckpoint",
    "LatentCodeGrid",
    "LatentInterpolations",
    "LatentManifold",
    "LatentMetrics",
    "LatentTraversals",
    "MetricsCSV",
    "ModeCoverage",
    "Reconstructions",
    "SafeWandbLogger",
    "SampleGrid",
    "SampleMeasure",
    "ScatterPlot",
    "StopOnNaN",
    "finish_wandb_runs",
    "wandb_loggers",
]
