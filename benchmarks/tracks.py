"""What frames of tracks teach, and how much harm a tracker's identity switches do.

    python -m benchmarks.tracks       # a generated clip, an hour and a half on two CPU cores
    python -m transreid_ssl.data tracks /data/Market-1501/bounding_box_train --out outputs/m1501
    python -m benchmarks.tracks --pool outputs/m1501 --probe market1501 \\
        --probe_root /data/Market-1501 --epochs 12     # real crops, 15 minutes a run on a core

DINO with all views of one image, with views of two frames of a track, and with pairs of frames that
teach by how surely they show one person (``--views.doubt_mates``), in equal steps with the settings
of recipes/configs/dino_tracks_cpu.yaml. In ``--switches`` of the tracks the tracker is made to go
on with somebody else: two tracks of a video exchange their second halves. Identities serve the
probe alone. With ``--usl_epochs`` the networks of the first two rows then learn from clusters of
the same pool (usl_cpu.yaml), and with ``--uda_epochs`` from labelled people of ``--source`` and
then from those clusters (uda_cpu.yaml). Figures are of the feature as it is trained, and of
stripes that were whitened on the same pool (``transreid_ssl.whiten``). A table that was broken off
goes on when the same command is given again.
``ratio`` is the mean mAP with tracks over that without.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.reporting import finish, hardware, heading, row, spread
from benchmarks.runs import Run, Runs, options_of_runs, probes
from benchmarks.whitened import measure_whitened, whitened_histogram
from transreid_ssl import command
from transreid_ssl.data import open_pool, open_reid, packing
from transreid_ssl.data.pool import Pool
from transreid_ssl.data.track_columns import Tracks
from transreid_ssl.data.tracks.command import run_clip, run_tracks
from transreid_ssl.data.tracks.settings import Clip
from transreid_ssl.data.tracks.settings import Tracks as Cutting
from transreid_ssl.errors import UserError
from transreid_ssl.files import write_json, write_text
from transreid_ssl.outputs import BACKBONE
from transreid_ssl.training.config import software

WAYS = {
    "image": ("one image", ["--views.mates=image"]),
    "track": ("two frames of a track", ["--views.mates=track"]),
    "doubt": ("two frames, doubted", ["--views.mates=track", "--views.doubt_mates=true"]),
}
PROBE = "demo:identities=4,test=60,images=8,height=64,width=32"
# Other people than the clip's, in a sunny place.
SOURCE = "demo:identities=150,images=12,height=64,width=32,first=1000,style=1"
TUNING = {"usl": "usl_finetune", "uda": "uda_finetune"}


@dataclass(frozen=True)
class Row:
    """What views are of, and the share of the tracks that hold two people."""

    way: str
    switched: float

    @property
    def title(self) -> str:
        """In the table."""
        return WAYS[self.way][0]

    def folder(self, out: Path, seed: int) -> Path:
        """Of its runs."""
        return out / f"{self.way}_{self.switched:g}" / f"seed{seed}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write and say the table."""
    options = parse(arguments)
    protocol = open_reid(options.probe, options.probe_root)
    source = open_pool(options.pool or generated(options.out))
    if source.tracks is None:
        raise UserError(f"--pool {options.pool}: it knows no tracks; see --help")
    pools = {share: switched_pool(source, share, options.out) for share in options.switches}
    rows = [
        Row(way, share)
        for way in options.ways
        for share in (options.switches if way != "image" else [0.0])
    ]
    tunings = [tuning for tuning in TUNING if getattr(options, f"{tuning}_epochs")]
    tuned = [r for r in rows if r in (Row("image", 0.0), Row("track", 0.0))]
    planned = {"pre-training": len(rows), "fine-tuning": len(tuned) * len(tunings)}
    runs, found = Runs(Counter({k: n * len(options.seeds) for k, n in planned.items()})), []
    for seed in options.seeds:
        for r in rows:
            run = pretraining(r, seed, pools[r.switched], options)
            figures = {"way": r.way, "switched": r.switched, "seed": seed, **measured(runs(run))}
            figures |= measure_whitened(run.folder / BACKBONE, source, protocol)
            for tuning in tunings if r in tuned else []:
                tuned_lines = runs(clustering(tuning, r, seed, options))
                figures |= {f"{tuning}_{k}": v for k, v in measured(tuned_lines).items()}
            found.append(figures)
    found[0]["histogram"] = whitened_histogram(source, protocol)
    save(found, rows, f"{source.describe()}; {source.tracks.describe()}", protocol, options)
    best = [mean(figure(found, Row(way, 0.0), "mAP")) for way in ("track", "image")]
    finish(best[0] / best[1], benchmark="tracks", seeds=options.seeds)


def generated(out: Path) -> Path:
    """A pool of tracks cut out of a generated clip, made once."""
    clip, pool = out / "clip", out / "pool"
    if not clip.exists():
        run_clip(Clip(out=str(clip), people=150, cameras=3, frames=5_000))
    if not pool.exists():
        run_tracks(Cutting(paths=[str(clip)], out=str(pool), every=3))
    return pool


def switch(tracks: Tracks, share: float, rng: np.random.Generator) -> np.ndarray:
    """Tracks int64 (N,) of which ``share`` hold two people.

    Two tracks of a video at a time, of two images or more, exchange their later halves. Fewer are
    switched where videos have no more of them.
    """
    found = tracks.tracks.copy()
    lengths = np.bincount(tracks.tracks)
    waiting: dict[int, np.ndarray] = {}
    switched, wanted = 0, share * len(lengths)
    for track in rng.permutation(np.flatnonzero(lengths > 1)):
        if switched + 1 > wanted:
            break
        rows = np.flatnonzero(tracks.tracks == track)
        rows = rows[np.argsort(tracks.frames[rows], kind="stable")]
        other = waiting.pop(tracks.videos[rows[0]], None)
        if other is None:
            waiting[tracks.videos[rows[0]]] = rows
            continue
        for mine, theirs in ((rows, other), (other, rows)):
            found[mine[len(mine) // 2 :]] = tracks.tracks[theirs[0]]
        switched += 2
    return found


def switched_pool(source: Pool, share: float, out: Path) -> Path:
    """The pool whose tracker changes from one person to another in ``share`` of the tracks."""
    folder = out / "pools" / f"switched_{share:g}"
    if not folder.exists():
        pool, table = open_pool(source.source), source.annotations
        numbers = switch(source.tracks, share, np.random.default_rng(0))
        names = pa.array([f"t{number}" for number in numbers]).dictionary_encode()
        place = table.schema.get_field_index("track")
        pool.annotations = table.set_column(place, "track", names)
        packing.pack(pool, folder)
    return folder


def pretraining(r: Row, seed: int, pool: Path, options: argparse.Namespace) -> Run:
    """DINO on a pool."""
    given = (
        *common(seed, options), f"--data.pool={pool}", f"--run.epochs={options.epochs}",
        *WAYS[r.way][1], *(f"--{setting}" for setting in options.pretraining),
    )  # fmt: skip
    folder = r.folder(options.out, seed) / "pretrain"
    title = f"{r.title}, {r.switched:.0%} switched, seed {seed}"
    return Run("pre-training", title, folder, "dino_pretrain", given, "tracks_cpu")


def clustering(tuning: str, r: Row, seed: int, options: argparse.Namespace) -> Run:
    """Training on clusters of the pool, after labels of another place ("uda") or without."""
    folder, pool = r.folder(options.out, seed), options.pool or generated(options.out)
    group = "data" if tuning == "usl" else "target"
    given = [
        *common(seed, options), f"--model.weights={folder / 'pretrain' / BACKBONE}",
        f"--{group}.name=pool", f"--{group}.root={pool}", "--run.precision=no",
        f"--run.epochs={getattr(options, f'{tuning}_epochs')}",
        *(f"--{setting}" for setting in options.tuning),
    ]  # fmt: skip
    if tuning == "uda":
        given.append(f"--source.name={options.source}")
    title = f"{r.title}, {tuning.upper()}, seed {seed}"
    return Run("fine-tuning", title, folder / tuning, TUNING[tuning], tuple(given), "cpu")


def common(seed: int, options: argparse.Namespace) -> list[str]:
    """Options of every run."""
    threads = [f"--run.num_threads={options.threads}"] if options.threads else []
    probe = [f"--probe.data={options.probe}", f"--probe.root={options.probe_root or 'null'}"]
    return [f"--run.seed={seed}", "--run.num_workers=0", "--probe.every=0", *probe, *threads]


def measured(lines: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The probe at the end, beside the colour histogram, and the loss."""
    first, last = probes(lines)
    found = {name: last[f"probe/{name}"] for name in ("mAP", "rank1")}
    found |= {f"{n}_histogram": first[f"probe/{n}_histogram"] for n in ("mAP", "rank1")}
    trusted = [line["mate_trust"] for line in lines if "mate_trust" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    return found | {"loss": losses[-1], "mate_trust": trusted[-1] if trusted else None}


def figure(found: list[dict[str, Any]], r: Row, column: str) -> list[float]:
    """A figure of a row, seed by seed, where it was measured."""
    mine = [f for f in found if (f["way"], f["switched"]) == (r.way, r.switched)]
    return [f[column] for f in mine if f.get(column) is not None]


def save(
    found: list[dict], rows: list[Row], pool: str, protocol: Any, options: argparse.Namespace
) -> None:
    """Write table.md and tracks.json, and print the table."""
    columns = {"mAP": "mAP %", "rank1": "rank-1 %", "whitened_mAP": "whitened, mAP %",
               "whitened_rank1": "whitened, rank-1 %", "usl_mAP": "then USL, mAP %",
               "usl_rank1": "USL rank-1 %", "uda_mAP": "then UDA, mAP %",
               "uda_rank1": "UDA rank-1 %", "loss": "loss", "mate_trust": "belief"}  # fmt: skip
    plain = found[0].pop("histogram")
    columns = {c: t for c, t in columns.items() if any(f.get(c) is not None for f in found)}
    lines = [
        f"DINO, {options.epochs} epochs, on {pool}. Probe: {protocol.describe()}. Mean ± standard "
        f"deviation of seeds {', '.join(map(str, options.seeds))}; colour histogram "
        f"{found[0]['mAP_histogram']:.1f} / {found[0]['rank1_histogram']:.1f}, whitened "
        f"{plain['whitened_mAP']:.1f} / {plain['whitened_rank1']:.1f}.",
        "",
        *heading("views of", "tracks switched %", *columns.values()),
    ]
    for r in rows:
        values = [figure(found, r, column) for column in columns]
        cells = [spread(v) if v else "–" for v in values]
        lines.append(row(r.title, f"{100 * r.switched:g}", *cells))
    paths = options.out / "table.md", options.out / "tracks.json"
    write_text(paths[0], "\n".join(lines) + "\n")
    settings = vars(options) | {"out": str(options.out)}
    about = {"benchmark": "tracks", "hardware": hardware(), "software": software()}
    write_json(paths[1], about | {"settings": settings, "pool": pool, "runs": found})
    print("\n" + "\n".join(lines), *map(str, paths), sep="\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = options_of_runs(__doc__, "outputs/benchmarks/tracks")
    add = parser.add_argument
    # fmt: off
    add("--pool", help="of tracks; cut out of a generated clip by default")
    add("--probe", default=PROBE, help="labelled set; generated people by default")
    add("--probe_root", help="its folder")
    add("--switches", nargs="+", type=float, default=[0, 0.05, 0.2], metavar="SHARE",
        help="of the tracks; 0 always belongs to them")
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS),
        help="what views are of: " + "; ".join(f"{n}, {title}" for n, (title, _) in WAYS.items())
        + ". image and track are always made")
    add("--epochs", type=int, default=12)
    add("--usl_epochs", type=int, default=0, help="of clustering afterwards; 0: none")
    add("--uda_epochs", type=int, default=0,
        help="of clustering after fine-tuning on --source; 0: none")
    add("--source", default=SOURCE, help="labelled set; other generated people by default")
    add("--tuning", nargs="+", default=[], metavar="NAME=VALUE",
        help="further settings of both, such as clusters.eps=0.6")
    # fmt: on
    options = parser.parse_args(arguments)
    if not all(0 <= share <= 1 for share in options.switches):
        raise UserError(f"--switches {options.switches}: give shares from 0 to 1")
    options.switches = sorted({0.0, *options.switches})
    options.ways = [way for way in WAYS if way in {"image", "track", *options.ways}]
    options.seeds = list(dict.fromkeys(options.seeds))
    return options


if __name__ == "__main__":
    command.run(main, resumes=True)
