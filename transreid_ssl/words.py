"""Counts in words, in one way for all that is printed and all pages."""


def counted(count: int, one: str, several: str | None = None) -> str:
    """A count and what is counted: "1 image", "2,000 images".

    Args:
        one: the word for one.
        several: for any other number; ``one`` and an s, where it is None.
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"
