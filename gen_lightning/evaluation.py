"""Everything that is measured of a set of samples, from one pass of features."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gen_lightning.metrics.classes import class_balance, classifier_score
from gen_lightning.metrics.estimates import Estimate, format_with_error
from gen_lightning.metrics.extractor import FeatureExtractor
from gen_lightning.metrics.frechet import frechet_estimate
from gen_lightning.metrics.kernel import kernel_distance
from gen_lightning.metrics.manifold import manifold_metrics, memorization
from gen_lightning.storage import cached, fingerprint

Better = Literal["higher", "lower"]

# What is not here, such as a VAE's rate or its active units, is neither good nor bad.
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
}

# Part of every floor's key in the cache: raise it when the value of a metric changes.
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
        floor_n: training images that it is of
        better: which values are better, None where neither are
    """

    value: float
    error: float
    n: int
    floor: float | None = None
    floor_error: float | None = None
    floor_n: int | None = None
    better: Better | None = None


def make_row(name: str, estimate: Estimate, n: int) -> Row:
    """A row without a floor: `METRIC` or `METRIC/...` by name, of n examples."""
    return Row(*estimate, n, better=BETTER.get(name.partition("/")[0]))


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
    kind = f"{type(extractor).__module__}.{type(extractor).__qualname__} {extractor.num_features}"
    # Real features and those of samples are to be rounded alike.
    arithmetic = f"{device.type} {torch.get_float32_matmul_precision()}"
    mark = f"{kind} {extractor.sha256} {arithmetic} {fingerprint(images())}"

    def compute() -> dict[str, Tensor]:
        return {"features": torch.cat([extract_features(extractor, batch.to(device)) for batch in images()])}

    return RealFeatures(cached(f"features {mark}", compute)["features"].to(device), mark)


@torch.no_grad()
def extract_features(extractor: FeatureExtractor, images: Tensor) -> Tensor:
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
        UserError: features are NaN, infinite or constant, or too few for a metric.
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
    """All metrics of n random training images in place of samples, and of the others in place of training images."""

    def compute() -> dict[str, Tensor]:
        # At random, since data often come sorted by class.
        order = torch.randperm(len(training.features), generator=torch.Generator().manual_seed(0))
        order = order.to(training.features.device)
        parts = training.features[order[:n]], held_out.features, training.features[order[n:]]
        estimates = measure(extractor, *parts)
        return {name: torch.tensor(estimate, dtype=torch.float64) for name, estimate in estimates.items()}

    key = f"floor {_VERSION} {sorted(BETTER)} {n} {held_out.fingerprint} {training.fingerprint}"
    return {name: Estimate(*value.tolist()) for name, value in cached(key, compute).items()}


def sample_rows(
    extractor: FeatureExtractor, samples: Tensor, held_out: RealFeatures, training: RealFeatures
) -> dict[str, Row]:
    """The rows of a report on samples `[N, D]`, by `METRIC/EXTRACTOR`, each beside its floor.

    The floor is of N training images, or of half of them where N is more than that.
    """
    floor_n = min(len(samples), len(training.features) // 2)
    floors = floor(extractor, floor_n, held_out, training)
    estimates = measure(extractor, samples, held_out.features, training.features)
    return {
        f"{name}/{extractor.name}": Row(*estimate, len(samples), *floors[name], floor_n, BETTER[name])
        for name, estimate in estimates.items()
    }


def table(rows: dict[str, Row]) -> str:
    """The rows of a report as text."""
    lines = [["metric", "value", "floor", "N", "better"]]
    for name, row in rows.items():
        real = "" if row.floor is None else format_with_error(row.floor, row.floor_error)
        if row.floor_n not in (None, row.n):
            real += f" (N = {row.floor_n:,})"
        lines.append([name, format_with_error(row.value, row.error), real, f"{row.n:,}", row.better or ""])
    return "\n".join("{:<32}{:>22}{:>34}{:>10}  {}".format(*line).rstrip() for line in lines)
