"""Scores of all images of a pool, in parts, on any number of processes, and what they are worth.

What an image's score is, is told by a ``Scorer``.
"""

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
from accelerate import InitProcessGroupKwargs
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import transreid_ssl
from transreid_ssl.cfs.judge import judge
from transreid_ssl.cfs.methods import Method
from transreid_ssl.cfs.parts import ScoreParts
from transreid_ssl.cfs.scorers import Input, Scorer, make_scorer
from transreid_ssl.data import CorruptImage, Pool, decode, open_loader, resize
from transreid_ssl.errors import UserError
from transreid_ssl.files import fingerprint
from transreid_ssl.logs import say
from transreid_ssl.outputs import DONE, SCORES
from transreid_ssl.parts import part_size
from transreid_ssl.processes import on_main, together
from transreid_ssl.progress import progress as say_progress
from transreid_ssl.retrieval.embed import refuse_not_finite
from transreid_ssl.tables import read_record


def score(
    pool: Pool,
    before: str | Path | None = None,
    after: str | Path | None = None,
    out: str | Path = SCORES,
    *,
    method: Method = "cfs",
    target: Pool | None = None,
    sample: int = 20_000,
    seed: int = 0,
    batch_size: int = 256,
    num_workers: int = 0,
    shard_size: int = 16_384,
    precision: str = "no",
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    accelerator: accelerate.Accelerator | None = None,
    progress: bool = False,
) -> Path:
    """Score every image of ``pool`` into a Parquet table: ``image``, and ``cfs`` or ``score``.

    Runs in one process or, under ``accelerate launch``, in many; the table is the same. The pool
    is cut in shards; a relaunch after a stop does only those that are missing, or whose images were
    written anew (by time or size of their files). An image that cannot be read has the score null
    and stands in ``<out>.corrupt.txt``.

    Args:
        pool: the crops.
        before: weights of the pre-trained backbone: a file, a folder or a hub id.
        after: weights of the same backbone fine-tuned on the target, likewise; for CFS alone.
        out: the table.
        method: "cfs", "cfs-centred" or "cfs-whitened", which compare the two networks;
            "density-ratio", "nearest" or "moments", which ask the first how like the target's an
            image is, without any label; or "random".
        target: images of the target, by which the scores are judged (see ``judge``); the table
            remembers how. The second kind of methods learns from them too. For CFS best such as no
            network was trained on; None leaves its scores unjudged.
        sample: images of the pool, and of the target, to learn from at most.
        seed: of the sample and its halves, and of "random".
        batch_size: images at once, in each process.
        num_workers: decoding processes for each process.
        shard_size: images at most between two points from which a stopped run can go on.
        precision: "no" (float32), "bf16" or "fp16".
        max_bad_fraction: share of unreadable images above which there is no table.
        overwrite: throw away what another scoring left at ``out``.
        accelerator: taken as it is when given; it then decides the precision.
        progress: say how far it is, by a bar on a terminal.

    Returns:
        ``out``.

    Raises:
        UserError: something that the method needs is missing, different architectures, an empty
            pool, too few images to learn from, leftovers of another scoring, too many unreadable
            images, or features that are not finite.
    """
    if not len(pool):
        raise UserError(f"{pool.source}: the pool holds no image")
    accelerator = accelerator or make_accelerator(precision)
    scorer = make_scorer(
        method, before, after, pool, target, accelerator, sample=sample, seed=seed
    )  # fmt: skip
    work = _Work(pool, scorer, batch_size, num_workers, max_bad_fraction, progress)
    return _score(work, Path(out), shard_size, overwrite)


@dataclasses.dataclass(frozen=True)
class _Work:
    """What all parts of a scoring have in common; see ``score`` for the attributes."""

    pool: Pool
    scorer: Scorer
    batch_size: int
    num_workers: int
    max_bad_fraction: float
    progress: bool


def _score(work: _Work, out: Path, shard_size: int, overwrite: bool) -> Path:
    pool, scorer, accelerator = work.pool, work.scorer, work.scorer.accelerator
    record = {
        "pool": pool.source, "pool_fingerprint": pool.fingerprint, "images": len(pool),
        "precision": accelerator.mixed_precision, "version": transreid_ssl.__version__,
        **scorer.record,
    }  # fmt: skip
    named = ("pool_fingerprint", *scorer.identifying)
    key = fingerprint([f"{k}={record[k]}" for k in named] + [str(shard_size)])
    made = {k.removeprefix("pool_"): str(record[k]) for k in named}
    made["shard_size"] = str(shard_size)
    size = part_size(len(pool), shard_size)
    parts = ScoreParts(out, key, pool, size, made, column=scorer.column)
    if _prepare(parts, overwrite, accelerator):
        _require_judgement(out, scorer.target)
        say(accelerator, f"{out}: {DONE}")
    else:
        # Before any process begins: a part written early would shift another's share.
        pending = together(accelerator, parts.pending)
        mine = pending[accelerator.process_index :: accelerator.num_processes]
        if before := parts.describe_finished(pending):
            say(accelerator, before)
        scorer.load_state(on_main(accelerator, parts.learnt))
        on_main(accelerator, lambda: parts.watch([len(parts)]))
        scorer.learn(work.batch_size, work.num_workers)
        on_main(accelerator, lambda: parts.write_learnt(scorer.state()))
        together(accelerator, lambda: _score_shards(parts, mine, work))
        on_main(accelerator, lambda: _merge(parts, record, work))
    return out


def _require_judgement(out: Path, target: Pool | None) -> None:
    """Raise ``UserError`` if a table that is there already was not judged by ``target``."""
    if target is not None and read_record(out).get("target") != target.source:
        raise UserError(
            f"{out}: is there already, and was not judged by {target.source}; use --overwrite true "
            "to score again, or another --out"
        )


def _merge(parts: ScoreParts, record: dict[str, Any], work: _Work) -> None:
    target = work.scorer.target
    if target is not None:
        record = record | {"target": target.source, "target_images": len(target)}
        theirs, ours = _target_scores(target, work), parts.scores()
        if not np.isfinite(theirs).any():
            raise UserError(f"{target.source}: not one image of the target can be read")
        if np.isfinite(ours).any():
            judgement = judge(theirs, ours, separable=work.scorer.separable)
            record["judgement"] = dataclasses.asdict(judgement)
    parts.merge(record, work.max_bad_fraction)


def _target_scores(target: Pool, work: _Work) -> np.ndarray:
    """Scores float32 (M,) of the target's images, NaN where one cannot be read."""
    batches = _batches(range(len(target)), work.batch_size)
    scores = []
    for places, (views, reasons) in zip(batches, _open_loader(target, batches, work)):
        found = work.scorer(views, places, of_target=True)
        readable = [not reason for reason in reasons]
        scores.append(np.where(readable, found.cpu().numpy(), np.float32(np.nan)))
    return np.concatenate(scores)


def _batches(places: range, size: int) -> list[range]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def make_accelerator(precision: str = "no") -> accelerate.Accelerator:
    """An Accelerator whose processes wait a week for the slowest.

    Shards are dealt out beforehand, so that a slower process falls behind with each of its own.

    Raises:
        UserError: the precision is not to be had here.
    """
    patience = InitProcessGroupKwargs(timeout=timedelta(weeks=1))
    try:
        return accelerate.Accelerator(mixed_precision=precision, kwargs_handlers=[patience])
    except ValueError as error:
        raise UserError(f"--precision {precision}: {error}") from error


def _prepare(parts: ScoreParts, overwrite: bool, accelerator: accelerate.Accelerator) -> bool:
    """Whether everything is done already; all processes see the same state before any writes."""
    if overwrite:
        on_main(accelerator, parts.discard)
    done = on_main(accelerator, parts.is_done)  # which may look at millions of files
    for line in on_main(accelerator, parts.sweep):
        say(accelerator, line)
    return done


class _Crops(Dataset):
    """Each image decoded once and resized in every way that is asked for, or why it cannot be."""

    def __init__(self, pool: Pool, inputs: list[Input]) -> None:
        self.pool, self.inputs = pool, inputs

    def __getitem__(self, index: int) -> tuple[list[Tensor], str]:
        try:
            image = decode(self.pool.read(index), self.pool.names[index])
        except CorruptImage as error:
            blank = [torch.zeros(*size, 3, dtype=torch.uint8) for size, _ in self.inputs]
            return blank, error.reason
        return [torch.from_numpy(resize(image, *wanted)) for wanted in self.inputs], ""


def _score_shards(parts: ScoreParts, mine: list[int], work: _Work) -> None:
    """Score the shards of this process and write each when it is finished."""
    scorer, accelerator = work.scorer, work.scorer.accelerator
    process, world = accelerator.process_index, accelerator.num_processes
    # A batch never reaches over the end of a shard.
    parts.watch(mine, shown=process == 0)
    shards = [_batches(images, work.batch_size) for images in map(parts.images, mine)]
    loader = _open_loader(work.pool, [batch for shard in shards for batch in shard], work)
    total = sum(len(parts.images(part)) for part in mine)
    title = "images scored" if world == 1 else f"images scored by process 1 of {world}"
    bad, batches = 0, iter(loader)
    with say_progress(total, title, work.progress and process == 0) as tick:
        for part, shard in zip(mine, shards):
            scores, problems = [], []
            for images in shard:
                views, reasons = next(batches)
                scores.append(scorer(views, images, of_target=False))
                problems += reasons
                tick(len(reasons))
            images = parts.images(part)
            names = work.pool.names[images.start : images.stop]
            _write_part(parts, part, list(names), torch.cat(scores).cpu(), problems)
            bad += sum(map(bool, problems))
            parts.check_bad(bad, work.max_bad_fraction)


def _open_loader(images: Pool, batches: Sequence[range], work: _Work) -> DataLoader:
    crops = _Crops(images, work.scorer.inputs)
    return open_loader(crops, work.num_workers, batch_sampler=batches)


def _write_part(
    parts: ScoreParts, part: int, names: list[str], scores: Tensor, problems: list[str]
) -> None:
    for name, problem, finite in zip(names, problems, scores.isfinite().tolist()):
        if not (finite or problem):
            refuse_not_finite(name)
    parts.write_scores(part, names, scores.numpy(), problems)
