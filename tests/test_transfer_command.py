"""The command transfer: one table of sets, opened before any work, those trained on marked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from transreid_ssl import UserError, evaluate, transfer
from transreid_ssl.data import open_pool, open_reid
from transreid_ssl.data.packing import pack
from transreid_ssl.models import build_backbone, save_backbone

TINY = "identities=3,images=5,test=5,height=32,width=16"
SUNNY, DIM = f"demo:{TINY},style=1", f"demo:{TINY},style=2"
FAST = ["--num_workers", "0", "--batch_size", "32"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_backbone("vit_nano_patch8_reid", img_size=(32, 16), objective="dino").eval()


@pytest.fixture
def weights(model, tmp_path, monkeypatch):
    """A function from a provenance to a weights file; the test runs in its folder."""
    monkeypatch.chdir(tmp_path)

    def write(name="net.safetensors", **provenance):
        save_backbone(name, model, replace(model.spec, provenance=provenance))
        return name

    return write


@pytest.fixture
def market():
    """Generated people as files in the folders of Market-1501."""

    def write(root, spec=f"demo:{TINY}"):
        protocol = open_reid(spec)
        folders = ("bounding_box_train", "query", "bounding_box_test")
        for folder, part in zip(folders, (protocol.train, protocol.query, protocol.gallery)):
            (Path(root) / folder).mkdir(parents=True)
            for index, (identity, camera) in enumerate(zip(part.identities, part.cameras)):
                name = f"{identity + 1:04d}_c{camera + 1}s1_{index:06d}_00.jpg"
                (Path(root) / folder / name).write_bytes(part.read(index))
        return root

    return write


def run(weights, *sets):
    transfer.main([*FAST, "--weights", weights, "--sets", *sets])
    return json.loads(Path("outputs/transfer/metrics.json").read_text())["sets"]


def rows_of(text):
    """The cells of the Markdown table in ``text``, without its ruler."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if "---" not in line[0]]


def test_each_set_is_a_row_with_the_figures_of_evaluate(weights, market, capsys):
    found = run(weights(), f"market1501={market('m')}", SUNNY, f"folder={market('own/m2', DIM)}")
    assert [row["set"] for row in found] == ["market1501", SUNNY, "folder=own/m2"]
    assert not any(row["trained_on"] for row in found)
    printed = rows_of(capsys.readouterr().out)
    assert printed == rows_of(Path("outputs/transfer/table.md").read_text())
    titles, *cells = printed
    assert titles == [
        "set", "queries", "gallery", "mAP", "rank-1", "rank-5", "rank-10", "mINP", "chance mAP",
    ]  # fmt: skip
    places = (["market1501", "--root", "m"], [SUNNY], ["folder", "--root", "own/m2"])
    for row, texts, place in zip(found, cells, places):
        single = [*FAST, "--weights", "net.safetensors", "--json", "one.json", "--picture", "false"]
        single.append("--overwrite=true")
        evaluate.main([*single, "--data", *place])
        expected = json.loads(Path("one.json").read_text())["results"]
        assert row["network"] == expected["network"]
        assert row["chance"] == expected["chance"]
        figures = expected["network"]
        names = ("mAP", "rank-1", "rank-5", "rank-10", "mINP")
        assert texts[0] == row["set"]
        assert texts[1:3] == [str(figures["num_queries"]), str(figures["num_gallery"])]
        assert texts[3:-1] == [f"{100 * figures[name]:.1f}" for name in names]
        assert texts[-1] == f"{100 * expected['chance']['mAP']:.1f}"


def test_without_options_the_newest_network_and_two_camera_styles(weights, monkeypatch, capsys):
    weights("outputs/dino_pretrain/backbone.safetensors", pool="demo")
    Path("outputs/dino_pretrain/run.lock").touch()
    monkeypatch.setattr(transfer, "DEMO", (SUNNY, DIM))
    transfer.main(FAST)
    out = capsys.readouterr().out
    assert out.startswith("--weights outputs/dino_pretrain/backbone.safetensors: the one finished")
    assert [cells[0] for cells in rows_of(out)[1:]] == [SUNNY, DIM]
    assert "written to outputs/transfer/metrics.json and outputs/transfer/table.md" in out


def test_images_that_were_trained_on_are_known_wherever_they_lie(weights, market, capsys):
    market("market")
    pack(open_pool("market"), "shards")
    market("elsewhere", "demo:identities=3,images=5,test=5,height=32,width=16,seed=3")
    weights(pool="shards")
    for folder in ("elsewhere", "market"):
        options = ["--weights=net.safetensors", "--data=market1501", f"--root={folder}"]
        evaluate.main([*FAST, *options])
        note = "note: the network was trained on all of these images, which lie in shards too, as"
        assert (note in capsys.readouterr().out) == (folder == "market")
        record = json.loads(Path("outputs/evaluate/metrics.json").read_text())
        assert record["in_sample"] == (folder == "market")
        page = Path("outputs/evaluate/metrics.html").read_text()
        assert ("<dt>In-sample</dt>" in page) == (folder == "market")
    found = run("net.safetensors", "folder=elsewhere", "folder=market")
    assert [row["trained_on"] for row in found] == [False, True]


def test_the_images_that_whitened_are_not_looked_for_in_the_subset_of_the_training(
    weights, market, capsys
):
    market("market")
    pack(open_pool("market"), "shards")
    Path("subset.txt").write_text("of/another/pool.jpg\n")
    settings = {"data": {"pool": "gone", "subset": "subset.txt"}}
    weights(pool="gone", settings=settings, whitened="shards")
    evaluate.main([*FAST, "--weights=net.safetensors", "--data=market1501", "--root=market"])
    assert "note: the network was whitened by all of these images" in capsys.readouterr().out


def test_the_people_of_its_training_set_are_not_those_of_the_test(weights, market, capsys):
    settings = {"data": {"name": "market1501", "root": market("market")}}
    evaluate.main([*FAST, "--weights", weights(settings=settings)])
    assert "in-sample" not in capsys.readouterr().out


def test_what_it_was_trained_on_is_marked(weights, market, capsys):
    settings = {"data": {"name": SUNNY, "root": None}}
    found = run(weights(settings=settings), SUNNY, DIM)
    assert [row["trained_on"] for row in found] == [True, False]
    cells = rows_of(capsys.readouterr().out)
    assert [row[0] for row in cells[1:]] == [f"{SUNNY} (trained on)", DIM]
    text = Path("outputs/transfer/table.md").read_text()
    assert "no transfer" in text
    assert f"- {SUNNY}: train 15 images" in text
    assert f"- {DIM}: train 15 images" in text


def test_split_and_protocol_are_told(weights, market):
    run(weights(), f"market1501={market('m')}")
    text = Path("outputs/transfer/table.md").read_text()
    assert "NOT the official split (751 identities" in text
    assert "gallery images of the query's identity and camera are removed" in text
    assert "(trained on)" not in text


def refused(*arguments):
    with pytest.raises(UserError) as caught:
        transfer.main([*FAST, *arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_set_is_opened_before_any_is_embedded(weights, monkeypatch):
    name = weights()
    monkeypatch.setattr(transfer, "measure", lambda *_: pytest.fail("began to embed"))
    command = ["--weights", name, "--sets", SUNNY]
    assert "nowhere: no such folder" in refused(*command, "market1501=nowhere")
    assert "market1501: write NAME=FOLDER" in refused(*command, "market1501")
    assert "market1501=: write NAME=FOLDER" in refused(*command, "market1501=")
    assert "martket1501: unknown labelled set" in refused(*command, "martket1501=.")
    assert "cameras=1" in refused(*command, "demo:cameras=1")
    assert not Path("outputs").exists()
    Path("taken").write_text("")
    assert "--out taken: is a file" in refused("--weights", name, "--out", "taken")


def test_camera_embeddings_belong_to_one_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = build_backbone("vit_nano_patch8_reid", img_size=(32, 16), num_cameras=6)
    place = "demo:identities=12,images=6,test=5,height=32,width=16"
    spec = replace(network.spec, provenance={"data": place})
    save_backbone("cameras.safetensors", network, spec)
    command = ["--weights", "cameras.safetensors", "--sets"]
    assert "embeddings of 6 cameras" in refused(*command, place, f"{place},cameras=3")
    assert "embeddings of the 6 cameras" in refused(*command, place, f"{place},style=1")
    assert run("cameras.safetensors", place)[0]["trained_on"]
