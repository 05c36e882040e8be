"""From a clip to a pool that knows its tracks: the same whatever happened on the way."""

import dataclasses
import multiprocessing
import os
import shlex
import shutil
import signal
from typing import get_args

import cv2
import datasets
import numpy as np
import pytest

from transreid_ssl.data.__main__ import main
from transreid_ssl.data.images import decode
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.packing import pack
from transreid_ssl.data.people.clip import write_clip
from transreid_ssl.data.tracks import CropRules, crops_of_videos, find_videos
from transreid_ssl.data.tracks.command import Tracks
from transreid_ssl.data.tracks.formats import FORMATS
from transreid_ssl.data.tracks.pool import LAYOUTS
from transreid_ssl.data.tracks.settings import ClipConfig
from transreid_ssl.errors import UserError
from transreid_ssl.outputs import DONE

RULES = CropRules(every=2)


@pytest.fixture(autouse=True)
def quiet_datasets(caches, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", caches / "datasets")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip"
    write_clip(ClipConfig(people=5, frames=40, height=120), folder)
    return folder


def crops(folder, rules=RULES, **options):
    videos, _ = find_videos([folder], None)
    return crops_of_videos(str(folder), videos, rules, **options)[0]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_pool_tells_camera_track_and_frame(clip, tmp_path):
    made = crops(clip)
    left_out = pack(made, tmp_path / "pool", rows_per_shard=20)
    assert any(line.endswith("a near-duplicate") for line in left_out), "the fifth person stands"
    pool = open_pool(tmp_path / "pool")
    assert len(pool) == len(made) - len(left_out) > 20
    columns = pool.annotations.to_pydict()
    # Both cameras see person 1 in track 1 of their own: two tracks, not one.
    assert {"camera1/1", "camera2/1"} <= set(columns["track"])
    tracks = pool.tracks
    pairs = {(c, v, t) for c, v, t in zip(tracks.cameras, tracks.videos, tracks.tracks)}
    assert len(pairs) == len(set(columns["track"])) == tracks.tracks.max() + 1
    assert set(tracks.cameras) == set(tracks.videos) == {0, 1}
    assert tracks.frames.tolist() == columns["frame"]
    assert len(set(zip(tracks.tracks, tracks.frames))) == len(pool)
    for track in set(tracks.tracks):
        assert np.diff(tracks.frames[tracks.tracks == track]).min(initial=2) >= RULES.every
    row = len(pool) // 2
    assert pool.names[row] == f"{columns['track'][row]}_{columns['frame'][row]:06d}.jpg"
    assert columns["time"][row] == pytest.approx((columns["frame"][row] - 1) / 10)
    assert 0.5 <= columns["score"][row] <= 1
    # The crop is what the box holds, with its margin.
    top, left, height, width = columns["box"][row]
    capture = cv2.VideoCapture(str(clip / f"{columns['video'][row]}.avi"))
    for _ in range(columns["frame"][row]):
        frame = capture.read()[1]
    image = decode(pool.read(row))
    rows, cols = (
        slice(int(a - 0.05 * n), int(np.ceil(a + 1.05 * n)))
        for a, n in ((top, height), (left, width))
    )
    expected = frame[rows, cols, ::-1]
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 4
    subset = tmp_path / "subset.txt"
    subset.write_text("\n".join(pool.names[3:9]))
    part = open_pool(tmp_path / "pool", subset)
    assert part.tracks.frames.tolist() == tracks.frames[3:9].tolist()
    assert pack(part, tmp_path / "again") == []
    assert open_pool(tmp_path / "again").annotations.to_pydict() == part.annotations.to_pydict()


def killed_after(count):
    steps = iter(range(1, count))

    def tick():
        if next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    return tick


def test_a_killed_making_goes_on_and_ends_the_same(clip, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "pool"
    # Two processes share the shards, most of which begin in the middle of a video.
    pack(crops(clip), whole, 15, num_workers=2)
    arguments = (crops(clip), out, 15, killed_after(40))
    child = multiprocessing.get_context("fork").Process(target=pack, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    begun = content(tmp_path / "pool.unfinished/pool")
    shards = [name for name in begun if name.startswith("train-")]
    assert len(shards) == 2
    before = {
        name: os.stat(tmp_path / "pool.unfinished/pool" / name).st_mtime_ns for name in shards
    }
    with pytest.raises(UserError, match="is of other images or settings"):
        pack(crops(clip, CropRules(every=2, margin=0.1)), out, 15)
    pack(crops(clip), out, 15)
    assert content(out) == content(whole)
    assert {name: os.stat(out / name).st_mtime_ns for name in shards} == before, "made once"


def test_a_folder_of_frames_and_a_video_that_ends_early(clip, tmp_path):
    root = tmp_path / "SEQ"
    (root / "img1").mkdir(parents=True)
    (root / "gt").mkdir()
    shutil.copy(clip / "camera1.txt", root / "gt/gt.txt")
    (root / "seqinfo.ini").write_text("[Sequence]\nname=SEQ\nimDir=../../../etc\nframeRate=25\n")
    capture = cv2.VideoCapture(str(clip / "camera1.avi"))
    for number in range(1, 21):
        cv2.imwrite(str(root / f"img1/{number:06d}.png"), capture.read()[1])
    cv2.imwrite(str(root / "img1/000019.png"), np.zeros((9, 9, 3), np.uint8))
    frames = crops(root)
    video = crops(clip, pattern=r"camera(?P<camera>\d)")
    same = [i for i, name in enumerate(video.names) if name.startswith("camera1")]
    assert [name.replace("SEQ", "camera1") for name in frames.names] == video.names[: len(same)]
    assert frames.annotations.column("time").to_pylist()[-1] > 1
    assert set(video.annotations.column("camera").to_pylist()) == {"1", "2"}
    outcomes = list(frames.read_in_order(range(len(frames))))
    late = frames.tracks.frames > 20
    assert late.any()
    for index, outcome in enumerate(outcomes):
        if late[index]:
            assert str(outcome).endswith(": beyond the end of the video")
        elif frames.tracks.frames[index] == 19:
            assert str(outcome).endswith(": in a frame of another size")
        elif isinstance(outcome, bytes):
            assert outcome == video.read(same[index])
    broken = tmp_path / "cut.avi"
    whole = (clip / "camera2.avi").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    shutil.copy(clip / "camera2.txt", tmp_path / "cut.txt")
    cut = crops(broken)
    ends = [str(o) for o in cut.read_in_order(range(len(cut))) if not isinstance(o, bytes)]
    assert any(end.endswith("beyond the end of the video") for end in ends)
    (tmp_path / "cut.txt").write_text("1,1,9,9,9,9\n" * 2_001)
    with pytest.raises(UserError, match=r"cut\.txt: more than 2,000 boxes in one frame"):
        crops(broken)
    broken.write_bytes(b"no video")
    with pytest.raises(UserError, match=r"cut\.avi: no video that OpenCV can read"):
        crops(broken)


def test_the_command_knows_every_format():
    (kind,) = (one.type for one in dataclasses.fields(Tracks) if one.name == "format")
    assert set(get_args(get_args(kind)[0])) == {*FORMATS, *LAYOUTS}


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["clip", "outputs/clip", "--frames", "30", "--height", "120"]) == 0
    following = capsys.readouterr().out.splitlines()[-1]
    assert following.startswith("next: python -m transreid_ssl.data tracks ")
    assert main([*shlex.split(following)[4:], "--num_workers", "0"]) == 0
    following = capsys.readouterr().out.splitlines()[-1]
    assert following.startswith("next: python -m transreid_ssl.data inspect ")
    assert main(shlex.split(following)[4:]) == 0
    assert "outputs/clip_pool: " in capsys.readouterr().out
    assert main(["tracks", "--num_workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "2 cameras, 2 videos, " in text
    assert "soon after the one before" in text
    assert main(["inspect", "outputs/tracks"]) == 0
    assert "2 cameras, 2 videos, " in capsys.readouterr().out
    assert main(["tracks", "--num_workers", "0"]) == 0
    again = capsys.readouterr().out
    assert f"outputs/tracks: {DONE}\n" in again
    assert again.splitlines()[-3:] == text.splitlines()[-3:], "the same counts and next command"
    with pytest.raises(
        UserError, match=r"outputs/tracks: is there already, a pool of \d+ images, "
    ):
        main(["tracks", "--num_workers", "0", "--margin", "0.1"])
    with pytest.raises(UserError, match=r"^--margin -1\.0: give 0 to 1"):
        main(["tracks", "--margin", "-1"])
    (tmp_path / "crops").mkdir()
    shutil.copy(tmp_path / "outputs/clip/camera1.avi", tmp_path / "crops/a.jpg")
    with pytest.raises(UserError, match="neither videos with tracks nor crops with names"):
        main(["tracks", "crops"])
