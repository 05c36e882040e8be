"""Bad input of every kind: each must end in one line that names it, before any work is done."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from benchmarks.faults.bad_files import make_files
from benchmarks.faults.jobs import recipe_main
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
        "usl": "--data.root", "uda": "--source.root",
    }.items():  # fmt: skip
        other = "--run.output=out/generated"
        yield BadInput(command, (f"{setting}=crops", other), "generated people")
    own = "--root=crops", "--weights=before.safetensors"
    yield BadInput("evaluate", own, "which labelled set")
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
