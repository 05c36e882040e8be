"""Commands that are printed to go on with: each stands whole in its line, and can be pasted."""

import re
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from transreid_ssl.command import as_started, spelled
from transreid_ssl.outputs import OUTPUTS
from transreid_ssl.terms import Source


def say_next(following: str) -> None:
    """Print which command goes on from here."""
    print(as_started(f"next: {following}"), flush=True)


def run_of(job: str, paths: Iterable[str | Path]) -> str:
    """The folder for a run of ``job``, named after the images that it is of."""
    stems = (re.sub(r"[^\w.-]+", "_", Path(path).resolve().stem) for path in paths)
    return f"{OUTPUTS}/{job}_{'_'.join(stems) or 'images'}"


def settings_for(path: str, job: str, settings: str = "") -> dict[str, str | None]:
    """Settings, by default of a small network on real crops, and a run folder of the images'."""
    return {"--config": settings or f"{job}_cpu.yaml", "--run.output": run_of(job, [path])}


def pretraining(pool: str, subset: str | Path) -> str:
    """The command that pre-trains on a part of a pool that was just chosen, in a folder of its own.

    Its settings are those chosen for the pool and the machine; of generated people, the demo's.
    """
    generated = bool(Source("pool", pool).generated)
    folder = run_of("dino", [subset] if generated else [pool, subset])
    names = (folder if number == 1 else f"{folder}_{number}" for number in count(1))
    given = {
        "--config": None if generated else "auto",
        "--run.output": next(name for name in names if not Path(name).exists()),
        "--data.pool": pool,
        "--data.subset": str(subset),
    }
    return f"python -m transreid_ssl pretrain dino{spelled(given)}"
