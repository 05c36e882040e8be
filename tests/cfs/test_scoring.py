import dataclasses
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import launch
from transreid_ssl.cfs import scoring, select
from transreid_ssl.data import decode, open_pool, resize
from transreid_ssl.errors import UserError
from transreid_ssl.models import IMAGENET, build_backbone, load_backbone, normalise, save_backbone
from transreid_ssl.parts import Parts
from transreid_ssl.tables import read_record

score = scoring.score


def read(path):
    table = pq.read_table(path)
    assert table.column_names == ["image", "cfs"]
    return table["image"].to_pylist(), table["cfs"].to_numpy()


def by_hand(pool, paths, size=(32, 16)):
    """Cosine of the two features of each image, one at a time."""
    images = [decode(pool.read(index), "x") for index in range(len(pool))]
    features = []
    for path in paths:
        network = load_backbone(path)
        small = [resize(image, size, network.spec.interpolation) / 255 for image in images]
        normal = [(image - network.spec.mean) / network.spec.std for image in small]
        inputs = [
            torch.tensor(image.transpose(2, 0, 1)[None], dtype=torch.float32) for image in normal
        ]
        with torch.no_grad():
            features.append([network(single)[0].double().numpy() for single in inputs])
    return np.array([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(*features)])


def test_equals_cosine_by_hand(pool, weights, tmp_path):
    names, cfs = read(score(pool, *weights, tmp_path / "scores.parquet", batch_size=4))
    assert names == pool.names
    expected = by_hand(pool, weights)
    assert expected.std() > 1e-3  # else the comparison could not tell images apart
    np.testing.assert_allclose(cfs, expected, atol=1e-5)


def test_same_weights_score_one(pool, weights, tmp_path):
    _, cfs = read(score(pool, weights[0], weights[0], tmp_path / "scores.parquet"))
    np.testing.assert_allclose(cfs, 1, atol=1e-6)


def test_each_network_gets_its_own_input_size(pool, weights, tmp_path):
    torch.manual_seed(1)
    large = build_backbone("vit_nano_patch8_ics", img_size=(48, 24)).eval()
    save_backbone(tmp_path / "large.safetensors", large)
    _, cfs = read(score(pool, weights[0], tmp_path / "large.safetensors", tmp_path / "s.parquet"))
    image = decode(pool.read(0), "x")
    features = [
        network(normalise(torch.tensor(resize(image, size)).permute(2, 0, 1)[None], *IMAGENET))
        for network, size in ((load_backbone(weights[0]), (32, 16)), (large, (48, 24)))
    ]
    assert cfs[0] == pytest.approx(torch.cosine_similarity(*features).item(), abs=1e-5)


def test_each_network_gets_its_own_interpolation(pool, weights, tmp_path):
    before, after = load_backbone(weights[0]), load_backbone(weights[1])
    cubic = tmp_path / "cubic.safetensors"
    save_backbone(cubic, after, dataclasses.replace(after.spec, interpolation="cubic"))
    out = score(pool, weights[0], cubic, tmp_path / "scores.parquet")
    np.testing.assert_allclose(read(out)[1], by_hand(pool, (weights[0], cubic)), atol=1e-5)
    assert np.abs(by_hand(pool, (weights[0], cubic)) - by_hand(pool, weights)).max() > 1e-4
    assert read_record(out)["interpolations"] == [before.spec.interpolation, "cubic"]


@pytest.mark.parametrize(
    ("batch_size", "shard_size", "num_workers"), [(3, 4, 0), (16, 5, 1), (2, 100, 0)]
)
def test_sharding_changes_nothing(pool, weights, tmp_path, batch_size, shard_size, num_workers):
    whole = score(pool, *weights, tmp_path / "whole.parquet")
    cut = score(
        pool, *weights, tmp_path / "cut.parquet",
        batch_size=batch_size, shard_size=shard_size, num_workers=num_workers,
    )  # fmt: skip
    assert read(cut)[0] == read(whole)[0]
    np.testing.assert_allclose(read(cut)[1], read(whole)[1], atol=1e-6)
    assert not list(tmp_path.glob("*.parts"))


def stop_after(monkeypatch, parts):
    """Make the writing of one part more than ``parts`` fail, as a kill would."""
    write, count = Parts.write, iter(range(100))

    def limited(self, *arguments):
        if next(count) >= parts:
            raise KeyboardInterrupt
        write(self, *arguments)

    monkeypatch.setattr(Parts, "write", limited)


def test_relaunch_does_only_what_is_missing(pool, weights, tmp_path, monkeypatch):
    options = {"batch_size": 2, "shard_size": 3}
    whole = read(score(pool, *weights, tmp_path / "whole.parquet", **options))
    out = tmp_path / "scores.parquet"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            score(pool, *weights, out, **options)
    assert not out.exists()
    assert len(list((tmp_path / "scores.parts").iterdir())) == 2

    monkeypatch.setattr(type(pool), "checksum", lambda self, places: 0)  # which reads a few more
    read_indices = []
    original = type(pool).read
    monkeypatch.setattr(
        type(pool), "read", lambda self, index: read_indices.append(index) or original(self, index)
    )
    found = read(score(pool, *weights, out, **options))
    assert read_indices == [6, 7, 8, 9, 10]
    assert found[0] == whole[0]
    np.testing.assert_array_equal(found[1], whole[1])

    read_indices.clear()
    score(pool, *weights, out, **options)  # nothing is left to do
    assert not read_indices


def test_leftovers_of_another_scoring_are_refused(pool, weights, tmp_path, monkeypatch):
    out = tmp_path / "scores.parquet"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            score(pool, *weights, out, shard_size=3)
    (tmp_path / "crops" / "new.png").write_bytes(pool.read(0))
    grown = type(pool)(pool.source, pool.root, [*pool.names, "new.png"])
    for arguments in ((grown, *weights), (pool, weights[0], weights[0])):
        with pytest.raises(UserError, match=r"another scoring.*--overwrite true"):
            score(*arguments, out, shard_size=3)
    with pytest.raises(UserError, match="another scoring"):
        score(pool, *weights, out, shard_size=4)
    score(grown, *weights, out, shard_size=3, overwrite=True)
    assert len(read(out)[0]) == 12
    with pytest.raises(UserError, match="another scoring"):
        score(pool, *weights, out, shard_size=3)


def test_corrupt_images_have_no_score(pool, weights, make_corrupt, tmp_path):
    whole = read(score(pool, *weights, tmp_path / "whole.parquet"))[1]
    make_corrupt(2, 7)
    out = score(pool, *weights, tmp_path / "s.parquet", max_bad_fraction=0.2, shard_size=4)
    cfs = read(out)[1]
    assert np.flatnonzero(np.isnan(cfs)).tolist() == [2, 7]
    np.testing.assert_allclose(np.delete(cfs, [2, 7]), np.delete(whole, [2, 7]), atol=1e-6)
    assert pq.read_table(out)["cfs"].null_count == 2
    listed = (tmp_path / "s.corrupt.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["02.png", "07.png"]
    subset = pq.read_table(select(out, 1, tmp_path / "subset.parquet"))["image"].to_pylist()
    assert set(subset) == set(pool.names) - {"02.png", "07.png"}


def test_too_many_corrupt_images(pool, weights, make_corrupt, tmp_path):
    make_corrupt(0, 10)
    out = tmp_path / "scores.parquet"
    with pytest.raises(UserError, match="2 of 11 images cannot be read"):
        score(pool, *weights, out, max_bad_fraction=0.1, shard_size=4)
    assert not out.exists()
    score(pool, *weights, out, max_bad_fraction=0.2, shard_size=4)  # the finished parts serve
    assert out.exists()


def test_images_that_were_repaired_are_scored_again(pool, weights, make_corrupt, tmp_path):
    whole = read(score(pool, *weights, tmp_path / "whole.parquet", shard_size=4))[1]
    out, sound = tmp_path / "scores.parquet", (tmp_path / "crops/09.png").read_bytes()
    make_corrupt(9)
    with pytest.raises(UserError, match="1 of 11 images cannot be read"):
        score(pool, *weights, out, shard_size=4)
    (tmp_path / "crops/09.png").write_bytes(sound)
    os.utime(tmp_path / "crops/09.png", (1, 1))
    score(pool, *weights, out, shard_size=4)
    np.testing.assert_array_equal(read(out)[1], whole)
    score(pool, *weights, out, shard_size=4)  # nothing is left to do
    os.utime(tmp_path / "crops/00.png", (1, 1))
    with pytest.raises(UserError, match=r"scores\.parquet: is of images that were written anew"):
        score(pool, *weights, out, shard_size=4)


def test_a_copied_pool_has_its_scores(pool, weights, tmp_path, caplog):
    """All files have other times, and the bytes that they had."""
    out = score(pool, *weights, tmp_path / "scores.parquet", shard_size=4)
    for name in pool.names:
        os.utime(tmp_path / "crops" / name, (7, 7))
    with caplog.at_level("INFO", "transreid_ssl"):
        score(pool, *weights, out, shard_size=4)
    assert "its images' files have other times than then" in caplog.text
    assert f"{out}: is there already" in caplog.text


def test_networks_must_be_the_same(pool, weights, tmp_path):
    save_backbone(
        tmp_path / "plain.safetensors", build_backbone("vit_nano_patch8_reid", img_size=(32, 16))
    )
    with pytest.raises(UserError, match="name is vit_nano_patch8_reid"):
        score(pool, weights[0], tmp_path / "plain.safetensors", tmp_path / "scores.parquet")


def test_broken_weights_are_noticed(pool, weights, tmp_path):
    network = load_backbone(weights[1])
    network.norm.weight.data[0] = torch.nan
    save_backbone(tmp_path / "nan.safetensors", network)
    with pytest.raises(UserError, match="not finite"):
        score(pool, weights[0], tmp_path / "nan.safetensors", tmp_path / "scores.parquet")


def test_precision_that_is_not_to_be_had(pool, weights, tmp_path, monkeypatch):
    def refuse(**options):
        raise ValueError("fp16 mixed precision requires a GPU")

    monkeypatch.setattr(scoring.accelerate, "Accelerator", refuse)
    with pytest.raises(UserError, match="--precision fp16: fp16 mixed precision requires a GPU"):
        score(pool, *weights, tmp_path / "scores.parquet", precision="fp16")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_says_to_the_user_stays_one_line(pool, weights, tmp_path, workers):
    class Unplugged(type(pool)):
        def read(self, index):
            raise UserError(f"{self.names[index]}: the disk is unplugged")

    unplugged = Unplugged(pool.source, pool.root, pool.names)
    with pytest.raises(UserError) as error:
        score(unplugged, *weights, tmp_path / "scores.parquet", num_workers=workers)
    assert str(error.value) == "00.png: the disk is unplugged"


def test_empty_pool(pool, weights, tmp_path):
    with pytest.raises(UserError, match="no image"):
        score(type(pool)("here", "/", []), *weights, tmp_path / "scores.parquet")


def test_subset_opens_as_the_pool_it_came_from(pool, weights, tmp_path):
    crops = open_pool(str(tmp_path / "crops"))
    scores = score(crops, *weights, tmp_path / "scores.parquet")
    record = read_record(scores)
    assert record["pool"] == crops.source
    assert record["pool_fingerprint"] == crops.fingerprint
    names, cfs = read(scores)
    part = open_pool(str(tmp_path / "crops"), select(scores, 3, tmp_path / "subset.parquet"))
    assert list(part.names) == [names[i] for i in np.argsort(-cfs)[:3]]
    assert part.read(0) == crops.read(int(np.argmax(cfs)))


def test_two_processes_give_the_same_table(pool, weights, tmp_path):
    with launch.fresh_process():  # of one thread: how many there are moves the last digits
        one = score(pool, *weights, tmp_path / "one.parquet", batch_size=2, shard_size=3)
    text = launch.run(
        "-m", "transreid_ssl.cfs", "score", f"--before={weights[0]}", f"--after={weights[1]}",
        f"--out={tmp_path / 'two.parquet'}", "--batch_size=2", "--shard_size=3", "--num_workers=0",
        processes=2,
    )  # fmt: skip
    assert "11 images, in 2 processes\n" in text
    assert text.count("11 images, scores") == 1
    assert read(one)[0] == read(tmp_path / "two.parquet")[0]
    np.testing.assert_array_equal(read(one)[1], read(tmp_path / "two.parquet")[1])
