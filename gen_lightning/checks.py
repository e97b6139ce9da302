"""The range check that the whole project shares; its error names the argument, the value and the range."""

import inspect
import math

from gen_lightning.errors import UserError


def check_range(
    owner: object,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    **values: float | None,
) -> None:
    """Refuse numbers outside a range.

    Args:
        owner: object or function whose arguments are checked
        at_least: smallest allowed number; default: no limit
        above: number that every value must exceed; default: no limit
        at_most: largest allowed number; default: no limit
        below: number that every value must stay below; infinity allows all finite numbers; default: no limit
        values: numbers by the names of their arguments; None is allowed

    Raises:
        UserError: a number is outside the range, or NaN.
    """
    for name, value in values.items():
        if value is None:
            continue
        inside = (
            (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (at_most is None or value <= at_most)
            and (below is None or value < below)
        )
        if not inside or math.isnan(value):
            owner_name = owner.__name__ if inspect.isfunction(owner) else type(owner).__name__
            raise UserError(f"`{owner_name}.{name}` is {value}. Choose {_describe(at_least, above, at_most, below)}.")


def _describe(at_least: float | None, above: float | None, at_most: float | None, below: float | None) -> str:
    """Return the range in words, such as "at least 0 and below 1"."""
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None and math.isfinite(bound)]
    return " and ".join([*words, *(["finite"] if below == math.inf else [])])
