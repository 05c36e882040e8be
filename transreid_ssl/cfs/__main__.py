"""Choose pre-training data by the catastrophic forgetting score (CFS), or by other scores.

  python -m transreid_ssl.cfs score     score every image of a pool: outputs/cfs/scores.parquet
  python -m transreid_ssl.cfs select    keep the best part: outputs/cfs/subset.parquet
  python -m transreid_ssl.cfs report    look at what is kept and dropped: outputs/cfs/sheet.png
  python -m transreid_ssl.cfs import    use a published CFS_list.pkl: outputs/cfs/subset.parquet

With no options each takes what the one before has left, beginning with what
`pretrain dino` and `finetune supervised` write; add --help for the options.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from transreid_ssl import cfs, command, data, hints, launching, logs, report, training
from transreid_ssl.cfs.diversity import Diversity
from transreid_ssl.cfs.judge import recorded
from transreid_ssl.cfs.methods import LikenessMethod, Method
from transreid_ssl.cfs.parts import corrupt_path, is_corrupt_list
from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.origin import trained_pool
from transreid_ssl.outputs import (
    MADE_BY,
    PRETRAINED,
    SCORES,
    SUBSET,
    SUPERVISED,
    Overwriting,
    check_outputs,
    is_page,
    keeps,
    page_of,
    require,
)
from transreid_ssl.processes import on_all, on_main
from transreid_ssl.tables import read_record
from transreid_ssl.training.config import as_options
from transreid_ssl.words import counted, part_of

_COMMAND = "python -m transreid_ssl.cfs"


@dataclass(frozen=True)
class Score:
    """Score every image of a pool.

    Example: ``python -m transreid_ssl.cfs score --pool demo --num_workers 2``, or without labels of
    the target ``python -m transreid_ssl.cfs score --method density-ratio --target CROPS``. A
    stopped run goes on where it was; the table is the same for any number of processes.

    Args:
        pool: Crops to score; by default those that ``before`` was pre-trained on.
        method: "cfs" compares two networks, as published; "cfs-centred" and "cfs-whitened" first
            take away what all features of the pool share. The others ask one network, as it was
            pre-trained, how like the target's an image is: "density-ratio" by a logistic
            regression between target and pool, "moments" by two normal densities, "nearest" by the
            nearest twentieth of the target's images. "random" is chance.
        target: Unlabelled crops of the target. The others learn from them; all scores are judged by
            how well they tell them from the pool (for cfs, give such as ``after`` has not seen).
        before: Weights of the pre-trained backbone: a file, a folder or a Hugging Face id.
        after: Weights of the same backbone, fine-tuned on the target, likewise; for cfs methods.
        out: The table of scores (columns image and cfs, or score).
        sample: Images of the pool, and of the target, to learn from at most.
        seed: Of that sample, of its two halves, and of "random".
        batch_size: Images at once, in each process.
        num_workers: Decoding processes, for each process.
        shard_size: Images at most between two points from which a stopped run can go on.
        precision: "no" is float32; bf16 is faster on recent GPUs and changes scores by about 0.001.
        max_bad_fraction: Share of unreadable images above which there is no table.
        overwrite: Throw away what another scoring left there.
        processes: Start so many processes of this machine, such as one for each GPU.
    """

    pool: str | None = None
    method: Method = "cfs"
    target: str | None = None
    before: str = PRETRAINED
    after: str = SUPERVISED
    out: str = SCORES
    sample: int = 20_000
    seed: int = 0
    batch_size: int = 256
    num_workers: int = 2
    shard_size: int = 16_384
    precision: Literal["no", "bf16", "fp16"] = "no"
    max_bad_fraction: float = 0.01
    overwrite: bool = False
    processes: int | None = None

    def __post_init__(self) -> None:
        check_ranges(
            self, batch_size=(1, None), num_workers=(0, None), shard_size=(1, None), seed=(0, None),
            max_bad_fraction=(0, 1), sample=(20, None), processes=(1, None),
        )  # fmt: skip
        if self.method in get_args(LikenessMethod) and not self.target:
            raise UserError(f"--method {self.method}: give crops of the target with --target")
        if self.after not in (SUPERVISED, *self.networks):
            raise UserError(f"--after: is not asked by --method {self.method}; leave it out")

    @property
    def networks(self) -> list[str]:
        """The weights that the method asks."""
        if self.method.startswith("cfs"):
            return [self.before, self.after]
        return [] if self.method == "random" else [self.before]


@dataclass(frozen=True)
class Select(Diversity, Overwriting):
    """Keep the best part of a scored pool, for ``--data.subset`` of the pre-training recipes.

    Examples: ``python -m transreid_ssl.cfs select --keep 0.5``;
    ``python -m transreid_ssl.cfs select --target_share 0.8 --max_source 0.2``;
    ``python -m transreid_ssl.cfs select --average track --balance track``;
    ``python -m transreid_ssl.cfs select --near_duplicates 0.98 --features outputs/embed/f.npy``.
    A smaller selection is always part of a larger one.

    Args:
        scores: Table written by score.
        keep: A fraction in (0, 1] of the readable images, or a whole number of at least 2 images;
            0.5 where neither this nor one of the next two is given.
        threshold: Keep scores from here on.
        target_share: Keep so many as would, were they the best, be expected to be of the target by
            so large a share. For scores that were judged by --target.
        strategy: "best" keeps the highest scores; "random" is the baseline of equal size.
        strict: Refuse scores that were judged and do not know the target; else it is only said.
        drop_blurred: Share of the images that is left out first, the least sharp; needs --pool.
        average: "track" gives each image the mean score of its track: whole tracks rank.
        near_duplicates: Leave out what looks like a better image: a cosine such as 0.98; needs
            --features. In a --pool that knows tracks the repeats within each track go first.
        balance: Take from each group in turns: source (folders), track, cluster (--features).
        max_source: No source has a larger share than this of what is kept.
        pattern: Regular expression that finds an image's track in its name, or its source. Without
            it a source is a folder, and tracks are those that the pool knows.
        features: File that python -m transreid_ssl.embed --images POOL wrote.
        clusters: How many clusters to balance over.
        seed: Of the random strategy, and of clusters.
        pool: When given, checks that the scores are of this pool, and asks it for tracks; these
            are otherwise asked of the pool that was scored.
        out: The table (column image, best first).
    """

    scores: str = SCORES
    keep: float | None = None
    threshold: float | None = None
    target_share: float | None = None
    strategy: Literal["best", "random"] = "best"
    strict: bool = False
    seed: int = 0
    pool: str | None = None
    out: str = SUBSET

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, seed=(0, None), clusters=(1, None))


@dataclass(frozen=True)
class Report(Overwriting):
    """Draw the histogram of the scores and the images at both ends and around the cut.

    Example: ``python -m transreid_ssl.cfs report``.

    Args:
        scores: Table written by score.
        subset: Table written by select.
        pool: The crops; by default the pool that the scores are of.
        pattern: Regular expression that finds an image's source in its name; else its folder is it.
        features: File that python -m transreid_ssl.embed wrote of the pool: near-duplicates are
            counted.
        near_duplicates: Cosine from which on two images are such.
        count: Images shown at each end.
        out: The picture.
    """

    scores: str = SCORES
    subset: str = SUBSET
    pool: str | None = None
    pattern: str | None = None
    features: str | None = None
    near_duplicates: float = 0.98
    count: int = 24
    out: str = "outputs/cfs/sheet.png"

    def __post_init__(self) -> None:
        check_ranges(self, count=(1, None), near_duplicates=(0, 1))


@dataclass(frozen=True)
class Import(Overwriting):
    """Turn a pickled list of names, best first, into a subset table. Nothing in it is executed.

    Example: ``python -m transreid_ssl.cfs import CFS_list.pkl --keep 0.5``.

    Args:
        source: The pickle, such as the published CFS_list.pkl.
        keep: Front part of the list to keep, as for select; null keeps all.
        pool: When given, every name must be in it (a folder or extension more or less is forgiven).
        out: The table (column image, best first).
    """

    source: str
    keep: float | None = None
    pool: str | None = None
    out: str = SUBSET


def run_score(options: Score) -> int | None:
    """The command ``score``; the exit code of the processes that it starts."""
    from transreid_ssl.models import find_weights, read_spec

    if options.processes:
        again = as_options(asdict(replace(options, processes=None)))
        return launching.launch(options.processes, ["cfs", "score", *again])
    found = [find_weights(require(path) if path in MADE_BY else path) for path in options.networks]
    source = options.pool or trained_pool(read_spec(options.before))
    listed = corrupt_path(Path(options.out))
    inputs = [source, options.target, *found]
    check_outputs(options.out, inputs=inputs, beside={listed: is_corrupt_list})
    accelerator = cfs.scoring.make_accelerator(options.precision)
    pool = on_all(accelerator, lambda: data.open_pool(source))
    target = on_all(accelerator, lambda: data.open_pool(options.target) if options.target else None)
    if accelerator.device.type == "cpu":
        training.use_cpu(options.num_workers)
    several = f", in {count} processes" if (count := accelerator.num_processes) > 1 else ""
    logs.say(accelerator, f"scoring {pool.describe()}{several}")
    out = cfs.score(
        pool, options.before, options.after, options.out,
        target=target, accelerator=accelerator, progress=True,
        method=options.method, sample=options.sample, seed=options.seed,
        batch_size=options.batch_size, num_workers=options.num_workers,
        shard_size=options.shard_size, max_bad_fraction=options.max_bad_fraction,
        overwrite=options.overwrite,
    )  # fmt: skip
    on_main(accelerator, lambda: _tell(out, pool))
    accelerator.free_memory()
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _tell(out: Path, pool: "data.Pool") -> None:
    """Print what is to be known of the scores of a pool, and what is done with them."""
    print(f"{out}: {cfs.account.summary(out)}")
    if judgement := recorded(read_record(out)):
        print(judgement)
    print(cfs.account.follows(pool, cfs.subset.read_scores(out)["score"].to_numpy()))
    hints.say_next(f"{_COMMAND} select{command.spelled({'--scores': str(out)})}")


def run_select(options: Select) -> None:
    """The command ``select``."""
    require(options.scores)
    inputs = [options.scores, options.pool, *_files_of(options.features)]
    check_outputs(options.out, inputs=inputs, keep=keeps(options))
    judgement = recorded(read_record(options.scores))
    if judgement and not judgement.knows and options.strategy == "best":
        if options.strict:
            raise UserError(f"{options.scores}: {judgement}")
        print(f"warning: {judgement}", file=sys.stderr)
    source = options.pool
    if source is None and options.needs_tracks() and options.pattern is None:
        source = read_record(options.scores).get("pool")
    out = cfs.select(
        options.scores, options.keep, options.out,
        threshold=options.threshold, target_share=options.target_share,
        strategy=options.strategy, seed=options.seed, diversity=options,
        pool=data.open_pool(source) if source else None,
    )  # fmt: skip
    record = read_record(out)
    print(f"{out}: {record['images']:,} of {record['scored']:,} images of {record['pool']}")
    told = options.strategy == "best" and not options.asked()
    if judgement and judgement.found and judgement.knows and told:
        share = judgement.expected_share(record["images"] / record["scored"])
        print(f"about {share:.0%} of them resemble the target, {judgement.share:.0%} of all")
    hints.say_next(hints.pretraining(record["pool"], out))


def run_report(options: Report) -> None:
    """The command ``report``."""
    for path in (options.scores, options.subset):
        require(path)
    record = read_record(options.scores)
    source = str(options.pool or record.get("pool") or "demo")
    inputs = [options.scores, options.subset, source, *_files_of(options.features)]
    page = page_of(options.out)
    check_outputs(options.out, inputs=inputs, beside={page: is_page}, keep=keeps(options))
    pool = data.open_pool(source)
    cfs.subset.check_pool(options.scores, record, pool)
    kept = np.zeros(len(pool), bool)
    kept[data.subset.take_subset(pool, options.subset).indices] = True
    account = cfs.account.make_account(
        pool, cfs.subset.read_scores(options.scores), kept, record,
        pattern=options.pattern, features=options.features, threshold=options.near_duplicates,
    )  # fmt: skip
    print(*account.lines(), sep="\n")
    out = report.draw_cfs_sheet(
        pool, account.scores, kept, options.out, options.count, account.method, account.curves()
    )
    said = part_of(int(kept.sum()), len(pool), "image")
    print(f"{out}: {said} kept; shown: {pool.describe()}")
    report.write_or_warn(lambda: report.write_selection(
        page, pool, account.scores, kept,
        method=account.method, lines=account.lines(), curves=account.curves(),
        settings=asdict(options), count=options.count,
    ))  # fmt: skip


def run_import(options: Import) -> None:
    """The command ``import``."""
    check_outputs(options.out, inputs=[options.source, options.pool], keep=keeps(options))
    pool = data.open_pool(options.pool) if options.pool else None
    out = cfs.import_list(options.source, options.out, keep=options.keep, pool=pool)
    print(f"{out}: {counted(read_record(out)['images'], 'image')}")
    if pool is None:
        print("note: --pool POOL checks that they are in it, and says how to pre-train on them")
    else:
        hints.say_next(hints.pretraining(pool.source, out))


def _files_of(features: str | Path | None) -> list[Path | None]:
    """A file of features, and the table of names beside it."""
    path = features and Path(features)
    return [] if path is None else [path, data.feature_files.names_path(path)]


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Parse, call, print."""
    actions = {
        "score": (Score, run_score),
        "select": (Select, run_select),
        "report": (Report, run_report),
        "import": (Import, run_import),
    }
    return command.subcommands(_COMMAND, __doc__, actions, arguments)


if __name__ == "__main__":
    command.run(main, resumes="score" in sys.argv[1:2])
