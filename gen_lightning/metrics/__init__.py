"""Metrics as pure functions of features or log-weights, and the frozen networks that extract the features."""

from gen_lightning.metrics.classes import class_balance, classifier_score
from gen_lightning.metrics.estimates import Estimate, estimate_ratio
from gen_lightning.metrics.extractor import (
    ClassifierFeatures,
    FeatureExtractor,
    ImageClassifier,
    InceptionFeatures,
    MNISTFeatures,
)
from gen_lightning.metrics.frechet import estimate_frechet_distance, frechet_distance
from gen_lightning.metrics.kernel import kernel_distance
from gen_lightning.metrics.manifold import manifold_metrics, memorization
from gen_lightning.metrics.modes import (
    assign_mixture_modes,
    assign_stacked_modes,
    gaussian_high_quality,
    mode_coverage,
    simulate_perfect_sampler,
)
from gen_lightning.metrics.signals import (
    SignalFeatures,
    compute_autocorrelations,
    compute_correlations,
    compute_power_spectra,
    extract_signal_features,
    join_signal_features,
    log_spectral_distance,
    mean_difference,
    spectral_wasserstein,
    wasserstein_distance,
)
from gen_lightning.metrics.tables import association_error, column_distances, summarize_distances
from gen_lightning.metrics.text import (
    measure_copies,
    measure_distinct,
    measure_length_divergence,
    measure_ngram_divergence,
)
from gen_lightning.metrics.two_sample import classifier_two_sample_test, train_on_samples

__all__ = [
    "ClassifierFeatures",
    "Estimate",
    "FeatureExtractor",
    "ImageClassifier",
    "InceptionFeatures",
    "MNISTFeatures",
    "SignalFeatures",
    "assign_mixture_modes",
    "assign_stacked_modes",
    "association_error",
    "class_balance",
    "classifier_score",
    "classifier_two_sample_test",
    "column_distances",
    "compute_autocorrelations",
    "compute_correlations",
    "compute_power_spectra",
    "estimate_frechet_distance",
    "estimate_ratio",
    "extract_signal_features",
    "frechet_distance",
    "gaussian_high_quality",
    "join_signal_features",
    "kernel_distance",
    "log_spectral_distance",
    "manifold_metrics",
    "mean_difference",
    "measure_copies",
    "measure_distinct",
    "measure_length_divergence",
    "measure_ngram_divergence",
    "memorization",
    "mode_coverage",
    "simulate_perfect_sampler",
    "spectral_wasserstein",
    "summarize_distances",
    "train_on_samples",
    "wasserstein_distance",
]
