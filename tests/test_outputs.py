"""What commands write replaces nothing that they read, and nothing of somebody else's."""

import os

import pytest

from transreid_ssl import UserError
from transreid_ssl.outputs import check_outputs, newest_weights


def test_an_output_that_is_an_input_under_any_name(tmp_path):
    source = tmp_path / "w.safetensors"
    source.write_text("w")
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "hard")
    for name in ("w.safetensors", "link", "hard", "../" + tmp_path.name + "/w.safetensors"):
        with pytest.raises(UserError, match="is read by this command"):
            check_outputs(tmp_path / name, inputs=[None, "demo:identities=3", source])
    check_outputs(tmp_path / "new", inputs=[source, "x" * 5000])


def test_files_in_a_folder_that_is_read(tmp_path):
    (tmp_path / "0001.jpg").write_text("somebody")
    with pytest.raises(UserError, match=r"0001\.jpg: is there already, in the folder"):
        check_outputs(tmp_path / "0001.jpg", inputs=[tmp_path])
    with pytest.raises(UserError, match="is a folder"):
        check_outputs(tmp_path)
    check_outputs(tmp_path / "new.txt", inputs=[tmp_path])


def test_two_results_in_one_file(tmp_path):
    with pytest.raises(UserError, match="two results"):
        check_outputs(tmp_path / "a", f"{tmp_path}/./a")


def test_files_beside_the_output(tmp_path):
    beside = tmp_path / "thesis.md"
    check_outputs(tmp_path / "new", beside={beside: lambda path: False})
    beside.write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.md: would be replaced, and was not written by"):
        check_outputs(tmp_path / "new", beside={beside: lambda path: False})
    check_outputs(tmp_path / "new", beside={beside: lambda path: True})


def test_the_newest_weights_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert newest_weights() == []
    for age, name in enumerate(("b/model", "a/backbone", "c/backbone", "c/other")):
        path = tmp_path / "outputs" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (10**9 - age, 10**9 - age))
    assert [path.parent.name for path in newest_weights()] == ["b", "a", "c"]
