"""Ranges of settings: what passes, what does not, and what is said."""

import math
from dataclasses import dataclass

import pytest

from transreid_ssl.errors import UserError, brief, check_ranges


@dataclass
class Settings:
    """Settings of a test."""

    value: float | tuple[float, ...] | None


@pytest.mark.parametrize("value", [0, 1, 0.5, None, (0, 1), [0.5], ()])
def test_within(value):
    check_ranges(Settings(value), value=(0, 1))


@pytest.mark.parametrize(
    ("value", "bounds", "allowed"),
    [
        (-0.1, (0, 1), "0 to 1"),
        (1.1, (0, 1), "0 to 1"),
        ((0.5, 2.0), (0, 1), "0 to 1"),
        ([-1, 0.5], (0, 1), "0 to 1"),
        (0, (1, None), "1 or more"),
        (3, (None, 2), "2 or less"),
        (math.nan, (0, None), "0 or more"),
        (math.inf, (0, None), "0 or more"),
        (math.nan, (None, None), "a finite number"),
    ],
)
def test_outside(value, bounds, allowed):
    with pytest.raises(UserError) as error:
        check_ranges(Settings(value), value=bounds)
    assert str(error.value) == f"Settings.value is {value}: give {allowed}"


def test_only_the_named_settings_are_checked():
    check_ranges(Settings(-5))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("\n  first\nsecond"), "first"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 200), "x" * 120),
    ],
)
def test_what_another_s_error_says_in_a_line(error, said):
    assert brief(error) == said
