"""What a network was trained on, as its weights file and those that it began from remember."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from transreid_ssl import data
from transreid_ssl.errors import UserError
from transreid_ssl.terms import Source, sources

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
    style and difficulty.
    """
    return any(
        _overlap(source, target, protocol) for stage in lineage(spec) for source in sources(stage)
    )


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
