"""The commands evaluate and embed, and the list of all commands, on generated people."""

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch

from transreid_ssl import UserError, __main__, embed, evaluate
from transreid_ssl.data import open_pool, open_reid
from transreid_ssl.models import BackboneSpec, build_backbone, save_backbone
from transreid_ssl.retrieval import Reranking, expand_queries
from transreid_ssl.retrieval import evaluate as retrieval_metrics

DEMO = "demo:identities=3,images=6,test=5"
FAST = ["--num_workers", "0", "--batch_size", "16"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_backbone("vit_nano_patch8_reid", img_size=(32, 16), objective="dino").eval()


@pytest.fixture
def weights(model, tmp_path, monkeypatch):
    """A weights file; the test runs in its folder, where outputs/ appears."""
    monkeypatch.chdir(tmp_path)
    save_backbone("net.safetensors", model, replace(model.spec, provenance={"pool": DEMO}))
    return "net.safetensors"


def by_hand(model, images):
    """Features without any of the machinery under test but the model."""
    features = []
    for index in range(len(images)):
        image = cv2.imdecode(np.frombuffer(images.read(index), np.uint8), cv2.IMREAD_COLOR)
        small = cv2.resize(image[..., ::-1], (16, 32), interpolation=cv2.INTER_AREA)
        pixels = torch.from_numpy(small.copy()).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.spec.mean, model.spec.std))
        with torch.no_grad():
            features.append(model(((pixels - mean) / std)[None])[0])
    return torch.nn.functional.normalize(torch.stack(features), dim=1)


def test_figures_are_those_of_the_model(model, weights, capsys):
    evaluate.main([*FAST, "--weights", weights, "--baselines", "true", "--verification", "true"])
    record = json.loads(Path("outputs/evaluate/metrics.json").read_text())
    protocol = open_reid(DEMO)
    parts = protocol.query, protocol.gallery
    sides = [x for part in parts for x in (by_hand(model, part), part.identities, part.cameras)]
    expected = retrieval_metrics(*sides)
    assert record["results"]["network"]["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    assert set(record["results"]) == {"network", "colour histogram", "chance"}
    assert set(record["verification"]) == {"0.0001", "0.001", "0.01"}
    threshold = record["verification"]["0.01"]["threshold"]
    assert record["settings"]["weights"] == weights
    printed = capsys.readouterr().out
    assert "generated" in printed
    assert f"rate 0.01: take cosines above {threshold:.6f}" in printed
    assert f"{100 * record['results']['network']['mAP']:.1f}%" in printed
    assert cv2.imread("outputs/evaluate/galleries.png") is not None


def test_reranked_and_expanded(model, weights, capsys):
    plain = [*FAST, "--weights", weights, "--picture", "false", "--json", "m.json"]
    plain += ["--overwrite", "true"]
    evaluate.main([*plain, "--rerank", "true", "--rerank_k1", "4", "--expand_queries", "2"])
    results = json.loads(Path("m.json").read_text())["results"]
    assert list(results) == ["network", "re-ranked", "expanded queries", "chance"]
    assert "re-ranked" in capsys.readouterr().out
    protocol = open_reid(DEMO)
    query, gallery = (
        (by_hand(model, part), part.identities, part.cameras)
        for part in (protocol.query, protocol.gallery)
    )
    expected = retrieval_metrics(*query, *gallery, rerank=Reranking(k1=4, k2=4))
    assert results["re-ranked"]["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    expanded = expand_queries(query[0], gallery[0], 2)
    expected = retrieval_metrics(expanded, *query[1:], *gallery)
    assert results["expanded queries"]["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    with pytest.raises(UserError, match="take a smaller k1"):
        evaluate.main([*plain, "--rerank", "true", "--rerank_k1", "500"])
    evaluate.main(plain)
    assert list(json.loads(Path("m.json").read_text())["results"]) == ["network", "chance"]


def test_mirror_images_change_the_figures(weights):
    results = []
    for flip in ("false", "true"):
        evaluate.main(
            [
                *FAST,
                "--weights",
                weights,
                "--flip",
                flip,
                "--json",
                "m.json",
                "--picture",
                "false",
                "--overwrite",
                "true",
            ]
        )
        results.append(json.loads(Path("m.json").read_text())["results"])
    assert results[0]["network"]["mAP"] != results[1]["network"]["mAP"]
    assert results[0]["chance"] == results[1]["chance"]
    assert not os.path.exists("outputs")


def test_pictures_of_your_own_images_only_when_asked_for(weights):
    protocol = open_reid(DEMO)
    for part in ("query", "gallery"):
        images = getattr(protocol, part)
        os.makedirs(f"mine/{part}")
        for index, name in enumerate(images.names):
            label = f"{images.identities[index]}_c{images.cameras[index]}_{name}"
            Path(f"mine/{part}/{label}").write_bytes(images.read(index))
    command = [*FAST, "--weights", weights, "--data", "folder", "--root", "mine"]
    evaluate.main(command)
    assert sorted(os.listdir("outputs/evaluate")) == ["metrics.html", "metrics.json"]
    evaluate.main([*command, "--picture", "mine.png"])
    assert cv2.imread("mine.png") is not None


@pytest.mark.parametrize(
    ("name", "root", "asked", "expected"),
    [
        (f"{DEMO},style=1", None, None, "style=1"),
        ("pool", f"{DEMO},style=2", None, "style=2"),
        ("pool", None, None, "style=0"),
        ("pool", "/data/LUP", DEMO, "style=0"),
        ("market1501", "/data/Market-1501", f"{DEMO},style=1", "style=1"),
    ],
)
def test_the_set_that_the_weights_remember(name, root, asked, expected):
    settings = {"data": {"name": name, "root": root}}
    spec = BackboneSpec("vit_nano_patch8_reid", provenance={"data": name, "settings": settings})
    protocol = evaluate.open_protocol(evaluate.Evaluate(data=asked), spec)
    assert f",{expected}," in protocol.train.pool.source


@pytest.mark.parametrize(
    "provenance",
    [
        {"pool": "/data/LUP", "settings": {"data": {"pool": "/data/LUP"}}},
        {"data": "pool", "settings": {"data": {"name": "pool", "root": "/data/LUP"}}},
        {"file": "official.pth"},
    ],
)
def test_no_generated_people_for_a_network_of_real_ones(provenance):
    spec = BackboneSpec("vit_nano_patch8_reid", provenance=provenance)
    with pytest.raises(UserError, match=r"which labelled set\?.*--data folder --root CROPS"):
        evaluate.open_protocol(evaluate.Evaluate(), spec)


def test_a_page_that_fails_is_a_line_and_its_metrics_are_those_of_the_table(
    weights, capsys, monkeypatch
):
    def evaluate_once(*sides, **options):
        calls.append(len(sides))
        return retrieval_metrics(*sides, **options)

    calls = []
    monkeypatch.setattr("transreid_ssl.retrieval.evaluate", evaluate_once)
    monkeypatch.setattr("transreid_ssl.report.findings.evaluate", evaluate_once)
    evaluate.main([*FAST, "--weights", weights])
    assert len(calls) == 1
    page = Path("outputs/evaluate/metrics.html").read_text()
    monkeypatch.setattr("transreid_ssl.report.findings.feature_map", lambda *_: 1 / 0)
    evaluate.main([*FAST, "--weights", weights, "--picture", "again.png"])
    told = capsys.readouterr()
    assert told.out.count("page: ") == 1
    assert told.err == "warning: no page was written (division by zero)\n"
    assert Path("outputs/evaluate/metrics.html").read_text() == page
    assert Path("again.png").exists(), "what follows is done"


def test_own_labelled_images_are_read_as_in_the_training(model, weights, tmp_path):
    """Their folder and pattern are carried along in the weights."""
    for part in ("train", "query", "gallery"):
        images = open_reid(DEMO).query
        os.makedirs(f"mine/{part}")
        for index in range(len(images)):
            name = f"who{images.identities[index]}at{images.cameras[index]}_{part}{index}.jpg"
            Path(f"mine/{part}/{name}").write_bytes(images.read(index))
    pattern = r"who(?P<identity>\d+)at(?P<camera>\d+)"
    known = {"name": "folder", "root": "mine", "pattern": pattern}
    own = replace(model.spec, provenance={"data": "folder", "settings": {"data": known}})
    save_backbone(weights, model, own)
    evaluate.main([*FAST, "--weights", weights])
    record = json.loads(Path("outputs/evaluate/metrics.json").read_text())
    assert record["protocol"].startswith("folder")
    assert sorted(os.listdir("outputs/evaluate")) == ["metrics.html", "metrics.json"]
    assert (
        "data:image/jpeg" not in Path("outputs/evaluate/metrics.html").read_text()
    )  # of real people


def test_the_newest_network_is_taken_and_said(model, weights, capsys):
    small = replace(model.spec, provenance={"data": f"{DEMO},height=32,width=16"})
    runs = ["zebra/model", "dino_pretrain/backbone", "moco_pretrain/backbone"]
    for age, name in enumerate(runs):
        save_backbone(f"outputs/{name}.safetensors", model, small)
        os.utime(f"outputs/{name}.safetensors", (10**9 - age, 10**9 - age))
        Path(f"outputs/{name}").with_name("run.lock").touch()
    os.utime(f"outputs/{runs[2]}.safetensors")
    evaluate.main([*FAST, "--picture", "false"])
    said = f"--weights outputs/{runs[2]}.safetensors: the newest of 3 finished runs in outputs/"
    assert capsys.readouterr().out.startswith(said)
    evaluate.main([*FAST, "--picture", "false", "--run", "zebra"])
    said = "--weights outputs/zebra/model.safetensors: as asked for\n"
    assert capsys.readouterr().out.startswith(said)
    with pytest.raises(UserError, match="--weights a and --run b: name one of them"):
        evaluate.main(["--weights", "a", "--run", "b"])


def test_cameras_of_the_training_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = build_backbone("vit_nano_patch8_reid", img_size=(32, 16), num_cameras=6)
    save_backbone("cameras.safetensors", network)
    command = [*FAST, "--weights", "cameras.safetensors", "--picture", "false"]
    evaluate.main([*command, "--data", "demo:identities=12,images=6,test=5"])
    with pytest.raises(UserError, match="embeddings of 6 cameras"):
        evaluate.main([*command, "--data", f"{DEMO},cameras=3"])
    with pytest.raises(UserError, match="needs the camera"):
        embed.main([*FAST, "--weights", "cameras.safetensors", "--images", DEMO])


def test_features_after_the_batch_norm(tmp_path, monkeypatch, weights):
    network = build_backbone("vit_nano_patch8_reid", img_size=(32, 16), feature_norm=True)
    torch.nn.init.uniform_(network.bottleneck.weight, 0.5, 2)
    save_backbone("norm.safetensors", network)
    found = {}
    for feature in (None, "before", "after"):
        chosen = [] if feature is None else ["--feature", feature]
        embed.main(
            [
                *FAST,
                "--weights",
                "norm.safetensors",
                "--images",
                DEMO,
                "--out",
                "f.npy",
                *chosen,
                "--overwrite",
                "true",
            ]
        )
        found[feature] = np.load("f.npy")
    np.testing.assert_array_equal(found[None], found["after"])
    assert np.abs(found["before"] - found["after"]).max() > 0.01
    with pytest.raises(UserError, match="no batch norm"):
        evaluate.main(["--weights", weights, "--feature", "after"])


@pytest.mark.parametrize("name", ["features.safetensors", "features.npy"])
def test_embedded_pool(model, weights, name):
    embed.main([*FAST, "--weights", weights, "--out", f"new/{name}"])
    path = Path("new") / name
    features = (
        np.load(path) if path.suffix == ".npy" else safetensors.numpy.load_file(path)["features"]
    )
    pool = open_pool(DEMO)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, by_hand(model, pool), atol=1e-5)
    names = pq.read_table("new/features.parquet")["image"].to_pylist()
    assert names == list(pool.names)


def test_broken_images(weights):
    os.mkdir("crops")
    pool = open_pool(DEMO)
    for index in range(4):
        Path(f"crops/{index}.jpg").write_bytes(pool.read(index)[: 100 if index == 1 else None])
    command = [*FAST, "--weights", weights, "--images", "crops", "--out", "f.npy"]
    with pytest.raises(UserError, match=r"1\.jpg"):
        embed.main(command)
    assert not os.path.exists("f.npy")
    embed.main([*command, "--skip_broken", "true", "--batch_size", "1"])
    assert len(np.load("f.npy")) == 3
    names = pq.read_table("f.parquet")["image"].to_pylist()
    assert names == ["0.jpg", "2.jpg", "3.jpg"]


def test_mistakes_are_named(weights):
    with pytest.raises(UserError, match=r"no run in outputs/ has left any.*--weights"):
        evaluate.main([])
    with pytest.raises(UserError, match="where is it"):
        evaluate.main(["--weights", weights, "--data", "market1501"])
    with pytest.raises(UserError, match="--device"):
        evaluate.main(["--weights", weights, "--device", "abacus"])
    with pytest.raises(UserError, match="batch_size"):
        evaluate.main(["--weights", weights, "--batch_size", "0"])
    os.mkdir("results")
    for option in ("--json", "--picture"):
        with pytest.raises(UserError, match="results: is a folder"):
            evaluate.main(["--weights", weights, option, "results"])
    with pytest.raises(UserError, match=r"\.npy"):
        embed.main([*FAST, "--weights", weights, "--out", "features.pt"])


def test_every_listed_command_and_recipe_is_there():
    text, examples = __main__.overview(), __main__.examples()
    for name in __main__.COMMANDS:
        found = importlib.util.find_spec(f"transreid_ssl.{name}")
        assert found is not None
        if found.submodule_search_locations:
            assert importlib.util.find_spec(f"transreid_ssl.{name}.__main__") is not None
        assert f"\n  {name} " in text
        assert f"python -m transreid_ssl.{name} " in examples
    for training in ("pretrain dino", "pretrain upreid", "finetune mgn", "finetune usl"):
        assert f"\n  {training} " in text
        assert f"python -m transreid_ssl {training}\n" in examples


def test_the_page_replaces_nothing_but_a_page_of_its_own(weights):
    """``--json`` in the folder of a run leaves the run's page; somebody's own file is refused."""
    Path("run").mkdir()
    Path("run/report.html").write_text("the run's")
    own = [*FAST, "--weights", weights, "--picture", "false", "--json", "run/x.json"]
    evaluate.main(own)
    with pytest.raises(UserError, match=r"run/x\.json: is there already"):
        evaluate.main(own)
    evaluate.main([*own, "--overwrite=true"])  # its own it may replace
    assert Path("run/report.html").read_text() == "the run's"
    Path("run/y.html").write_text("mine")
    with pytest.raises(UserError, match=r"run/y\.html: would be replaced"):
        evaluate.main([*FAST, "--weights", weights, "--json", "run/y.json"])
    assert not Path("run/y.json").exists()
    Path("run/x.json").unlink()
    page = Path("run/x.html").read_text()  # may be of another command by now
    with pytest.raises(UserError, match=r"run/x\.html: is there already"):
        evaluate.main(own)
    assert Path("run/x.html").read_text() == page
