"""Everything that is measured of a set of samples, from one pass of features."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gen_lightning.metrics.cache import cached, fingerprint
from gen_lightning.metrics.classes import class_balance, classifier_score
from gen_lightning.metrics.estimates import Estimate, with_error
from gen_lightning.metrics.extractor import FeatureExtractor
from gen_lightning.metrics.frechet import frechet_estimate
from gen_lightning.metrics.kernel import kernel_distance
from gen_lightning.metrics.manifold import manifold_metrics, memorization

Better = Literal["higher", "lower"]

# What is not here, such as a VAE's rate, is neither good nor bad.
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
}

# Part of every key in the cache: raise it when a metric's value changes.
_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One metric of a report.

    Args:
        value: the metric
        error: its standard error
        n: samples, or images, that it is of
        floor: the same metric of real training images in place of samples, as far as there is one
        floor_error: its standard error
        better: which values are better, None where neither are
    """

    value: float
    error: float
    n: int
    floor: float | None = None
    floor_error: float | None = None
    better: Better | None = None


@dataclass
class RealFeatures:
    """What an extractor sees of one split of real images.

    Args:
        features: `[N, D]`
        fingerprint: of the images and the extractor together
    """

    features: Tensor
    fingerprint: str


def real_features(
    extractor: FeatureExtractor, images: Callable[[], Iterable[Tensor]], device: torch.device
) -> RealFeatures:
    """The features of real images, from the cache after the first time.

    Args:
        extractor: on `device`
        images: gives batches `[N, C, H, W]` in [0, 1], the same each time
        device: where the features are to be
    """
    mark = f"{_VERSION} {extractor.sha256} {fingerprint(images())}"

    def compute() -> dict[str, Tensor]:
        return {"features": torch.cat([features_of(extractor, batch.to(device)) for batch in images()])}

    return RealFeatures(cached(f"features {mark}", compute)["features"].to(device), mark)


@torch.no_grad()
def features_of(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """Features `[N, D]` of images `[N, C, H, W]` in [0, 1], in float32."""
    return extractor(images.float()).float()


def measure(extractor: FeatureExtractor, samples: Tensor, held_out: Tensor, training: Tensor) -> dict[str, Estimate]:
    """All metrics of samples, by name.

    Args:
        extractor: whose features they are
        samples: features of generated images, `[N, D]`
        held_out: features of real images that no model is trained on, `[M, D]`
        training: features of the images that the model was trained on, `[T, D]`

    Raises:
        ValueError: features are NaN, infinite or constant, or too few for a metric.
    """
    real_probabilities, probabilities = extractor.probabilities(held_out), extractor.probabilities(samples)
    return {
        "fid": frechet_estimate(held_out, samples),
        "kid": kernel_distance(held_out, samples),
        **manifold_metrics(held_out, samples),
        "classifier_score": classifier_score(probabilities),
        "class_balance": class_balance(real_probabilities, probabilities),
        "memorization": memorization(samples, held_out, training),
    }


def floor(extractor: FeatureExtractor, n: int, held_out: RealFeatures, training: RealFeatures) -> dict[str, Estimate]:
    """All metrics of the first n training images in place of samples, and of the others in place of training images."""

    def compute() -> dict[str, Tensor]:
        first, others = training.features[:n], training.features[n:]
        estimates = measure(extractor, first, held_out.features, others)
        return {name: torch.tensor(estimate, dtype=torch.float64) for name, estimate in estimates.items()}

    values = cached(f"floor {n} {held_out.fingerprint} {training.fingerprint}", compute)
    return {name: Estimate(*value.tolist()) for name, value in values.items()}


def sample_rows(
    extractor: FeatureExtractor, samples: Tensor, held_out: RealFeatures, training: RealFeatures
) -> dict[str, Row]:
    """The rows of a report on samples `[N, D]`, by `METRIC/EXTRACTOR`, each beside its floor at the same N.

    The floor is of half the training images where those are fewer than N.
    """
    floors = floor(extractor, min(len(samples), len(training.features) // 2), held_out, training)
    estimates = measure(extractor, samples, held_out.features, training.features)
    return {
        f"{name}/{extractor.name}": Row(*estimate, len(samples), *floors[name], BETTER[name])
        for name, estimate in estimates.items()
    }


def table(rows: dict[str, Row]) -> str:
    """The rows of a report as text."""
    lines = [["metric", "value", "floor", "N", "better"]]
    for name, row in rows.items():
        floor = "" if row.floor is None else with_error(row.floor, row.floor_error)
        lines.append([name, with_error(row.value, row.error), floor, f"{row.n:,}", row.better or ""])
    return "\n".join(
        f"{name:<32}{value:>22}{floor:>22}{n:>10}  {better}".rstrip() for name, value, floor, n, better in lines
    )
