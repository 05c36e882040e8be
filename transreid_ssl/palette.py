"""Colours of all pictures: those of Okabe and Ito, which people of any colour vision tell apart.

"Color Universal Design", jfly.uni-koeln.de/color, 2008. Pictures never speak by colour alone: lines
differ in their dashes too, points in their shapes, and frames have a tick or a cross beside them.
"""

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PURPLE, SKY, INK, FAINT = "#cc79a7", "#56b4e9", "#222222", "#777777"

SERIES = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
"""Of lines and points, in this order."""
DASHES = ("-", "--", "-.", ":")
REFERENCE_DASHES = (":", (0, (6, 2, 1, 2)), (0, (1, 3)), (0, (9, 3)))
"""Of lines that others are compared with, one after the other."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RIGHT, WRONG = BLUE, RED
"""Of what is found and is of the person looked for, or of another; of what is kept or dropped."""


def style(number: int) -> dict[str, str]:
    """Colour and dashes of the line at a place among others, as matplotlib's ``plot`` takes them.

    With six colours and four dashes the first twelve lines differ.
    """
    return {"color": SERIES[number % len(SERIES)], "ls": DASHES[number % len(DASHES)]}
