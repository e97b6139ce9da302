"""Metrics of samples by classifiers of scikit-learn: a two-sample test, and training on samples."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, estimate_mean

_FOLDS = 5


def classifier_two_sample_test(held_out: Tensor, samples: Tensor, seed: int = 0) -> Estimate:
    """Return the accuracy with which a classifier tells samples from held-out examples (Lopez-Paz & Oquab 2017).

    0.5 means that the classifier cannot tell them apart, 1 that it always can. The larger set is reduced to the size of
    the smaller one, N. The classifier is a gradient-boosted ensemble of trees; each example is classified by a model
    that was trained on the other four fifths. The standard error is that of 2 N independent answers.

    Args:
        held_out: features of real examples, `[M, D]`
        samples: features of generated examples, `[N, D]`
        seed: seed of the selection, the folds and the classifier

    Raises:
        UserError: a set has fewer than 5 examples.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    n = min(len(held_out), len(samples))
    if n < _FOLDS:
        raise UserError(
            f"A two-sample test needs at least {_FOLDS} held-out examples and samples, and there are {len(held_out)}"
            f" and {len(samples)}. Choose a larger --data.test_fraction or --num_samples."
        )
    generator = torch.Generator().manual_seed(seed)
    parts = [part[torch.randperm(len(part), generator=generator)[:n]] for part in (held_out, samples)]
    features = torch.cat(parts).double().numpy()
    labels = np.repeat([0, 1], n)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    predicted = cross_val_predict(_build_classifier(seed), features, labels, cv=folds)
    return estimate_mean(torch.from_numpy(predicted == labels))


def train_on_samples(
    samples: Tensor, sample_targets: Tensor, held_out: Tensor, held_out_targets: Tensor, seed: int = 0
) -> Estimate:
    """Return the test accuracy on real examples of a classifier that is trained on samples (Esteban et al. 2017).

    With training examples instead of samples, it is the accuracy that the samples ought to reach. If all samples have
    one class, the classifier always answers it.

    Args:
        samples: features of generated examples, `[N, D]`
        sample_targets: their classes, int64 `[N]`
        held_out: features of real examples, `[M, D]`
        held_out_targets: their classes, int64 `[M]`
        seed: seed of the classifier
    """
    if len(sample_targets.unique()) == 1:
        return estimate_mean(held_out_targets == sample_targets[0])
    classifier = _build_classifier(seed).fit(samples.double().numpy(), sample_targets.numpy())
    predicted = torch.from_numpy(classifier.predict(held_out.double().numpy()))
    return estimate_mean(predicted == held_out_targets)


def _build_classifier(seed: int) -> Any:
    # scikit-learn is slow to import, and most runs do not need it.
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=seed)
