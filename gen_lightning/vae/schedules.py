"""Weights that change in training, as functions of the iteration, so that a resumed run goes on with the same."""

from abc import ABC, abstractmethod


class Schedule(ABC):
    """A function of the number of completed iterations, into [0, 1]."""

    @abstractmethod
    def __call__(self, iteration: int) -> float:
        """The value at `iteration`, 0 or more."""


class LinearWarmup(Schedule):
    """From 0 at the first iteration to 1, where it stays (Bowman et al. 2016; Sønderby et al. 2016).

    Args:
        iterations: how many it takes to reach 1
    """

    def __init__(self, iterations: int) -> None:
        if iterations < 1:
            raise ValueError(f"LinearWarmup's iterations is {iterations}: choose 1 or more, or leave the warm-up out.")
        self.iterations = iterations

    def __call__(self, iteration: int) -> float:
        """The value at `iteration`."""
        return min(1.0, iteration / self.iterations)


class CyclicalWarmup(Schedule):
    """Linear warm-ups again and again (Fu et al. 2019, equations 6 and 7).

    Args:
        period: iterations from one 0 to the next
        ramp: the part of each period in which the value rises, in (0, 1]; it is 1 in the rest
    """

    def __init__(self, period: int, ramp: float = 0.5) -> None:
        if period < 1:
            raise ValueError(f"CyclicalWarmup's period is {period}: choose 1 or more.")
        if not 0 < ramp <= 1:
            raise ValueError(f"CyclicalWarmup's ramp is {ramp}: choose a number above 0 and not above 1.")
        self.period = period
        self.ramp = ramp

    def __call__(self, iteration: int) -> float:
        """The value at `iteration`."""
        return min(1.0, iteration % self.period / (self.ramp * self.period))
