"""Is this the same person: the embedder, and the commands calibrate, verify, search and cluster."""

import re
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import transreid_ssl
from transreid_ssl import UserError, calibrate, cluster, data, embed, retrieval, search, verify
from transreid_ssl.data import packing
from transreid_ssl.data.tracks import CropRules, crops_of_pool
from transreid_ssl.models import Calibration, build_backbone, read_spec, save_backbone

POOL = "demo:identities=4,images=10,test=4,height=32,width=16"
FAST = ["--num_workers=0", "--batch_size=16"]
FOUND = Calibration(20.0, -15.0, {0.01: 0.5, 0.001: 0.9}, {0.01: 0.011, 0.001: 0.002}, pairs="p")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_backbone("vit_nano_patch8_reid", img_size=(32, 16), provenance={"run": "r"}).eval()


@pytest.fixture(autouse=True)
def weights(model, tmp_path, monkeypatch):
    """Weights without a calibration and with one, and images, where the test runs."""
    monkeypatch.chdir(tmp_path)
    save_backbone("net.safetensors", model)
    save_backbone("known.safetensors", model, replace(model.spec, calibration=FOUND))
    pool, names = data.open_pool(POOL), []
    Path("crops").mkdir()
    for number in range(len(pool)):
        image = cv2.resize(next(data.decoded(pool, [number])), (20, 44 + number % 3))
        names.append(f"crops/{number:02d}.png")
        Image.fromarray(image).save(names[-1])
    return names


@pytest.fixture(scope="module")
def embedder(model):
    return transreid_ssl.Embedder(model, "cpu", batch_size=3)


def test_images_in_any_form_have_the_features_of_their_pool(weights, embedder):
    expected, _ = retrieval.embed_images(embedder.model, data.open_pool("crops"))
    given = [
        weights[0],
        Path(weights[1]),
        Image.open(weights[2]),
        np.asarray(Image.open(weights[3])),
    ]
    features = embedder([*given, *weights[4:]])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-6)
    for pool in (data.open_pool("crops"), "crops", Path("crops")):
        np.testing.assert_allclose(embedder(pool), expected, atol=1e-6)
    for one, row in zip(given, expected):
        np.testing.assert_allclose(embedder(one), row[None], atol=1e-6)
    assert embedder([]).shape == (0, features.shape[1])
    similarity = embedder.compare(given, features)
    np.testing.assert_allclose(similarity, features[:4] @ features.T, atol=1e-6)
    found, rows = embedder.search(features[:4], "crops/00.png", k=3)
    assert rows.tolist() == [[0]] * 4
    found, rows = embedder.search(given, features, k=3)
    assert (rows == np.argsort(-similarity, axis=1, kind="stable")[:, :3]).all()
    np.testing.assert_allclose(found, np.take_along_axis(similarity, rows, 1), atol=1e-6)


def test_threads_get_what_one_gets_alone(weights, embedder):
    parts = [weights[:20], weights[20:]] * 3
    results = [None] * len(parts)

    def work(number):
        results[number] = embedder(parts[number])

    threads = [threading.Thread(target=work, args=[number]) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part, found in zip(parts, results):
        np.testing.assert_array_equal(found, embedder(part))


def test_what_is_no_image(embedder):
    Path("text.jpg").write_text("no image")
    for wrong in ("nowhere.jpg", "text.jpg", "crops"):
        with pytest.raises(UserError, match=f"{wrong}: .*remove or replace this image"):
            embedder(["crops/00.png", wrong])
    with pytest.raises(ValueError, match=r"image 1: an array must be uint8 \(H, W, 3\), not float"):
        embedder(["crops/00.png", np.zeros((4, 4, 3))])
    with pytest.raises(TypeError, match=r"image 0: .*not a int"):
        embedder([3])
    with pytest.raises(UserError, match=r"not calibrated for flip=False: .*\.calibrate"):
        embedder.probability(0.5)
    with pytest.raises(UserError, match="device nonsense: cannot be used"):
        transreid_ssl.Embedder("net.safetensors", "nonsense")


def test_a_calibration_stays_with_exactly_its_network():
    spec = read_spec("known.safetensors")
    assert spec.calibration == FOUND
    assert spec.provenance == {"run": "r"}
    assert '"calibration"' not in read_spec("net.safetensors").to_json()  # for older versions
    found = transreid_ssl.Embedder("known.safetensors", "cpu")
    assert found.calibrated
    assert found.probability([0.75, 0.8]) == pytest.approx([0.5, 1 / (1 + np.exp(-1))])
    assert not transreid_ssl.Embedder("known.safetensors", "cpu", flip=True).calibrated
    load = transreid_ssl.load_backbone
    assert load("known.safetensors", objective="other").spec.calibration == FOUND
    assert load("known.safetensors", img_size=(48, 16)).spec.calibration is None
    with pytest.raises(UserError, match="calibration"):
        replace(spec, calibration={"slope": -1.0, "intercept": 0.0})


def made_up(seed, people=400):
    """Features of people in two cameras, of one random centre each."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, 24))
    ids = np.arange(people)
    return [
        (centres + rng.standard_normal((people, 24)) * 0.9, ids, np.full(people, camera))
        for camera in (0, 1)
    ]


def test_promised_rates_and_probabilities_are_kept_on_other_people():
    counts = []
    for seed in (0, 1):
        query, gallery = made_up(seed)
        counts.append(retrieval.count_pairs(*query, *gallery))
    found = calibrate.calibrate(counts)
    assert list(found.thresholds) == [0.01, 0.001, 0.0001]
    unit = [side[0] / np.linalg.norm(side[0], axis=1, keepdims=True) for side in made_up(1)]
    cosines = unit[0] @ unit[1].T
    different = cosines[~np.eye(len(cosines), dtype=bool)]
    for rate, threshold in found.thresholds.items():
        real = (different > threshold).mean()
        assert found.measured[rate] == pytest.approx(real, rel=0.01)
        assert rate / 2 < real < rate * 2
    for part in retrieval.reliability(counts[1], found.slope, found.intercept, [0, 0.3, 0.7, 1]):
        assert part.promised == pytest.approx(part.real, abs=0.05)
    (certain,) = retrieval.reliability(counts[1], 1e6, 1e6, [0.5, 1])  # odds rounded to certainty
    assert (certain.promised, certain.real) == pytest.approx((1.0, 0.5))
    assert "not known" not in calibrate.describe(found, counts)


def test_a_threshold_that_too_few_pairs_tell_is_left_out():
    query, gallery = made_up(0, people=50)  # 2,450 pairs of two people
    counts = [retrieval.count_pairs(*query, *gallery)] * 2
    found = calibrate.calibrate(counts)
    assert list(found.thresholds) == [0.01]
    assert "at 0.001: not known: 2,450 pairs of two people, and 10,000" in calibrate.describe(
        found, counts
    )
    with pytest.raises(UserError, match="no more alike"):
        calibrate.calibrate([retrieval.PairCounts(*counts[0][::-1])] * 2)


def test_calibrate_writes_a_copy_or_the_file_itself(capsys):
    people = ["--data=demo:identities=2,images=6,test=16,height=32,width=16", "--people=0.6"]
    calibrate.main([*FAST, *people, "--weights=net.safetensors"])
    calibrate.main([*FAST, *people])  # what it wrote is the newest, and is calibrated again
    assert "not known" in capsys.readouterr().out
    calibrate.main([*FAST, *people, "--weights=net.safetensors", "--in_place=true"])
    copy, itself = read_spec("outputs/calibrate/model.safetensors"), read_spec("net.safetensors")
    assert copy.calibration == itself.calibration
    assert "10 people of demo" in copy.calibration.pairs
    assert copy.provenance == {"run": "r"}
    transreid_ssl.load_backbone("net.safetensors")  # the checksum is that of the new header
    for options, said in (
        (["--in_place=true", "--out=a.safetensors"], "give one of them"),
        (["--out=known.safetensors"], "known.safetensors: is read by this command"),
        (["--out=a.pth"], "name it"),
        (["--feature=before"], "leave it"),
        (["--data=tracks", "--root=crops"], "crops: knows no tracks"),
    ):
        with pytest.raises(UserError, match=said):
            calibrate.main([*FAST, *people, "--weights=known.safetensors", *options])


def test_verify_decides_at_a_calibrated_rate(weights, capsys):
    pair = [*weights[:2], "--device=cpu"]
    verify.main([*pair, "--weights=net.safetensors"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("similarity (cosine): ")
    assert "net.safetensors: not calibrated: `python -m transreid_ssl.calibrate" in second
    cosine = float(first.split()[-1])  # between the two thresholds
    for options, decision in (([], "0.001: different people"), (["--rate=0.01"], "0.01: the same")):
        verify.main([*pair, "--weights=known.safetensors", *options])
        out = capsys.readouterr().out
        assert out.startswith(first)
        assert f"probability of one person: {100 * FOUND.probability(cosine):.1f} %" in out
        assert f"rate of false matches of {decision}" in out
        threshold = FOUND.thresholds[0.01 if options else 0.001]
        sure = f"{100 * FOUND.probability(threshold):.1f} %"
        assert (
            f"(one person is said of cosines above {threshold:.7f}, a probability of {sure})" in out
        )
    with pytest.raises(UserError, match=r"--rate 0.1: these weights know .* 0\.01, 0\.001 alone"):
        verify.main([*pair, "--weights=known.safetensors", "--rate=0.1"])
    with pytest.raises(UserError, match=r"^crops: is a folder; give one image"):
        verify.main([pair[0], "crops"])


def test_search_writes_what_the_embedder_finds(weights, embedder, capsys):
    run = [*FAST, "--k=4"]
    search.main([weights[5], "crops", "--weights=known.safetensors", *run])
    table = pyarrow.csv.read_csv("outputs/search/ranking.csv").to_pydict()
    similarity, rows = embedder.search(weights[5], weights, k=4)
    assert table["query"] == ["05.png"] * 4
    assert table["rank"] == [1, 2, 3, 4]
    assert table["image"] == [Path(weights[row]).name for row in rows[0]]
    assert table["similarity"] == pytest.approx(similarity[0].tolist(), abs=1e-6)
    assert table["probability"] == pytest.approx(FOUND.probability(similarity[0]), abs=1e-4)
    assert cv2.imread("outputs/search/ranking.png") is not None
    page = Path("outputs/search/ranking.html").read_text()
    assert "as many pairs show one person as show two" in page
    embed.main(["--images=crops", "--out=f.npy", "--weights=net.safetensors", *FAST])
    search.main([weights[5], "f.npy", "--out=r.parquet", *run])
    again = pq.read_table("r.parquet").to_pydict()
    assert again["image"] == table["image"]
    assert "probability" not in again
    before = Path("r.png").read_bytes()
    search.main([weights[6], "f.npy", "--out=r2.parquet", *run])  # in the same folder
    assert Path("r.png").read_bytes() == before != Path("r2.png").read_bytes()
    search.main(["crops", "crops", "--weights=net.safetensors", "--picture=false", *run])
    pairs = pyarrow.csv.read_csv("outputs/search/ranking.csv").to_pydict()
    assert len(pairs["query"]) == 4 * len(weights)
    assert not any(a == b for a, b in zip(pairs["query"], pairs["image"]))
    for options, said in (
        ([weights[5], "crops", "--out=r.txt"], "r.txt: name the table"),
        ([weights[5], weights[5]], "no other image to find"),
        (["nowhere", "crops"], "nowhere: no such file or folder"),
    ):
        with pytest.raises(UserError, match=said):
            search.main([*options, "--weights=net.safetensors", *run])
    capsys.readouterr()
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        search.main(["crops", "nowhere", "--weights=net.safetensors", *run])
    assert "images" not in capsys.readouterr().out  # no query was looked at


def test_cluster_groups_a_pool_or_features(capsys):
    run = [*FAST, "--k1=8", "--k2=3", "--weights=net.safetensors"]
    cluster.main(["crops", *run])
    table = pq.read_table("outputs/cluster/clusters.parquet").to_pydict()
    assert table["image"] == [f"{number:02d}.png" for number in range(40)]
    sizes = np.bincount([label for label in table["cluster"] if label >= 0])
    assert (np.diff(sizes) <= 0).all()
    assert sizes.sum()
    assert cv2.imread("outputs/cluster/clusters.png") is not None
    out = capsys.readouterr().out
    eps, reach, none = re.search(
        r"eps (\S+), which makes .* reach (\S+): .*, (\d+) in none", out
    ).groups()
    assert float(reach) == pytest.approx(1 / 3 + float(eps) * 2 / 3, abs=0.01)
    assert "page: outputs/cluster/clusters.html" in out
    text = Path("outputs/cluster/clusters.html").read_text()
    assert f"{len(sizes)} cluster" in text
    assert f"{sizes[0]} images" in text
    assert text.count('class="tile') == sum(min(11, size) for size in sizes[:12])
    assert "purity is not known" in text
    embed.main(["--images=crops", "--out=f.npy", "--weights=net.safetensors", *FAST])
    cluster.main(["f.npy", "--out=c.csv", *run])
    assert pyarrow.csv.read_csv("c.csv").to_pydict() == table
    capsys.readouterr()
    with pytest.raises(UserError, match=r"c\.csv: is there already"):
        cluster.main(["f.npy", "--out=c.csv", *run])
    run.append("--overwrite=true")
    cluster.main(["f.npy", "--out=c.csv", f"--eps={eps}", *run])
    plain = pyarrow.csv.read_csv("c.csv")["cluster"].to_numpy()
    assert (plain < 0).sum() > int(none) == sum(label < 0 for label in table["cluster"])
    capsys.readouterr()
    cluster.main(["f.npy", "--out=c.csv", "--eps=1", *run])
    assert "warning: one cluster holds 100 % of the images" in capsys.readouterr().out
    assert "Warning: one cluster holds 100 % of the images" in Path("c.html").read_text()
    cluster.main(["f.npy", "--out=c.csv", "--eps=0.001", *run])
    assert "% of the images are in no cluster" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^--eps 0\.0: give"):
        cluster.main(["f.npy", "--eps=0", *run])


def test_the_page_of_clusters_knows_tracks_purity_and_what_is_gone(capsys):
    run = [*FAST, "--k1=8", "--k2=3", "--weights=net.safetensors"]
    rules = CropRules(min_height=1, every=1, min_sharpness=0, min_change=0)
    for camera, said in (("", ""), (r"(?=(?P<camera>\d))", r"\d+ cameras?, ")):
        pattern = camera + r"(?P<track>\d)(?P<frame>\d)"
        crops, _ = crops_of_pool(data.open_pool("crops"), pattern, rules)
        folder = f"tracks{len(camera)}"
        packing.pack(crops, Path(folder))
        cluster.main([folder, f"--out={folder}.csv", *run])
        text = Path(f"{folder}.html").read_text()
        assert re.search(rf"<h3>Cluster 0: \d+ images, {said}\d+ tracks?</h3>", text)
        assert re.search(r"track \d<span", text)
    cluster.main([POOL, "--out=d.csv", "--eps=1", *run])
    assert "25.0 % of the images in clusters are of their cluster" in Path("d.html").read_text()
    embed.main(["--images=crops", "--out=f.npy", "--weights=net.safetensors", *FAST])
    Path("crops").rename("moved")
    capsys.readouterr()
    cluster.main(["f.npy", "--out=f.csv", *run])
    assert "no picture: the images of f.npy are not where" in capsys.readouterr().out
    text = Path("f.html").read_text()
    assert "Sizes of the clusters" in text
    assert '<figure class="tile' not in text
    Path("f.csv").unlink()
    with pytest.raises(UserError, match=r"f\.html: is there already"):
        cluster.main(["f.npy", "--out=f.csv", *run])
    Path("f.html").write_text("mine")
    with pytest.raises(UserError, match=r"f\.html: would be replaced"):
        cluster.main(["f.npy", "--out=f.csv", "--overwrite=true", *run])


def test_the_middle_of_a_cluster_is_first_and_the_least_alike_last():
    features = np.array([[1, 0], [0.9, 0.2], [0.8, 0.6], [0, -1], [0.1, -1]], np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    first, second = cluster.shown(features, np.array([0, 0, 0, 1, 1]))
    assert first.places.tolist() == [1, 0, 2]
    assert first.similarities == pytest.approx([1, *(features[[0, 2]] @ features[1])])
    assert (second.cluster, len(second.places)) == (1, 2)


def test_eps_makes_the_most_clusters():
    rng = np.random.default_rng(0)
    people = rng.standard_normal((12, 16)).repeat(10, 0)
    features = np.concatenate([people + 0.05 * rng.standard_normal(people.shape),
                               rng.standard_normal((12, 16))])  # fmt: skip
    graph = retrieval.jaccard_graph(features, 10, 3, 1.0)
    eps = retrieval.choose_eps(graph)
    found, *others = (
        retrieval.cluster_graph(graph, one).max() + 1 for one in (eps, 0.1, 0.3, 0.5, 0.7, 0.9)
    )
    assert found >= max(12, *others)
    assert min(others) < 12


def test_a_cluster_that_is_too_large_and_images_in_none_are_said():
    assert cluster.complaints(np.repeat([0, 1, 2, 3], 5)) == []
    (said,) = cluster.complaints(np.repeat([0, 0, 1, 2], 5))
    assert said.startswith("one cluster holds 50 % of the images: give a lower --eps")
    (said,) = cluster.complaints(np.repeat([-1, -1, -1, 0], 5))
    assert said.startswith("75 % of the images are in no cluster")
    (said,) = cluster.complaints(np.repeat([-1, -1, -1, 0, 0], 2))
    assert said.startswith("one cluster holds 40 % of the images, and 60 % are in none")
