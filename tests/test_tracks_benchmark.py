"""The comparison of views of tracks: its switches of identity, and the whole of it at toy size."""

import importlib
import json
from collections import Counter

import numpy as np
import pytest

import launch
from transreid_ssl.data import open_pool, packing
from transreid_ssl.data.track_columns import Tracks, make_table

PEOPLE = "demo:identities=16,images=4,height=32,width=16"


@pytest.fixture
def tracks(monkeypatch):
    monkeypatch.syspath_prepend(launch.ROOT)
    return importlib.import_module("benchmarks.tracks")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_tracks_exchange_their_later_halves_within_a_video(tracks, share):
    rng = np.random.default_rng(0)
    numbers = np.repeat(np.arange(40), 5)
    frames = rng.permuted(np.tile(np.arange(5), (40, 1)), axis=1).ravel()
    videos = numbers // 10
    found = tracks.switch(Tracks(videos, videos, numbers, frames), share, rng)
    assert Counter(found) == Counter(dict.fromkeys(range(40), 5))
    mixed = 0
    for track in range(40):
        held = numbers[found == track]
        mixed += len(set(held)) > 1
        assert set(videos[found == track]) == {track // 10}
        for person in set(held):
            mine = set(frames[(found == track) & (numbers == person)])
            assert mine in ({0, 1, 2, 3, 4}, {0, 1}, {2, 3, 4})
    assert mixed == 40 * share


def test_the_experiment_at_toy_size(tmp_path):
    people, numbers = open_pool(PEOPLE), [str(i // 4) for i in range(64)]
    people.annotations = make_table(camera=["a"] * 64, video=["a"] * 64, track=numbers,
                                    frame=range(64))  # fmt: skip
    packing.pack(people, tmp_path / "pool")
    size = ["model.img_size=[32,16]", "run.batch_size=16"]
    text = launch.run(
        "-m", "benchmarks.tracks", f"--pool={tmp_path / 'pool'}", "--seeds=0", "--switches=0.5",
        "--probe=demo:identities=12,test=8,images=4,height=32,width=16", "--epochs=1",
        "--usl_epochs=1", "--uda_epochs=1", "--threads=1",
        "--source=demo:identities=16,images=4,height=32,width=16,first=100,style=1",
        f"--out={tmp_path / 'out'}", "--pretraining", *size,
        "views.global_size=[32,16]", "--tuning", *size, "clusters.steps_per_epoch=2",
        "clusters.parts=4", "clusters.eps=0.7", "clusters.k1=4", "clusters.k2=2",
    )  # fmt: skip
    assert json.loads(text.splitlines()[-1])["ratio"] > 0
    runs = json.loads((tmp_path / "out" / "tracks.json").read_text())["runs"]
    ways = [(run["way"], run["switched"]) for run in runs]
    assert ways == [("image", 0), ("track", 0), ("track", 0.5), ("doubt", 0), ("doubt", 0.5)]
    assert [run["mate_trust"] is not None for run in runs] == [False] * 3 + [True] * 2
    for tuning in ("usl", "uda"):
        assert [f"{tuning}_mAP" in run for run in runs] == [True, True, False, False, False]
    switched = open_pool(tmp_path / "out" / "pools" / "switched_0.5").tracks
    people = np.arange(64) // 4
    assert sum(len(set(people[switched.tracks == t])) == 2 for t in range(16)) == 8
    assert "| two frames, doubted | 50 |" in (tmp_path / "out" / "table.md").read_text()
