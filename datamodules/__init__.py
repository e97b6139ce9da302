"""Data: one LightningDataModule per kind, delivering (data, labels) on the device."""

from datamodules.loaders import Batch, EvaluationLoader, TrainLoader
from datamodules.mnist import MNISTDataModule

__all__ = ["Batch", "EvaluationLoader", "MNISTDataModule", "TrainLoader"]
