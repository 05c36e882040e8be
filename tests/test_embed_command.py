"""The command embed: what it takes, that it can be stopped, and that it replaces nobody's files."""

import os
import re
import shutil
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from transreid_ssl import UserError, cluster, embed, progress, search
from transreid_ssl.data import FilesPool, feature_files, open_pool
from transreid_ssl.models import build_backbone, save_backbone
from transreid_ssl.outputs import DONE
from transreid_ssl.parts import Parts, part_size
from transreid_ssl.tables import decode_record, encode_record

POOL = "demo:identities=3,images=4,test=2,height=32,width=16"  # 12 images


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch):
    """A weights file and parts of four images, in the folder where the test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embed, "_PART", 4)
    torch.manual_seed(0)
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16), provenance={"pool": POOL})
    save_backbone("net.safetensors", model)
    return model


FAST = ["--weights=net.safetensors", "--num_workers=0", "--batch_size=2"]


def run(*options):
    embed.main([*FAST, "--out=f.npy", *options])


def names(path="f.parquet"):
    return pq.read_table(path)["image"].to_pylist()


def stop_after(monkeypatch, count):
    """Stop when one part more than ``count`` is to be written; returns the images embedded."""
    write, written = Parts.write, []

    def limited(self, part, columns):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(part)
        write(self, part, columns)

    monkeypatch.setattr(Parts, "write", limited)
    return written


def test_a_stopped_run_goes_on_and_ends_with_the_same_bits(monkeypatch, capsys):
    run("--out=whole.npy")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert not Path("f.npy").exists()
    again = stop_after(monkeypatch, 99)
    run()
    assert again == [1, 2]
    assert Path("f.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert names() == list(open_pool(POOL).names)
    assert not Path("f.parts").exists()


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_part_is_made_again(monkeypatch, capsys, damage):
    run("--out=whole.npy")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run()
    part = sorted(Path("f.parts").iterdir())[1]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content if damage == "flip" else content[:50])
    again = stop_after(monkeypatch, 99)
    run()
    assert again == [1, 2]
    assert f"{part}: damaged (its checksum differs); it is made again\n" in capsys.readouterr().out
    assert Path("f.npy").read_bytes() == Path("whole.npy").read_bytes()


def crops():
    """A folder of twelve crops, written a while ago."""
    os.mkdir("crops")
    for index in range(12):
        write_crop(index, index, age=1000)
    return "--images=crops"


def write_crop(name, index, age=0):
    """Write the crop ``index`` under a name."""
    path = Path(f"crops/{name:02}.jpg")
    path.write_bytes(open_pool(POOL).read(index))
    os.utime(path, (time.time() - age,) * 2)


def test_images_that_were_written_anew_are_embedded_again(monkeypatch, capsys):
    """In parts of a run that was stopped; features that are finished are left, and that is said."""
    images = crops()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(images)
    write_crop(1, 9)
    with monkeypatch.context() as patch:
        again = stop_after(patch, 99)
        run(images)
        assert again == [0, 2]
    said = capsys.readouterr().out
    assert "part-000000" in said
    assert "its images were written anew since; it is made again\n4 of 12 images are done" in said
    run(images, "--out=whole.npy")
    assert Path("f.npy").read_bytes() == Path("whole.npy").read_bytes()
    np.testing.assert_array_equal(np.load("f.npy")[1], np.load("f.npy")[9])
    run(images)
    write_crop(3, 3, age=500)  # only the time is another one
    with pytest.raises(
        UserError, match=r"f\.npy: is there already, of images that were written an"
    ):
        run(images)
    run(images, "--overwrite=true")
    run(images)
    assert f"f.npy: {DONE} (" in capsys.readouterr().out


def test_each_file_is_looked_at_once_where_work_goes_on(monkeypatch):
    images, original, looked = crops(), FilesPool.stamps, []
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(images)
    monkeypatch.setattr(
        FilesPool, "stamps", lambda self, places: looked.extend(places) or original(self, places)
    )
    stop_after(monkeypatch, 99)
    run(images)
    assert sorted(looked) == list(range(12))


def test_parts_are_small_in_small_pools():
    """So that an early stop loses little; large ones are not too many files."""
    sizes = [part_size(count, 2048) for count in (1, 1000, 20_000, 50_000, 1_000_000)]
    assert sizes == [256, 256, 512, 1024, 2048]
    assert part_size(1000, 4) == 4


def test_parts_of_other_settings_are_not_taken(monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run()
    message = r"^f\.parts: .*weights or settings \(flip False there, True now\); remove .*f\.parts"
    with pytest.raises(UserError, match=message):
        run("--flip=true")


def test_parts_of_an_older_version_are_told_to_be_so(monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run()
    for path in Path("f.parts").iterdir():  # as before "made" was noted
        table = pq.read_table(path)
        record = decode_record(table.schema.metadata)
        del record["made"]
        content = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(encode_record(record)), content)
        path.unlink()
        name = re.sub("-[0-9a-f]{8}", f"-{zlib.crc32(content.getvalue()):08x}", path.name)
        path.with_name(name).write_bytes(content.getvalue())
    with pytest.raises(UserError, match=r"^f\.parts: .* an older version has not noted\); remove"):
        run("--flip=true")
    stop_after(monkeypatch, 99)
    run()  # the same work goes on


def copy_crops(age=0):
    """Copy the crops as ``cp`` does, with the times of copying."""
    for path in Path("crops").iterdir():
        shutil.copyfile(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").replace(path)
        os.utime(path, (time.time() - age,) * 2)


def test_a_pool_that_was_copied_is_the_same(monkeypatch, capsys):
    """Whose files have other times, in the midst of the work and after its end."""
    images = crops()
    run(images, "--out=whole.npy")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(images)
    copy_crops(age=300)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        again = stop_after(patch, 99)
        run(images)
        assert again == [2]
    said = capsys.readouterr().out
    assert "f.parts: its images' files have other times than then" in said
    assert "made again" not in said
    assert Path("f.npy").read_bytes() == Path("whole.npy").read_bytes()
    run(images)
    assert "other times" not in capsys.readouterr().out  # they are known by those of the copies
    copy_crops()
    run(images)
    said = capsys.readouterr().out
    assert "f.npy: its images' files have other times than then" in said
    assert f"f.npy: {DONE} (" in said


def test_images_that_copies_are_known_by_are_read_after_their_features_are_made(
    monkeypatch, caplog
):
    """When the system still has them in memory; those of a result that is there, with progress."""
    images, read, checksum, seen = crops(), FilesPool.read, FilesPool.checksum, []

    def checked(self, places):
        assert set(places) <= set(seen)
        return checksum(self, places)

    with monkeypatch.context() as patch:
        patch.setattr(FilesPool, "read", lambda self, n: seen.append(n) or read(self, n))
        patch.setattr(FilesPool, "checksum", checked)
        run(images)
    assert sorted(seen) == sorted([*range(12)] * 2)
    copy_crops(age=300)
    monkeypatch.setattr(progress, "_EVERY", 0)
    with caplog.at_level("INFO", "transreid_ssl"):
        run(images)
    assert "images read that copies are known by: 12 of 12, about" in caplog.text


def test_files_of_other_bytes_and_equal_sizes_are_no_copies():
    images = crops()
    for path in Path("crops").iterdir():  # as pictures that are not compressed
        path.write_bytes(path.read_bytes().ljust(10_000, b"\0"))
    run(images)
    copy_crops(age=300)
    run(images)
    content = [path.read_bytes() for path in sorted(Path("crops").iterdir())]
    for path, other in zip(sorted(Path("crops").iterdir()), [*content[1:], content[0]]):
        path.write_bytes(other)
    with pytest.raises(UserError, match="written anew since"):
        run(images)


def test_broken_images_in_parts(monkeypatch):
    os.mkdir("crops")
    pool = open_pool(POOL)
    for index in range(10):
        content = pool.read(index)
        Path(f"crops/{index}.jpg").write_bytes(content[:100] if 4 <= index < 9 else content)
    option = "; remove or replace this image, or leave such images out with --skip_broken true"
    for command, *options in (
        (embed.main, "--images=crops", "--out=stops.npy"),
        (cluster.main, "crops"),
        (search.main, "crops/0.jpg", "crops"),
    ):
        with pytest.raises(UserError, match=rf"4\.jpg: truncated JPEG .*{option}$"):
            command([*FAST, *options])
    with pytest.raises(UserError, match=r"crops/4\.jpg: not one image in it can be read"):
        search.main([*FAST, "crops/4.jpg", "crops", "--skip_broken=true"])
    run("--images=crops", "--skip_broken=true")
    assert names() == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "9.jpg"]
    assert np.load("f.npy").shape == (5, 128)


def test_features_that_are_not_finite_are_refused(weights):
    weights.norm.weight.data[0] = torch.nan
    save_backbone("net.safetensors", weights)
    with pytest.raises(UserError, match="its features are not finite; broken weights"):
        run()
    assert sorted(os.listdir()) == ["net.safetensors"]


def test_what_is_finished_is_left_alone(monkeypatch, capsys):
    """By the same command, which says so; others do not replace it unless that is asked for."""
    run()
    before = Path("f.npy").read_bytes()
    written, _ = stop_after(monkeypatch, 9), capsys.readouterr()
    run()
    assert written == []
    assert f"f.npy: {DONE} (" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"f\.npy: is there already, without an index, which is"):
        run("--index=true")
    unlike = "and not marked as of these images, weights and settings"
    for other, why in {
        "--flip=true": rf"{unlike} \(flip False there, True now\)",
        "--images=demo:identities=3": rf"{unlike} \(other images\)",
        "--dtype=float16": "in float32",
    }.items():
        with pytest.raises(UserError, match=rf"f\.npy: is there already, {why}; give another"):
            run(other)
    assert (written, Path("f.npy").read_bytes()) == ([], before)
    run("--flip=true", "--overwrite=true")
    assert Path("f.npy").read_bytes() != before
    Path("mine.npy").write_bytes(b"years of work")
    with pytest.raises(UserError, match=r"mine\.npy: is there already"):
        run("--out=mine.npy")


def test_one_table_of_names_and_features():
    run()
    run("--out=both.parquet")
    table = pq.read_table("both.parquet")
    assert table["image"].to_pylist() == names()
    features = np.stack(table["feature"].to_numpy())
    np.testing.assert_array_equal(features, np.load("f.npy"))
    assert table.schema.field("feature").type == pa.list_(pa.float32(), 128)


def test_nothing_that_is_read_is_replaced():
    os.mkdir("crops")
    for index in range(2):
        Path(f"crops/{index}.jpg").write_bytes(open_pool(POOL).read(index))
    table = pa.table({"image": ["crops/0.jpg", "crops/1.jpg"], "note": ["mine", "too"]})
    pq.write_table(table, "list.parquet")
    before = Path("list.parquet").read_bytes()
    with pytest.raises(UserError, match=r"list\.parquet: is read by this command"):
        run("--images=list.parquet", "--out=list.npy")
    with pytest.raises(UserError, match=r"net\.safetensors: is read by this command"):
        run("--out=net.safetensors")
    with pytest.raises(
        UserError, match=r"list\.parquet: would be replaced, and was not written by"
    ):
        run("--out=list.npy")
    assert Path("list.parquet").read_bytes() == before
    run("--images=list.parquet", "--out=new.npy")
    run("--images=list.parquet", "--out=new.npy")  # its own table of names is replaced


def test_features_and_names_appear_together(monkeypatch):
    run("--images=demo:identities=2,images=2")
    before = Path("f.npy").read_bytes(), Path("f.parquet").read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(feature_files.pq, "write_table", full)
        with pytest.raises(UserError, match="No space left"):
            feature_files.write_features(
                Path("f.npy"), [(np.arange(2), np.ones((2, 3)))], open_pool(POOL), 3, {}
            )
    assert (Path("f.npy").read_bytes(), Path("f.parquet").read_bytes()) == before


@pytest.mark.parametrize("provenance", [{"data": "market1501"}, {}, {"settings": "text"}])
def test_nobody_gets_features_of_generated_people_unasked(weights, provenance):
    save_backbone("net.safetensors", weights, replace(weights.spec, provenance=provenance))
    with pytest.raises(UserError, match=r"which images\? The network was trained on"):
        run()
    save_backbone("net.safetensors", weights, replace(weights.spec, provenance={"data": POOL}))
    run()
    assert len(names()) > 0
