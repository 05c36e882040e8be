"""Kills every long job at random moments and compares what the same command leaves afterwards.

    python -m benchmarks.faults --kills 200          # all jobs, minutes on two CPU cores
    python -m benchmarks.faults --kills 30 --jobs usl uda --ranks 0 --no-inputs --no-errors

A job (each recipe, CFS scores, embedding, packing; generated people, seconds long) is run to its
end once. Then it is killed (SIGKILL) one to three times at moments drawn from its length, and the
same command is given again until it ends. "lost" counts those that could not go on, "different"
those whose results (weights, metrics but for times, scores, features, shards) differ in any bit
from those of the run that was left alone. With ``--ranks``, one of two or three processes of a run
is killed instead, and the seconds until its launcher has ended are measured. Then one of three
processes fails at every place where they meet, and all must end with its error. Before all that
every bad input of ``inputs.py`` is tried, each of which must end in one line that names it.

There is no plain baseline: ``ratio`` is the share of jobs that ended bit for bit.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.inputs import try_inputs
from benchmarks.faults.jobs import SETTINGS, all_jobs, make_inputs
from benchmarks.faults.kills import kill_jobs
from benchmarks.faults.ranks import fail_ranks, kill_ranks
from benchmarks.reporting import finish
from transreid_ssl import command
from transreid_ssl.errors import UserError
from transreid_ssl.words import nearest

MEETING = {*SETTINGS, "cfs score"}
"""The jobs that several processes share."""


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.faults", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--kills", type=int, default=200, help="kills, over all jobs together")
    parser.add_argument("--ranks", type=int, default=4, help="kills of one process of several")
    parser.add_argument(
        "--inputs", action=argparse.BooleanOptionalAction, default=True, help="try the bad inputs"
    )
    parser.add_argument(
        "--errors", action=argparse.BooleanOptionalAction, default=True,
        help="let one of three processes fail",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", nargs="*", help="some of the jobs; all without it")
    parser.add_argument("--folder", help="where results go; a temporary folder without it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, compare and count; returns the exit code: 0 if nothing was lost and nothing differs."""
    options = read_options(arguments)
    known = all_jobs()
    names = options.jobs or list(known)
    if unknown := set(names) - set(known):
        name = min(unknown)
        listed = ", ".join(known)
        raise UserError(f"--jobs {name}: no such job; there are {listed}{nearest(name, known)}")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="faults_")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"--folder {folder}: is not empty; give a new one")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    answers = try_inputs(folder / "inputs") if options.inputs else []
    wrong = [f"{case.name}: {answer}" for case, answer, sound in answers if not sound]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    make_inputs(folder)
    os.chdir(folder)
    jobs = [known[name] for name in names] if options.kills else []
    tallies = kill_jobs(jobs, options.kills, options.seed, folder)
    ranks = kill_ranks(options.ranks, options.seed, folder)
    together = [name for name in names if name in MEETING]
    places, sound = fail_ranks(together, folder) if options.errors and together else (0, 0)
    sequences = sum(tally.sequences for tally in tallies)
    bad = sum(tally.lost + tally.different for tally in tallies)
    finish(
        None if not sequences else 1 - bad / sequences,
        kills=sum(tally.kills for tally in tallies), sequences=sequences,
        lost=sum(tally.lost for tally in tallies),
        different=sum(tally.different for tally in tallies), ranks=ranks,
        places=places, unsound=places - sound, bad_inputs=len(answers), wrong=len(wrong),
    )  # fmt: skip
    return int(
        bool(bad or wrong or places - sound) or any(kill["code"] or kill["left"] for kill in ranks)
    )


if __name__ == "__main__":
    command.run(main)
