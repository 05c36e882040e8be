"""What recipes are told for the runs of this experiment."""

import argparse
from pathlib import Path

from benchmarks.runs import Run
from transreid_ssl.outputs import BACKBONE


def pretraining(part: str, seed: int, subset: Path | None, options: argparse.Namespace) -> Run:
    """DINO on the pool, or on a ``subset`` of it, for as many steps."""
    epochs = max(1, round(options.epochs / (options.keep if subset else 1)))
    given = (
        *_common(seed, options), f"--data.pool={options.out / 'images' / 'pool'}",
        f"--data.subset={subset or 'null'}", f"--run.epochs={epochs}",
        f"--optim.warmup_epochs={epochs / 12:.4g}", *_probe(options),
        *(f"--{setting}" for setting in options.pretraining),
    )  # fmt: skip
    folder = options.out / part / f"seed{seed}" / "pretrain"
    return Run("pre-training", f"{part}, seed {seed}", folder, "dino_pretrain", given, "cpu")


def finetuning(part: str, seed: int, options: argparse.Namespace) -> Run:
    """The network that was pre-trained so, with the labels of some of the target's people."""
    folder = options.out / part / f"seed{seed}"
    given = (
        *_common(seed, options), f"--model.weights={folder / 'pretrain' / BACKBONE}",
        f"--data.name={options.target}", f"--data.root={options.target_root or 'null'}",
        f"--data.label_list={options.out / 'images' / 'labels.txt'}",
        f"--run.epochs={options.finetune_epochs}", *_probe(options),
        *(f"--{setting}" for setting in options.finetuning),
    )  # fmt: skip
    title = f"{part}, seed {seed}"
    return Run("fine-tuning", title, folder / "finetune", "supervised_finetune", given, "cpu")


def _common(seed: int, options: argparse.Namespace) -> list[str]:
    threads = [f"--run.num_threads={options.threads}"] if options.threads else []
    return [f"--run.seed={seed}", *threads]


def _probe(options: argparse.Namespace) -> list[str]:
    root = options.target_root or "null"
    return [f"--probe.data={options.target}", f"--probe.root={root}", "--probe.every=0"]
