"""What a network was trained on, as its weights file and those that it began from remember."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transreid_ssl import data, report
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.errors import UserError
from transreid_ssl.outputs import BACKBONE, BEST, MODEL
from transreid_ssl.terms import IN_SAMPLE, WHITENED, Source, sources

if TYPE_CHECKING:
    from transreid_ssl.data import Pool, ReIDProtocol
    from transreid_ssl.models import BackboneSpec

# Sets of the same people and cameras: whoever trained on one has seen the others.
_SAME_PLACE = {"occluded_duke": "dukemtmc", "cuhk03_detected": "cuhk03_labeled"}


def trained_pool(spec: "BackboneSpec") -> str:
    """The images to take where none are named: the pool, or generated people, of the training.

    Raises:
        UserError: the network was trained on something else: nobody wants its features of
            generated people.
    """
    known = sources(spec)
    for source in known:
        if source.name == "pool" and source.root:
            return source.root
    generated = next((source.generated for source in known if source.generated), None)
    if generated is None:
        trained = ", ".join(source.name for source in known) or "images that its file does not name"
        raise UserError(f"which images? The network was trained on {trained}: name a pool of them")
    return generated


def lineage(spec: "BackboneSpec") -> "Iterator[BackboneSpec]":
    """``spec``, that of the weights its training began with, and so on as far as is known."""
    from transreid_ssl.models import ancestry

    yield from ancestry(spec).stages


def was_trained_on(spec: "BackboneSpec", target: Source, protocol: "ReIDProtocol") -> bool:
    """Whether a network has seen the place that ``protocol``, opened as ``target``, shows.

    With or without labels: then what it reaches there is no transfer. Only as far as the files
    tell: a set of the same name, images in the same folder, or generated people of the same seed,
    style and difficulty; or images of a source that is still there and are looked at.
    """
    seen = [(stage, source) for stage in lineage(spec) for source in sources(stage)]
    if any(_overlap(source, target, protocol) for _, source in seen):
        return True
    parts = [part.pool for part in (protocol.train, protocol.query, protocol.gallery)]
    return any(any(_shares(stage, source, parts)) for stage, source in seen)


def _overlap(source: Source, target: Source, protocol: "ReIDProtocol") -> bool:
    if source.generated or target.generated:
        specs = source.generated, target.generated
        return None not in specs and len({_place(spec) for spec in specs}) == 1
    if source.name in ("pool", "folder"):
        trained = Path(source.root or ".").resolve()
        parts = protocol.train, protocol.query, protocol.gallery
        return any(
            trained.is_relative_to(folder) or folder.is_relative_to(trained)
            for part in parts
            for folder in _folders(part.pool)
        )
    known = {_SAME_PLACE.get(name, name) for name in source.name.split("+")}
    return any(_SAME_PLACE.get(name, name) in known for name in target.name.split("+"))


def _place(spec: str) -> tuple[int, int, str]:
    people = data.PeopleConfig.from_spec(spec)
    return people.seed, people.style, people.difficulty


def _folders(pool: "Pool") -> list[Path]:
    """The folders of the files that a pool is made of."""
    if isinstance(pool, data.SubsetPool):
        return _folders(pool.pool)
    if isinstance(pool, data.ConcatPool):
        return [folder for part in pool.pools for folder in _folders(part)]
    return [Path(pool.root).resolve()] if isinstance(pool, data.FilesPool) else []


class Origin(NamedTuple):
    """What is known of a network that is judged on a pool.

    Attributes:
        in_sample: Whether it was trained on images of that pool, or whitened by them; False where
            its weights name other images, None where they name none.
        text: The same in words, and how far its run is where that is not finished.
    """

    in_sample: bool | None
    text: str


def origin_on(spec: "BackboneSpec", weights: str, pool: "Pool") -> Origin:
    """What the header of ``weights``, and the folder of the run that they lie in, tell.

    Pools are the same if their paths are, and their names where those are known. Where the pool
    that the weights name is still there, images of one name are compared: tracks made of its crops,
    say, are the same images.
    """
    from transreid_ssl.models import find_weights

    file = find_weights(weights)
    run, who = _run_of(file), "its weights"
    if run is not None and not spec.provenance:  # a checkpoint, which says nothing itself
        spec, who = replace(spec, provenance=_as_header(run)), "its run's settings"
    stages = list(lineage(spec))
    named = dict.fromkeys(source for stage in stages for source in sources(stage))
    ways: dict[str, dict[str, None]] = {}
    for stage in stages:
        for what, way in _ways(stage, pool):
            ways.setdefault(what, {})[way] = None
    if ways:
        told = " and ".join(f"{' and '.join(verbs)} {what}" for what, verbs in ways.items())
        said = f"was {told}, as {who} say: {IN_SAMPLE}"
    elif named:
        names = ", ".join(source.root or source.name for source in named)
        said = f"{who} name {names} as what it was trained on"
    else:
        said = f"{who} do not say which images it was trained on"
    state = None if run is None else _unfinished(file, run)
    return Origin(bool(ways) if named else None, f"{said}; {state}" if state else said)


def note_in_sample(spec: "BackboneSpec", weights: str, *pools: "Pool") -> Origin:
    """``origin_on`` these pools together; it is printed where it says that figures are in-sample.

    Generated people are left out: who is shown how often there is no secret.
    """
    shown = [pool for pool in pools if not pool.generated and len(pool)]
    if not shown:
        return Origin(None, "")
    whole = shown[0]
    if len(shown) > 1:
        whole = data.ConcatPool(shown, [str(number) for number in range(len(shown))])
    found = origin_on(spec, weights, whole)
    if found.in_sample:
        print(f"note: the network {found.text}", flush=True)
    return found


def _run_of(file: Path) -> "report.Run | None":
    """The run whose folder a file of weights lies in, if a run has written it there."""
    from transreid_ssl.outputs import MARK

    is_checkpoint = file.parent.name == "checkpoints" and file.suffix == ".pt"
    if not is_checkpoint and file.name not in (BACKBONE, MODEL, BEST):
        return None
    folder = file.parent.parent if is_checkpoint else file.parent
    try:
        return report.Run(folder) if (folder / MARK).is_file() else None
    except UserError:  # damaged, which is no fault of the weights
        return None


def _as_header(run: "report.Run") -> dict[str, Any]:
    """What the header of a run's weights will say of its images, by the settings of the run."""
    section = "target" if "target.name" in run.settings else "data"
    told = {name: run.settings.get(f"{section}.{name}") for name in ("name", "root", "pool")}
    model = {"weights": run.settings.get("model.weights")}
    return {"pool": told["pool"], "settings": {"data": told, "model": model}}


def _ways(stage: "BackboneSpec", pool: "Pool") -> Iterator[tuple[str, str]]:
    """What of a pool a stage has met, and how: "trained on" or "whitened by"."""
    for source in sources(stage):
        if source.generated or not source.root:
            continue
        trained = source.root != stage.remembered(WHITENED) or source.root == stage.remembered(
            "pool"
        )
        way = "trained on" if trained else "whitened by"
        if _is_named(stage, source, pool):
            yield "this very pool", way
        elif share := next(_shares(stage, source, [pool]), 0.0):
            part = "all" if share > 0.995 else f"{max(1, round(100 * share))} %"
            yield f"{part} of these images, which lie in {source.root} too", way


def _is_named(stage: "BackboneSpec", source: Source, pool: "Pool") -> bool:
    """Whether the source is the pool by its path and, where they are known, its names."""
    if source.name != "pool" or Path(source.root).resolve() != Path(pool.source).resolve():
        return False
    names = stage.remembered("fingerprint")
    return (
        source.root != stage.remembered("pool")
        or not names
        or bool(stage.remembered("settings", "data", "subset"))
        or pool.fingerprint == names
    )


def _shares(stage: "BackboneSpec", source: Source, pools: "list[Pool]") -> Iterator[float]:
    """The share of each of the pools that is in a source on disk too, which is opened once.

    Nothing where the source is not there any more, or cannot be read.
    """
    if source.generated or not source.root:
        return
    try:
        trained = _opened(stage, source)
        if trained is not None:
            yield from (data.shared_images(pool, trained) for pool in pools)
    except UserError:
        return


def _opened(stage: "BackboneSpec", source: Source) -> "Pool | None":
    """The images of a source as they were trained on; None where there are others by now.

    Raises:
        UserError: they are not there any more, or cannot be read.
    """
    if source.name != "pool":
        pattern = stage.remembered("settings", "data", "pattern") or DEFAULT_PATTERN
        return data.open_reid(source.name, source.root, pattern).train.pool
    subset = names = None
    if source.root == stage.remembered("pool"):  # and not that of the whitening
        subset = stage.remembered("settings", "data", "subset")
        names = stage.remembered("fingerprint")
    subset = subset if subset and Path(subset).is_file() else None
    # Mostly for its names alone.
    trained = data.open_pool(source.root or "", subset, ready=False)
    return None if names and trained.fingerprint != names else trained


def _unfinished(file: Path, run: "report.Run") -> str | None:
    """That weights were left before the end of their run, in words; None where they were not."""
    from transreid_ssl.training.checkpoint import step_of

    progress = run.progress
    if file.suffix == ".pt":
        progress = progress._replace(step=step_of(file))
        if progress.step == progress.total:
            return None
        if progress.is_finished:
            return f"it is of step {progress.step:,} of {progress.total:,} of a finished run"
    elif file.name != BEST or progress.is_finished:
        return None
    return f"its run is not finished: {progress.describe()}"
