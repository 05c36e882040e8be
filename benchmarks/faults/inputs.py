"""Bad input of every kind: each must end in one line that names it, before any work is done."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.faults.jobs import make_inputs, recipe_main
from transreid_ssl import embed, evaluate, export, transfer, weights
from transreid_ssl.cfs import __main__ as cfs
from transreid_ssl.data import __main__ as data
from transreid_ssl.errors import UserError

POOL = "demo:identities=8,images=4,height=32,width=16"
_MAINS: dict[str, Callable[[list[str]], Any]] = {
    "data": data.main, "cfs": cfs.main, "embed": embed.main, "evaluate": evaluate.main,
    "export": export.main, "transfer": transfer.main, "weights": weights.main,
}  # fmt: skip


@dataclass(frozen=True)
class BadInput:
    """A command line with something wrong about it.

    Attributes:
        command: the name of a command or of a recipe's objective.
        arguments: its arguments, in the folder of the bad files.
        said: what the message must hold.
    """

    command: str
    arguments: tuple[str, ...]
    said: str

    @property
    def name(self) -> str:
        return " ".join([self.command, *self.arguments])


def try_inputs(folder: Path) -> list[tuple[BadInput, str, bool]]:
    """Make the bad files in ``folder``, try all bad inputs, and return what each was answered.

    The last value says whether the answer was one line for users that holds what it must.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        make_files()
        return [(case, *_try(case)) for case in bad_inputs()]
    finally:
        os.chdir(before)


def _try(case: BadInput) -> tuple[str, bool]:
    kept = _contents()
    AcceleratorState._reset_state(True)  # a recipe is the first of its process
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            code = (_MAINS.get(case.command) or recipe_main(case.command))(list(case.arguments))
        return f"no error (returned {code})", False
    except UserError as error:
        text = " ".join(str(error).split())
        now = _contents()
        touched = [name for name, digest in kept.items() if now.get(name) != digest]
        if touched:
            return f"{text} -- but {touched[0]} was changed", False
        return text, case.said in text
    except BaseException as error:
        return f"{type(error).__name__}: {error}", False


def _contents() -> dict[str, int]:
    """What the files in the folder hold: no bad input may change them."""
    files = (path for path in Path().rglob("*") if path.is_file() and "out" not in path.parts)
    return {str(path): hash(path.read_bytes()) for path in files}


# -- the bad files


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


# -- what is tried


def bad_inputs() -> Iterator[BadInput]:
    """All of them."""
    yield from _pools()
    yield from _settings()
    yield from _weights()
    yield from _selections()
    yield from _outputs()


def _pools() -> Iterator[BadInput]:
    bad = {
        "none": "none", "nothing": "nothing", "texts": "texts", "empty.txt": "empty.txt",
        "missing.txt": "missing.txt", "binary.txt": "binary.txt", "foreign.parquet": "image",
        "empty.parquet": "empty.parquet", "numbers.parquet": "numbers.parquet",
        "cut.parquet": "cut.parquet", "unfinished": "unfinished", "odd_keys": "odd_keys",
        "hostile_keys": "hostile_keys", "big_keys": "big_keys", "cut_lmdb": "cut_lmdb",
        "demo:people=3": "demo", "CFS_list.pkl": "CFS_list.pkl",
    }  # fmt: skip
    for pool, said in bad.items():
        yield BadInput("data", ("inspect", pool), said)
        yield BadInput("dino", (f"--data.pool={pool}", "--run.output=out/pool"), said)
    yield BadInput("dino", ("--data.pool=broken", "--run.output=out/broken"), "broken")
    for subset in ("none.parquet", "strangers.parquet", "empty.parquet", "hostile.pkl"):
        yield BadInput(
            "dino", (f"--data.pool={POOL}", f"--data.subset={subset}", "--run.output=out/s"), subset
        )
    for name, root, said in (
        ("market1501", "nothing", "nothing"), ("msmt17", "crops", "crops"),
        ("cuhk", "crops", "cuhk"), ("folder", "nothing", "nothing"),
    ):  # fmt: skip
        arguments = (
            f"--data.name={name}", f"--data.root={root}", "--run.output=out/labelled",
            "--model.weights=before.safetensors",
        )  # fmt: skip
        yield BadInput("supervised", arguments, said)
    # Somebody's own folder is never left aside for generated people.
    for command, setting in {
        "dino": "--probe.root", "supervised": "--data.root", "mgn": "--data.root",
        "usl": "--data.root", "uda": "--source.root", "evaluate": "--root",
    }.items():  # fmt: skip
        other = "--run.output=out/generated"
        if command == "evaluate":
            other = "--weights=before.safetensors"
        yield BadInput(command, (f"{setting}=crops", other), "generated people")
    yield BadInput("uda", ("--target.root=crops", "--run.output=out/generated"), "generated people")


def _settings() -> Iterator[BadInput]:
    small = (f"--data.pool={POOL}", "--run.output=out/settings")
    for name in (
        "list", "text", "empty", "open", "bomb", "deep", "tag", "unknown", "kind", "none", "latin",
        "missing",
    ):  # fmt: skip
        yield BadInput("dino", (f"--config={name}.yaml", *small), f"{name}.yaml")
    for setting, value in {
        "run.epochs": "0", "run.batch_size": "-1", "run.accumulation": "0", "run.seed": "-1",
        "run.log_every": "0", "run.checkpoint_every": "0", "run.num_workers": "-1",
        "run.timeout_minutes": "nan", "run.keep_checkpoints": "0", "optim.lr": "nan",
        "optim.clip": "inf", "optim.weight_decay": "-1", "data.max_bad_fraction": "2",
        "model.drop_path": "1", "probe.every": "-1",
    }.items():  # fmt: skip
        yield BadInput("dino", (f"--{setting}={value}", *small), setting.partition(".")[2])
    yield BadInput("dino", ("--run.epoch=2", *small), "run.epoch")
    yield BadInput("dino", ("--run.precision=half", *small), "precision")
    yield BadInput("dino", ("--model.name=vit_giant", *small), "vit_giant")
    yield BadInput("dino", ("--run.batch_size=4000", *small), "batch_size")
    for folder, said in (
        ("thesis", "thesis.tex"),
        ("project", "config.yaml"),
        ("a_file", "a_file"),
    ):
        for overwrite in ("false", "true"):
            arguments = (f"--data.pool={POOL}", f"--run.output={folder}")
            yield BadInput("dino", (*arguments, f"--run.overwrite={overwrite}"), said)


def _weights() -> Iterator[BadInput]:
    names = (
        "none.safetensors", "text.safetensors", "cut.safetensors", "flipped.safetensors",
        "long_header.safetensors", "std.safetensors", "mean.safetensors", "size.safetensors",
        "half.safetensors", "cameras.safetensors", "stride.safetensors", "name.safetensors",
        "deep.safetensors", "nothing.pth", "numbers.pth", "executes.pth", "zip.pth", "flipped.pth",
        "nan.safetensors", "nothing",
    )  # fmt: skip
    for name in names:
        yield BadInput("embed", (f"--weights={name}", f"--images={POOL}", "--out=out/f.npy"), name)


def _selections() -> Iterator[BadInput]:
    select = "select", "--scores=scores.parquet", "--out=out/kept.parquet"
    for options, said in {
        ("--near_duplicates=0.9",): "--features",
        ("--near_duplicates=0.9", "--features=none.npy"): "none.npy",
        ("--near_duplicates=0.9", "--features=text.npy"): "text.npy",
        ("--near_duplicates=2", "--features=text.npy"): "near_duplicates",
        ("--balance=track",): "--pattern",
        ("--balance=track", "--pattern=("): "no regular expression",
        ("--balance=track", "--pattern=_q"): "finds nothing",
        ("--max_source=0.1",): "max_source",
        ("--drop_blurred=0.5",): "--pool",
        ("--target_share=0.5",): "was not judged",
        ("--threshold=9",): "no score is 9",
        ("--keep=0.5", "--threshold=0"): "give one of them",
    }.items():
        yield BadInput("cfs", (*select, *options), said)
    score = "score", "--method=nearest", f"--pool={POOL}", "--before=before.safetensors"
    yield BadInput("cfs", (*score, "--out=out/scores.parquet"), "--target")


def _outputs() -> Iterator[BadInput]:
    weights_given = ("--weights=before.safetensors",)
    yield BadInput(
        "embed", (*weights_given, "--images=list.parquet", "--out=list.npy"), "list.parquet"
    )
    yield BadInput(
        "embed", (*weights_given, f"--images={POOL}", "--out=before.safetensors"), "before"
    )
    yield BadInput(
        "embed", (*weights_given, f"--images={POOL}", "--out=scores.npy"), "scores.parquet"
    )
    yield BadInput("cfs", ("select", "--scores=scores.parquet", "--out=scores.parquet"), "scores")
    yield BadInput("export", ("before.safetensors", "before.safetensors"), "before.safetensors")
    yield BadInput("export", ("before.safetensors", "out/a.jpg"), "a.jpg")
    yield BadInput("weights", ("convert", "before.safetensors", "before.safetensors"), "before")
    yield BadInput("data", ("verify", "missing.txt", "--list=missing.txt"), "missing.txt")
    yield BadInput("embed", (*weights_given, f"--images={POOL}", "--out=thesis"), "thesis")
