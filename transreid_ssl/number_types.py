"""Numbers within bounds, for the settings of commands: others are refused on the command line.

jsonargparse makes these types at run time, where type checkers cannot follow: these are told the
plain numbers.
"""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    NonNegativeInt: TypeAlias = int
    OpenUnitInterval: TypeAlias = float
    PositiveInt: TypeAlias = int
else:
    from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt

__all__ = ["NonNegativeInt", "OpenUnitInterval", "PositiveInt"]
