"""Counts in words."""

import pytest

from transreid_ssl.words import counted


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (1, ("image",), "1 image"),
        (0, ("image",), "0 images"),
        (2000, ("image",), "2,000 images"),
        (1, ("identity", "identities"), "1 identity"),
        (3, ("identity", "identities"), "3 identities"),
    ],
)
def test_one_is_one_and_all_others_are_several(count, words, said):
    assert counted(count, *words) == said
