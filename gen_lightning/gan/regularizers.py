"""Regularizers: terms added to the discriminator's loss, independent of the choice of the loss.

Under mixed precision the penalties are computed in float32: the three digits of bfloat16 are too few for second
derivatives and for small differences.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.networks import Affine, find_num_classes
from gen_lightning.schedules import Schedule, evaluate_schedule


@dataclass
class DiscriminatorPass:
    """The tensors of one discriminator update that regularizers depend on.

    Args:
        discriminator: network that is updated
        real: real data, `[N, ...]`, which require gradients
        fake: generated data, `[N, ...]`, which require gradients
        real_logits: logits of the real data, `[N]`
        fake_logits: logits of the generated data, `[N]`
        iteration: number of completed iterations, for weights that follow a schedule
        condition: labels `[N]` of the real data, which the generated data share, if the discriminator is conditional;
            otherwise nothing
    """

    discriminator: nn.Module
    real: Tensor
    fake: Tensor
    real_logits: Tensor
    fake_logits: Tensor
    iteration: int
    condition: Sequence[Tensor] = ()

    def compute_logits(self, data: Tensor, logits: Tensor | None = None) -> Tensor:
        """Return the discriminator's logits `[N]` in full precision, for data with the labels of this pass.

        Args:
            data: data, `[N, ...]`
            logits: logits that this update has already computed for the data; reused unless autocast is on
        """
        if logits is not None and not torch.is_autocast_enabled(data.device.type):
            return logits
        with torch.autocast(data.device.type, enabled=False):
            return self.discriminator(data, *self.condition)

    def evaluate_weight(self, weight: float | Schedule) -> float:
        """Return the value of a weight in this iteration."""
        return evaluate_schedule(weight, self.iteration)


class DiscriminatorRegularizer(nn.Module, ABC):
    """A term of the discriminator's loss. State that it keeps between iterations is a buffer, so checkpoints store it.

    Attributes:
        name: key of the term in the logs
        per_example: whether the term is a function of the gradient of each logit with respect to its own example. Batch
            normalization makes a logit depend on other examples, and a compiled discriminator has no second derivative.
        conditional: whether the term needs a discriminator that takes labels
    """

    name: str
    per_example = False
    conditional = False

    @abstractmethod
    def forward(self, state: DiscriminatorPass) -> Tensor:
        """Return the weighted term, a scalar."""


class R1(DiscriminatorRegularizer):
    """gamma / 2 * E[|grad D(x)|^2] on real data (Mescheder, Geiger & Nowozin 2018, equation 9).

    Args:
        gamma: weight of the penalty, at least 0, or its schedule
    """

    name = "r1"
    per_example = True

    def __init__(self, gamma: float | Schedule = 1.0) -> None:
        super().__init__()
        check_range(self, at_least=0, gamma=evaluate_schedule(gamma, 0))
        self.gamma = gamma

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """Return the weighted penalty, a scalar."""
        return self._penalize(state, state.compute_logits(state.real, state.real_logits), state.real)

    def _penalize(self, state: DiscriminatorPass, logits: Tensor, data: Tensor) -> Tensor:
        return state.evaluate_weight(self.gamma) / 2 * compute_example_gradients(logits, data).square().sum(1).mean()


class R2(R1):
    """gamma / 2 * E[|grad D(G(z))|^2] on generated data (Mescheder, Geiger & Nowozin 2018, equation 10).

    Args:
        gamma: weight of the penalty, at least 0, or its schedule
    """

    name = "r2"

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """Return the weighted penalty, a scalar."""
        return self._penalize(state, state.compute_logits(state.fake, state.fake_logits), state.fake)


class GradientPenalty(DiscriminatorRegularizer):
    """weight * E[(|grad D(x')| - 1)^2], x' between a real and a generated example (Gulrajani et al. 2017, equation 3).

    Each logit has its own x', drawn uniformly from the line between a real and a generated input. The input is one
    example, or a pack of them (`Packing`).

    Args:
        weight: weight of the term, at least 0, or its schedule
        one_sided: whether only norms above 1 are penalized (section 4 of the paper)
    """

    name = "gradient_penalty"
    per_example = True

    def __init__(self, weight: float | Schedule = 10.0, one_sided: bool = False) -> None:
        super().__init__()
        check_range(self, at_least=0, weight=evaluate_schedule(weight, 0))
        self.weight = weight
        self.one_sided = one_sided

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """Return the weighted penalty, a scalar."""
        num_logits = len(state.real_logits)
        one_each = (num_logits, *[1] * (state.real.dim() - 1))
        epsilon = torch.rand(one_each, device=state.real.device, dtype=state.real.dtype)
        # All examples of a pack share one epsilon: otherwise x' would leave the line between the two packs.
        epsilon = epsilon.repeat_interleave(len(state.real) // num_logits, 0)
        between = state.fake.lerp(state.real, epsilon).detach().requires_grad_()
        excess = compute_example_gradients(state.compute_logits(between), between).norm(dim=1) - 1
        return state.evaluate_weight(self.weight) * (excess.relu() if self.one_sided else excess).square().mean()


class DRAGAN(DiscriminatorRegularizer):
    """weight * E[(|grad D(x + noise)| - 1)^2] around real data (Kodali et al. 2017).

    Args:
        weight: weight of the term, at least 0, or its schedule
        noise: standard deviation of the normal noise, in units of the data; at least 0. The authors' code adds half of
            the data's standard deviation, times a uniform number in [0, 1] for each pixel and another one for each
            example. The root mean square is a sixth of the standard deviation: 0.051 on MNIST, the default.
    """

    name = "dragan"
    per_example = True

    def __init__(self, weight: float | Schedule = 10.0, noise: float = 0.051) -> None:
        super().__init__()
        check_range(self, at_least=0, weight=evaluate_schedule(weight, 0), noise=noise)
        self.weight = weight
        self.noise = noise

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """Return the weighted penalty, a scalar."""
        perturbed = (state.real + self.noise * torch.randn_like(state.real)).detach().requires_grad_()
        norms = compute_example_gradients(state.compute_logits(perturbed), perturbed).norm(dim=1)
        return state.evaluate_weight(self.weight) * (norms - 1).square().mean()


class LeCam(DiscriminatorRegularizer):
    """weight * (E[(D(x) - a_fake)^2] + E[(D(G(z)) - a_real)^2]) (Tseng et al. 2021, R_LC).

    a_real and a_fake are exponential moving averages of the logits of real and generated data, initialized at 0.

    Args:
        weight: weight of the term, at least 0, or its schedule
        decay: decay of the averages per discriminator update, in [0, 1)

    Raises:
        UserError: weight is negative, or decay is not in [0, 1).
    """

    name = "lecam"
    real_average: Tensor
    fake_average: Tensor

    def __init__(self, weight: float | Schedule = 0.3, decay: float = 0.99) -> None:
        super().__init__()
        check_range(self, at_least=0, below=1, decay=decay)
        check_range(self, at_least=0, weight=evaluate_schedule(weight, 0))
        self.weight = weight
        self.decay = decay
        self.register_buffer("real_average", torch.zeros(()))
        self.register_buffer("fake_average", torch.zeros(()))

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """Update the averages with this batch's logits, then return the weighted penalty, a scalar."""
        real, fake = state.real_logits, state.fake_logits
        self.real_average += (1 - self.decay) * (real.detach().mean() - self.real_average)
        self.fake_average += (1 - self.decay) * (fake.detach().mean() - self.fake_average)
        distances = (real - self.fake_average).square().mean() + (fake - self.real_average).square().mean()
        return state.evaluate_weight(self.weight) * distances


class Consistency(DiscriminatorRegularizer):
    """weight * E[(D(x) - D(T(x)))^2] on real data (CR-GAN, Zhang et al. 2020).

    Args:
        augmentation: random transformation T of each example, data `[N, ...]` -> data `[N, ...]`, such as
            `networks.Translation`
        weight: weight of the term, at least 0, or its schedule
    """

    name = "consistency"

    def __init__(self, augmentation: nn.Module, weight: float | Schedule = 10.0) -> None:
        super().__init__()
        self.augmentation = augmentation
        check_range(self, at_least=0, weight=evaluate_schedule(weight, 0))
        self.weight = weight

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """Return the weighted penalty, a scalar."""
        logits = state.compute_logits(state.real, state.real_logits)
        augmented_logits = state.compute_logits(self.augmentation(state.real.detach()))
        return state.evaluate_weight(self.weight) * (logits - augmented_logits).square().mean()


class MismatchedLabels(DiscriminatorRegularizer):
    """weight * E[softplus(D(x, y') - D(x, y))] on real data x with their labels y and wrong labels y'.

    This is the matching-aware discriminator of Reed et al. 2016 (algorithm 1, which treats a real example with a wrong
    label as fake) in the form of the relativistic loss. Without other terms, the minimum is at
    D(x, y) - D(x, y') = log p(y | x) / p(y' | x). The discriminator then also acts as a classifier, whose gradients
    teach the generator to match its labels.

    Args:
        weight: weight of the term, at least 0, or its schedule
    """

    name = "mismatched_labels"
    conditional = True

    def __init__(self, weight: float | Schedule = 1.0) -> None:
        super().__init__()
        check_range(self, at_least=0, weight=evaluate_schedule(weight, 0))
        self.weight = weight

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """Return the weighted term, a scalar. Each wrong label is equally likely."""
        (labels,) = state.condition
        num_classes = cast(int, find_num_classes(state.discriminator))
        wrong_labels = (labels + torch.randint_like(labels, 1, num_classes)) % num_classes
        mismatched = replace(state, condition=(wrong_labels,)).compute_logits(state.real.detach())
        matched = state.compute_logits(state.real, state.real_logits)
        return state.evaluate_weight(self.weight) * F.softplus(mismatched - matched).mean()


class Lazy(DiscriminatorRegularizer):
    """Lazy regularization: k times a regularizer, in every k-th iteration only (Karras et al. 2020, section 3.1).

    Iterations count from 0, so that the first iteration is regularized. The logs show k times the regularizer's value,
    or 0.

    Args:
        regularizer: regularizer to apply
        interval: number of iterations from one application to the next, k; at least 1

    Raises:
        UserError: the interval is less than 1.
    """

    def __init__(self, regularizer: DiscriminatorRegularizer, interval: int = 16) -> None:
        super().__init__()
        check_range(self, at_least=1, interval=interval)
        self.name, self.per_example = regularizer.name, regularizer.per_example
        self.conditional = regularizer.conditional
        self.regularizer = regularizer
        self.interval = interval

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """Return the regularizer's term times the interval, or 0."""
        if state.iteration % self.interval:
            return torch.zeros_like(state.real_logits[0])
        return self.interval * self.regularizer(state)


def check_regularizers(regularizers: Sequence[DiscriminatorRegularizer], discriminator: nn.Module) -> None:
    """Refuse regularizers that do not fit together or do not fit the discriminator.

    Raises:
        UserError: two terms have the same name, a term with per-example gradients meets batch normalization, or a term
            needs labels that the discriminator does not take.
    """
    names = ["discriminator_loss", *(regularizer.name for regularizer in regularizers)]
    if len(set(names)) < len(names):
        raise UserError(f"Two terms of the discriminator's loss have the same name: {', '.join(names)}. Remove one.")
    normalized = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in discriminator.modules())
    for regularizer in regularizers:
        if regularizer.per_example and normalized:
            raise UserError(
                f"The regularizer {regularizer.name} needs the gradient of each example, and batch normalization mixes"
                " examples. Choose a discriminator without it, or remove the regularizer."
            )
        if regularizer.conditional and (find_num_classes(discriminator) or 0) < 2:
            raise UserError(
                f"The regularizer {regularizer.name} needs a discriminator that is conditional on at least 2 classes."
                " Choose ProjectionDiscriminator, or remove the regularizer."
            )


def check_differentiable_twice(regularizers: Sequence[DiscriminatorRegularizer], discriminator: nn.Module) -> None:
    """Refuse gradient penalties if the discriminator has no second derivative: compiled, or with `Affine`.

    Raises:
        UserError: a regularizer needs a second derivative that the discriminator does not have.
    """
    for regularizer in regularizers:
        for module in discriminator.modules() if regularizer.per_example else ():
            if module._compiled_call_impl is not None:
                raise UserError(
                    f"The regularizer {regularizer.name} needs a second derivative, and a compiled discriminator has"
                    " none. Compile only the generator, or remove the regularizer."
                )
            if isinstance(module, Affine):
                raise UserError(
                    f"The regularizer {regularizer.name} needs a second derivative, and the augmentation Affine has"
                    " none. Remove one of them."
                )


def compute_example_gradients(logits: Tensor, data: Tensor) -> Tensor:
    """Return the gradient of each logit with respect to its example, flattened to `[N, D]`, differentiable.

    If a logit belongs to a pack of m examples, there are N / m logits, and each row is the gradient of a pack.

    Args:
        logits: logits, `[N]`; each is a function of its own example only (no batch normalization)
        data: data, `[N, ...]`, which require gradients
    """
    with torch.autocast(data.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(logits.sum(), data, create_graph=True)
    return gradient.reshape(len(logits), -1)
