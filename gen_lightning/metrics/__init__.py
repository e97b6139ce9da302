"""Metrics as pure functions of features, and the frozen networks whose features they compare."""

from gen_lightning.metrics.classes import class_balance, classifier_score
from gen_lightning.metrics.comparison import compare
from gen_lightning.metrics.estimates import Estimate
from gen_lightning.metrics.extractor import ClassifierFeatures, FeatureExtractor, InceptionFeatures, MNISTFeatures
from gen_lightning.metrics.frechet import frechet_distance, frechet_estimate
from gen_lightning.metrics.kernel import kernel_distance
from gen_lightning.metrics.manifold import manifold_metrics, memorization
from gen_lightning.metrics.modes import (
    high_quality_of_gaussian,
    mixture_modes,
    mode_coverage,
    perfect_sampler_floor,
    stacked_modes,
)
from gen_lightning.metrics.report import Row, measure, sample_rows, table

__all__ = [
    "ClassifierFeatures",
    "Estimate",
    "FeatureExtractor",
    "InceptionFeatures",
    "MNISTFeatures",
    "Row",
    "class_balance",
    "classifier_score",
    "compare",
    "frechet_distance",
    "frechet_estimate",
    "high_quality_of_gaussian",
    "kernel_distance",
    "manifold_metrics",
    "measure",
    "memorization",
    "mixture_modes",
    "mode_coverage",
    "perfect_sampler_floor",
    "sample_rows",
    "stacked_modes",
    "table",
]
