"""Metrics of class probabilities: the classifier score, the class balance, and the matching of codes to classes."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, bootstrap, check_finite


def classifier_score(probabilities: Tensor) -> Estimate:
    """Return exp of the mean KL(p(y | x) || p(y)), from 1 to C: the Inception Score (Salimans et al. 2016, section 4).

    It is computed in float64 over all samples at once. The standard error is by the bootstrap. The score does not
    depend on the real images.

    Args:
        probabilities: p(y | x) of the samples, `[N, C]`

    Raises:
        UserError: the rows are not probabilities.
    """
    _check_probabilities(probabilities, "samples")
    return bootstrap(_compute_score, probabilities.double())


def class_balance(real: Tensor, fake: Tensor) -> Estimate:
    """Return KL(p_fake(y) || p_real(y)) of the mean class probabilities, in nats, in float64.

    It is 0 if the classes are equally frequent in both sets, and infinite if samples have a class that no real image
    has. The standard error is by the bootstrap over both sets. Near 0 it is up to half as large again as the true one,
    and the bias of the value is about (C - 1) / 2 (1 / M + 1 / N).

    Args:
        real: p(y | x) of real images, `[M, C]`
        fake: p(y | x) of samples, `[N, C]`

    Raises:
        UserError: the rows are not probabilities.
    """
    _check_probabilities(real, "real images")
    _check_probabilities(fake, "samples")
    return bootstrap(_compute_divergence, real.double(), fake.double())


def match_classes(categories: Tensor, labels: Tensor, num_categories: int) -> Tensor:
    """Return the class that each category is matched to, int64 `[num_categories]`.

    Each class is matched to at most one category, and no other matching classifies more examples correctly (the
    assignment problem, Kuhn 1955). If there are more categories than classes, the remaining ones get -1.

    Args:
        categories: categories of N examples, int64 `[N]` in 0..num_categories-1, on the CPU
        labels: classes of the same examples, int64 `[N]`, from 0, on the CPU
        num_categories: number of categories
    """
    num_classes = int(labels.max()) + 1
    pairs = (categories * num_classes + labels).bincount(minlength=num_categories * num_classes)
    rows, columns = linear_sum_assignment(pairs.view(num_categories, num_classes).numpy(), maximize=True)
    classes = torch.full((num_categories,), -1)
    classes[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return classes


def _check_probabilities(probabilities: Tensor, name: str) -> None:
    check_finite(probabilities, name)
    if (probabilities < 0).any() or ((probabilities.sum(1) - 1).abs() > 1e-3).any():
        raise UserError(f"The rows of the {name} are not class probabilities. Give the softmax of the logits.")


def _compute_score(probabilities: Tensor) -> Tensor:
    # The mean KL is the entropy of the mean minus the mean entropy.
    return (_compute_entropy(probabilities.mean(0)) - _compute_entropy(probabilities).mean()).exp()


def _compute_divergence(real: Tensor, fake: Tensor) -> Tensor:
    real, fake = real.mean(0), fake.mean(0)
    return -_compute_entropy(fake) - torch.xlogy(fake, real).sum()


def _compute_entropy(probabilities: Tensor) -> Tensor:
    return -torch.xlogy(probabilities, probabilities).sum(-1)
