"""The campaign: counts of trials, and a table of those tried, survived and failed at the end of the tests."""

import random
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType

import pytest


class Trial:
    """One trial, as a context; an exception within it makes the trial fail and does not leave the context.

    Attributes:
        index: number of the trial, from 0
        random: random numbers that are a function of the campaign's seed, the kind and the index
    """

    def __init__(self, kind: str, index: int, seed: int) -> None:
        self.index = index
        self.random = random.Random(f"{kind} {index} {seed}")
        self.failure: str | None = None

    def __enter__(self) -> "Trial":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception | SystemExit | pytest.fail.Exception):
            self.failure = f"trial {self.index}: {''.join(traceback.format_exception(error))[-3000:]}"
            return True
        return False


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Callable[..., Iterator[Trial]]:
    """Returns a function of (kind, short, whole) that yields trials, and fails the test at the end if one has failed.

    There are `short` trials, or `whole` ones with `--campaign`. `--campaign-seed` chooses others.
    """

    def run(kind: str, short: int, whole: int) -> Iterator[Trial]:
        count = whole if request.config.getoption("--campaign") else short
        done = []
        for index in range(count):
            trial = Trial(kind, index, request.config.getoption("--campaign-seed"))
            done.append(trial)
            yield trial
        failures = [trial.failure for trial in done if trial.failure]
        request.node.user_properties.append(("campaign", (kind, count, len(failures))))
        if failures:
            indices = ", ".join(str(trial.index) for trial in done if trial.failure)
            report = f"{kind}: {len(failures)} of {count} trials failed: {indices}\n"
            pytest.fail(report + "\n".join(failures[:5]), pytrace=False)

    return run
