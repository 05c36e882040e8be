"""The catastrophic forgetting score (CFS) of every image of a pool (TransReID-SSL, section 3).

A backbone is taken twice: as pre-trained, and after supervised fine-tuning on the target. The
score of an image is the cosine between its two features. What the target resembles keeps its
feature; what it does not is forgotten. Both features are class tokens before the BN neck, without
camera embedding.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import transreid_ssl
from transreid_ssl.cfs.parts import ScoreParts
from transreid_ssl.data import CorruptImage, Pool, decode, open_loader, resize
from transreid_ssl.errors import UserError
from transreid_ssl.files import fingerprint
from transreid_ssl.models import BackboneSpec, load_backbone, weights_digest
from transreid_ssl.outputs import SCORES
from transreid_ssl.processes import on_main, together
from transreid_ssl.retrieval.embed import refuse_not_finite

_Input = tuple[tuple[int, int], str]
"""(height, width) of a network's images, and the interpolation that they are resized with."""


def score(
    pool: Pool,
    before: str | Path,
    after: str | Path,
    out: str | Path = SCORES,
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    shard_size: int = 16_384,
    precision: str = "no",
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> Path:
    """Score every image of ``pool`` into a Parquet table with columns ``image`` and ``cfs``.

    Runs in one process or, under ``accelerate launch``, in many; the table is the same. The pool
    is cut in shards; a relaunch after a stop does only those that are missing. An image that
    cannot be read has the score null and stands in ``<out>.corrupt.txt``.

    Args:
        pool: the crops.
        before: weights of the pre-trained backbone: a file, a folder or a hub id.
        after: weights of the same backbone fine-tuned on the target, likewise.
        out: the table.
        batch_size: images at once, in each process.
        num_workers: decoding processes for each process.
        shard_size: images between two points from which a stopped run can go on.
        precision: "no" (float32), "bf16" or "fp16".
        max_bad_fraction: share of unreadable images above which there is no table.
        overwrite: throw away what another scoring left at ``out``.
        accelerator: taken as it is when given; it then decides the precision.
        progress: show a progress bar.

    Returns:
        ``out``.

    Raises:
        UserError: different architectures, an empty pool, leftovers of another scoring, too many
            unreadable images, or features that are not finite.
    """
    if not len(pool):
        raise UserError(f"{pool.source}: the pool holds no image")
    accelerator = accelerator or make_accelerator(precision)
    scorer = _Scorer(before, after, accelerator)
    record = _record(pool, scorer, before, after)
    key = fingerprint([f"{k}={record[k]}" for k in _IDENTIFYING] + [str(shard_size)])
    parts = ScoreParts(Path(out), key, len(pool), shard_size)
    if not _prepare(parts, overwrite, accelerator):
        # Before any process begins: a part written early would shift another's share.
        pending = together(accelerator, parts.pending)
        mine = pending[accelerator.process_index :: accelerator.num_processes]
        options = batch_size, num_workers, max_bad_fraction, progress
        together(accelerator, lambda: _score_shards(parts, mine, pool, scorer, *options))
        on_main(accelerator, lambda: parts.merge(record, max_bad_fraction))
    return Path(out)


def make_accelerator(precision: str = "no") -> Accelerator:
    """An Accelerator whose processes wait a week for the slowest.

    Shards are dealt out beforehand, so that a slower process falls behind with each of its own.

    Raises:
        UserError: the precision is not to be had here.
    """
    patience = InitProcessGroupKwargs(timeout=timedelta(weeks=1))
    try:
        return Accelerator(mixed_precision=precision, kwargs_handlers=[patience])
    except ValueError as error:
        raise UserError(f"--precision {precision}: {error}") from error


def _prepare(parts: ScoreParts, overwrite: bool, accelerator: Accelerator) -> bool:
    """Whether everything is done already; all processes see the same state before any writes."""
    if overwrite:
        on_main(accelerator, parts.discard)
    done = together(accelerator, parts.is_done)
    for line in on_main(accelerator, parts.sweep):
        accelerator.print(line, flush=True)
    return done


class _Scorer:
    """The two networks on their device, and the score of a batch."""

    def __init__(self, before: str | Path, after: str | Path, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.networks = [self._load(path) for path in (before, after)]
        self.specs = [network.spec for network in self.networks]
        _check_same_architecture(before, after, *self.specs)
        # One decoded and resized copy of each image serves both networks where their inputs agree.
        self.inputs = list(dict.fromkeys(map(_input_of, self.specs)))

    def _load(self, path: str | Path) -> nn.Module:
        # Camera embeddings and a norm behind the feature belong to the fine-tuning alone.
        network = load_backbone(path, num_cameras=0, feature_norm=False)
        return network.requires_grad_(False).to(self.accelerator.device)

    @torch.inference_mode()
    def __call__(self, views: list[Tensor]) -> Tensor:
        """Scores float32 (B,) of uint8 images (B, H, W, 3), one tensor for each of ``inputs``."""
        device = self.accelerator.device
        views = [view.to(device, non_blocking=True).permute(0, 3, 1, 2) for view in views]
        features = []
        for network, spec in zip(self.networks, self.specs):
            with self.accelerator.autocast():
                features.append(network(views[self.inputs.index(_input_of(spec))]).float())
        return F.cosine_similarity(*features, dim=1)


def _input_of(spec: BackboneSpec) -> _Input:
    """How a network wants its images resized."""
    return spec.img_size, spec.interpolation


class _Crops(Dataset):
    """Each image decoded once and resized in every way that is asked for, or why it cannot be."""

    def __init__(self, pool: Pool, inputs: list[_Input]) -> None:
        self.pool, self.inputs = pool, inputs

    def __getitem__(self, index: int) -> tuple[list[Tensor], str]:
        try:
            image = decode(self.pool.read(index), self.pool.names[index])
        except CorruptImage as error:
            blank = [torch.zeros(*size, 3, dtype=torch.uint8) for size, _ in self.inputs]
            return blank, error.reason
        return [torch.from_numpy(resize(image, *wanted)) for wanted in self.inputs], ""


def _score_shards(
    parts: ScoreParts,
    mine: list[int],
    pool: Pool,
    scorer: _Scorer,
    batch_size: int,
    num_workers: int,
    max_bad_fraction: float,
    progress: bool,
) -> None:
    """Score the shards of this process and write each when it is finished."""
    process, world = scorer.accelerator.process_index, scorer.accelerator.num_processes
    loader = _open_loader(parts, mine, pool, scorer, batch_size, num_workers)
    bar = tqdm(
        total=sum(len(parts.images(part)) for part in mine),
        unit=" images",
        disable=not (progress and process == 0),
        desc="scoring" if world == 1 else f"scoring, process 1 of {world}",
    )
    bad, batches = 0, iter(loader)
    with bar:
        for part in mine:
            images = parts.images(part)
            scores, problems = [], []
            for _ in range(0, len(images), batch_size):
                views, reasons = next(batches)
                scores.append(scorer(views))
                problems += reasons
                bar.update(len(reasons))
            names = pool.names[images.start : images.stop]
            _write_part(parts, part, list(names), torch.cat(scores).cpu(), problems)
            bad += sum(map(bool, problems))
            parts.check_bad(bad, max_bad_fraction)


def _open_loader(
    parts: ScoreParts,
    mine: list[int],
    pool: Pool,
    scorer: _Scorer,
    batch_size: int,
    num_workers: int,
) -> DataLoader:
    """One loader for all shards of this process; a batch never reaches over the end of a shard."""
    batches = [
        images[start : start + batch_size]
        for images in map(parts.images, mine)
        for start in range(0, len(images), batch_size)
    ]
    return open_loader(_Crops(pool, scorer.inputs), num_workers, batch_sampler=batches)


def _write_part(
    parts: ScoreParts, part: int, names: list[str], cfs: Tensor, problems: list[str]
) -> None:
    for name, problem, finite in zip(names, problems, cfs.isfinite().tolist()):
        if not (finite or problem):
            refuse_not_finite(name)
    parts.write_scores(part, names, cfs.numpy(), problems)


def _check_same_architecture(
    before: str | Path, after: str | Path, one: BackboneSpec, other: BackboneSpec
) -> None:
    for field in ("name", "stride", "gem"):
        ours, theirs = getattr(one, field), getattr(other, field)
        if ours != theirs:
            raise UserError(
                f"{after}: is not {before} fine-tuned: its {field} is {theirs}, not {ours}; "
                "the score compares one architecture before and after"
            )


# What two scorings must share to continue each other; paths may move, digests may not.
_IDENTIFYING = (
    "pool_fingerprint", "before_digest", "after_digest", "precision", "sizes", "interpolations",
)  # fmt: skip


def _record(pool: Pool, scorer: _Scorer, before: str | Path, after: str | Path) -> dict[str, Any]:
    return {
        "pool": pool.source,
        "pool_fingerprint": pool.fingerprint,
        "images": len(pool),
        "before": str(before),
        "before_digest": weights_digest(before),
        "after": str(after),
        "after_digest": weights_digest(after),
        "architecture": scorer.specs[0].name,
        "sizes": [list(spec.img_size) for spec in scorer.specs],
        "interpolations": [spec.interpolation for spec in scorer.specs],
        "precision": scorer.accelerator.mixed_precision,
        "version": transreid_ssl.__version__,
    }
