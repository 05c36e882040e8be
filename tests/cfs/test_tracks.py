"""Selections from pools that know their tracks: shared out, averaged, without repeats."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from transreid_ssl.cfs import Diversity, select
from transreid_ssl.cfs.__main__ import main
from transreid_ssl.data import open_pool
from transreid_ssl.data.feature_files import write_features
from transreid_ssl.data.packing import pack
from transreid_ssl.data.people import PeopleConfig, PeoplePool
from transreid_ssl.data.track_columns import make_table
from transreid_ssl.errors import UserError
from transreid_ssl.tables import read_record, write_table

TRACKS = np.array([0] * 6 + [1] * 3 + [2] * 2 + [3])


@pytest.fixture
def pool(tmp_path):
    """Twelve crops of tracks of six, three, two and one image."""
    people = PeoplePool(PeopleConfig.from_spec("demo:identities=3,images=4,height=32,width=16"))
    columns = {"camera": ["a"] * 12, "video": ["a"] * 12, "track": [f"t{n}" for n in TRACKS]}
    people.annotations = make_table(**columns, frame=np.arange(12))
    pack(people, tmp_path / "pool")
    return open_pool(tmp_path / "pool")


@pytest.fixture
def scores(pool, tmp_path):
    """The long track has the best images; the mean of the third is above its."""
    values = np.array([9, 8, 7, 6, 1, 0, 3, 2, 1.5, 5.6, 5.5, 4], np.float32)
    record = {"pool": pool.source, "pool_fingerprint": pool.fingerprint, "method": "nearest"}
    write_table(tmp_path / "s.parquet", {"image": list(pool.names), "score": values}, record)
    return tmp_path / "s.parquet"


def kept(scores, pool, keep=1.0, **options):
    """The places of the images that are kept, in order."""
    out, shape = scores.parent / "kept.parquet", Diversity(**options)
    names = pq.read_table(select(scores, keep, out, diversity=shape, pool=pool))["image"]
    return [list(pool.names).index(name) for name in names.to_pylist()]


def test_tracks_take_turns(pool, scores):
    assert kept(scores, pool, balance="track") == [0, 9, 11, 6, 1, 10, 7, 2, 8, 3, 4, 5]
    assert kept(scores, pool, 5, balance="track") == [0, 9, 11, 6, 1]


def test_tracks_rank_by_their_means(pool, scores):
    assert kept(scores, pool, average="track") == [9, 10, 0, 1, 2, 3, 4, 5, 11, 6, 7, 8]
    both = kept(scores, pool, average="track", balance="track")
    assert both[:5] == [9, 0, 11, 6, 10]
    out = select(
        scores, out=scores.parent / "t.parquet", threshold=5.0, pool=pool,
        diversity=Diversity(average="track"),
    )  # fmt: skip
    assert len(pq.read_table(out)) == 8  # means: 31 / 6, 6.5 / 3, 5.55, 4
    assert read_record(out)["average"] == "track"


def test_the_repeats_of_a_track_go_first(pool, scores, tmp_path):
    """Image 1 is like 0 and like 9, which is not like 0: once 1 is gone, 9 repeats nothing."""
    angles = np.array([0, 20, 90, 110, 200, 220, 300, 310, 320, 40, 140, 180]) * np.pi / 180
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    write_features(tmp_path / "f.npy", [(np.arange(12), rows)], pool, 2, {})
    options = {"near_duplicates": np.cos(25 * np.pi / 180), "features": tmp_path / "f.npy"}
    left = kept(scores, pool, **options)
    assert left == [0, 2, 9, 10, 11, 6]
    assert kept(scores, pool, 3, **options) == left[:3]
    assert pool.names[9] not in _without_tracks(scores, options)


def _without_tracks(scores, options):
    out = select(scores, 1.0, scores.parent / "o.parquet", diversity=Diversity(**options))
    return pq.read_table(out)["image"].to_pylist()


def test_the_command_asks_the_pool_that_was_scored(pool, scores, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["select", "--scores=s.parquet", "--keep=5", "--balance=track", "--out=one.parquet"])
    names = pq.read_table("one.parquet")["image"].to_pylist()
    assert [list(pool.names).index(name) for name in names] == [0, 9, 11, 6, 1]
    part = open_pool(pool.source, "one.parquet")
    assert part.tracks.tracks.tolist() == [0, 2, 3, 1, 0]  # a subset keeps its tracks
    pack(part, tmp_path / "packed")
    assert open_pool(tmp_path / "packed").tracks.tracks.tolist() == [0, 2, 3, 1, 0]
    assert f"--data.pool {pool.source} --data.subset one.parquet" in capsys.readouterr().out


def test_what_tracks_cannot_give_is_said(pool, scores):
    for options in ({"average": "track"}, {"balance": "track"}):
        with pytest.raises(UserError, match="give --pattern"):
            select(scores, 0.5, scores.parent / "n.parquet", diversity=Diversity(**options))
    for asked in ({"strategy": "random"}, {"target_share": 0.5}):
        with pytest.raises(UserError, match="--average track: "):
            select(
                scores, out=scores.parent / "n.parquet", pool=pool,
                diversity=Diversity(average="track"), **asked,
            )  # fmt: skip
    pattern = r"(\d)"
    assert len(kept(scores, pool, average="track", pattern=pattern)) == 12
