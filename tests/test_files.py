"""Files: nothing is written where a folder is, and no pickle runs anything."""

import os
import pickle

import pytest

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, load_plain_pickle, refuse_folder, write_json


def test_a_folder_is_not_written_over(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    for write in (refuse_folder, lambda path: write_json(path, {})):
        with pytest.raises(UserError, match="results: is a folder"):
            write(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.json"
    write_json(path, [1])
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "[\n  1\n]\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values(tmp_path, protocol):
    value = {"keys": ["a", "ä"], "more": (1, 2.5, None, True, [{}], b"caf\xc3\xa9")}
    if protocol == 0:  # which writes bytes as text alone could not be told from
        value["more"] = value["more"][:-1]
    path = tmp_path / "value.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    assert load_plain_pickle(path) == value


@pytest.mark.parametrize("value", [{1, 2}, bytearray(b"a"), len, ValueError, range(3), 1j])
def test_other_values(tmp_path, value):
    path = tmp_path / "value.pkl"
    path.write_bytes(pickle.dumps([value], protocol=2))
    with pytest.raises(UserError, match=r"value\.pkl: asks for .*; refused"):
        load_plain_pickle(path)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.pkl: there is no such file"):
        load_plain_pickle(tmp_path / "none.pkl")
    with pytest.raises(UserError, match="cannot be read"):
        load_plain_pickle(tmp_path)


def test_a_file_has_the_permissions_that_the_process_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("other threads make files meanwhile"))
    write_json(tmp_path / "value.json", {})
    (tmp_path / "plain").touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("value.json", "plain")]
    assert modes[0] == modes[1]
