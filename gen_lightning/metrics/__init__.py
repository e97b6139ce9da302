"""Metrics, and the frozen networks whose features they compare."""

from gen_lightning.metrics.extractor import FeatureExtractor, InceptionFeatures, MNISTFeatures

__all__ = ["FeatureExtractor", "InceptionFeatures", "MNISTFeatures"]
