"""Every self-supervised objective under one budget: direct retrieval, and what labels add to it.

    python -m benchmarks.objectives   # generated people, under an hour on two CPU cores
    python -m benchmarks.objectives --rows dino moco --budgets 0.1 0.3 1 --out outputs/two
    python -m benchmarks.objectives --rows dino dino_masked dino_koleo dino_norm --seeds 0 1 2
    python -m benchmarks.objectives --pool data/LUPerson \\
        --target market1501 --target_root data/Market-1501 --budgets 0.1 0.3 1 \\
        --backbone vit_small_patch16_reid --img_size 256 128 --batch_size 256 \\
        --epochs 10 --pretraining run.num_workers=14 optim.lr=5e-4 dino:dino.out_dim=65536 \\
        dino_ics:dino.out_dim=65536 moco:moco.queue_size=65536 moby:moby.queue_size=4096 \\
        upreid:moco.queue_size=65536 --finetune_epochs 60 \\
        --finetuning run.num_workers=14 run.precision=bf16 optim.lr=4e-4 \\
        --out outputs/benchmarks/objectives_vit_small   # real crops, on a GPU

The recipes run one after another as a user runs them, with recipes/configs/*_demo.yaml and what the
options here say. All objectives see the same images, two views of each, in as many steps of the
same size, and train the same network; only "DINO + ICS" has the stem of that name. Nobody has
tuned any of them for this table, and their steps do not cost the same. Each result is probed as it
is, on people that it was never trained on, and again after a fine-tuning with labels whose settings
are the same for all: classification alone, without the triplet loss. Its learning rate, the
highest that was tried, gave DINO's weights most and random ones as much as 2e-2. The floor is
an untrained network, probed and fine-tuned likewise. What may be added to DINO has rows to ask for
(pretrain/OBJECTIVES.md): their floor is the plain network's, and "dino_parts", which needs small
views and the network with part tokens, is to be read beside "dino_small".

Label budgets (shares of the people, or with ``--budget_by image`` of each person's images) are for
the row that is best after fine-tuning and for random weights; all take about as many steps.

A table that was broken off goes on when the same command is given again: finished runs are read. A
row is made anew when its folder is gone.
``ratio`` is the best row's mAP after fine-tuning over that of its untrained network.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import yaml

from benchmarks.objectives.commands import ROWS, TRAINED, USUAL, finetuning, pretraining
from benchmarks.objectives.results import COLUMNS, Cell, Results, draw, floor_of, report
from benchmarks.reporting import finish
from benchmarks.runs import Line, Run, Runs, options_of_runs, probes
from transreid_ssl import command
from transreid_ssl.data import IdentitySampler, LabelledImages, open_reid
from transreid_ssl.data.budget import label_budget
from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, write_json, write_text

POOL = "demo:identities=220,images=16,height={},width={},junk=0.1"
TARGET = "demo:identities=200,images=12,height={},width={},first=5000,test=100"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write and say the table."""
    options = parse(arguments)
    labelled = open_reid(options.target, options.target_root).train
    shares = list(product(options.budget_by, options.budgets, options.seeds))
    kept = [labelled.subset(label_budget(labelled, share, by, seed)) for by, share, seed in shares]
    probe = open_reid(options.probe_data, options.probe_root).describe()
    settings = vars(options) | {"out": str(options.out)}
    results = Results(settings, {name: ROWS[name].title for name in options.rows}, probe)
    runs = Runs(planned(options))
    for seed, name in product(options.seeds, options.rows):
        results.add(name, seed, *measure(runs, name, seed, options))
    results.best = max(results.trained, key=lambda name: results.mean(name, "finetuned"))
    for (by, share, seed), images in zip(shares, kept):
        for name in (floor_of(results.best), results.best):
            cell = {"row": name, "seed": seed, "share": share, "by": by}
            results.budgets.append(cell | measure_budget(runs, cell, images, options))
    save(results, options.out)


def planned(options: argparse.Namespace) -> Counter:
    """How many runs there will be of each kind."""
    seeds, trained = len(options.seeds), sum(name in TRAINED for name in options.rows)
    budgets = sum(share < 1 for share in options.budgets) * len(options.budget_by)
    tuned = len(options.rows) + 2 * budgets
    return Counter({"pre-training": seeds * trained, "fine-tuning": seeds * tuned})


def measure(runs: Runs, name: str, seed: int, options: argparse.Namespace) -> tuple[Cell, Line]:
    """Pre-train and fine-tune a row with one seed; a line of the probe besides."""
    figures = Cell()
    if name in TRAINED:
        timed = [line for line in runs(pretraining(name, seed, options)) if "step_seconds" in line]
        figures |= {"steps": timed[-1]["step"], "step_seconds": timed[-1]["step_seconds"]}
    # Untrained networks have no other probe before labels; so all are probed by the same program.
    direct, finetuned = probes(runs(finetuning(name, seed, options)))
    return figures | figures_of("direct", direct) | figures_of("finetuned", finetuned), direct


def figures_of(stage: str, probe: Line) -> Cell:
    """A line of a probe under the names of the table's columns."""
    return {stage: probe["probe/mAP"], f"{stage}_rank1": probe["probe/rank1"]}


def measure_budget(
    runs: Runs, cell: Cell, images: LabelledImages, options: argparse.Namespace
) -> Cell:
    """Fine-tune a row with the labels of ``images``, for about as many steps as with all."""
    run = finetuning(cell["row"], cell["seed"], options)
    last = probes(run.lines())[1]
    if cell["share"] < 1:
        epochs = round(last["step"] / steps_per_epoch(run, images, cell["seed"]))
        budget = cell["share"], cell["by"], max(1, epochs)
        last = probes(runs(finetuning(cell["row"], cell["seed"], options, budget)))[1]
    counts = {"people": images.num_identities, "images": len(images), "steps": last["step"]}
    return counts | figures_of("finetuned", last)


def steps_per_epoch(run: Run, images: LabelledImages, seed: int) -> int:
    """How many steps an epoch of ``images`` would have under the settings of a run."""
    settings = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    group = settings["data"]["images_per_identity"]
    batch = settings["run"]["batch_size"] // group
    return IdentitySampler(
        images.identities, seed, identities_per_batch=batch, images_per_identity=group, num_steps=0
    ).steps_per_epoch


def save(results: Results, folder: Path) -> None:
    """Write table.md, objectives.png and objectives.json; print the table and the last line."""
    text, record = report(results), results.record()
    paths = [folder / name for name in ("table.md", "objectives.png", "objectives.json")]
    write_text(paths[0], text)
    with atomic_path(paths[1]) as temporary:
        draw(results, temporary)
    write_json(paths[2], record)
    print(f"\n{text}")
    print(*paths, sep=", ")
    best, floor = (results.mean(n, "finetuned") for n in (results.best, floor_of(results.best)))
    means = {n: {c: round(results.mean(n, c), 2) for c in COLUMNS} for n in results.titles}
    told = {key: record[key] for key in ("benchmark", "generated", "best", "baselines")}
    finish(best / max(floor, 1e-9), **told, seeds=results.settings["seeds"], rows=means)


# -- the command line


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with the floors among the rows and everything that follows from others."""
    parser = options_of_runs(
        __doc__, "outputs/benchmarks/objectives", seeds=(0, 1), one="; of one row as ROW:NAME=VALUE"
    )
    add = parser.add_argument
    # fmt: off
    add("--rows", nargs="+", choices=TRAINED, default=USUAL, metavar="ROW",
        help=f"of {', '.join(TRAINED)}; by default {', '.join(USUAL)}")
    add("--backbone", default="vit_nano_patch8_conv", help="of all rows but those with ICS")
    add("--img_size", nargs=2, type=int, default=[64, 32], metavar=("HEIGHT", "WIDTH"))
    add("--pool", help="unlabelled crops; generated people by default")
    add("--epochs", type=int, default=6, help="over the pool: all rows take as many steps")
    add("--batch_size", type=int, default=64, help="images a step of pre-training")
    add("--target", help="labelled set to fine-tune on; generated people by default")
    add("--target_root", help="its folder")
    add("--finetune_epochs", type=int, default=4)
    add("--probe_data", help="labelled set to retrieve from; by default the target")
    add("--probe_root", help="its folder")
    add("--budgets", nargs="*", type=float, default=[], metavar="SHARE",
        help="shares of the labels to fine-tune with besides")
    add("--budget_by", nargs="+", choices=["identity", "image"], default=["identity"])
    add("--finetuning", nargs="+", default=[], metavar="NAME=VALUE",
        help="further settings of fine-tuning, for all rows")
    # fmt: on
    return complete(parser.parse_args(arguments))


def complete(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in what follows from other options.

    Raises:
        UserError: a row with a stem that the network cannot have.
    """
    ics = "dino_ics" in options.rows
    if ics and not re.fullmatch("vit_.*_(reid|conv)", options.backbone):
        raise UserError(
            f"--backbone {options.backbone} has no variant with ICS to compare with: give a "
            "vit_…_reid or vit_…_conv, or --rows without dino_ics"
        )
    wanted = {*options.rows, *map(floor_of, options.rows)}
    options.rows = [name for name in ROWS if name in wanted]
    options.pool = options.pool or POOL.format(*options.img_size)
    options.target = options.target or TARGET.format(*options.img_size)
    if options.probe_data is None:
        options.probe_data, options.probe_root = options.target, options.target_root
    for several in ("seeds", "budgets", "budget_by"):
        setattr(options, several, list(dict.fromkeys(getattr(options, several))))
    return options


if __name__ == "__main__":
    command.run(main, resumes=True)
