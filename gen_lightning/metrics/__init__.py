"""Metrics as pure functions of features, and the frozen networks whose features they compare."""

from gen_lightning.metrics.classes import class_balance, classifier_score
from gen_lightning.metrics.estimates import Estimate
from gen_lightning.metrics.extractor import ClassifierFeatures, FeatureExtractor, InceptionFeatures, MNISTFeatures
from gen_lightning.metrics.frechet import frechet_distance, frechet_estimate
from gen_lightning.metrics.kernel import kernel_distance
from gen_lightning.metrics.manifold import manifold_metrics, memorization
from gen_lightning.metrics.modes import (
    gaussian_high_quality,
    mixture_modes,
    mode_coverage,
    perfect_sampler_floor,
    stacked_modes,
)

__all__ = [
    "ClassifierFeatures",
    "Estimate",
    "FeatureExtractor",
    "InceptionFeatures",
    "MNISTFeatures",
    "class_balance",
    "classifier_score",
    "frechet_distance",
    "frechet_estimate",
    "gaussian_high_quality",
    "kernel_distance",
    "manifold_metrics",
    "memorization",
    "mixture_modes",
    "mode_coverage",
    "perfect_sampler_floor",
    "stacked_modes",
]
