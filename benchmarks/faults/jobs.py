"""The jobs that are killed: every long one of the package, at a size of seconds."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from benchmarks import processes
from transreid_ssl import command, embed
from transreid_ssl.cfs import __main__ as _cfs_command
from transreid_ssl.data import __main__ as _data_command
from transreid_ssl.data.people.clip import write_clip
from transreid_ssl.data.tracks.settings import ClipConfig
from transreid_ssl.models import build_backbone, save_backbone
from transreid_ssl.shipped import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"

PEOPLE = "height=32,width=16"
_RUN = [
    "--model.img_size=[32,16]", "--run.batch_size=16", "--run.log_every=1", "--run.num_threads=1",
    "--run.precision=no", "--run.checkpoint_every=2",
]  # fmt: skip
_PRETRAIN = [
    f"--data.pool=demo:identities=24,images=4,{PEOPLE}", "--views.global_size=[32,16]",
    "--run.epochs=3", "--run.num_workers=1", f"--probe.data=demo:test=5,images=4,{PEOPLE}",
    "--probe.every=7", *_RUN,
]  # fmt: skip
_LABELLED = f"demo:identities=12,images=4,test=5,{PEOPLE}"
_CLUSTERS = [
    "--run.epochs=3", "--run.num_workers=0", "--augment.padding=2", "--probe.every=5",
    "--clusters.steps_per_epoch=4", "--clusters.k1=5", "--clusters.k2=2", "--clusters.eps=0.7",
    "--clusters.min_samples=2", "--clusters.embed_batch_size=16", *_RUN,
]  # fmt: skip
_DINO = ["--dino.out_dim=32", "--dino.hidden_dim=32", "--dino.bottleneck_dim=16"]
_CROPS = f"demo:identities=60,images=8,{PEOPLE}"

SETTINGS = {
    "dino": ["--views.local_size=[16,8]", "--views.num_local=2", *_DINO, *_PRETRAIN],
    "moco": ["--moco.queue_size=40", "--model.name=vit_nano_patch8_reid", *_PRETRAIN],
    "mocov3": [
        "--mocov3.hidden_dim=32", "--mocov3.dim=16", "--model.name=vit_nano_patch8_reid", *_PRETRAIN
    ],
    "moby": [
        "--moby.hidden_dim=32", "--moby.dim=16", "--moby.queue_size=40", *_PRETRAIN,
        "--model.name=vit_nano_patch8_reid",
    ],
    "upreid": [
        "--moco.queue_size=64", "--moco.dim=16", "--moco.hidden_dim=32", *_PRETRAIN,
        "--regularisers.patch_dim=16", "--regularisers.patch_hidden_dim=32",
        "--model.name=vit_nano_patch8_reid",
    ],
    "supervised": [
        f"--data.name={_LABELLED}", "--run.epochs=4", "--run.num_workers=1", "--augment.padding=2",
        "--optim.warmup_epochs=1", "--probe.every=5", "--model.weights=before.safetensors", *_RUN,
    ],
    "mgn": [
        "--data.name=demo:identities=12,images=4,test=5,height=48,width=16", *_RUN,
        "--model.name=mgn_resnet_nano", "--model.img_size=[48,16]", "--run.epochs=4",
        "--data.images_per_identity=4", "--run.num_workers=0", "--augment.padding=2",
        "--optim.warmup_epochs=1", "--probe.every=5", "--optim.plateau_epochs=2",
    ],
    "usl": [
        f"--data.name=demo:identities=10,images=6,test=5,{PEOPLE}", "--data.statistics=half",
        "--model.weights=before.safetensors", *_CLUSTERS,
    ],
    "uda": [
        f"--source.name=demo:identities=10,images=6,test=5,{PEOPLE},style=1",
        f"--target.name=demo:identities=10,images=6,test=5,{PEOPLE},first=100,style=2",
        "--source_training.epochs=2", "--source_training.batch_size=16",
        "--source_training.optim.warmup_epochs=1", "--source_training.optim.lr=0.001", *_CLUSTERS,
    ],
}  # fmt: skip
"""By objective the settings of its recipe; what is relative is in the folder of the inputs."""


@dataclass(frozen=True)
class Job:
    """A program with a result.

    Attributes:
        name: to tell it from others.
        program: takes the folder of its results.
        results: patterns of the files there that an unbroken run leaves.
    """

    name: str
    program: Callable[[Path], Any]
    results: tuple[str, ...]


def make_inputs(folder: Path) -> None:
    """Two networks, before and after an adaptation, for the jobs that want them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in (("before", 0), ("after", 1)):
        torch.manual_seed(seed)
        network = build_backbone("vit_nano_patch8_ics", img_size=(32, 16), objective="dino")
        save_backbone(folder / f"{name}.safetensors", network)


def all_jobs() -> dict[str, Job]:
    """Every job by its name."""
    trained = ("backbone.safetensors", "model.safetensors", "metrics.jsonl")
    jobs = [
        Job(name, _recipe(name), tuple(f"**/{pattern}" for pattern in trained)) for name in SETTINGS
    ]
    jobs += [Job("cfs score", _score, ("scores.parquet",)), Job("embed", _embed, ("f.*",))]
    jobs += [Job("pack", _pack, ("packed/*",)), Job("pack lmdb", _pack_lmdb, ("packed/**/*",))]
    jobs += [Job("tracks", _tracks, ("pool/*",))]
    return {job.name: job for job in jobs}


@functools.cache
def recipe_main(name: str) -> Callable[[list[str]], Any]:
    """The ``main`` of an objective's recipe."""
    kind = "finetune" if f"{name}_finetune.py" in os.listdir(RECIPES) else "pretrain"
    return load_recipe(str(RECIPES / f"{name}_{kind}.py")).main


def _recipe(name: str) -> Callable[[Path], Any]:
    main = recipe_main(name)
    return lambda folder: main([*SETTINGS[name], f"--run.output={folder}"])


def _score(folder: Path) -> Any:
    return _cfs_command.main(
        [
            "score", f"--pool={_CROPS}", "--before=before.safetensors", "--after=after.safetensors",
            f"--out={folder / 'scores.parquet'}", "--shard_size=60", "--batch_size=20",
            "--num_workers=0", "--precision=no",
        ]
    )  # fmt: skip


def _embed(folder: Path) -> Any:
    return embed.main(
        [
            f"--images={_CROPS}", "--weights=before.safetensors", f"--out={folder / 'f.npy'}",
            "--batch_size=20", "--num_workers=0",
        ]
    )  # fmt: skip


def _tracks(folder: Path) -> Any:
    clip = folder.parent / "clip"
    if not clip.exists():
        write_clip(ClipConfig(people=5, height=120), clip)
    rules = ["--every=1", "--rows_per_shard=60", "--num_workers=0"]
    return _data_command.main(["tracks", f"{clip}", f"--out={folder / 'pool'}", *rules])


def _pack(folder: Path) -> Any:
    return _data_command.main(["pack", _CROPS, f"{folder / 'packed'}", "--rows_per_shard=60"])


def _pack_lmdb(folder: Path) -> Any:
    many = _CROPS.replace("identities=60", "identities=300")  # an LMDB gets a thousand at a time
    return _data_command.main(["pack", many, f"{folder / 'packed'}", "--format=lmdb"])


# -- a job as a process of its own


def start(name: str, folder: Path, log: Path) -> ForkServerProcess:
    """Start the job ``name``, its results going to ``folder`` and its output to ``log``."""
    return processes.start(log, _run, name, folder)


def _run(name: str, folder: Path) -> None:
    command.run(all_jobs()[name].program, folder)


# -- what a job has left


def digests(job: Job, folder: Path) -> dict[str, str]:
    """By the path of each result a digest of what it holds, times and places left out."""
    paths = sorted({path for pattern in job.results for path in folder.glob(pattern)})
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in paths
        if path.is_file() and not path.name.startswith(".")
    }


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(path):
        digest.update(part)
    return digest.hexdigest()


def _parts(path: Path) -> Iterator[bytes]:
    if path.suffix == ".safetensors":
        for name, tensor in sorted(load_file(path).items()):
            yield f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode()
            yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif path.suffix == ".npy":
        yield np.load(path).tobytes()
    elif path.suffix == ".parquet":
        for column in pq.read_table(path).columns:
            yield repr(column.to_pylist()).encode()
    elif path.suffix == ".mdb":  # its pages may lie in another order
        import lmdb

        with (
            lmdb.open(str(path.parent), readonly=True, lock=False) as database,
            database.begin() as transaction,
        ):
            yield from (part for item in transaction.cursor() for part in item)
    elif path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            for name in ("step_seconds", "images_per_second", "data_wait"):
                values.pop(name, None)
            yield json.dumps(values, sort_keys=True).encode()
    else:
        yield path.read_bytes()
