"""Metrics of a classifier's probabilities: how sure it is of the samples, and how evenly they cover the classes.

And which classes the categories are that were found without labels.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gen_lightning.errors import UserError
from gen_lightning.metrics.estimates import Estimate, bootstrap, check_finite


def classifier_score(probabilities: Tensor) -> Estimate:
    """Exp of the mean KL(p(y | x) || p(y)), from 1 to C: the Inception Score (Salimans et al. 2016, section 4).

    Over all samples at once, in float64, with a standard error by the bootstrap. It knows nothing of the real images.

    Args:
        probabilities: p(y | x) of the samples, `[N, C]`

    Raises:
        UserError: the rows are not probabilities.
    """
    _check_probabilities(probabilities, "samples")
    return bootstrap(_score, probabilities.double())


def class_balance(real: Tensor, fake: Tensor) -> Estimate:
    """KL(p_fake(y) || p_real(y)) of the mean class probabilities, in nats: 0 for equal balance, in float64.

    Infinite where samples hold a class that no real image does. Its standard error is by the bootstrap over both sets,
    which makes it up to half as large again near 0; there its bias is about (C - 1) / 2 (1 / M + 1 / N).

    Args:
        real: p(y | x) of real images, `[M, C]`
        fake: p(y | x) of samples, `[N, C]`

    Raises:
        UserError: the rows are not probabilities.
    """
    _check_probabilities(real, "real images")
    _check_probabilities(fake, "samples")
    return bootstrap(_divergence, real.double(), fake.double())


def match_classes(categories: Tensor, labels: Tensor, num_categories: int) -> Tensor:
    """The class that each category is taken for, int64 `[num_categories]`, or -1 where more categories than classes.

    No class is taken twice, and no other choice is right more often (the assignment problem, Kuhn 1955).

    Args:
        categories: of examples, int64 `[N]` in 0..num_categories-1, on the CPU
        labels: their classes, int64 `[N]`, from 0, on the CPU
        num_categories: how many categories there are
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
        raise UserError(f"The rows of the {name} are not class probabilities: give the softmax of the logits.")


def _score(probabilities: Tensor) -> Tensor:
    # The mean KL is the entropy of the mean less the mean entropy.
    return (_entropy(probabilities.mean(0)) - _entropy(probabilities).mean()).exp()


def _divergence(real: Tensor, fake: Tensor) -> Tensor:
    real, fake = real.mean(0), fake.mean(0)
    return -_entropy(fake) - torch.xlogy(fake, real).sum()


def _entropy(probabilities: Tensor) -> Tensor:
    return -torch.xlogy(probabilities, probabilities).sum(-1)
