"""What long work says of how far it is, where there is no terminal for a bar."""

import io
import logging
import os
import re

import pytest
import torch

import launch
from transreid_ssl import data, progress, whiten
from transreid_ssl.cfs import __main__ as scoring
from transreid_ssl.models import build_backbone, save_backbone


@pytest.fixture
def each_time(monkeypatch):
    """A line for each step, instead of two a minute."""
    monkeypatch.setattr(progress, "_EVERY", 0)


def test_lines_of_a_log(each_time, caplog):
    with (
        caplog.at_level(logging.INFO, "transreid_ssl"),
        progress.progress(1200, "images") as tick,
        progress.progress(None, "frames") as other,
    ):
        tick(1000)
        other()
        tick(200)
    assert caplog.messages[1] == "frames: 1"
    assert re.fullmatch(r"images: 1,000 of 1,200, about 0:00:0\d left", caplog.messages[0])
    assert caplog.messages[2:] == ["images: 1,200 of 1,200, about 0:00:00 left"]


def test_nothing_of_short_work_and_of_other_processes(caplog, capfd):
    with caplog.at_level(logging.INFO, "transreid_ssl"):
        for shown in (True, False):
            with progress.progress(2, "images", shown) as tick:
                tick(2)
    assert (caplog.messages, capfd.readouterr()) == ([], ("", ""))


@pytest.mark.parametrize(("seconds", "drawn"), [(60.0, False), (0.0, True)])
def test_a_bar_on_a_terminal_waits_whether_the_work_is_long(monkeypatch, seconds, drawn):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress, "_SHORT", seconds)
    with progress.progress(2, "images") as tick:
        tick(2)
    assert ("images" in screen.getvalue()) == drawn


def test_commands_that_embed_say_how_far_they_are(each_time, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_backbone("net.safetensors", build_backbone("vit_nano_patch8_conv", img_size=(32, 16)))
    people = "--images=demo:identities=8,images=6,height=32,width=16"
    fast = ["--batch_size=32", "--num_workers=0", "--dim=8"]
    whiten.main(["--weights=net.safetensors", people, *fast])
    said = capsys.readouterr().out
    assert "images: 32 of 48, about" in said
    assert "whitening 512 values of 48 images\n" in said


def test_folders_that_are_listed_and_compared(each_time, tmp_path, caplog):
    """As for the question whether a network was trained on the images that it is judged on."""
    for pool in ("mine", "theirs"):
        for number in range(3):
            path = tmp_path / pool / f"f{number}" / "a.jpg"
            path.parent.mkdir(parents=True)
            path.write_bytes(pool.encode())  # of equal names and other bytes
    with caplog.at_level(logging.INFO, "transreid_ssl"):
        mine, theirs = (data.open_pool(tmp_path / pool) for pool in ("mine", "theirs"))
        assert data.shared_images(mine, theirs) == 0
    text = caplog.text
    assert f"files of {tmp_path / 'theirs'} listed: 3" in text
    assert f"ways to find names in {tmp_path / 'theirs'} looked at: 15 of 15" in text
    caplog.clear()
    for number in range(3):  # long ago, so that the list is trusted
        os.utime(tmp_path / "mine" / f"f{number}", (1, 1))
    os.utime(tmp_path / "mine", (1, 1))
    with caplog.at_level(logging.INFO, "transreid_ssl"):
        data.open_pool(tmp_path / "mine")
        data.open_pool(tmp_path / "mine")
    assert f"folders of {tmp_path / 'mine'} looked at: 4 of 4" in caplog.text


def test_other_processes_say_nothing_of_folders(each_time, monkeypatch, tmp_path, caplog):
    (tmp_path / "a.jpg").touch()
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO, "transreid_ssl"):
        data.open_pool(tmp_path)
    assert not caplog.messages


def test_scoring_draws_no_bar_where_there_is_no_terminal(each_time, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    people = "--pool=demo:identities=8,images=6,height=32,width=16"
    with launch.fresh_process():
        scoring.main(["score", "--method=random", people, "--batch_size=32", "--num_workers=0"])
    said = capfd.readouterr()
    assert "images scored: 32 of 48, about" in said.out
    assert "\r" not in said.out + said.err


def test_bars_are_drawn_in_one_place():
    """Elsewhere they would be drawn into files too, unless their code thinks of it as well."""
    imports = "(from|import) tqdm"
    paths = (launch.ROOT / "transreid_ssl").rglob("*.py")
    found = {path.name for path in paths if re.search(imports, path.read_text(encoding="utf-8"))}
    assert found <= {"progress.py", "clock.py", "loop.py"}
