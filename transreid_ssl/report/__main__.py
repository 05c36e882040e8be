"""Pictures of what a run has learnt.

    python -m transreid_ssl.report curves outputs/dino_pretrain
    python -m transreid_ssl.report attention --weights outputs/dino_pretrain/backbone.safetensors

``curves`` draws a run's metrics.jsonl again; ``attention`` shows what a network looks at.
"""

import sys
from pathlib import Path

import numpy as np

from transreid_ssl.command import Parser, run
from transreid_ssl.data import open_pool
from transreid_ssl.errors import UserError
from transreid_ssl.models import load_backbone
from transreid_ssl.report.attention import draw_attention
from transreid_ssl.training import RunFolder


def curves(folder: str) -> None:
    """Draw curves.png of a run folder.

    Example: ``python -m transreid_ssl.report curves outputs/dino_pretrain``

    Args:
        folder: The folder of a run.
    """
    run_folder = RunFolder(folder)
    if not run_folder.read_metrics():
        raise UserError(f"{run_folder.metrics_path}: no metrics there; give the folder of a run")
    run_folder.draw_curves()
    print(run_folder.path / "curves.png")


def attention(
    weights: str = "outputs/dino_pretrain/backbone.safetensors",
    images: str | None = None,
    count: int = 24,
    seed: int = 0,
    out: str = "outputs/report/attention.png",
) -> None:
    """Draw the class token's attention over some crops.

    Example: ``python -m transreid_ssl.report attention --images demo``

    Args:
        weights: A backbone, in any format that transreid_ssl knows.
        images: A pool; by default the one that the backbone was pre-trained on.
        count: Crops, chosen by ``seed``.
        seed: Of the choice.
        out: The picture.
    """
    model = load_backbone(weights)
    pool = open_pool(images or str(model.spec.provenance.get("pool", "demo")))
    chosen = np.random.default_rng(seed).permutation(len(pool))[:count]
    path = draw_attention(Path(out), model, pool, np.sort(chosen))
    print(f"{path}: {pool.describe()}")


def main() -> None:
    """Parse the name of the picture, then its options."""
    pictures = {"curves": curves, "attention": attention}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in pictures:
        raise UserError(f"no picture {name!r}: choose one of {', '.join(pictures)}")
    parser = Parser(prog=f"python -m transreid_ssl.report {name}")
    parser.add_function_arguments(pictures[name], as_positional=name == "curves")
    pictures[name](**vars(parser.parse(sys.argv[2:])))


if __name__ == "__main__":
    run(main)
