"""SIGKILL at moments drawn at random: does the same command end as if nothing had happened?"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.faults.jobs import Job, digests, start
from benchmarks.processes import warm_up

LONGEST = 600.0
"""Seconds after which a job that was not killed is taken for hanging."""


@dataclass
class Tally:
    """What became of one job."""

    job: str
    seconds: float
    kills: int = 0
    sequences: int = 0
    lost: int = 0
    different: int = 0

    def __str__(self) -> str:
        return (
            f"{self.job:12} {self.seconds:6.1f} {self.kills:6} {self.sequences:9} {self.lost:5} "
            f"{self.different:9}"
        )


HEADING = f"{'job':12} {'alone s':>6} {'kills':>5} {'sequences':>9} {'lost':>5} {'different':>9}"


def kill_jobs(jobs: list[Job], kills: int, seed: int, folder: Path) -> list[Tally]:
    """Kill every job about equally often, and say what became of it.

    Args:
        jobs: what to kill.
        kills: how many in all.
        seed: of the moments.
        folder: for results; the names of what went wrong stay there.
    """
    if not jobs:
        return []
    warm_up()
    print(HEADING, flush=True)
    shares = [kills // len(jobs) + (i < kills % len(jobs)) for i in range(len(jobs))]
    tallies = []
    for number, (job, share) in enumerate(zip(jobs, shares)):
        tallies.append(_kill_job(job, share, np.random.default_rng([seed, number]), folder))
        print(tallies[-1], flush=True)
    return tallies


def _kill_job(job: Job, kills: int, rng: np.random.Generator, folder: Path) -> Tally:
    """Sequences of one to three kills and a run to the end, each in a folder of its own."""
    whole = folder / job.name.replace(" ", "_") / "whole"
    begin = time.monotonic()
    if _to_the_end(job, whole):
        raise RuntimeError(f"{job.name} fails without a kill: see {whole}.log")
    tally = Tally(job.name, time.monotonic() - begin)
    expected = digests(job, whole)
    if not expected:
        raise RuntimeError(f"{job.name} leaves no results")
    while tally.kills < kills:
        broken = whole.with_name(f"broken_{tally.sequences}")
        tally.kills += _break(
            job, broken, min(kills - tally.kills, int(rng.integers(1, 4))), tally, rng
        )
        # The kill may have come when all was done; packing refuses to do it again.
        ended = digests(job, broken) == expected
        failed = not ended and bool(_to_the_end(job, broken))
        differs = not failed and digests(job, broken) != expected
        tally.sequences += 1
        tally.lost += failed
        tally.different += differs
        if failed or differs:
            print(f"{job.name}: see {broken} and {broken}.log", flush=True)
        else:
            shutil.rmtree(broken)
    return tally


def _break(job: Job, folder: Path, times: int, tally: Tally, rng: np.random.Generator) -> int:
    """Kill a job so many times, unless it ends before; returns how often it was killed."""
    folder.mkdir(parents=True)
    for done in range(times):
        process = start(job.name, folder, folder.with_name(f"{folder.name}.log"))
        process.join(rng.uniform(0, tally.seconds))
        if process.exitcode is not None:
            return done
        process.kill()
        process.join()
    return times


def _to_the_end(job: Job, folder: Path) -> int:
    """Run a job to its end; returns its exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    process = start(job.name, folder, folder.with_name(f"{folder.name}.log"))
    process.join(LONGEST)
    if process.exitcode is None:
        process.kill()
        process.join()
        return 1
    return process.exitcode
