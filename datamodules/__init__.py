"""Data modules: each delivers batches of (data, labels) on the device. `SplitDataModule` is their base class."""

from datamodules.arrays import ArrayDataModule
from datamodules.base import ImageDataModule, SplitDataModule
from datamodules.celeba import CelebADataModule
from datamodules.colour import ColourDataModule
from datamodules.image_folder import ImageFolderDataModule
from datamodules.loaders import Batch, EvaluationLoader, TrainLoader
from datamodules.mixtures import GaussianMixture, GaussianMixtureDataModule, Grid, Ring
from datamodules.mnist import MNISTDataModule
from datamodules.signals import SignalDataModule
from datamodules.sources import Split
from datamodules.stacked import StackedMNISTDataModule, StackLoader
from datamodules.tables import TableDataModule
from datamodules.text import TextDataModule

__all__ = [
    "ArrayDataModule",
    "Batch",
    "CelebADataModule",
    "ColourDataModule",
    "EvaluationLoader",
    "GaussianMixture",
    "GaussianMixtureDataModule",
    "Grid",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MNISTDataModule",
    "Ring",
    "SignalDataModule",
    "Split",
    "SplitDataModule",
    "StackLoader",
    "StackedMNISTDataModule",
    "TableDataModule",
    "TextDataModule",
    "TrainLoader",
]
