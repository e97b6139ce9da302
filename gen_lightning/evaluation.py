"""The evaluation of samples: all metrics from one pass of features, each with its floor, as rows of a report."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.classes import class_balance, classifier_score
from gen_lightning.metrics.estimates import Estimate, format_with_error
from gen_lightning.metrics.extractor import ClassifierFeatures, FeatureExtractor
from gen_lightning.metrics.frechet import estimate_frechet_distance
from gen_lightning.metrics.kernel import kernel_distance
from gen_lightning.metrics.manifold import manifold_metrics, memorization
from gen_lightning.storage import find_cache_folder, fingerprint, load_or_compute_cached

Better = Literal["higher", "lower"]

# Which values of a metric are better. Metrics that are neither good nor bad, such as a VAE's rate, are not listed.
BETTER: dict[str, Better] = {
    "fid": "lower",
    "kid": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "classifier_score": "higher",
    "class_balance": "lower",
    "memorization": "lower",
    "modes": "higher",
    "high_quality": "higher",
    "reverse_kl": "lower",
    "elbo": "higher",
    "nll": "lower",
    "bits_per_dimension": "lower",
    "bound": "higher",
    "linear_accuracy": "higher",
    "knn_accuracy": "higher",
    "conditional_accuracy": "higher",
    "code_error": "lower",
    "two_sample_accuracy": "lower",
    "trained_on_samples": "higher",
    "column_distance": "lower",
    "worst_column_distance": "lower",
    "association_error": "lower",
    "log_spectral_distance": "lower",
    "spectral_wasserstein": "lower",
    "feature_distance": "lower",
    "marginal_distance": "lower",
    "autocorrelation_difference": "lower",
    "correlation_difference": "lower",
    "nats_per_token": "lower",
    "perplexity": "lower",
    "ngram_divergence": "lower",
    "length_divergence": "lower",
    "training_lines": "lower",
}

# Part of every floor's key in the cache. Raise it when the computation of a metric changes.
_VERSION = 2


@dataclass(frozen=True)
class Row:
    """One metric of a report.

    Args:
        value: the metric
        error: standard error of the metric; None if it is unknown
        n: number of samples or images that the metric is computed on
        floor: the same metric with real training images instead of samples; None if there is no floor
        floor_error: standard error of the floor; None if it is unknown or there is no floor
        floor_n: number of training images that the floor is computed on
        better: which values are better; None if the metric is neither good nor bad
    """

    value: float
    error: float | None
    n: int
    floor: float | None = None
    floor_error: float | None = None
    floor_n: int | None = None
    better: Better | None = None


def make_row(name: str, estimate: Estimate, n: int) -> Row:
    """Return a row without a floor for `METRIC` or `METRIC/...`, computed on n examples."""
    return Row(*estimate, n, better=BETTER.get(name.partition("/")[0]))


@dataclass
class RealFeatures:
    """The features of one split of real images.

    Args:
        features: features of the images, `[N, D]`
        fingerprint: text that identifies the images and the extractor
    """

    features: Tensor
    fingerprint: str


def extract_real_features(
    extractor: FeatureExtractor, images: Callable[[], Iterable[Tensor]], device: torch.device
) -> RealFeatures:
    """Return the features of real images, from the cache after the first time.

    Args:
        extractor: frozen network on `device`
        images: function that returns the images in batches `[N, C, H, W]` in [0, 1], the same at each call
        device: device of the features
    """
    kind = f"{type(extractor).__module__}.{type(extractor).__qualname__} {extractor.num_features}"
    # Cached features must be rounded like the samples' features, which are computed with this device's arithmetic.
    arithmetic = f"{device.type} {torch.get_float32_matmul_precision()}"
    identity = f"{kind} {extractor.sha256} {arithmetic} {fingerprint(images())}"

    def compute() -> dict[str, Tensor]:
        return {"features": torch.cat([extract_features(extractor, batch.to(device)) for batch in images()])}

    shapes = {"features": (None, extractor.num_features)}
    features = load_or_compute_cached(f"features {identity}", compute, shapes)["features"]
    return RealFeatures(features.to(device), identity)


def get_extractor_path(identity: str) -> Path:
    """Return the file of the extractor that is trained on the data of an identity; it may not exist."""
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return find_cache_folder() / "extractors" / f"cnn_{digest[:8]}.safetensors"


def load_trained_extractor(identity: str) -> FeatureExtractor | None:
    """Return the extractor that is trained on the data of an identity, if there is one."""
    path = get_extractor_path(identity)
    return ClassifierFeatures(str(path)) if path.is_file() else None


@torch.no_grad()
def extract_features(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """Return float32 features `[N, D]` of images `[N, C, H, W]` in [0, 1]."""
    return extractor(images.float()).float()


def probe_extractor(extractor: FeatureExtractor, data_shape: Sequence[int], device: torch.device) -> Tensor:
    """Return the features of a black image, `[1, D]`; refuse an extractor that does not take images of its shape.

    Args:
        extractor: frozen network on `device`
        data_shape: shape of one image, `(C, H, W)`
        device: device of the features

    Raises:
        UserError: the extractor refuses the image or fails, or the features do not have its `num_features`.
    """
    try:
        features = extract_features(extractor, torch.zeros(1, *data_shape, device=device))
    except RuntimeError as error:
        raise UserError(
            f"The extractor {extractor.name} fails on an image of shape {tuple(data_shape)}:"
            f" {str(error).partition(chr(10))[0]}. Choose another `extractor`."
        ) from error
    if features.shape != (1, extractor.num_features):
        raise UserError(
            f"The extractor {extractor.name} returns features {list(features.shape)} of one image. Return `[N, D]` with"
            f" D = `num_features` = {extractor.num_features}."
        )
    return features


def measure(extractor: FeatureExtractor, samples: Tensor, held_out: Tensor, training: Tensor) -> dict[str, Estimate]:
    """Return all metrics of samples by name.

    The FID needs more samples and held-out images than features. It is left out if there are fewer.

    Args:
        extractor: extractor of the features; if it does not classify, classes are not measured
        samples: features of generated images, `[N, D]`
        held_out: features of real images that the model was not trained on, `[M, D]`
        training: features of the images that the model was trained on, `[T, D]`

    Raises:
        UserError: features are NaN, infinite or constant, or too few for a metric.
    """
    estimates: dict[str, Estimate] = {}
    # With fewer examples than features, the covariance is singular.
    if min(len(held_out), len(samples)) > samples.shape[1]:
        estimates["fid"] = estimate_frechet_distance(held_out, samples)
    estimates |= {"kid": kernel_distance(held_out, samples), **manifold_metrics(held_out, samples)}
    # A module of the user's own need not be a FeatureExtractor.
    if getattr(extractor, "classifies", True):
        probabilities = extractor.predict_probabilities(samples)
        estimates["classifier_score"] = classifier_score(probabilities)
        estimates["class_balance"] = class_balance(extractor.predict_probabilities(held_out), probabilities)
    return estimates | {"memorization": memorization(samples, held_out, training)}


def compute_floors(
    extractor: FeatureExtractor, n: int, held_out: RealFeatures, training: RealFeatures, names: Iterable[str]
) -> dict[str, Estimate]:
    """Return the floors of all metrics by name: the metrics with real training images instead of samples.

    Args:
        extractor: extractor of the features
        n: number of random training images that replace the samples; the other ones remain training images
        held_out: features of real images that the model was not trained on
        training: features of the training images
        names: names of the metrics that `measure` returns; a file in the cache with other ones is damaged
    """

    def compute() -> dict[str, Tensor]:
        # In random order, because data are often sorted by class.
        order = torch.randperm(len(training.features), generator=torch.Generator().manual_seed(0))
        order = order.to(training.features.device)
        parts = training.features[order[:n]], held_out.features, training.features[order[n:]]
        estimates = measure(extractor, *parts)
        return {name: torch.tensor(estimate, dtype=torch.float64) for name, estimate in estimates.items()}

    key = f"floor {_VERSION} {sorted(BETTER)} {n} {held_out.fingerprint} {training.fingerprint}"
    cached = load_or_compute_cached(key, compute, dict.fromkeys(names, (2,)))
    return {name: Estimate(*value.tolist()) for name, value in cached.items()}


def make_sample_rows(
    extractor: FeatureExtractor, samples: Tensor, held_out: RealFeatures, training: RealFeatures
) -> dict[str, Row]:
    """Return the rows of all metrics of samples, by `METRIC/EXTRACTOR`, each with its floor.

    The floor is computed on N training images, or on half of the training images if N is more than that.

    Args:
        extractor: extractor of the features
        samples: features of generated images, `[N, D]`
        held_out: features of real images that the model was not trained on
        training: features of the images that the model was trained on
    """
    floor_n = min(len(samples), len(training.features) // 2)
    estimates = measure(extractor, samples, held_out.features, training.features)
    if floor_n <= samples.shape[1]:
        estimates.pop("fid", None)
    floors = compute_floors(extractor, floor_n, held_out, training, estimates)
    return {
        f"{name}/{extractor.name}": Row(*estimate, len(samples), *floors[name], floor_n, BETTER[name])
        for name, estimate in estimates.items()
    }


def format_table(rows: dict[str, Row]) -> str:
    """Return the rows of a report as a table in plain text."""
    lines = [["metric", "value", "floor", "N", "better"]]
    for name, row in rows.items():
        real = "" if row.floor is None else format_with_error(row.floor, row.floor_error)
        if row.floor_n not in (None, row.n):
            real += f" (N = {row.floor_n:,})"
        lines.append([name, format_with_error(row.value, row.error), real, f"{row.n:,}", row.better or ""])
    return "\n".join("{:<32}{:>22}{:>34}{:>10}  {}".format(*line).rstrip() for line in lines)
