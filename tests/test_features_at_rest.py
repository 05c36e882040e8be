"""Files of features: one table, half precision, an index, how they were made, and a kill."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

import launch
from transreid_ssl import UserError, calibrate, cluster, embed, search
from transreid_ssl.data import feature_files, open_pool, packing
from transreid_ssl.data.track_columns import make_table
from transreid_ssl.models import build_backbone, load_backbone, save_backbone
from transreid_ssl.retrieval.embed import image_loader
from transreid_ssl.tables import decode_record, encode_record

POOL = "demo:identities=8,images=4,test=2,height=32,width=16"
FAST = ["--num_workers=0", "--batch_size=8"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a network, a pool of two cameras and eight tracks, and its features."""
    folder = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    model = build_backbone("vit_nano_patch8_conv", img_size=(32, 16))
    save_backbone(folder / "net.safetensors", model)
    people, tracks = open_pool(POOL), [str(i // 4) for i in range(32)]
    cameras = [str(i % 2) for i in range(32)]
    people.annotations = make_table(camera=cameras, video=tracks, track=tracks, frame=range(32))
    packing.pack(people, folder / "pool")
    run(folder, "--out", str(folder / "f.parquet"))
    return folder


def run(folder, *options):
    weights = ["--weights", str(folder / "net.safetensors"), "--images", str(folder / "pool")]
    embed.main([*FAST, *weights, *options])


def look(made, tmp_path, gallery, *options):
    """The nearest images that the command search finds in ``gallery``, one a query."""
    out = tmp_path / "ranking.parquet"
    query = str(made / "pool")
    given = ["--k=2", f"--out={out}", "--overwrite=true", "--picture=false"]
    search.main([query, str(gallery), *given, *FAST, *options])
    return pq.read_table(out)["image"].to_pylist()


def test_one_table_holds_name_camera_track_and_feature(made):
    table = pq.read_table(made / "f.parquet")
    assert table.column_names == ["image", "camera", "track", "feature"]
    assert table["camera"].to_pylist() == ["0", "1"] * 16
    assert table["track"].to_pylist() == [str(i // 4) for i in range(32)]
    assert table.schema.field("feature").type == pa.list_(pa.float32(), 128)
    record = feature_files.about(made / "f.parquet")
    assert record["flip"] is False
    assert record["weights"] == str(made / "net.safetensors")


@pytest.mark.parametrize("suffix", ["parquet", "npy", "safetensors"])
def test_half_precision_is_written_and_read(made, tmp_path, suffix):
    out = tmp_path / f"half.{suffix}"
    run(made, "--out", str(out), "--dtype=float16")
    exact = feature_files.read_features(made / "f.parquet")[1]
    names, found = feature_files.read_features(out)
    assert (len(names), found.dtype) == (32, np.float32)
    np.testing.assert_array_equal(found, exact.astype(np.float16).astype(np.float32))
    if suffix == "npy":
        assert np.load(out).dtype == np.float16
    if suffix == "safetensors":
        assert load_file(out)["features"].dtype == np.float16
    assert pq.read_schema(out.with_suffix(".parquet")).names[:3] == ["image", "camera", "track"]


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_an_index_finds_what_an_exact_search_finds(made, tmp_path, suffix):
    faiss = pytest.importorskip("faiss")
    out = tmp_path / f"f.{suffix}"
    run(made, "--out", str(out), "--index=true")
    index = tmp_path / "f.faiss"
    assert faiss.read_index(str(index)).ntotal == 32
    assert look(made, tmp_path, index) == look(made, tmp_path, made / "f.parquet")
    labels = []
    for number, pool in enumerate((index, made / "f.parquet")):
        table = tmp_path / f"{number}.parquet"
        small = ["--k1=5", "--k2=2", "--eps=0.6", "--min_samples=2", "--picture=false"]
        cluster.main([str(pool), *small, f"--out={table}"])
        labels.append(pq.read_table(table)["cluster"].to_pylist())
    assert labels[0] == labels[1]
    run(made, "--out", str(out), "--index=true", "--overwrite=true")  # its own index is replaced

    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.write_bytes(content)
    with pytest.raises(UserError, match=r"f\.faiss: is damaged, or not of the features beside it"):
        look(made, tmp_path, index)


def test_an_index_that_is_somebody_elses_is_not_replaced(made, tmp_path):
    pytest.importorskip("faiss")
    (tmp_path / "f.faiss").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"f\.faiss: would be replaced"):
        run(made, "--out", str(tmp_path / "f.parquet"), "--index=true")
    assert [path.name for path in tmp_path.iterdir()] == ["f.faiss"]


def test_a_search_asks_how_features_were_made(made, tmp_path):
    mirrored = tmp_path / "flip.parquet"
    run(made, "--out", str(mirrored), "--flip=true")
    with pytest.raises(
        UserError, match=r"made with --flip true, and here it is false: give --flip"
    ):
        look(made, tmp_path, mirrored)
    assert len(look(made, tmp_path, mirrored, "--flip=true")) == 64
    with pytest.raises(UserError, match=r"made with --flip false, and here it is true"):
        look(made, tmp_path, made / "f.parquet", "--flip=true")
    other = tmp_path / "other.safetensors"
    save_backbone(other, build_backbone("vit_nano_patch8_conv", img_size=(32, 16)))
    with pytest.raises(UserError, match=r"features are of another network: give the --weights"):
        look(made, tmp_path, made / "f.parquet", f"--weights={other}")


def test_weights_that_are_calibrated_later_are_the_same_network(made, tmp_path):
    known = tmp_path / "known.safetensors"
    people = "--data=demo:test=8,images=4,height=32,width=16"
    calibrate.main([f"--weights={made / 'net.safetensors'}", people, f"--out={known}", *FAST])
    assert load_backbone(known).spec.calibration
    assert look(made, tmp_path, made / "f.parquet", f"--weights={known}")


def test_files_of_older_versions_are_read(made, tmp_path):
    """They say neither flip nor network, and hold names alone beside the features."""
    names, features = feature_files.read_features(made / "f.parquet")
    record = feature_files.about(made / "f.parquet")
    kept = {name: record[name] for name in ("weights", "pool", "fingerprint")}
    table = pa.table({"image": list(names)}).replace_schema_metadata(encode_record(kept))
    pq.write_table(table, tmp_path / "old.parquet")
    np.save(tmp_path / "old.npy", features)
    assert feature_files.is_features(tmp_path / "old.npy")
    assert look(made, tmp_path, tmp_path / "old.npy") == look(made, tmp_path, made / "f.parquet")


def test_damage_in_a_table_is_found(made, tmp_path):
    content = bytearray((made / "f.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "f.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"f\.parquet: damaged .* make it again with"):
        feature_files.read_features(tmp_path / "f.parquet")


def test_a_killed_command_goes_on_and_ends_with_the_same_table(made, tmp_path, monkeypatch):
    script = tmp_path / "small_parts.py"
    script.write_text(
        "import time\nfrom transreid_ssl import embed\nfrom transreid_ssl.parts import Parts\n"
        "embed._PART, write = 8, Parts.write\n"
        "def once(*part):\n    write(*part)\n    time.sleep(600)\n"
        "Parts.write = once\nembed.main()\n"
    )
    out = tmp_path / "killed.parquet"
    options = ["--weights", str(made / "net.safetensors"), "--images", str(made / "pool")]
    options += [*FAST, f"--out={out}"]
    parts = tmp_path / "killed.parts"
    launch.kill(str(script), *options, when=lambda: len(list(parts.glob("part-*"))) == 1)
    assert not out.exists()
    monkeypatch.setattr(embed, "_PART", 8)
    monkeypatch.setattr(embed.retrieval.embed, "image_loader", counted := Counted())
    embed.main(options)
    assert counted.images == 24  # the first eight are not embedded again
    found, whole = (pq.read_table(path) for path in (out, made / "f.parquet"))
    assert found.equals(whole)
    assert decode_record(found.schema.metadata) == decode_record(whole.schema.metadata)
    assert sorted(tmp_path.iterdir()) == [out, script]


class Counted:
    """The loader of images, which notes how many it was asked for."""

    def __init__(self):
        self.loader, self.images = image_loader, 0

    def __call__(self, images, size, batch_size, num_workers, places, *rest, **options):
        self.images += len(places)
        return self.loader(images, size, batch_size, num_workers, places, *rest, **options)


@pytest.mark.parametrize("shape", [[32, -128], [32, 1.5], [32, "a"], [-32], 5, [1 << 40, 128]])
def test_impossible_shapes_are_no_features(made, tmp_path, shape):
    run(made, "--out", str(tmp_path / "f.safetensors"))
    offsets = {"data_offsets": [0, 8], "dtype": "F32", "shape": shape}
    header = json.dumps({"features": offsets}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(1 << 15)
    (tmp_path / "f.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"f\.safetensors: not a file of features"):
        feature_files.read_features(tmp_path / "f.safetensors")


def test_words_are_no_features(made, tmp_path):
    run(made, "--out", str(tmp_path / "f.npy"))
    np.save(tmp_path / "f.npy", np.full((32, 128), "words"))
    with pytest.raises(UserError, match=r"f\.npy: not a file of features"):
        feature_files.read_features(tmp_path / "f.npy")


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_features_that_are_cut_while_they_are_read_are_one_line(made, tmp_path, suffix):
    """A file that is mapped into memory would end the process here."""
    out = tmp_path / f"f.{suffix}"
    run(made, "--out", str(out))
    _, rows = feature_files.read_features(out)
    exact = np.array(feature_files.read_features(made / "f.parquet")[1])
    for some in (slice(None), slice(3, 20), np.array([0, 1, 2, 9, 9, 4, 31])):
        np.testing.assert_array_equal(rows[some], exact[some])
    for none in ([32], [-1]):
        with pytest.raises(IndexError, match="has 32 rows"):
            rows[np.array(none)]
    os.truncate(out, 5000)
    with pytest.raises(
        UserError, match=rf"f\.{suffix}: cannot be read any more \(is cut short\); make"
    ):
        rows[[30, 31]]
    with pytest.raises(UserError, match=rf"f\.{suffix}: not a file of features"):
        feature_files.read_features(out)
