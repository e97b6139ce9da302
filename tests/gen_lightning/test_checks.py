"""The shared range check: which values it refuses, and its sentence."""

import math
import re

import pytest

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError


class Model:
    """An owner of arguments."""


@pytest.mark.parametrize(
    ("limits", "value", "expected"),
    [
        ({"at_least": 1}, 0, "at least 1"),
        ({"above": 0}, 0, "above 0"),
        ({"at_most": 0.5}, 0.6, "at most 0.5"),
        ({"below": 1}, 1, "below 1"),
        ({"at_least": 0, "below": 1}, -1, "at least 0 and below 1"),
        ({"at_least": 0, "below": math.inf}, math.inf, "at least 0 and finite"),
        ({"at_least": 0}, math.nan, "at least 0"),
    ],
)
def test_a_number_outside_the_range_is_refused_with_its_name_value_and_range(limits, value, expected):
    with pytest.raises(UserError, match=re.escape(f"`Model.rate` is {value}. Choose {expected}.")):
        check_range(Model(), **limits, rate=value)


@pytest.mark.parametrize("value", [1, 2.5, None])
def test_numbers_within_the_range_and_none_are_allowed(value):
    check_range(Model(), at_least=1, at_most=2.5, below=math.inf, rate=value)


def test_all_values_are_checked():
    with pytest.raises(UserError, match=re.escape("`Model.beta` is -1.")):
        check_range(Model(), at_least=0, alpha=0, beta=-1)


def test_arguments_of_a_function_carry_its_name():
    def divide(parts):
        check_range(divide, at_least=1, parts=parts)

    with pytest.raises(UserError, match=re.escape("`divide.parts` is 0. Choose at least 1.")):
        divide(0)
