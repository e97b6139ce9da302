"""Callbacks that observe: they sample, compute metrics, draw and log, and never change the training."""

from callbacks.checkpoint import AtomicCheckpointIO, LastCheckpoint
from callbacks.codes import CodeClasses
from callbacks.collapse import CollapseMonitor
from callbacks.compile import Compile
from callbacks.conditional import ConditionalAccuracy
from callbacks.divergence import DivergenceError, StopOnNaN
from callbacks.evaluation import Evaluation
from callbacks.example_evaluation import ExampleEvaluation
from callbacks.example_means import ExampleMeans
from callbacks.latent_metrics import LatentMetrics
from callbacks.latent_pictures import LatentInterpolations, LatentManifold, LatentTraversals
from callbacks.likelihood import ImportanceSampledLikelihood
from callbacks.loggers import SafeWandbLogger, find_wandb_loggers, finish_wandb_runs
from callbacks.metrics_csv import MetricsCSV, read_metrics_rows
from callbacks.modes import ModeCoverage
from callbacks.pictures import LatentCodeGrid, Reconstructions, SampleGrid, ScatterPlot
from callbacks.sampling import SampleMeasure
from callbacks.signal_evaluation import SignalEvaluation
from callbacks.signal_pictures import SignalPlot, SignalReconstructions
from callbacks.tables import TableEvaluation
from callbacks.text import SampleText, TextEvaluation

__all__ = [
    "AtomicCheckpointIO",
    "CodeClasses",
    "CollapseMonitor",
    "Compile",
    "ConditionalAccuracy",
    "DivergenceError",
    "Evaluation",
    "ExampleEvaluation",
    "ExampleMeans",
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
    "SampleText",
    "ScatterPlot",
    "SignalEvaluation",
    "SignalPlot",
    "SignalReconstructions",
    "StopOnNaN",
    "TableEvaluation",
    "TextEvaluation",
    "find_wandb_loggers",
    "finish_wandb_runs",
    "read_metrics_rows",
]
