"""What is added to the discriminator's loss, whatever the loss is.

Under mixed precision the penalties are computed in float32: bfloat16's three digits are too few for second derivatives
and for small differences.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_lightning.errors import UserError
from gen_lightning.networks import Affine, find_num_classes
from gen_lightning.schedules import Schedule, value_at

_Weight = TypeVar("_Weight", bound=float | Schedule)


@dataclass
class DiscriminatorPass:
    """What one step of the discriminator has computed.

    Args:
        discriminator: the network
        real: real data `[N, ...]`, which require gradients
        fake: generated data `[N, ...]`, which require gradients
        real_logits: `[N]`
        fake_logits: `[N]`
        iteration: the number of completed iterations, for weights that follow a schedule
        condition: what a conditional discriminator takes beside data: the labels `[N]`, of real and generated data
    """

    discriminator: nn.Module
    real: Tensor
    fake: Tensor
    real_logits: Tensor
    fake_logits: Tensor
    iteration: int
    condition: Sequence[Tensor] = ()

    def judge(self, data: Tensor, logits: Tensor | None = None) -> Tensor:
        """The discriminator's logits `[N]`, without autocast, of data that are of the labels of their index.

        Args:
            data: `[N, ...]`
            logits: those that this step has computed of the data already, which are good enough without autocast
        """
        if logits is not None and not torch.is_autocast_enabled(data.device.type):
            return logits
        with torch.autocast(data.device.type, enabled=False):
            return self.discriminator(data, *self.condition)

    def evaluate_weight(self, weight: float | Schedule) -> float:
        """A weight's value in this iteration."""
        return value_at(weight, self.iteration)


class DiscriminatorRegularizer(nn.Module, ABC):
    """A term of the discriminator's loss; what it remembers between iterations is a buffer, and in the checkpoint.

    `name` is its key in the logs. `per_example` says that it takes the gradient of each logit by its own example, which
    batch normalization mixes with the others, and which a compiled discriminator cannot differentiate once more.
    `conditional` says that it is of a discriminator that takes labels.
    """

    name: str
    per_example = False
    conditional = False

    @abstractmethod
    def forward(self, state: DiscriminatorPass) -> Tensor:
        """The weighted term, a scalar."""


class R1(DiscriminatorRegularizer):
    """gamma / 2 * E[|grad D(x)|^2] on real data (Mescheder, Geiger & Nowozin 2018, equation 9).

    Args:
        gamma: the weight, 0 or more, or its schedule
    """

    name = "r1"
    per_example = True

    def __init__(self, gamma: float | Schedule = 1.0) -> None:
        super().__init__()
        self.gamma = _checked(gamma, self, "gamma")

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """The penalty, a scalar."""
        return self._penalty(state, state.judge(state.real, state.real_logits), state.real)

    def _penalty(self, state: DiscriminatorPass, logits: Tensor, data: Tensor) -> Tensor:
        return state.evaluate_weight(self.gamma) / 2 * example_gradients(logits, data).square().sum(1).mean()


class R2(R1):
    """gamma / 2 * E[|grad D(G(z))|^2] on generated data (Mescheder, Geiger & Nowozin 2018, equation 10).

    Args:
        gamma: the weight, 0 or more, or its schedule
    """

    name = "r2"

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """The penalty, a scalar."""
        return self._penalty(state, state.judge(state.fake, state.fake_logits), state.fake)


class GradientPenalty(DiscriminatorRegularizer):
    """weight * E[(|grad D(x')| - 1)^2], x' between a real and a generated example (Gulrajani et al. 2017, equation 3).

    Each pair has an x' of its own, uniform on the line between the two.

    Args:
        weight: the weight, 0 or more, or its schedule
        one_sided: whether only norms above 1 are penalized (the same paper, section 4)
    """

    name = "gradient_penalty"
    per_example = True

    def __init__(self, weight: float | Schedule = 10.0, one_sided: bool = False) -> None:
        super().__init__()
        self.weight = _checked(weight, self, "weight")
        self.one_sided = one_sided

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """The penalty, a scalar."""
        one_each = (len(state.real), *[1] * (state.real.dim() - 1))
        epsilon = torch.rand(one_each, device=state.real.device, dtype=state.real.dtype)
        between = state.fake.lerp(state.real, epsilon).detach().requires_grad_()
        excess = example_gradients(state.judge(between), between).norm(dim=1) - 1
        return state.evaluate_weight(self.weight) * (excess.relu() if self.one_sided else excess).square().mean()


class DRAGAN(DiscriminatorRegularizer):
    """weight * E[(|grad D(x + noise)| - 1)^2] around real data (Kodali et al. 2017).

    Args:
        weight: the weight, 0 or more, or its schedule
        noise: the standard deviation of the normal noise, 0 or more, in units of the data. The authors' code adds
            uniform noise whose root mean square is 0.29 standard deviations of the data, which is 0.09 on MNIST.
    """

    name = "dragan"
    per_example = True

    def __init__(self, weight: float | Schedule = 10.0, noise: float = 0.1) -> None:
        super().__init__()
        self.weight = _checked(weight, self, "weight")
        self.noise = _checked(noise, self, "noise")

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """The penalty, a scalar."""
        perturbed = (state.real + self.noise * torch.randn_like(state.real)).detach().requires_grad_()
        norms = example_gradients(state.judge(perturbed), perturbed).norm(dim=1)
        return state.evaluate_weight(self.weight) * (norms - 1).square().mean()


class LeCam(DiscriminatorRegularizer):
    """weight * (E[(D(x) - a_fake)^2] + E[(D(G(z)) - a_real)^2]) (Tseng et al. 2021, R_LC).

    a_real and a_fake are exponential moving averages of the logits of real and of generated data, which start at 0.

    Args:
        weight: the weight, 0 or more, or its schedule
        decay: of the averages in one step of the discriminator, from 0 to less than 1

    Raises:
        UserError: the weight is negative, or decay is not in [0, 1).
    """

    name = "lecam"
    real_average: Tensor
    fake_average: Tensor

    def __init__(self, weight: float | Schedule = 0.3, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"LeCam's decay is {decay}: choose 0 or more, and less than 1.")
        self.weight = _checked(weight, self, "weight")
        self.decay = decay
        self.register_buffer("real_average", torch.zeros(()))
        self.register_buffer("fake_average", torch.zeros(()))

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """The penalty, a scalar, with averages that this step's logits are part of."""
        real, fake = state.real_logits, state.fake_logits
        self.real_average += (1 - self.decay) * (real.detach().mean() - self.real_average)
        self.fake_average += (1 - self.decay) * (fake.detach().mean() - self.fake_average)
        distances = (real - self.fake_average).square().mean() + (fake - self.real_average).square().mean()
        return state.evaluate_weight(self.weight) * distances


class Consistency(DiscriminatorRegularizer):
    """weight * E[(D(x) - D(T(x)))^2] on real data (CR-GAN, Zhang et al. 2020).

    Args:
        augmentation: T, data `[N, ...]` -> data `[N, ...]`, random for each example, such as `networks.Translation`
        weight: the weight, 0 or more, or its schedule
    """

    name = "consistency"

    def __init__(self, augmentation: nn.Module, weight: float | Schedule = 10.0) -> None:
        super().__init__()
        self.augmentation = augmentation
        self.weight = _checked(weight, self, "weight")

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """The penalty, a scalar."""
        logits = state.judge(state.real, state.real_logits)
        augmented_logits = state.judge(self.augmentation(state.real.detach()))
        return state.evaluate_weight(self.weight) * (logits - augmented_logits).square().mean()


class MismatchedLabels(DiscriminatorRegularizer):
    """weight * E[softplus(D(x, y') - D(x, y))], real data x with their labels y and with other ones y'.

    A matching-aware discriminator (Reed et al. 2016, algorithm 1, where a real example under a wrong label is a fake),
    in the form of the relativistic loss. By itself it is least where D(x, y) - D(x, y') = log p(y | x) / p(y' | x), so
    that the generator hears from a classifier too whether its samples are what was asked for.

    Args:
        weight: the weight, 0 or more, or its schedule
    """

    name = "mismatched_labels"
    conditional = True

    def __init__(self, weight: float | Schedule = 1.0) -> None:
        super().__init__()
        self.weight = _checked(weight, self, "weight")

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """The term, a scalar, with wrong labels that are each equally likely."""
        (labels,) = state.condition
        num_classes = cast(int, find_num_classes(state.discriminator))
        others = (labels + torch.randint_like(labels, 1, num_classes)) % num_classes
        mismatched = replace(state, condition=(others,)).judge(state.real.detach())
        return (
            state.evaluate_weight(self.weight)
            * F.softplus(mismatched - state.judge(state.real, state.real_logits)).mean()
        )


class Lazy(DiscriminatorRegularizer):
    """Another regularizer, in every k-th iteration only and there k-fold (Karras et al. 2020, section 3.1).

    It counts the iterations from 0, so that the first has it; the logs show k times its value, or 0.

    Args:
        regularizer: the other
        interval: k, 1 or more

    Raises:
        UserError: the interval is less than 1.
    """

    def __init__(self, regularizer: DiscriminatorRegularizer, interval: int = 16) -> None:
        super().__init__()
        if interval < 1:
            raise UserError(f"Lazy's interval is {interval}: choose 1 or more.")
        self.name, self.per_example = regularizer.name, regularizer.per_example
        self.conditional = regularizer.conditional
        self.regularizer = regularizer
        self.interval = interval

    def forward(self, state: DiscriminatorPass) -> Tensor:
        """The other's term times the interval, or 0."""
        if state.iteration % self.interval:
            return torch.zeros_like(state.real_logits[0])
        return self.interval * self.regularizer(state)


def check_regularizers(regularizers: Sequence[DiscriminatorRegularizer], discriminator: nn.Module) -> None:
    """Refuses combinations that would train something else than they say.

    Raises:
        UserError: two terms have one name, or a term for each example meets batch normalization.
    """
    names = ["discriminator_loss", *(regularizer.name for regularizer in regularizers)]
    if len(set(names)) < len(names):
        raise UserError(f"Terms of the loss are told apart by their names, and these are {names}: leave one out.")
    normalized = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in discriminator.modules())
    for regularizer in regularizers:
        if regularizer.per_example and normalized:
            raise UserError(
                f"The regularizer {regularizer.name} penalizes each example by itself, and batch normalization mixes"
                " them: take a discriminator without it, or leave the regularizer out."
            )
        if regularizer.conditional and (find_num_classes(discriminator) or 0) < 2:
            raise UserError(
                f"The regularizer {regularizer.name} shows the discriminator other labels, and it takes none: take"
                " ProjectionDiscriminator, of 2 or more classes, or leave the regularizer out."
            )


def check_differentiable_twice(regularizers: Sequence[DiscriminatorRegularizer], discriminator: nn.Module) -> None:
    """Refuses gradient penalties through a discriminator that has no second derivative: compiled, or with `Affine`.

    Raises:
        UserError: there is one.
    """
    for regularizer in regularizers:
        for module in discriminator.modules() if regularizer.per_example else ():
            if module._compiled_call_impl is not None:
                raise UserError(
                    f"The regularizer {regularizer.name} needs a second derivative, and a compiled discriminator has"
                    " none: compile the generator alone, or leave the regularizer out."
                )
            if isinstance(module, Affine):
                raise UserError(
                    f"The regularizer {regularizer.name} needs a second derivative, and the augmentation Affine has"
                    " none: leave one of them out."
                )


def example_gradients(logits: Tensor, data: Tensor) -> Tensor:
    """The gradients of logits[i] by data[i], flattened to `[N, D]`, differentiable.

    Where a logit is of a pack of m examples, the logits are `[N / m]`, and the gradient by a pack is one row.

    Args:
        logits: `[N]`, each a function of its own example only (no batch normalization between them)
        data: `[N, ...]`, requiring gradients
    """
    with torch.autocast(data.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(logits.sum(), data, create_graph=True)
    return gradient.reshape(len(logits), -1)


def _checked(value: _Weight, regularizer: DiscriminatorRegularizer, name: str) -> _Weight:
    if value_at(value, 0) < 0:
        raise UserError(f"{type(regularizer).__name__}'s {name} is {value}: choose 0 or more.")
    return value
