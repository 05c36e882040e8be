"""Files: nothing half written stays, no pickle runs anything, and text is read as it comes."""

import contextlib
import os
import pickle
import signal
import tracemalloc

import pytest

from transreid_ssl.errors import UserError
from transreid_ssl.files import (
    atomic_path,
    atomic_paths,
    new_folder,
    refuse_folder,
    sweep,
    write_json,
)
from transreid_ssl.reading import load_plain_pickle, read_lines


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


HUGE = {  # opcodes that ask for gigabytes in a few bytes
    "memo index": b"\x80\x02]r\x00\x00\x00\x10.",
    "bytes": b"\x80\x04\x8e" + (1 << 34).to_bytes(8, "little") + b"x.",
    "text": b"\x80\x04\x8d" + (1 << 34).to_bytes(8, "little") + b"x.",
    "array": b"\x80\x05\x96" + (1 << 34).to_bytes(8, "little") + b"x.",
    "encoded again and again": b"\x80\x02c_codecs\nencode\nq\x00X"
    + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\x01U\x06latin1q\x02](0"
    + b"(h\x00h\x01h\x02\x86Rh\x00h\x01h\x02\x86R" * 5_000 + b"e.",
}  # fmt: skip


@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE)
def test_a_small_pickle_takes_little_memory(tmp_path, content):
    path = tmp_path / "keys.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with contextlib.suppress(UserError):
            assert load_plain_pickle(path) == []
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_list_is_read_as_text_with_any_mark_and_line_end(tmp_path):
    path = tmp_path / "list.txt"
    for content in (b"a\xc3\xa4\nb c\n", b"\xef\xbb\xbfa\xc3\xa4\r\nb c\r\n", b"a\xc3\xa4\rb c\r"):
        path.write_bytes(content)
        assert read_lines(path) == ["aä", "b c", ""]
    for content, line in ((b"a\nb\n\xe4\n", "line 3"), ("a\nb".encode("utf-16"), "not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"list\.txt: .*{line}.*UTF-8"):
            read_lines(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: cannot be read \(not a regular file\)"):
        read_lines(tmp_path / "pipe")


def write_and_be_killed(place):
    """Write in a process of its own, which is killed half way."""
    child = os.fork()
    if not child:
        with (
            atomic_path(place / "step_00000001.pt") as file,
            new_folder(place / "packed") as folder,
        ):
            file.write_text("half")
            (folder / "shard").write_text("half")
            signal.raise_signal(signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path):
    write_and_be_killed(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".mine.abcdefgh.tmp").mkdir()
    (tmp_path / ".notes.tmp").write_text("mine")
    with atomic_path(tmp_path / "other.json"):
        left = {path.name for path in tmp_path.iterdir()}
        assert left > {".mine.abcdefgh.tmp", ".notes.tmp"}
        assert len(left) == 3, "those and the one that is being written"
        assert sweep(tmp_path) == [], "what is being written stays"
    assert {path.name for path in tmp_path.iterdir()} == {
        ".mine.abcdefgh.tmp", ".notes.tmp", "other.json",
    }  # fmt: skip


def test_a_new_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a/packed") as folder:  # noqa: PT012
        (folder / "shard").write_text("half")
        1 / 0  # noqa: B018
    assert list((tmp_path / "a").iterdir()) == []
    with new_folder(tmp_path / "a/packed") as folder:
        (folder / "shard").write_text("whole")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["packed"]
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "a/packed"):
        pass
