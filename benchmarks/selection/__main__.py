"""Which half of a mixed pool is worth pre-training on? DINO on each, in as many steps.

    python -m benchmarks.selection   # generated people, one to two hours on two CPU cores
    python -m benchmarks.selection --target market1501 --target_root /data/Market-1501 \\
        --other /data/crops_of_another_place --epochs 12 --out outputs/real   # real crops
    python -m benchmarks.selection --target market1501 --target_root /data/Market-1501 \\
        --other /data/crops --epochs 30 --pretraining model.name=vit_small_patch16_ics \\
        model.img_size=[256,128] views.global_size=[256,128] run.batch_size=256 \\
        run.num_workers=14 run.precision=bf16 optim.lr=5e-4 dino.out_dim=65536 --finetuning \\
        model.name=vit_small_patch16_ics model.img_size=[256,128]   # on a GPU

The target is a labelled set. Its people are dealt out: some keep their labels, for the fine-tuning
that CFS needs and that ends each row; some are shown to the scores without labels; the rest are the
target's part of the pool. Crops of another place stand beside them, as many, and among both bad
detections and near-copies, made of crops of either. Queries and gallery are the set's own and play
no part in any selection.

Each seed begins with DINO on all of the pool, whose network all scores ask; CFS compares it with
itself after fine-tuning. Then DINO begins anew on each half, in as many steps as on the whole.
Settings are those of recipes/configs/{dino,supervised}_cpu.yaml; nobody tuned them for any row.
Figures are of the feature as it is trained, and of stripes that the target's shown crops whitened
(``transreid_ssl.whiten``), which move less from seed to seed.
A table that was broken off goes on when the same command is given again.
``ratio`` is the best score's mean mAP over that of a random half.
"""

import argparse
from collections import Counter
from collections.abc import Sequence

from benchmarks.reporting import finish
from benchmarks.runs import Line, Runs, options_of_runs, probes
from benchmarks.selection.commands import finetuning, pretraining
from benchmarks.selection.pools import MixedPool, mix
from benchmarks.selection.results import Results, save
from benchmarks.selection.scores import ALL, LOWEST, PARTS, RANDOM, choose
from benchmarks.whitened import measure_whitened
from transreid_ssl import command
from transreid_ssl.data import ReIDProtocol, open_pool, open_reid
from transreid_ssl.errors import UserError
from transreid_ssl.outputs import BACKBONE, MODEL

TARGET = "demo:identities=300,images=12,height=64,width=32,test=100"
OTHER = "demo:identities=200,images=12,height=64,width=32,style=2,first=5000"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write and say the table."""
    options = parse(arguments)
    protocol = open_reid(options.target, options.target_root)
    mixed = mix(
        options.out / "images", protocol.train, open_pool(options.other),
        labels=options.labels, sample=options.sample, bad=options.bad, copies=options.copies,
        limit=options.limit, others=options.others,
    )  # fmt: skip
    print(f"{mixed.pool.describe()}; {dict(Counter(mixed.kinds().tolist()))}", flush=True)
    tuned = len(options.trained) if options.finetune_all else 1
    seeds, trained = len(options.seeds), len(options.trained)
    runs = Runs(Counter({"pre-training": seeds * trained, "fine-tuning": seeds * tuned}))
    results = Results(vars(options) | {"out": str(options.out)}, protocol.describe())
    for seed in options.seeds:
        for part in options.parts:
            results.add(part, seed, measure(runs, part, seed, mixed, protocol, options))
    save(results, options.out)
    best = results.best()
    ratio = results.mean(best, "mAP") / results.mean(RANDOM, "mAP") if best else None
    means = {part: round(results.mean(part, "mAP"), 2) for part in options.trained}
    finish(ratio, benchmark="selection", best=best, seeds=options.seeds, mAP=means)


def measure(
    runs: Runs,
    part: str,
    seed: int,
    mixed: MixedPool,
    protocol: ReIDProtocol,
    options: argparse.Namespace,
) -> dict[str, object]:
    """Choose a part of the pool, pre-train on it, and fine-tune if that is asked for."""
    subset, found = None, {}
    if part != ALL:
        whole = options.out / ALL / f"seed{seed}"
        networks = whole / "pretrain" / BACKBONE, whole / "finetune" / MODEL
        folder = options.out / part / f"seed{seed}"
        subset, found = choose(part, mixed, networks, folder, options.keep, seed)
    if part not in options.trained:
        return found
    run = pretraining(part, seed, subset, options)
    lines = runs(run)
    found |= figures_of("", probes(lines)[1]) | {"steps": lines[-1]["step"]}
    found |= measure_whitened(run.folder / BACKBONE, mixed.sample, protocol)
    found["loss"] = [line["loss"] for line in lines if "loss" in line][-1]
    if part == ALL or options.finetune_all:
        found |= figures_of("finetuned_", probes(runs(finetuning(part, seed, options)))[1])
    return found


def figures_of(prefix: str, probe: Line) -> dict[str, float]:
    """A line of a probe under the names of the table's columns."""
    return {f"{prefix}{name}": probe[f"probe/{name}"] for name in ("mAP", "rank1")}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = options_of_runs(__doc__, "outputs/benchmarks/selection")
    add = parser.add_argument
    # fmt: off
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART",
        help=f"of {', '.join(PARTS)}; 'all' always belongs to them")
    add("--trained", nargs="+", choices=list(PARTS), metavar="PART",
        help="parts to pre-train on; all of them by default, the others are only scored")
    add("--target", default=TARGET, help="labelled set; generated people by default")
    add("--target_root", help="its folder")
    add("--other", default=OTHER, help="crops of another place; generated people by default")
    add("--labels", type=float, default=0.3, help="share of the people that keep their labels")
    add("--sample", type=float, default=0.25, help="share of the people shown without labels")
    add("--bad", type=float, default=0.1, help="bad detections, as a share of the sound crops")
    add("--copies", type=float, default=0.05, help="near-copies, likewise")
    add("--limit", type=int, help="crops of the target at most")
    add("--others", type=float, default=1, help="crops of the other place for each of the target's")
    add("--keep", type=float, default=0.5)
    add("--epochs", type=int, default=12, help="over the whole pool: all rows take as many steps")
    add("--finetune_epochs", type=int, default=8)
    add("--finetune_all", action="store_true", help="fine-tune the network of every row")
    add("--finetuning", nargs="+", default=[], metavar="NAME=VALUE",
        help="further settings of fine-tuning")
    # fmt: on
    options = parser.parse_args(arguments)
    if not 0 < options.labels + options.sample < 1:
        raise UserError("--labels and --sample: together they must leave people for the pool")
    if not 0 < options.others < float("inf"):
        raise UserError(f"--others {options.others:g}: give a number above 0")
    wanted = {ALL, *options.parts, *(["cfs"] if LOWEST in options.parts else [])}
    options.parts = [part for part in PARTS if part in wanted]
    trained = options.trained or options.parts
    options.trained = [part for part in options.parts if part in {ALL, *trained}]
    if not 0 < options.keep <= 1:
        raise UserError(f"--keep {options.keep:g}: give a share above 0 and up to 1")
    options.seeds = list(dict.fromkeys(options.seeds))
    return options


if __name__ == "__main__":
    command.run(main, resumes=True)
