"""What a network was trained on, from the headers of its weights and of those before them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from transreid_ssl.data import FilesPool, LabelledImages, ReIDProtocol, open_reid
from transreid_ssl.data.reid import merge
from transreid_ssl.models import BackboneSpec, build_backbone, save_backbone
from transreid_ssl.origin import Source, lineage, origin_on, sources, was_trained_on


def network(**provenance):
    return BackboneSpec("vit_nano_patch8_reid", provenance=provenance)


def tuned(name, root=None, weights=None):
    """As a recipe of fine-tuning writes it."""
    settings = {"data": {"name": name, "root": root}, "model": {"weights": weights}}
    return network(data=name, settings=settings)


@pytest.fixture
def market(tmp_path):
    """A protocol with a folder for each part; nothing is read."""

    def images(part):
        folder = tmp_path / "Market-1501" / part
        return LabelledImages(FilesPool(str(folder), folder, ["a.jpg"]), np.zeros(1), np.zeros(1))

    parts = map(images, ("bounding_box_train", "query", "bounding_box_test"))
    return ReIDProtocol("market1501", *parts)


def test_sources_of_what_recipes_write():
    assert sources(network()) == []
    assert sources(network(file="official.pth")) == []
    pool = {"pool": "/data/LUP", "settings": {"data": {"pool": "/data/LUP", "subset": None}}}
    assert sources(network(**pool)) == [Source("pool", "/data/LUP")]
    assert sources(tuned("msmt17", "/data")) == [Source("msmt17", "/data")]
    assert sources(tuned("pool", "/data/LUP")) == [Source("pool", "/data/LUP")]
    assert sources(network(data="demo:style=1")) == [Source("demo:style=1")]


@pytest.mark.parametrize(
    ("trained", "target", "expected"),
    [
        ("market1501", "market1501", True),
        ("market1501", "msmt17", False),
        ("market1501+msmt17", "msmt17", True),
        ("market1501", "msmt17+market1501", True),
        ("dukemtmc", "occluded_duke", True),
        ("cuhk03_detected", "cuhk03_labeled", True),
        ("occluded_duke", "cuhk03_labeled", False),
        ("demo", "market1501", False),
    ],
)
def test_sets_by_name_wherever_they_lie(market, trained, target, expected):
    assert was_trained_on(tuned(trained, "/there"), Source(target, "/here"), market) is expected


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("Market-1501/bounding_box_train", True),
        ("Market-1501", True),
        (".", True),
        ("Market-1501/bounding_box_test/half", True),
        ("Market-1501/gt_bbox", False),
        ("MSMT17", False),
    ],
)
def test_unlabelled_pools_by_their_folder(market, tmp_path, pool, expected):
    path = str(tmp_path / pool)
    for spec in (network(pool=path), tuned("pool", path), tuned("folder", path)):
        assert was_trained_on(spec, Source("market1501", str(tmp_path)), market) is expected
        two = merge([market, replace(market, name="again")])
        assert was_trained_on(spec, Source("market1501+personx", str(tmp_path)), two) is expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("demo:style=1", True),
        ("demo:style=1,identities=5,height=32,width=16", True),
        ("demo:style=2", False),
        ("demo", False),
        ("demo:style=1,seed=3", False),
        ("demo:style=1,difficulty=hard", False),
    ],
)
def test_generated_people_by_their_place(target, expected):
    protocol = open_reid(f"{target}" + ("," if ":" in target else ":") + "images=4,test=2")
    spec = "demo:style=1,images=7,junk=0.1"
    for trained in (tuned(spec), network(pool=spec), tuned("pool", spec)):
        assert was_trained_on(trained, Source(target), protocol) is expected
    assert was_trained_on(tuned("pool"), Source("demo"), open_reid("demo:images=4"))


def test_the_weights_that_training_began_with_count_too(market, tmp_path):
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16))
    first, second = str(tmp_path / "dino.safetensors"), str(tmp_path / "source.safetensors")
    pool = str(tmp_path / "Market-1501/bounding_box_train")
    save_backbone(first, model, replace(model.spec, provenance={"pool": pool}))
    between = tuned("personx", weights=first).provenance
    save_backbone(second, model, replace(model.spec, provenance=between))
    final = tuned("dukemtmc", weights=second)
    assert [sources(spec)[0].name for spec in lineage(final)] == ["dukemtmc", "personx", "pool"]
    for name in ("dukemtmc", "personx", "market1501"):
        assert was_trained_on(final, Source(name), market)
    assert was_trained_on(final, Source("msmt17"), market)  # the folders are Market-1501's
    gone = tuned("dukemtmc", weights=str(tmp_path / "gone.safetensors"))
    assert len(list(lineage(gone))) == 1
    save_backbone(first, model, replace(model.spec, provenance=between))  # begins with itself
    assert len(list(lineage(final))) == 3
    (tmp_path / "source.safetensors").write_bytes(b"no weights any more")
    assert len(list(lineage(final))) == 1


def on_pool(tmp_path, source, names=("a.jpg",), **provenance):
    """What is told of a network of this provenance, judged on a pool of these names."""
    weights = tmp_path / "net.safetensors"
    weights.write_bytes(b"")
    return origin_on(network(**provenance), weights, FilesPool(source, tmp_path, names))


def test_a_network_is_in_sample_on_the_pool_that_its_weights_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = on_pool(tmp_path, "tracks", pool=str(tmp_path / "tracks"))
    assert told.in_sample is True
    assert told.text.startswith("was trained on this very pool, as its weights say: in-sample")
    assert on_pool(tmp_path, "tracks", pool="there/../tracks").in_sample is True
    other = on_pool(tmp_path, "tracks", pool="/data/LUP")
    assert other == (False, "its weights name /data/LUP as what it was trained on")
    unknown = on_pool(tmp_path, "tracks", file="official.pth")
    assert unknown == (None, "its weights do not say which images it was trained on")
    before = {"lineage": [{"name": "vit_nano_patch8_reid", "objective": "dino",
                           "provenance": {"pool": "tracks"}}]}  # fmt: skip
    settings = {"model": {"weights": "gone.safetensors"}}
    assert on_pool(tmp_path, "tracks", data="demo", settings=settings, **before).in_sample is True
    told = on_pool(tmp_path, "tracks", pool="/data/LUP", whitened="tracks")
    assert told.text.startswith("was whitened by this very pool")
    told = on_pool(tmp_path, "tracks", pool="tracks", whitened="tracks")
    assert told.text.startswith("was trained on this very pool")


def test_a_pool_of_the_same_path_and_other_images_is_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = FilesPool("", tmp_path, ["a.jpg"]).fingerprint
    told = {"pool": "tracks", "fingerprint": names}
    assert on_pool(tmp_path, "tracks", **told).in_sample is True
    assert on_pool(tmp_path, "tracks", ["b.jpg"], **told).in_sample is False
    part = {"settings": {"data": {"subset": "part.txt"}}}  # whose names are others
    assert on_pool(tmp_path, "tracks", ["b.jpg"], **told, **part).in_sample is True


@pytest.mark.parametrize(
    ("file", "left", "state"),
    [
        ("checkpoints/step_00000110.pt", None, "stopped at step 110 of 600, epoch 11 of 60"),
        ("best.safetensors", None, "stopped at step 120 of 600, epoch 12 of 60"),
        ("other.safetensors", None, None),
        ("backbone.safetensors", None, None),
        ("best.safetensors", "model.safetensors", None),
        ("checkpoints/step_00000120.pt", "model.safetensors", None),
        ("checkpoints/step_00000110.pt", "model.safetensors", "it is of step 110 of 120"),
    ],
)
def test_weights_of_a_run_that_is_not_finished_are_told_as_such(tmp_path, file, left, state):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "run.lock").write_text("")
    epochs = 12 if left else 60
    settings = {"run": {"epochs": epochs}, "data": {"pool": str(tmp_path / "tracks")}}
    (tmp_path / "config.yaml").write_text(json.dumps(settings))
    (tmp_path / "metrics.jsonl").write_text('{"step": 120, "epoch": 12.0}\n')
    for name in filter(None, [file, left]):
        (tmp_path / name).write_bytes(b"")
    pool = FilesPool(str(tmp_path / "tracks"), tmp_path, ["a.jpg"])
    told = origin_on(network(), tmp_path / file, pool)
    assert ("not finished" in told.text) == (state is not None and "stopped" in state)
    assert state is None or state in told.text
    if file.endswith(".pt"):
        assert told.text.startswith("was trained on this very pool, as its run's settings say")
    (tmp_path / "config.yaml").write_text("[")
    assert origin_on(network(), tmp_path / file, pool).in_sample is None
