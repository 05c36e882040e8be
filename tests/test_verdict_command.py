"""The command verdict, on the pool of a generated clip: what it says, and what it refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import launch
from transreid_ssl import UserError, calibrate, verdict
from transreid_ssl.data import open_pool
from transreid_ssl.data.packing import pack
from transreid_ssl.data.people.clip import write_clip
from transreid_ssl.data.tracks import CropRules, crops_of_videos, find_videos
from transreid_ssl.data.tracks.settings import ClipConfig
from transreid_ssl.models import build_backbone, load_backbone, read_spec, save_backbone
from transreid_ssl.retrieval import Separation, separate
from transreid_ssl.retrieval.sure_pairs import SurePairs
from transreid_ssl.training import ProbeSettings, retrieval_probe

FAST = ["--num_workers", "0", "--resamples", "30"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verdict")
    write_clip(ClipConfig(people=4, cameras=1, frames=24, height=120), folder / "clip")
    videos, _ = find_videos([folder / "clip"], None)
    pack(crops_of_videos("clip", videos, CropRules(every=2))[0], folder / "pool")
    return str(folder / "pool")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Two untrained networks; the test runs in their folder."""
    monkeypatch.chdir(tmp_path)
    names = ["before.safetensors", "after.safetensors"]
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16)).eval()
        save_backbone(name, model, model.spec)
    return names


def test_two_networks_are_told_apart_in_a_table_figures_and_a_picture(pool, weights, capsys):
    verdict.main([*FAST, "--pool", pool, *weights])
    said = capsys.readouterr().out
    found = json.loads(Path("outputs/verdict/figures.json").read_text())
    assert found["compared"] == ["before", "after"]
    assert list(found["figures"]) == ["before", "after", "colour histogram"]
    area = {name: found["figures"][name]["roc_area"] for name in found["figures"]}
    assert all(one["low"] <= one["value"] <= one["high"] for one in area.values())
    expected = area["after"]["value"] - area["before"]["value"]
    assert found["difference"]["roc_area"]["value"] == pytest.approx(expected)
    assert found["figures"]["after"]["explained by cameras"] is None, "one camera"
    assert len(set(found["digests"].values())) == 2
    assert found["fingerprint"]
    table = Path("outputs/verdict/table.md").read_text()
    assert found["verdict"] in table
    assert found["verdict"] in said
    assert f"| {area['after']['value']:.4f} (" in table.replace("|  ", "| ").replace("  ", " ")
    assert Path("outputs/verdict/verdict.png").read_bytes()[1:4] == b"PNG"
    assert found["in_sample"] == {"before": None, "after": None}
    assert "before: its weights do not say which images it was trained on" in said
    assert f"- {found['origins'][1]}" in table


def test_a_network_that_was_trained_on_the_pool_is_said_to_be_in_sample(pool, weights, capsys):
    model = load_backbone(weights[0])
    save_backbone("own.safetensors", model, replace(model.spec, provenance={"pool": pool}))
    verdict.main([*FAST, "--pool", pool, "own.safetensors"])
    said = capsys.readouterr().out
    assert "network: was trained on this very pool, as its weights say: in-sample" in said
    assert json.loads(Path("outputs/verdict/figures.json").read_text())["in_sample"]["network"]


def test_crops_that_tracks_were_made_of_are_those_that_it_was_trained_on(pool, weights, capsys):
    crops, model = open_pool(pool), load_backbone(weights[0])
    for index, name in enumerate(crops.names):
        Path("crops", name).parent.mkdir(parents=True, exist_ok=True)
        Path("crops", name).write_bytes(crops.read(index))
    save_backbone("own.safetensors", model, replace(model.spec, provenance={"pool": "crops"}))
    verdict.main([*FAST, "--pool", pool, "own.safetensors"])
    said = capsys.readouterr().out
    assert "network: was trained on all of these images, which lie in crops too, as its" in said
    # Nor does the probe of a training on the one by the other keep silent.
    settings, accelerator = ProbeSettings("tracks", pool), Accelerator(cpu=True)
    for trained_on, told in ((open_pool("crops"), True), (open_pool("demo:images=4"), False)):
        probe = retrieval_probe(settings, lambda: model, accelerator, trained_on=trained_on)
        assert ("in-sample" in probe.title, "trained on these images" in probe.described) == (
            told, told
        )  # fmt: skip


def test_one_network_is_judged_beside_the_histogram_and_on_labels_too(pool, weights):
    people = ["--data", "demo:identities=2,test=4,images=4,height=32,width=16"]
    verdict.main([*FAST, *people, "--pool", pool, weights[0]])
    found = json.loads(Path("outputs/verdict/figures.json").read_text())
    assert found["compared"] == ["colour histogram", "network"]
    assert all(0 < one["mAP"] <= 1 for one in found["figures"].values())
    # The probe of a training measures the same.
    settings = ProbeSettings("tracks", pool)
    probe = retrieval_probe(settings, lambda: load_backbone(weights[0]), Accelerator(cpu=True))
    values = probe(0)
    for name in ("roc_area", "equal_error_rate"):
        of_network = 100 * found["figures"]["network"][name]["value"]
        assert values[f"probe/{name}"] == pytest.approx(of_network, abs=0.1)
        colours = 100 * found["figures"]["colour histogram"][name]["value"]
        assert values[f"probe/{name}_histogram"] == pytest.approx(colours)
        assert values[f"probe/{name}_chance"] == 50


def test_the_same_pairs_calibrate_weights(pool, weights, capsys):
    options = ["--num_workers=0", "--data=tracks", f"--root={pool}", "--weights=before.safetensors"]
    calibrate.main(options)
    found = read_spec("outputs/calibrate/model.safetensors").calibration
    tracks = open_pool(pool).tracks.tracks
    assert f"{round((tracks.max() + 1) / 2)} tracks of {pool}" in found.pairs
    assert found.slope > 0
    assert not found.thresholds  # so few pairs know no rate
    counts = [int(word.replace(",", "")) for word in re.findall(r"([\d,]+) pairs", found.pairs)]
    said = capsys.readouterr().out
    assert f"{counts[0]:,} pairs of one person, in far frames of a track" in said


def judged(noise):
    """What is found of made-up similarities, whose noise is the same but for its size."""
    random = np.random.default_rng(0)
    sides = (1 + noise * random.normal(size=200), noise * random.normal(size=200))
    places = np.arange(800).reshape(-1, 2)
    pairs = SurePairs(places[:200], places[200:], True, np.arange(800) // 8)
    return verdict.Judged(sides, separate(*sides, pairs), {})


@pytest.mark.parametrize(
    ("before", "after", "beginning"),
    [
        (1.0, 0.6, "better: after tells people apart better than before: ROC area 0.8"),
        (0.6, 1.0, "worse: after tells people apart worse than before: ROC area 0.7"),
        (0.8, 0.8, "cannot tell whether after is better or worse than before"),
    ],
)
def test_the_sentence_says_which_is_better_if_the_interval_does(before, after, beginning):
    sentence = verdict.decide({"before": judged(before), "after": judged(after)})
    assert sentence.startswith(beginning)
    assert told(sentence)
    assert "95 % interval" in sentence


def told(sentence):
    """Whether the guide says that a sentence may begin so."""
    guide = (launch.ROOT / "recipes/guides/own_cameras.md").read_text()
    said = re.search(r"Its sentence begins with (.*?)\sKeep", guide, re.DOTALL)[1]
    beginnings = [" ".join(one.split()) for one in re.findall(r"\*(.+?)\*", said, re.DOTALL)]
    assert len(beginnings) == 5
    return any(sentence.startswith(one) for one in beginnings)


def with_figures(area, few):
    """A network of these figures, whose resamples hardly move; the others are of no account."""
    values = np.array([area, 0.2, 1.0, few, few])
    wobble = 1e-3 * np.random.default_rng(0).normal(size=(50, 5))
    return verdict.Judged((np.zeros(1), np.zeros(1)), Separation(values, values + wobble), {})


@pytest.mark.parametrize(
    ("after", "beginning"),
    [
        ((0.7, 0.3), "better for search: after is better than before where few false matches are"),
        ((0.9, 0.05), "worse for search: after is worse than before where few false matches are"),
        ((0.8, 0.3), "better for search: after is better than before where few false matches are"),
        ((0.9, 0.3), "better: after tells people apart better than before: ROC area 0.9000"),
    ],
)
def test_where_figures_disagree_both_are_told_and_search_comes_first(after, beginning):
    judged = {"before": with_figures(0.8, 0.1), "after": with_figures(*after)}
    judged["after"].separation.resampled[:] += 0.004 * np.random.default_rng(1).normal(size=(50, 5))
    sentence = verdict.decide(judged)
    assert sentence.startswith(beginning)
    assert told(sentence)
    assert ("true matches at 0.01 false ones" in sentence) == ("search" in beginning)


def test_what_cannot_be_judged_is_refused_before_any_work(pool, weights, tmp_path):
    with pytest.raises(UserError, match=r"outputs/tracks: no pool of tracks.*data tracks"):
        verdict.main([*FAST, weights[0]])
    with pytest.raises(UserError, match=r"demo.*: knows no tracks"):
        verdict.main([*FAST, "--pool", "demo", weights[0]])
    with pytest.raises(UserError, match="3 networks: name one, or two"):
        verdict.main([*FAST, "--pool", pool, *weights, weights[0]])
    out = tmp_path / "outputs" / "mine"
    out.mkdir(parents=True)
    (out / "table.md").write_text("my own notes")
    with pytest.raises(UserError, match=r"table\.md: would be replaced"):
        verdict.main([*FAST, "--pool", pool, "--out", str(out), weights[0]])
