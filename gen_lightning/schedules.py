"""What changes in training, as functions of the iteration, so that a resumed run goes on with the same."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch.optim import Optimizer

from gen_lightning.errors import UserError


class Schedule(ABC):
    """A function of the number of completed iterations: a weight, a learning rate, a half-life."""

    @abstractmethod
    def __call__(self, iteration: int) -> float:
        """The value at `iteration`, 0 or more."""


class Linear(Schedule):
    """From one value to another in equal steps, and constant from there.

    Args:
        start: the value at the first iteration
        end: the value after `iterations`
        iterations: how many it takes, 1 or more

    Raises:
        UserError: iterations is less than 1.
    """

    def __init__(self, start: float, end: float, iterations: int) -> None:
        if iterations < 1:
            raise UserError(f"{type(self).__name__}'s iterations is {iterations}: choose 1 or more, or a constant.")
        self.start = start
        self.end = end
        self.iterations = iterations

    def __call__(self, iteration: int) -> float:
        """The value at `iteration`."""
        progress = self._progress(iteration)
        return (1 - progress) * self.start + progress * self.end

    def _progress(self, iteration: int) -> float:
        return min(1.0, iteration / self.iterations)


class Cosine(Linear):
    """From one value to another along half a cosine (Loshchilov & Hutter 2017, equation 5), and constant from there.

    Args:
        start: the value at the first iteration
        end: the value after `iterations`
        iterations: how many it takes, 1 or more

    Raises:
        UserError: iterations is less than 1.
    """

    def _progress(self, iteration: int) -> float:
        return (1 - math.cos(math.pi * super()._progress(iteration))) / 2


class Exponential(Linear):
    """From one value to another by the same factor in each step, and constant from there.

    Args:
        start: the value at the first iteration, above 0
        end: the value after `iterations`, above 0
        iterations: how many it takes, 1 or more

    Raises:
        UserError: iterations is less than 1, or a value is not positive.
    """

    def __init__(self, start: float, end: float, iterations: int) -> None:
        super().__init__(start, end, iterations)
        if min(start, end) <= 0:
            raise UserError(f"Exponential goes from {start} to {end}: choose numbers above 0, or Linear.")

    def __call__(self, iteration: int) -> float:
        """The value at `iteration`."""
        return self.start * (self.end / self.start) ** self._progress(iteration)


class Steps(Schedule):
    """One value after another, each for a number of iterations, and the last one from there on.

    Args:
        values: in their order; a schedule in place of a value counts iterations from the step's beginning
        iterations: how many each one but the last is for, 1 or more

    Raises:
        UserError: there are no values, not one iteration fewer than values, or one that is less than 1.
    """

    def __init__(self, values: Sequence[float | Schedule], iterations: Sequence[int]) -> None:
        if len(iterations) != len(values) - 1:
            raise UserError(
                f"Steps has {len(values)} values and {len(iterations)} iterations: give one or more values, and for how"
                " many iterations each one but the last is."
            )
        if min(iterations, default=1) < 1:
            raise UserError(f"Steps' iterations are {list(iterations)}: choose 1 or more for each value.")
        self.values = list(values)
        self.starts = [0, *accumulate(iterations)]

    def __call__(self, iteration: int) -> float:
        """The value at `iteration`."""
        step = bisect_right(self.starts, iteration) - 1
        return value_at(self.values[step], iteration - self.starts[step])


class LinearWarmup(Schedule):
    """From 0 at the first iteration to `target`, along which it goes on (Bowman et al. 2016; Sønderby et al. 2016).

    Args:
        iterations: how many it takes to reach the target, 1 or more
        target: a constant, or the schedule that is warmed up

    Raises:
        UserError: iterations is less than 1.
    """

    def __init__(self, iterations: int, target: float | Schedule = 1.0) -> None:
        if iterations < 1:
            raise UserError(f"LinearWarmup's iterations is {iterations}: choose 1 or more, or leave the warm-up out.")
        self.iterations = iterations
        self.target = target

    def __call__(self, iteration: int) -> float:
        """The value at `iteration`."""
        return min(1.0, iteration / self.iterations) * value_at(self.target, iteration)


class CyclicalWarmup(Schedule):
    """Linear warm-ups from 0 to 1 again and again (Fu et al. 2019, equations 6 and 7).

    Args:
        period: iterations from one 0 to the next
        ramp: the part of each period in which the value rises, in (0, 1]; it is 1 in the rest
    """

    def __init__(self, period: int, ramp: float = 0.5) -> None:
        if period < 1:
            raise UserError(f"CyclicalWarmup's period is {period}: choose 1 or more.")
        if not 0 < ramp <= 1:
            raise UserError(f"CyclicalWarmup's ramp is {ramp}: choose a number above 0 and not above 1.")
        self.period = period
        self.ramp = ramp

    def __call__(self, iteration: int) -> float:
        """The value at `iteration`."""
        return min(1.0, iteration % self.period / (self.ramp * self.period))


def value_at(schedule: float | Schedule, iteration: int) -> float:
    """The value of a schedule, or of a constant, at `iteration`."""
    return schedule(iteration) if isinstance(schedule, Schedule) else schedule


def check_schedules(schedules: Mapping[str, Schedule], optimizers: Mapping[str, Optimizer]) -> None:
    """Refuses schedules of what no optimizer has.

    Args:
        schedules: by the name of what they change, such as `optimizer.lr`
        optimizers: by name

    Raises:
        UserError: a name is not that of an optimizer's option.
    """
    names = [f"{name}.{option}" for name, optimizer in optimizers.items() for option in _options(optimizer)]
    for name in schedules:
        if name not in names:
            raise UserError(f"There is no {name} to schedule: choose among {', '.join(names)}.")


def follow_schedules(
    schedules: Mapping[str, Schedule], optimizers: Mapping[str, Optimizer], iteration: int
) -> dict[str, float]:
    """Sets every scheduled option, in all groups of parameters, to its value at `iteration`, and returns the values.

    Args:
        schedules: by the name of what they change, such as `optimizer.lr`; Adam's betas are `beta1` and `beta2`
        optimizers: by name
        iteration: the number of completed iterations
    """
    values = {name: schedule(iteration) for name, schedule in schedules.items()}
    for name, value in values.items():
        optimizer, option = name.split(".")
        for group in optimizers[optimizer].param_groups:
            _set_option(group, option, value)
    return values


def _options(optimizer: Optimizer) -> list[str]:
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
