"""Selections that ask for more than high scores, and the account that is given of one."""

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transreid_ssl.cfs import Diversity, select
from transreid_ssl.cfs.__main__ import main
from transreid_ssl.cfs.account import follows
from transreid_ssl.cfs.judge import judge
from transreid_ssl.cfs.looks import LOOKS, looks_of
from transreid_ssl.cfs.subset import read_scores
from transreid_ssl.data import open_pool
from transreid_ssl.data.feature_files import read_features, write_features
from transreid_ssl.errors import UserError
from transreid_ssl.tables import write_table


@pytest.fixture
def pool(tmp_path):
    """40 images, the better the lighter: three of four in the folder "street"; tracks of four."""
    names = [f"{'hall' if n % 4 == 3 else 'street'}/t{n // 4}_{n:02d}.png" for n in range(40)]
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        (tmp_path / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(-5, 5, (24, 12, 3)) * (1 + number % 3)
        image = np.clip(40 + 4 * number + noise, 0, 255)
        cv2.imwrite(str(tmp_path / "crops" / name), image.astype(np.uint8))
    return open_pool(tmp_path / "crops")


@pytest.fixture
def scores(pool, tmp_path):
    values = np.array([int(name[-6:-4]) for name in pool.names], np.float32)
    record = {"pool": pool.source, "pool_fingerprint": pool.fingerprint, "method": "nearest"}
    write_table(tmp_path / "s.parquet", {"image": list(pool.names), "score": values}, record)
    return tmp_path / "s.parquet"


def kept(scores, keep=None, pool=None, **options):
    diversity = Diversity(**options)
    out = select(scores, keep, scores.parent / "kept.parquet", diversity=diversity, pool=pool)
    return pq.read_table(out)["image"].to_pylist()


def test_folders_and_tracks_take_turns(scores):
    folders = [name.split("/")[0] for name in kept(scores, 6, balance="source")]
    assert [set(folders[n : n + 2]) for n in (0, 2, 4)] == [{"hall", "street"}] * 3
    names = kept(scores, 10, balance="track", pattern=r"/(t\d)")
    assert sorted(name.split("/")[1][:2] for name in names) == [f"t{n}" for n in range(10)]


def test_no_source_has_more_than_its_share(scores):
    names = kept(scores, 20, max_source=0.5)
    assert sum(name.startswith("hall") for name in names) == 10
    assert kept(scores, 10, max_source=0.5) == names[:10]
    with pytest.raises(UserError, match=r"only 21 of 30 images can be kept so"):
        kept(scores, 30, max_source=0.5)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_near_duplicates_and_clusters_are_told_by_features(pool, scores, tmp_path, suffix):
    numbers = np.array([int(name[-6:-4]) for name in pool.names])
    rows = np.eye(10, dtype=np.float32)[numbers // 4]  # the four of a track are alike
    path = tmp_path / f"features{suffix}"
    order = np.random.default_rng(0).permutation(40)
    write_features(path, [(order, rows[order])], pool, 10, {"weights": "w"})
    names, found = read_features(path)
    assert list(names) == [pool.names[n] for n in order]
    np.testing.assert_array_equal(found, rows[order])
    best = kept(scores, 1.0, near_duplicates=0.9, features=path)
    assert [name[-6:-4] for name in best] == [f"{n:02d}" for n in range(39, 0, -4)]
    turns = kept(scores, 10, balance="cluster", features=path, clusters=10)
    assert sorted(turns) == sorted(best)


def test_the_least_sharp_are_left_out(pool, scores):
    sharp = kept(scores, 1.0, pool=pool, drop_blurred=0.35)
    assert len(sharp) == 26
    assert all(int(name[-6:-4]) % 3 for name in sharp)  # every third has the least noise


def test_a_threshold_and_a_share_of_the_target(pool, scores, tmp_path):
    assert len(kept(scores)) == 20
    out = select(scores, out=tmp_path / "t.parquet", threshold=30)
    assert len(pq.read_table(out)) == 10
    with pytest.raises(UserError, match="no score is 99 or above"):
        select(scores, out=out, threshold=99)
    with pytest.raises(UserError, match="give one of them"):
        select(scores, 0.5, out, threshold=3)
    with pytest.raises(UserError, match="was not judged by images of the target"):
        select(scores, out=out, target_share=0.5)


def test_a_higher_threshold_keeps_a_part(pool, scores, tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    write_features(tmp_path / "f.npy", [(np.arange(40), rows)], pool, 3, {})
    options = {"near_duplicates": 0.9, "features": tmp_path / "f.npy", "drop_blurred": 0.2}
    kept_by = {}
    for threshold in (5, 20, 30):
        out = select(
            scores, out=tmp_path / "t.parquet", threshold=threshold, pool=pool,
            diversity=Diversity(**options),
        )  # fmt: skip
        kept_by[threshold] = pq.read_table(out)["image"].to_pylist()
    assert kept_by[5][: len(kept_by[20])] == kept_by[20]
    assert kept_by[20][: len(kept_by[30])] == kept_by[30]
    assert 0 < len(kept_by[30]) < len(kept_by[5])


def test_the_account_of_a_pool_with_a_broken_image(pool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = pa.array([None, *map(float, range(39))], pa.float32())
    record = {"pool": pool.source, "pool_fingerprint": pool.fingerprint, "method": "nearest"}
    write_table(tmp_path / "s.parquet", {"image": list(pool.names), "score": values}, record)
    rows = np.eye(39, dtype=np.float32)  # embedding has left the broken one out
    write_features(tmp_path / "f.npy", [(np.arange(1, 40), rows)], pool, 39, {})
    main(["select", "--scores=s.parquet"])
    main(["report", "--scores=s.parquet", "--features=f.npy", "--count=2"])
    assert "near-duplicates: 0 of the pool's 40 images" in capsys.readouterr().out


def test_features_and_their_names_are_not_replaced(pool, scores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_features(
        tmp_path / "f.npy", [(np.arange(40), np.eye(40, dtype=np.float32))], pool, 40, {}
    )
    for out in ("f.npy", "f.parquet"):
        for command in ("select", "report"):
            if command == "report":
                main(["select", "--scores=s.parquet"])
            with pytest.raises(UserError, match="is read by this command"):
                main([command, "--scores=s.parquet", "--features=f.npy", f"--out={out}"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"near_duplicates": 0.9}, "give --features"),
        ({"balance": "cluster"}, "give --features"),
        ({"balance": "track"}, "give --pattern"),
        ({"max_source": 1.5}, "above 0 and up to 1"),
        ({"drop_blurred": 1.0}, "from 0 to below 1"),
        ({"drop_blurred": 0.1}, "give --pool"),
    ],
)
def test_what_is_missing_is_said(scores, options, message):
    with pytest.raises(UserError, match=message):
        kept(scores, **options)


def test_features_of_other_images_are_refused(pool, scores, tmp_path):
    half = np.arange(20)
    write_features(tmp_path / "f.npy", [(half, np.eye(20, dtype=np.float32))], pool, 20, {})
    with pytest.raises(UserError, match=r"f\.npy: has no features of "):
        kept(scores, near_duplicates=0.9, features=tmp_path / "f.npy")


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"\xff" * 100])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_damaged_file_of_features_is_one_line(pool, scores, tmp_path, damage, suffix):
    path = tmp_path / f"f{suffix}"
    write_features(path, [(np.arange(40), np.eye(40, dtype=np.float32))], pool, 40, {})
    path.write_bytes(damage)
    with pytest.raises(UserError, match="not a file of features"):
        kept(scores, near_duplicates=0.9, features=path)


def test_looks():
    image = np.zeros((40, 20, 3), np.uint8)
    image[10:30, 5:15] = (200, 100, 100)  # of the middle, which is all that colour is seen in
    found = dict(zip(LOOKS, looks_of(image)))
    assert found["saturation"] == pytest.approx(127.5, abs=1)
    assert (found["brightness"], found["height"], found["aspect"]) == (200, 40, 2)
    assert found["sharpness"] > 0 == looks_of(np.full((40, 20, 3), 9, np.uint8))[2]


def test_what_a_score_follows_is_said(pool, scores):
    said = follows(pool, read_scores(scores)["score"].to_numpy())
    assert "brightness +1.00" in said
    assert "the score follows" in said
    assert said.endswith("brightness")


def test_the_account_of_a_selection(pool, scores, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = np.repeat(np.eye(20, dtype=np.float32), 2, axis=0)
    write_features(tmp_path / "f.npy", [(np.arange(40), rows)], pool, 20, {})
    main(["select", "--scores=s.parquet", "--max_source=0.5", "--keep=12"])
    main(["report", "--scores=s.parquet", "--features=f.npy", "--count=2"])
    said = capsys.readouterr().out
    assert "hall: 25.0% -> 50.0%" in said
    assert "street: 75.0% -> 50.0%" in said
    assert "near-duplicates: 20 of the pool's 40 images" in said
    assert "brightness +1.00" in said


# -- what a judgement expects


@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
def test_the_share_of_the_target_is_estimated(share):
    rng = np.random.default_rng(0)
    target = rng.normal(2, 1, size=3000)
    own = round(share * 8000)
    pool = np.concatenate([rng.normal(2, 1, size=own), rng.normal(-1, 1, size=8000 - own)])
    found = judge(target, pool, separable=0.5 if share == 1 else 0.9)
    assert found.share == pytest.approx(share, abs=0.06)
    assert found.kept(1) == 1
    assert np.all(np.diff(found.found) >= 0)
    assert found.nothing_to_gain == (share == 1)
    if share < 1:
        part = found.largest(0.8)
        best = np.argsort(-pool)[: round(part * 8000)]
        assert (best < own).mean() == pytest.approx(0.8, abs=0.05)
        assert found.kept(part) == pytest.approx((best < own).sum() / own, abs=0.05)


def test_scores_that_are_all_equal_keep_as_chance_does():
    found = judge(np.ones(50), np.ones(70))
    assert (found.auc, found.knows) == (0.5, False)
    np.testing.assert_allclose(found.found, np.linspace(0, 1, 101), atol=0.01)
