"""Schedules: hyperparameters as functions of the iteration, so that a resumed run continues with the same values."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch.optim import Optimizer

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError


class Schedule(ABC):
    """A function of the number of completed iterations, such as a weight, a learning rate or a half-life."""

    @abstractmethod
    def __call__(self, iteration: int) -> float:
        """Return the value after `iteration` completed iterations; at least 0."""


class Linear(Schedule):
    """Linear interpolation from one value to another, then constant.

    Args:
        start: value at the first iteration
        end: value from `iterations` on
        iterations: number of iterations from start to end; at least 1

    Raises:
        UserError: iterations is less than 1.
    """

    def __init__(self, start: float, end: float, iterations: int) -> None:
        check_range(self, at_least=1, iterations=iterations)
        self.start = start
        self.end = end
        self.iterations = iterations

    def __call__(self, iteration: int) -> float:
        """Return the value after `iteration` completed iterations."""
        progress = self._compute_progress(iteration)
        return (1 - progress) * self.start + progress * self.end

    def _compute_progress(self, iteration: int) -> float:
        return min(1.0, iteration / self.iterations)


class Cosine(Linear):
    """Cosine annealing from one value to another (Loshchilov & Hutter 2017, equation 5), then constant.

    Args:
        start: value at the first iteration
        end: value from `iterations` on
        iterations: number of iterations from start to end; at least 1

    Raises:
        UserError: iterations is less than 1.
    """

    def _compute_progress(self, iteration: int) -> float:
        return (1 - math.cos(math.pi * super()._compute_progress(iteration))) / 2


class Exponential(Linear):
    """Exponential interpolation from one value to another, by the same factor each iteration, then constant.

    Args:
        start: value at the first iteration; above 0
        end: value from `iterations` on; above 0
        iterations: number of iterations from start to end; at least 1

    Raises:
        UserError: iterations is less than 1, or start or end is not above 0.
    """

    def __init__(self, start: float, end: float, iterations: int) -> None:
        super().__init__(start, end, iterations)
        check_range(self, above=0, start=start, end=end)

    def __call__(self, iteration: int) -> float:
        """Return the value after `iteration` completed iterations."""
        return self.start * (self.end / self.start) ** self._compute_progress(iteration)


class Steps(Schedule):
    """A sequence of values, each for a number of iterations; the last value stays.

    Args:
        values: values in their order. A value may be a schedule, whose iterations count from the start of its step.
        iterations: number of iterations of each value except the last; at least 1 each

    Raises:
        UserError: there are no values, iterations does not have one number fewer than values, or a number is less
            than 1.
    """

    def __init__(self, values: Sequence[float | Schedule], iterations: Sequence[int]) -> None:
        if len(iterations) != len(values) - 1:
            raise UserError(
                f"`Steps.values` has {len(values)} values and `iterations` has {len(iterations)} numbers. Give the"
                " number of iterations of each value except the last."
            )
        if min(iterations, default=1) < 1:
            raise UserError(f"`Steps.iterations` is {list(iterations)}. Choose at least 1 for each value.")
        self.values = list(values)
        self.starts = [0, *accumulate(iterations)]

    def __call__(self, iteration: int) -> float:
        """Return the value after `iteration` completed iterations."""
        step = bisect_right(self.starts, iteration) - 1
        return evaluate_schedule(self.values[step], iteration - self.starts[step])


class LinearWarmup(Schedule):
    """Linear warm-up from 0 to a target value or schedule (Bowman et al. 2016; Sønderby et al. 2016).

    The value is `target` times a factor that rises linearly from 0 to 1.

    Args:
        iterations: number of iterations until the factor is 1; at least 1
        target: constant or schedule that is multiplied by the factor

    Raises:
        UserError: iterations is less than 1.
    """

    def __init__(self, iterations: int, target: float | Schedule = 1.0) -> None:
        check_range(self, at_least=1, iterations=iterations)
        self.iterations = iterations
        self.target = target

    def __call__(self, iteration: int) -> float:
        """Return the value after `iteration` completed iterations."""
        return min(1.0, iteration / self.iterations) * evaluate_schedule(self.target, iteration)


class CyclicalWarmup(Schedule):
    """Repeated linear warm-ups from 0 to 1 (Fu et al. 2019, equations 6 and 7).

    Args:
        period: number of iterations of one warm-up and the constant part after it; at least 1
        ramp: fraction of each period in which the value rises, in (0, 1]; in the rest of the period the value is 1

    Raises:
        UserError: period or ramp is out of range.
    """

    def __init__(self, period: int, ramp: float = 0.5) -> None:
        check_range(self, at_least=1, period=period)
        check_range(self, above=0, at_most=1, ramp=ramp)
        self.period = period
        self.ramp = ramp

    def __call__(self, iteration: int) -> float:
        """Return the value after `iteration` completed iterations."""
        return min(1.0, iteration % self.period / (self.ramp * self.period))


def evaluate_schedule(schedule: float | Schedule, iteration: int) -> float:
    """Return the value of a schedule, or a constant, after `iteration` completed iterations."""
    return schedule(iteration) if isinstance(schedule, Schedule) else schedule


def check_schedules(schedules: Mapping[str, Schedule], optimizers: Mapping[str, Optimizer]) -> None:
    """Refuse schedules of options that no optimizer has.

    Args:
        schedules: schedules by the name of an option, such as `optimizer.lr`
        optimizers: optimizers by name

    Raises:
        UserError: a schedule's name is not the name of an optimizer's option.
    """
    names = [f"{name}.{option}" for name, optimizer in optimizers.items() for option in _list_options(optimizer)]
    for name in schedules:
        if name not in names:
            raise UserError(f"No optimizer has the scheduled option {name}. Choose among {', '.join(names)}.")


def follow_schedules(
    schedules: Mapping[str, Schedule], optimizers: Mapping[str, Optimizer], iteration: int
) -> dict[str, float]:
    """Set the scheduled options, in all parameter groups, to their values in an iteration, and return the values.

    Args:
        schedules: schedules by the name of an option, such as `optimizer.lr`; Adam's betas are `beta1` and `beta2`
        optimizers: optimizers by name
        iteration: number of completed iterations
    """
    values = {name: schedule(iteration) for name, schedule in schedules.items()}
    for name, value in values.items():
        optimizer, option = name.split(".")
        for group in optimizers[optimizer].param_groups:
            _set_option(group, option, value)
    return values


def _list_options(optimizer: Optimizer) -> list[str]:
    defaults = optimizer.param_groups[0]
    numbers = [name for name, value in defaults.items() if type(value) in (int, float)]
    return [*numbers, *(["beta1", "beta2"] if "betas" in defaults else [])]


def _set_option(group: dict[str, Any], option: str, value: float) -> None:
    if option == "beta1":
        group["betas"] = (value, group["betas"][1])
    elif option == "beta2":
        group["betas"] = (group["betas"][0], value)
    else:
        group[option] = value
