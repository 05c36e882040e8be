"""What commands write replaces nothing that they read, and nothing of somebody else's."""

import os
from pathlib import Path

import pytest

from transreid_ssl import UserError
from transreid_ssl.outputs import check_outputs, choose_run, finished_runs


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
    with pytest.raises(UserError, match=r"thesis\.md: is there already"):
        check_outputs(tmp_path / "new", beside={beside: lambda path: True}, keep=True)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three finished runs, c, a and b by age, one that has not ended, and weights of no run."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("b/model", "a/backbone", "c/backbone", "c/other", "d/best")):
        write_weights(tmp_path / "outputs" / f"{name}.safetensors", age)
        (tmp_path / "outputs" / name).with_name("run.lock").touch()
    write_weights(tmp_path / "outputs/published/model.safetensors", -10)


def write_weights(path, age):
    """A file of so many seconds before another time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (10**9 - age, 10**9 - age))


def test_the_newest_finished_run_comes_first(runs):
    assert [run.folder.name for run in finished_runs()] == ["b", "a", "c"]
    run, why = choose_run(None)
    assert str(run.weights) == "outputs/b/model.safetensors"
    assert "the newest of 3 finished runs in outputs/ (ended 2001-09-0" in why


def test_what_is_written_into_the_folder_of_a_run_later_makes_it_no_newer(runs):
    write_weights(Path("outputs/c/model.safetensors"), -20)  # a copy beside its own
    write_weights(Path("outputs/a/checkpoints/step_00000007.pt"), 1)
    write_weights(Path("outputs/a/backbone.safetensors"), -20)  # whitened in its place
    assert [str(run.weights) for run in finished_runs()] == [
        "outputs/b/model.safetensors", "outputs/a/backbone.safetensors",
        "outputs/c/backbone.safetensors",
    ]  # fmt: skip
    write_weights(Path("outputs/b/checkpoints/step_00000009.pt"), -30)  # it goes on, unfinished
    assert finished_runs()[0].ended == 10**9


@pytest.mark.parametrize("name", ["c", "outputs/c", "{here}/outputs/c"])
def test_a_run_by_its_name_or_its_path(runs, tmp_path, name):
    run, _ = choose_run(name.format(here=tmp_path))
    assert run.weights.samefile("outputs/c/backbone.safetensors")
    assert choose_run("published")[0].folder.name == "published", "no run, and can be named"


def test_a_run_that_is_not_there_or_has_not_ended(runs, tmp_path):
    with pytest.raises(UserError, match=r"--run d: has not ended, .*outputs/d holds no"):
        choose_run("d")
    with pytest.raises(UserError, match=r"--run e: there is no such run; outputs/ has b, a, c"):
        choose_run("e")
    os.rename("outputs", "results")
    with pytest.raises(UserError, match="no weights: no run in outputs/ has left any"):
        choose_run(None)
