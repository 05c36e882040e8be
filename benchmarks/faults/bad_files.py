"""The files that bad inputs name: broken, hostile or of another kind."""

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.faults.jobs import make_inputs


def make_files() -> None:
    """All files that the bad inputs name, in the current folder."""
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 255, (32, 16, 3), dtype=np.uint8)
        _save(Path("crops") / f"{number:04d}_c{1 + number % 2}_{number}.jpg", pixels)
        _save(Path("one_camera") / f"{number % 4:04d}_c1_{number}.jpg", pixels)
    _make_pools()
    _make_lists()
    _make_weights()
    _make_settings()


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _make_pools() -> None:
    for name in (
        "nothing",
        "texts",
        "broken",
        "unfinished",
        "odd_keys",
        "hostile_keys",
        "big_keys",
    ):
        Path(name).mkdir()
    Path("texts/readme.txt").write_text("text")
    sound = Path("crops/0000_c1_0.jpg").read_bytes()
    for number, content in enumerate((b"", b"text", sound[:200], sound[: len(sound) // 2])):
        Path(f"broken/{number}.jpg").write_bytes(content)
    bomb = bytearray(_png_header(30_000, 30_000))
    Path("broken/bomb.png").write_bytes(bomb)
    for name in ("odd_keys", "hostile_keys", "big_keys"):
        Path(name, "data.mdb").write_bytes(b"\0" * 8192)
    Path("unfinished/data.mdb").write_bytes(b"\0" * 100)
    Path("odd_keys/keys.pkl").write_bytes(pickle.dumps({"a": 1}))
    Path("hostile_keys/keys.pkl").write_bytes(pickle.dumps(print))
    Path("big_keys/keys.pkl").write_bytes(b"\x80\x02]r\x00\x00\x00\x10.")
    _lmdb("cut_lmdb")
    database = Path("cut_lmdb/data.mdb")
    database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])


def _lmdb(name: str) -> None:
    import lmdb

    Path(name).mkdir()
    with lmdb.open(name, map_size=1 << 24) as environment, environment.begin(write=True) as writing:
        for path in sorted(Path("crops").glob("*.jpg")) * 10:
            writing.put(path.name.encode(), path.read_bytes() * 5)


def _png_header(width: int, height: int) -> bytes:
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header))


def _make_lists() -> None:
    Path("empty.txt").write_text("")
    Path("missing.txt").write_text("crops/none.jpg\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\0crops\n")
    Path("hostile.txt").write_bytes(pickle.dumps(print))
    names = [str(path) for path in sorted(Path("crops").glob("*.jpg"))]
    pq.write_table(pa.table({"image": names}), "list.parquet")
    pq.write_table(pa.table({"other": names}), "foreign.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.string())}), "empty.parquet")
    pq.write_table(pa.table({"image": list(range(5))}), "numbers.parquet")
    content = Path("list.parquet").read_bytes()
    Path("cut.parquet").write_bytes(content[:-20])
    Path("strangers.parquet").write_bytes(b"")
    pq.write_table(pa.table({"image": ["nobody.jpg"]}), "strangers.parquet")
    pq.write_table(pa.table({"image": names, "cfs": [1.0] * 12}), "scores.parquet")
    Path("text.npy").write_text("no features")
    pq.write_table(pa.table({"image": names}), "text.parquet")
    Path("CFS_list.pkl").write_bytes(pickle.dumps(names))
    Path("hostile.pkl").write_bytes(pickle.dumps(print))


def _make_weights() -> None:
    make_inputs(Path())
    sound = Path("before.safetensors").read_bytes()
    tensors = load_file("before.safetensors")
    metadata = _metadata(sound)
    Path("text.safetensors").write_text("text")
    Path("cut.safetensors").write_bytes(sound[:-100])
    flipped = bytearray(sound)
    flipped[-1000] ^= 64
    Path("flipped.safetensors").write_bytes(flipped)
    Path("long_header.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    nan = {
        name: value * float("nan") for name, value in tensors.items() if value.is_floating_point()
    }
    save_file(tensors | nan, "nan.safetensors", _without_checksum(metadata))
    for name, changes in {
        "std": {"std": [0.0, 1, 1]}, "mean": {"mean": [float("nan"), 0, 0]},
        "size": {"img_size": [10**6, 10**6]}, "half": {"img_size": [64.5, 32]},
        "cameras": {"num_cameras": 10**9}, "stride": {"stride": 0}, "name": {"architecture": "no"},
    }.items():  # fmt: skip
        save_file(tensors, f"{name}.safetensors", _without_checksum(_changed(metadata, changes)))
    save_file(tensors, "deep.safetensors", {"transreid_ssl": "[" * 100_000})
    torch.save({"a": 1}, "nothing.pth")
    torch.save({1: torch.ones(2)}, "numbers.pth")
    Path("executes.pth").write_bytes(pickle.dumps(print))
    with zipfile.ZipFile("zip.pth", "w") as archive:
        archive.writestr("hello", "text")
    torch.save(tensors, "flipped.pth")
    content = bytearray(Path("flipped.pth").read_bytes())
    content[len(content) // 2] ^= 64
    Path("flipped.pth").write_bytes(content)


def _metadata(content: bytes) -> dict[str, str]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length])["__metadata__"]


def _changed(metadata: dict[str, str], changes: dict[str, Any]) -> dict[str, str]:
    return {
        name: json.dumps(json.loads(value) | changes) if value.startswith("{") else value
        for name, value in metadata.items()
    }


def _without_checksum(metadata: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if "checksum" not in name}


def _make_settings() -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    for name, text in {
        "list": "- a\n- b\n", "text": "text", "empty": "", "open": "run: [",
        "bomb": "\n".join(bomb), "deep": "[" * 5000,
        "tag": "run: !!python/object/apply:os.system [ls]",
        "unknown": "run: {epochz: 3}", "kind": "run: {epochs: many}", "none": "run:\n",
    }.items():  # fmt: skip
        Path(f"{name}.yaml").write_text(text)
    Path("latin.yaml").write_bytes(b"run: {output: caf\xe9}\n")
    Path("thesis").mkdir()
    Path("thesis/thesis.tex").write_text("years of work")
    Path("project").mkdir()
    Path("project/config.yaml").write_text("a: 1")
    Path("a_file").write_text("text")
