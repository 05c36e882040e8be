"""Pages and pictures of what a run has learnt.

    python -m transreid_ssl.report outputs/dino_pretrain
    python -m transreid_ssl.report dino_pretrain moco_pretrain
    python -m transreid_ssl.report curves dino_pretrain
    python -m transreid_ssl.report attention --weights outputs/dino_pretrain/backbone.safetensors

The first makes a run's page anew, the second compares runs on one page (`page` may be left out);
the third draws a run's metrics.jsonl again, and the last shows what a network looks at. A run is
given by its folder, or by the name that this has in outputs/.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transreid_ssl import command, data, report, training
from transreid_ssl.errors import UserError
from transreid_ssl.features import find_run
from transreid_ssl.origin import trained_pool
from transreid_ssl.outputs import (
    Overwriting,
    begun_runs,
    check_outputs,
    choose_run,
    folder_of,
    keeps,
)

COMPARISON = "outputs/report/comparison.html"
_NAMED = "a run: the name of its folder in outputs/, or its path"


@dataclass(frozen=True)
class Page(Overwriting):
    """Make the page of a run anew, or one page that compares several.

    Example: ``python -m transreid_ssl.report dino_pretrain moco_pretrain``

    Args:
        run: The same for one run.
        out: The page; by default report.html in the folder of the one run, or
            outputs/report/comparison.html.
    """

    runs: Sequence[str] = command.positional(
        "RUN", f"{_NAMED}, one or several; by default the newest finished one in outputs/"
    )
    run: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class Curves:
    """Draw curves.png of a run folder.

    Example: ``python -m transreid_ssl.report curves dino_pretrain``

    Args:
        folder: The folder of a run; by default the newest finished one in outputs/, which is said.
        run: The same.
    """

    folder: str | None = command.positional(
        "RUN", f"{_NAMED}; by default the newest finished one in outputs/", "?", None
    )
    run: str | None = None


@dataclass(frozen=True)
class Attention(Overwriting):
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


def make_page(options: Page) -> None:
    """The command ``page``."""
    from transreid_ssl.report.compare import write_comparison
    from transreid_ssl.report.run_page import write_run_page

    runs = _folders(*options.runs, options.run)
    usual = Path(runs[0], report.PAGE) if len(runs) == 1 else Path(COMPARISON)
    if options.out and Path(options.out).resolve() != usual.resolve():
        check_outputs(options.out, inputs=runs, keep=keeps(options))
    if len(runs) == 1:
        print(write_run_page(runs[0], options.out))
    else:
        print(write_comparison(options.out or COMPARISON, runs))


def _folders(*named: str | None) -> list[Path]:
    """The folders of the runs that are named; of the newest finished one, which is said, if none.

    Raises:
        UserError: there is no such run.
    """
    folders = [folder_of(name, begun_runs(), others=ACTIONS) for name in named if name]
    if not folders:
        run, why = choose_run(None)
        print(f"{run.folder}: {why}")
        folders = [run.folder]
    return folders


def draw_curves(options: Curves) -> None:
    """The command ``curves``."""
    if options.folder and options.run:
        raise UserError(f"{options.folder} and --run {options.run}: name one of them")
    run_folder = training.RunFolder(*_folders(options.folder, options.run))
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
    check_outputs(options.out, inputs=[source, find_weights(weights)], keep=keeps(options))
    pool = data.open_pool(source)
    chosen = np.random.default_rng(options.seed).permutation(len(pool))[: options.count]
    path = report.draw_attention(Path(options.out), model, pool, np.sort(chosen))
    print(f"{path}: {pool.describe()}")


ACTIONS: dict[str, tuple[type, Callable[..., None]]] = {
    "page": (Page, make_page),
    "curves": (Curves, draw_curves),
    "attention": (Attention, draw_maps),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the name of what is wanted, by default a page, and its options, and make it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in ("-h", "--help", "--help-all", *ACTIONS):
        arguments.insert(0, "page")
    command.subcommands("python -m transreid_ssl.report", __doc__, ACTIONS, arguments)


if __name__ == "__main__":
    command.run(main)
