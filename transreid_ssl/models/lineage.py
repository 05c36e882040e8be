"""What the weights that a training began with say of themselves, carried along in the header."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from transreid_ssl.errors import UserError
from transreid_ssl.models.hub import find_weights
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.weights import read_spec

LINEAGE = "lineage"
"""The key of the provenance under which the stages before stand, the newest first."""


class Ancestry(NamedTuple):
    """The trainings that made a network."""

    stages: list[BackboneSpec]
    """The newest, which is the network itself, first."""
    lost: str | None
    """Weights that the oldest of these began with and that are not there any more."""


def ancestry(spec: BackboneSpec) -> Ancestry:
    """The stages that a header knows, then those of the files that it names, as they are now."""
    stages, seen, current = [], set(), spec
    while True:
        stages.append(replace(current, provenance=_own(current)))
        carried = current.provenance.get(LINEAGE)
        if isinstance(carried, list) and carried:
            try:
                stages += [_stage(record) for record in carried]
            except (UserError, KeyError, TypeError, AttributeError):  # of a newer version
                return Ancestry(stages, "weights that this version does not know")
            current = stages[-1]
        weights = current.remembered("settings", "model", "weights")
        if not weights:
            return Ancestry(stages, None)
        if weights in seen or not Path(weights).exists():
            return Ancestry(stages, weights)
        seen.add(weights)
        try:
            current = read_spec(weights)
        except UserError:  # replaced by something else since
            return Ancestry(stages, weights)


def with_lineage(spec: BackboneSpec) -> BackboneSpec:
    """The spec with the stages before in its provenance, so that it needs no file to tell them."""
    before = ancestry(spec).stages[1:]
    own = _own(spec)
    return replace(spec, provenance=own | {LINEAGE: list(map(_record, before))} if before else own)


def began_with(weights: str | Path | None, name: str) -> dict[str, Any]:
    """What the provenance of a training of the network ``name``, begun with weights, says of them.

    Nothing for None. Raises ``UserError`` where there is no such file.
    """
    if not weights:
        return {}
    try:
        spec = read_spec(weights)
    except UserError:  # another program's, which does not tell its image size
        spec = BackboneSpec(name)
    if not spec.provenance:
        spec = replace(spec, provenance={"file": find_weights(weights).name})
    return {LINEAGE: [_record(stage) for stage in ancestry(spec).stages]}


def _own(spec: BackboneSpec) -> dict[str, Any]:
    return {key: value for key, value in spec.provenance.items() if key != LINEAGE}


def _record(spec: BackboneSpec) -> dict[str, Any]:
    return {"name": spec.name, "objective": spec.objective, "provenance": dict(spec.provenance)}


def _stage(record: Mapping[str, Any]) -> BackboneSpec:
    return BackboneSpec(
        record["name"], objective=record["objective"], provenance=record["provenance"]
    )
