"""The comparison of selections: its pool, and the whole of it at toy size."""

import importlib
import json
from collections import Counter

import numpy as np
import pytest

import launch
from transreid_ssl.data import decode, open_pool, open_reid
from transreid_ssl.data.budget import read_budget
from transreid_ssl.errors import UserError

TARGET = "demo:identities=30,images=8,height=32,width=16,test=8"
OTHER = "demo:identities=20,images=8,height=32,width=16,style=2,first=5000"


@pytest.fixture
def pools(monkeypatch):
    monkeypatch.syspath_prepend(launch.ROOT)
    return importlib.import_module("benchmarks.selection.pools")


def mixed(pools, folder, **changes):
    settings = {"labels": 0.3, "sample": 0.3, "bad": 0.1, "copies": 0.05, "limit": None} | changes
    return pools.mix(folder, open_reid(TARGET).train, open_pool(OTHER), **settings)


def test_the_pool_holds_what_it_says_and_nobody_twice(pools, tmp_path):
    made = mixed(pools, tmp_path / "images")
    counts = Counter(made.kinds().tolist())
    assert counts == {"target": 96, "other": 96, "bad": 19, "copy": 10}
    train = open_reid(TARGET).train
    labelled = read_budget(made.labels, train)
    known = {train.read(int(n)): int(train.identities[n]) for n in range(len(train))}
    pooled = {known[made.pool.read(n)] for n, kind in enumerate(made.kinds()) if kind == "target"}
    shown = {known[made.sample.read(n)] for n in range(len(made.sample))}
    with_labels = {int(train.identities[n]) for n in labelled}
    assert [len(people) for people in (with_labels, shown, pooled)] == [9, 9, 12]
    assert len(with_labels | shown | pooled) == 30
    assert list(mixed(pools, tmp_path / "images").pool.names) == list(made.pool.names)
    with pytest.raises(UserError, match="holds other images"):
        mixed(pools, tmp_path / "images", bad=0.2)


def test_bad_detections_are_of_three_kinds_and_copies_are_almost_the_same(pools):
    rng = np.random.default_rng(0)
    images = [decode(open_pool(OTHER).read(n)) for n in (0, 9)]
    made = {pools.bad_detection(*images, np.random.default_rng(n)).tobytes() for n in range(30)}
    assert len(made) == 4  # empty, an upper and a lower half, two people
    copy = pools.near_copy(*images, rng).astype(float)
    assert 0 < np.abs(copy - images[0]).mean() < 12


def test_the_experiment_at_toy_size(tmp_path):
    size = ["model.img_size=[32,16]", "run.batch_size=16", "run.num_workers=0"]
    text = launch.run(
        "-m", "benchmarks.selection", f"--target={TARGET}", f"--other={OTHER}", "--seeds=0",
        "--epochs=1", "--finetune_epochs=1", "--threads=1", f"--out={tmp_path}",
        "--trained", "random", "density-ratio", "--pretraining", *size,
        "views.global_size=[32,16]", "views.local_size=[16,8]", "--finetuning", *size,
    )  # fmt: skip
    last = json.loads(text.splitlines()[-1])
    assert last["ratio"] > 0
    assert last["mAP"].keys() == {"all", "random", "density-ratio"}
    runs = {
        run["part"]: run for run in json.loads((tmp_path / "selection.json").read_text())["runs"]
    }
    assert runs["density-ratio"]["auc"] > 0.85 > 0.65 > runs["random"]["auc"] > 0.35
    assert runs["density-ratio"]["kept"]["target"] > 0.6
    assert runs["target"]["kept"]["bad"] == 0
    assert runs["cfs"]["auc"] == pytest.approx(1 - runs["cfs-lowest"]["auc"])
    for part in ("cfs", "cfs-centred", "cfs-whitened", "density-ratio", "nearest", "moments"):
        assert runs[part]["looks"].keys() >= {"saturation", "brightness", "sharpness"}
    assert runs["density-ratio"]["judged"] > 0.6
    assert 0.35 < runs["random"]["judged"] < 0.65
    assert runs["target"]["judged"] is None  # it is told the truth
    table = (tmp_path / "table.md").read_text()
    assert "| nearest to the target |" in table
    assert table in text


def test_none_of_the_other_place_is_refused():
    run = importlib.import_module("benchmarks.selection.__main__")
    for others in ("0", "-1", "nan"):
        with pytest.raises(UserError, match=f"--others {others}: give a number above 0"):
            run.parse(["--target", "demo", "--other", "demo", "--others", others])


def test_all_of_luperson_is_scored_block_by_block(tmp_path):
    text = launch.run(
        "-m", "benchmarks.selection.scale", "--rows=20000", "--dim=32", "--sample=500",
        "--near_duplicates", "--threads=1",
    )  # fmt: skip
    last = json.loads(text.splitlines()[-1])
    assert last["runs"].keys() == {
        "density-ratio", "nearest", "moments", "select", "near_duplicates",
    }  # fmt: skip
    assert last["runs"]["near_duplicates"]["found"] == 200
