"""Range checks, each with one sentence that names the argument, its value and the range."""

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
        owner: the object whose arguments they are
        at_least: the smallest allowed number
        above: a number that must be exceeded
        at_most: the largest allowed number
        below: a number that must not be reached; infinity allows any finite number
        values: the numbers by the names of their arguments; None is allowed

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
            expected = _describe(at_least, above, at_most, below)
            raise UserError(f"`{type(owner).__name__}.{name}` is {value}. Choose {expected}.")


def _describe(at_least: float | None, above: float | None, at_most: float | None, below: float | None) -> str:
    """Return the range in words, such as "at least 0 and below 1"."""
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None and math.isfinite(bound)]
    return " and ".join([*words, *(["finite"] if below == math.inf else [])])
