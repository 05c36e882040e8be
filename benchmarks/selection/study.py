"""What the catastrophic forgetting score depends on, on the pool of a finished ``selection`` run.

    python -m benchmarks.selection --parts random --out outputs/real …   # leaves pool and network
    python -m benchmarks.selection.study --out outputs/real
    python -m benchmarks.selection.study --out outputs/real \\
        --before outputs/longer/backbone.safetensors

The network that was pre-trained on all of the pool, or another one that is given (larger, or
trained for longer), is fine-tuned in several ways. The score is then
computed as published, and from other features of the same two networks: patches for the class
token, earlier blocks, centred or whitened first, and with another normalisation of the images for
the second network than for the first. Each is told by how often it puts an image of the target
above one of the other place (AUC; 0.5 is chance), above a bad detection, and by what it follows.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.reporting import finish, heading, row
from benchmarks.runs import Run, Runs
from benchmarks.selection.commands import finetuning
from benchmarks.selection.pools import BAD, OTHER, TARGET
from transreid_ssl import command
from transreid_ssl.cfs.likeness import whitening
from transreid_ssl.cfs.looks import LOOKS, measure_looks, rank_correlations
from transreid_ssl.cfs.scorers.networks import input_of
from transreid_ssl.data import Pool, decode, open_pool, resize
from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, write_json, write_text
from transreid_ssl.models import HALF, load_backbone, read_spec, weights_digest
from transreid_ssl.models.statistics import normalise
from transreid_ssl.outputs import BACKBONE, MODEL
from transreid_ssl.palette import FAINT, MARKERS, SERIES

TUNINGS = {
    "rate 0.06, 8 epochs": ("optim.lr=6e-2", "run.epochs=8"),
    "rate 0.006": ("optim.lr=6e-3", "run.epochs=8"),
    "rate 0.0006": ("optim.lr=6e-4", "run.epochs=8"),
    "2 epochs": ("optim.lr=6e-2", "run.epochs=2"),
    "32 epochs": ("optim.lr=6e-2", "run.epochs=32"),
    "rate halved from block to block": ("optim.lr=6e-2", "run.epochs=8", "optim.layer_decay=0.5"),
    "from random weights": ("optim.lr=6e-2", "run.epochs=8", "model.weights=null"),
}
FIRST = next(iter(TUNINGS))
FRAMES = ("as published", "centred", "whitened")
PLACES = ("class token", "mean of the patches", "class token, two blocks earlier")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, score in all ways, write and say the tables."""
    options = parse(arguments)
    pool = open_pool(options.out / "images" / "pool")
    kinds = np.array([name.partition("/")[0] for name in pool.names])
    looks = measure_looks(pool, np.arange(len(pool)))
    first = features(load_backbone(options.before), pool)
    runs = Runs(Counter({"fine-tuning": len(options.tunings)}))
    found: dict[str, Any] = {}
    for name in options.tunings:
        run = tuned(name, options)
        runs(run)
        second = features(load_backbone(run.folder / MODEL), pool)
        cells = {
            f"{place}, {frame}": judged(
                forgetting(first[place], second[place], frame), kinds, looks
            )
            for place in PLACES
            for frame in FRAMES
        }
        found[name] = cells | {"moved": moved(options.before, run.folder / MODEL)}
    if FIRST in options.tunings:
        recipe = load_backbone(tuned(FIRST, options).folder / MODEL)
        other = features(recipe, pool, shifted=True)["class token"]
        shifted = judged(forgetting(first["class token"], other, FRAMES[0]), kinds, looks)
        found[f"{FIRST}, other normalisation"] = {f"{PLACES[0]}, {FRAMES[0]}": shifted}
    record = options.folder / "study.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    save(known | found, options.folder)


def tuned(name: str, options: argparse.Namespace) -> Run:
    """The run that fine-tunes in one of the ways."""
    run = finetuning("all", options.seed, options)
    folder = options.folder / re.sub(r"\W+", "_", name) / "finetune"
    spec = read_spec(options.before)
    settings = (
        f"model.weights={options.before}", f"model.name={spec.name}",
        f"model.img_size=[{','.join(map(str, spec.img_size))}]", *TUNINGS[name],
    )  # fmt: skip
    given = (*run.options, *(f"--{setting}" for setting in settings))
    return Run(run.kind, name, folder, run.recipe, given, run.settings)


@torch.inference_mode()
def features(network: nn.Module, pool: Pool, shifted: bool = False) -> dict[str, np.ndarray]:
    """Features float32 (N, D) of all images by ``PLACES``.

    Args:
        shifted: normalise images to [-1, 1], whatever the network was trained with.
    """
    network.eval()
    kept: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: kept.append(output))
        for block in (network.blocks[-1], network.blocks[-3])
    ]
    found: dict[str, list[np.ndarray]] = {place: [] for place in PLACES}
    for start in range(0, len(pool), 256):
        names = range(start, min(start + 256, len(pool)))
        images = [resize(decode(pool.read(n)), *input_of(network.spec)) for n in names]
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        kept.clear()
        network(normalise(batch, HALF.mean, HALF.std) if shifted else batch)
        earlier, last = kept
        tokens = network.norm(last)
        for place, rows in zip(PLACES, (tokens[:, 0], tokens[:, 1:].mean(1), earlier[:, 0])):
            found[place].append(rows.float().numpy())
    for hook in hooks:
        hook.remove()
    return {place: np.concatenate(rows) for place, rows in found.items()}


def forgetting(one: np.ndarray, other: np.ndarray, frame: str) -> np.ndarray:
    """Cosines float64 (N,) of two networks' features (N, D), in one of the ``FRAMES``."""
    one, other = (framed(rows, frame) for rows in (one, other))
    return (one * other).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))


def framed(rows: np.ndarray, frame: str) -> np.ndarray:
    """Features without what all of them share."""
    rows = rows.astype(np.float64)
    if frame == FRAMES[0]:
        return rows
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if frame == FRAMES[1]:
        return rows - rows.mean(0)
    centre, matrix = whitening(rows)
    return (rows - centre) @ matrix


def judged(scores: np.ndarray, kinds: np.ndarray, looks: np.ndarray) -> dict[str, Any]:
    """AUCs against the truth, and what the scores follow."""
    aucs = {}
    for other in (OTHER, BAD):
        both = np.isin(kinds, [TARGET, other])
        aucs[other] = float(roc_auc_score(kinds[both] == TARGET, scores[both]))
    return {"auc": aucs, "looks": rank_correlations(scores, looks), "mean": float(scores.mean())}


def moved(before: Path, after: Path) -> float:
    """How far fine-tuning moved the weights, as a share of their length."""
    one, other = (
        {name: value.detach() for name, value in load_backbone(path).named_parameters()}
        for path in (before, after)
    )
    shared = [name for name in one if name in other and one[name].shape == other[name].shape]
    squares = [
        (float((one[n] - other[n]).square().sum()), float(one[n].square().sum())) for n in shared
    ]
    return (sum(a for a, _ in squares) / sum(b for _, b in squares)) ** 0.5


def save(found: dict[str, Any], folder: Path) -> None:
    """Write table.md, study.json and study.png, and print the table."""
    lines = heading(
        "fine-tuning", "weights moved", *(f"AUC, {frame}" for frame in FRAMES), "AUC, patches",
        "AUC, earlier", "mean score", "AUC against bad", *(f"corr. {name}" for name in LOOKS[:3]),
    )  # fmt: skip
    for name, cells in found.items():
        published = cells[f"{PLACES[0]}, {FRAMES[0]}"]
        keys = [f"{PLACES[0]}, {frame}" for frame in FRAMES]
        keys += [f"{place}, {FRAMES[0]}" for place in PLACES[1:]]
        aucs = [f"{cells[key]['auc'][OTHER]:.3f}" if key in cells else "–" for key in keys]
        follows = [
            f"{published['looks'][n]:+.2f}" for n in ("saturation", "brightness", "sharpness")
        ]
        distance = f"{cells['moved']:.2f}" if "moved" in cells else "–"
        bad = f"{published['auc'][BAD]:.3f}"
        lines.append(row(name, distance, *aucs, f"{published['mean']:.2f}", bad, *follows))
    write_text(folder / "table.md", "\n".join(lines) + "\n")
    write_json(folder / "study.json", found)
    with atomic_path(folder / "study.png") as temporary:
        draw(found, temporary)
    print("\n".join(lines))
    best = max(cells[f"{PLACES[0]}, {FRAMES[0]}"]["auc"][OTHER] for cells in found.values())
    finish(None, benchmark="what CFS depends on", best_auc_as_published=round(best, 3))


def draw(found: dict[str, Any], path: Path) -> None:
    """AUC of each way against how far fine-tuning moved the weights."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    told = {name: cells for name, cells in found.items() if "moved" in cells}
    for frame, marker, colour in zip(FRAMES, MARKERS, SERIES):
        points = [(c["moved"], c[f"{PLACES[0]}, {frame}"]["auc"][OTHER]) for c in told.values()]
        axis.plot(*zip(*points), marker=marker, color=colour, ls="", label=frame)
    for name, cells in told.items():
        axis.axvline(cells["moved"], color="0.9", zorder=0)
        axis.text(cells["moved"], 0.02, name, rotation=90, fontsize=8, ha="right", va="bottom")
    axis.axhline(0.5, color=FAINT, ls=":", label="chance")
    axis.set(xlabel="how far fine-tuning moved the weights (share of their length)", ylim=(0, 1))
    axis.set_ylabel("AUC of the target against the other place")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110, format="png")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; those of the run that is looked at are read from its record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/selection"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--before", type=Path, help="another pre-trained network to begin with")
    parser.add_argument(
        "--tunings", nargs="+", choices=list(TUNINGS), default=list(TUNINGS), metavar="TUNING",
        help=f"of {', '.join(map(repr, TUNINGS))}",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    record = given.out / "selection.json"
    if not record.is_file():
        raise UserError(f"{record}: is not there; run `python -m benchmarks.selection` first")
    settings = json.loads(record.read_text(encoding="utf-8"))["settings"]
    given.folder = given.out / "study"
    if given.before:
        given.folder /= f"{given.before.stem}_{weights_digest(given.before)}"
    given.before = given.before or given.out / "all" / f"seed{given.seed}" / "pretrain" / BACKBONE
    return argparse.Namespace(**(settings | vars(given)))


if __name__ == "__main__":
    command.run(main, resumes=True)
