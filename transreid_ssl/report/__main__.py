"""Pictures of what a run has learnt.

    python -m transreid_ssl.report curves outputs/dino_pretrain
    python -m transreid_ssl.report attention --weights outputs/dino_pretrain/backbone.safetensors

The first draws a run's metrics.jsonl again; the second shows what a network looks at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transreid_ssl import command, data, report, training
from transreid_ssl.errors import UserError
from transreid_ssl.features import find_run
from transreid_ssl.origin import trained_pool
from transreid_ssl.outputs import check_outputs, choose_run


@dataclass(frozen=True)
class Curves:
    """Draw curves.png of a run folder.

    Example: ``python -m transreid_ssl.report curves outputs/dino_pretrain``

    Args:
        folder: The folder of a run; by default the newest finished one in outputs/, which is said.
    """

    folder: str | None = None


@dataclass(frozen=True)
class Attention:
    """Draw the class token's attention over some crops.

    Example: ``python -m transreid_ssl.report attention --images demo``

    Args:
        weights: A backbone, in any format that transreid_ssl knows; by default that of the newest
            finished run in outputs/, which is said.
        run: That of this run instead: the name of its folder in outputs/, or its path.
        images: A pool; by default the one that the backbone was pre-trained on.
        count: Crops, chosen by ``seed``.
        seed: Of the choice.
        out: The picture.
    """

    weights: str | None = None
    run: str | None = None
    images: str | None = None
    count: int = 24
    seed: int = 0
    out: str = "outputs/report/attention.png"


def draw_curves(options: Curves) -> None:
    """The command ``curves``."""
    folder = options.folder
    if folder is None:
        run, why = choose_run(None)
        folder = run.folder
        print(f"{folder}: {why}")
    run_folder = training.RunFolder(folder)
    if not run_folder.read_metrics():
        raise UserError(f"{run_folder.metrics_path}: no metrics there; give the folder of a run")
    run_folder.draw_curves()
    print(run_folder.path / "curves.png")


def draw_maps(options: Attention) -> None:
    """The command ``attention``."""
    from transreid_ssl.models import find_weights, load_backbone

    weights = find_run(options.weights, options.run)
    model = load_backbone(weights)
    source = options.images or trained_pool(model.spec)
    check_outputs(options.out, inputs=[source, find_weights(weights)])
    pool = data.open_pool(source)
    chosen = np.random.default_rng(options.seed).permutation(len(pool))[: options.count]
    path = report.draw_attention(Path(options.out), model, pool, np.sort(chosen))
    print(f"{path}: {pool.describe()}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the name of the picture and its options, and draw it."""
    actions = {"curves": (Curves, draw_curves), "attention": (Attention, draw_maps)}
    command.subcommands("python -m transreid_ssl.report", __doc__, actions, arguments)


if __name__ == "__main__":
    command.run(main)
