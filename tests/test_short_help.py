"""The screen that ``--help`` prints."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from transreid_ssl import command
from transreid_ssl.short_help import shortened


@dataclass(frozen=True)
class Carve:
    """Carve a stone.

    Example: ``carve granite``

    Args:
        stone: What to carve. Hard ones take longer.
        tool: What with; "saw" is for soft stones.
        size: (height, width) of it, in millimetres that are measured, as masons do, after the cut.
        names: Words.
        place: Where the pieces go, which may be a long name
            of a folder. Not there yet.
        depth: In millimetres.
    """

    stone: str
    tool: Literal["chisel", "saw"] = "chisel"
    size: tuple[int, int] = (300, 200)
    names: list[str] = field(
        default_factory=lambda: ["x", "y z"], metadata={"nargs": "+", "help": "Several words."}
    )
    more: list[str] = field(
        default_factory=list, metadata={"nargs": "*", "help": "Other words; none at first."}
    )
    place: str = "outputs/a_long_way_from_here/pieces"
    depth: int | None = None


def said_by(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.options(Carve, "carve", [option])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_each_option_has_a_line_with_its_value_as_it_is_typed(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "72")
    assert said_by("--help", capsys) == (
        "usage: carve stone [--OPTION VALUE ...]\n"
        "\n"
        "Carve a stone.\n"
        "\n"
        "Example: carve granite\n"
        "\n"
        "options, with their values if nothing else is said; in capitals where there is none:\n"
        "  --names x 'y z'     Several words\n"
        "  --more MORE         Other words; none at first\n"
        "  stone               What to carve. Hard ones take longer\n"
        '  --tool chisel       chisel, saw: What with; "saw" is for soft stones\n'
        "  --size '[300,200]'  (height, width) of it, in millimetres that are …\n"
        "  --place outputs/a_long_way_from_here/pieces\n"
        "                      Where the pieces go, which may be a long name of …\n"
        "  --depth DEPTH       In millimetres\n"
        "\n"
        "--help-all tells all in full.\n"
    )


def test_all_of_it_is_told_on_request(capsys):
    said = " ".join(said_by("--help-all", capsys).split())
    assert "in millimetres that are measured, as masons do, after the cut." in said
    assert "(required, type: str)" in said


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (99, "Draw it (all, or a part), as asked. A second sentence; and more, e.g. this"),
        (50, "Draw it (all, or a part), as asked"),
        (32, "Draw it (all, or a part) …"),
        (20, "Draw it …"),
    ],
)
def test_a_text_is_cut_where_it_can_be_read(width, expected):
    text = "Draw it (all, or a part), as\n    asked. A second sentence; and more, e.g. this."
    assert shortened(text, width) == expected
    assert len(shortened(text, width)) <= width
