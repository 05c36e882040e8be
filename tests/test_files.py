"""Files: nothing is written where a folder is, and no pickle runs anything."""

import os
import pickle

import pytest

from transreid_ssl.errors import UserError
from transreid_ssl.files import (
    atomic_path,
    atomic_paths,
    load_plain_pickle,
    refuse_folder,
    write_json,
)


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


@pytest.mark.parametrize("existed", [True, False])
def test_files_that_belong_together_appear_together(tmp_path, monkeypatch, existed):
    paths, replace = [tmp_path / "a", tmp_path / "b"], os.replace
    for path in paths if existed else []:
        path.write_text("old")

    def failing(source, target):
        if target == paths[0] and "before" not in str(source):
            raise OSError(5, "Input/output error")
        replace(source, target)

    def write():
        with atomic_paths(*paths) as temporaries:
            for temporary in temporaries:
                temporary.write_text("new")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(UserError, match="Input/output error"):
            write()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old", "old"] * existed
    write()
    assert [path.read_text() for path in paths] == ["new", "new"]
    assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.parametrize("numbered", [b"r\x00\x00\x00\x10", b"p268435456\n"])
def test_a_pickle_does_not_ask_for_gigabytes(tmp_path, numbered):
    (tmp_path / "bomb.pkl").write_bytes(b"\x80\x02]" + numbered + b".")
    with pytest.raises(UserError, match=r"bomb\.pkl: .*numbered up to 268435456"):
        load_plain_pickle(tmp_path / "bomb.pkl")
    harmless = [f"r{'r' * number} p123456" for number in range(9)]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "names.pkl").write_bytes(pickle.dumps(harmless, protocol))
        assert load_plain_pickle(tmp_path / "names.pkl") == harmless


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
