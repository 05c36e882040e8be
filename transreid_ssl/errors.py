"""The one exception that is meant for users, what others say in it, and settings in range."""

import math


class UserError(Exception):
    """Something the user can put right: said in one line, without a traceback, with exit code 2.

    The message names the file or the setting, says what is wrong with it and what to do.
    """


class OutOfRange(UserError):
    """A setting that is a number of the right kind, and not one of those that are allowed."""

    def __init__(self, owner: str, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{owner}.{name} is {value}: give {allowed}")
        self.name: str = name
        self.value: object = value
        self.allowed: str = allowed


def brief(error: BaseException, limit: int = 120) -> str:
    """The first line of what an error says, cut at ``limit`` letters; its class if it is silent."""
    return next(iter(str(error).strip().splitlines()), "")[:limit] or type(error).__name__


def check_ranges(owner: object, **bounds: tuple[float | None, float | None]) -> None:
    """Raise ``UserError`` unless settings of ``owner`` are in the ranges that ``bounds`` gives.

    Args:
        owner: a dataclass of settings, named in the message.
        bounds: for each setting the lowest and the highest value allowed, None for an open end.
            Every element of a tuple is checked; a setting that is None is none and passes; NaN and
            infinity never do.
    """
    for name, (low, high) in bounds.items():
        value = getattr(owner, name)
        for number in value if isinstance(value, tuple | list) else (value,):
            if number is not None and not _in_range(number, low, high):
                raise OutOfRange(type(owner).__name__, name, value, _allowed(low, high))


def _in_range(number: float, low: float | None, high: float | None) -> bool:
    return (
        math.isfinite(number)
        and (low is None or number >= low)
        and (high is None or number <= high)
    )


def _allowed(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is None and high is None:
        return "a finite number"
    return f"{low} or more" if high is None else f"{high} or less"
