"""Data: one LightningDataModule per kind, delivering (data, labels) on the device."""

from datamodules.loaders import Batch, EvaluationLoader, TrainLoader
from datamodules.mixtures import GaussianMixture, GaussianMixtureDataModule, Grid, Ring
from datamodules.mnist import MNISTDataModule
from datamodules.stacked import StackedMNISTDataModule, StackLoader

__all__ = [
    "Batch",
    "EvaluationLoader",
    "GaussianMixture",
    "GaussianMixtureDataModule",
    "Grid",
    "MNISTDataModule",
    "Ring",
    "StackLoader",
    "StackedMNISTDataModule",
    "TrainLoader",
]
