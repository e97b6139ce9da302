"""Schedules: hyperparameters as functions of the iteration, so that a resumed run continues with the same values."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, combinations
from typing import Any, Protocol

from torch.optim import Optimizer

from gen_lightning.checks import check_range
from gen_lightning.contracts import offers
from gen_lightning.errors import UserError

# Options of torch's optimizers that count something.
_WHOLE_NUMBERS = ("ns_steps",)


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


class CombinedOptimizer(Protocol):
    """An optimizer that combines several ones."""

    parts: Mapping[str, Sequence[str]]
    """The options that can be scheduled, by the name of each parameter group, in the order of the groups."""


def check_schedules(schedules: Mapping[str, Schedule], optimizers: Mapping[str, Optimizer]) -> None:
    """Refuse schedules of options that no optimizer has.

    Args:
        schedules: schedules by the name of an option, such as `optimizer.lr`
        optimizers: optimizers by name

    Raises:
        UserError: a schedule's name is not the name of an optimizer's option, or two names set the same option.
    """
    options = {f"{name}.{option}": groups for name, one in optimizers.items() for option, groups in _find(one).items()}
    for name in schedules:
        if name not in options:
            raise UserError(f"No optimizer has the scheduled option {name}. Choose among {', '.join(options)}.")
    for name, other in combinations(schedules, 2):
        same_option = name.rpartition(".")[2] == other.rpartition(".")[2]
        if same_option and any(group is one for group in options[name] for one in options[other]):
            raise UserError(f"The schedules {name} and {other} set the same option. Remove one of them.")


def follow_schedules(
    schedules: Mapping[str, Schedule], optimizers: Mapping[str, Optimizer], iteration: int
) -> dict[str, float]:
    """Set the scheduled options, in all their parameter groups, to their values in an iteration, and return the values.

    Whole numbers, such as Muon's `ns_steps`, are rounded to the nearest one, and are at least 1.

    Args:
        schedules: schedules by the name of an option, such as `optimizer.lr`; Adam's betas are `beta1` and `beta2`. An
            option of an optimizer with parts, such as `MuonWithAdam`, names its part: `optimizer.muon.momentum`. An
            option that all parts have, such as `optimizer.lr`, is set in all of them if no part is named.
        optimizers: optimizers by name
        iteration: number of completed iterations
    """
    values = {}
    for name, schedule in schedules.items():
        optimizer, _, option = name.partition(".")
        value = schedule(iteration)
        for group in _find(optimizers[optimizer])[option]:
            values[name] = _set_option(group, option.rpartition(".")[2], value)
    return values


def _find(optimizer: Optimizer) -> dict[str, list[dict[str, Any]]]:
    """Return the parameter groups of each option that can be scheduled, by the option's name."""
    groups = optimizer.param_groups
    if not offers(optimizer, CombinedOptimizer):
        return dict.fromkeys(_list_options(groups[0]), groups)
    parts = dict(zip(optimizer.parts.items(), groups, strict=True))
    shared = set.intersection(*(set(options) for options in optimizer.parts.values()))
    by_part = {f"{part}.{option}": [group] for (part, options), group in parts.items() for option in options}
    return dict.fromkeys(sorted(shared), groups) | by_part


def _list_options(group: Mapping[str, Any]) -> list[str]:
    numbers = [name for name, value in group.items() if type(value) in (int, float)]
    return [*numbers, *(["beta1", "beta2"] if "betas" in group else [])]


def _set_option(group: dict[str, Any], option: str, value: float) -> float:
    """Set an option of a parameter group, and return the value that it is set to."""
    if option in _WHOLE_NUMBERS:
        value = max(1, round(value))
    if option == "beta1":
        group["betas"] = (value, group["betas"][1])
    elif option == "beta2":
        group["betas"] = (group["betas"][0], value)
    else:
        group[option] = value
    return value
