"""What a network was trained on, from the headers of its weights and of those before them."""

from dataclasses import replace

import numpy as np
import pytest

from transreid_ssl.data import FilesPool, LabelledImages, ReIDProtocol, open_reid
from transreid_ssl.data.reid import merge
from transreid_ssl.models import BackboneSpec, build_backbone, save_backbone
from transreid_ssl.origin import Source, lineage, sources, was_trained_on


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
