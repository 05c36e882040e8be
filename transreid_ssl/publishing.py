"""What is known of weights that are passed on: figures that were measured, and who says what."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transreid_ssl.errors import UserError
from transreid_ssl.reading import read_lines

if TYPE_CHECKING:
    from transreid_ssl.models import Backbone, BackboneSpec, Figure, Publication

_SHOWN = ("mAP", "rank-1", "rank-5", "mINP")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What only a person can say of weights that are passed on.

    Args:
        license: As Hugging Face writes it, such as apache-2.0 or cc-by-nc-4.0. By default what the
            images and weights allow that they are made from; more is refused.
        rights: What allows commercial use of sources whose terms are not known here, in a sentence;
            it stands in the card.
        figures: Files of figures that evaluate wrote for these weights, with commas between them.
        notes: A file of Markdown that the card ends with.
    """

    license: str | None = None
    rights: str | None = None
    figures: str | None = None
    notes: str | None = None


def publication(card: Card, weights: str, spec: "BackboneSpec") -> "Publication":
    """The card's words, with the figures of its files and of the run beside the weights.

    Raises:
        UserError: a file that is not there, is no such file, or has figures of other weights.
    """
    from transreid_ssl.models import Publication, find_weights

    files = [name.strip() for name in (card.figures or "").split(",") if name.strip()]
    found = [read_figure(name, weights) for name in files]
    found += probed(find_weights(weights).parent, spec)
    notes = _text(card.notes) if card.notes else ""
    return Publication(card.license, card.rights, found, notes)


def read_figure(path: str, weights: str) -> "Figure":
    """The figures of the network in a file that ``transreid_ssl.evaluate`` wrote.

    Raises:
        UserError: no such file, or one of other weights.
    """
    from transreid_ssl.models import Figure, weights_digest

    try:
        record = json.loads(_text(path))
        results, settings = record["results"]["network"], record["settings"]
        values = {name: float(results[name]) for name in _SHOWN if name in results}
        digest = record["weights_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no figures of `python -m transreid_ssl.evaluate`, or of an older version; "
            "evaluate the weights again"
        ) from error
    if digest != weights_digest(weights):
        raise UserError(f"{path}: has figures of other weights than {weights}; evaluate these")
    flip = ", with mirrored images" * bool(settings.get("flip"))
    split = str(record.get("protocol", "")).splitlines()[0]
    how = f"direct retrieval by cosine{flip}, with `transreid-ssl evaluate`: {split}"
    return Figure(str(settings.get("data") or split.partition(":")[0]), values, how)


def probed(folder: Path, spec: "BackboneSpec") -> "Sequence[Figure]":
    """The last probe of the run that left weights in its folder; none where there is no run."""
    from transreid_ssl.models import Figure
    from transreid_ssl.training import RunFolder

    step = spec.provenance.get("step")
    probe: Any = spec.provenance.get("settings", {})
    probe = probe.get("probe") if isinstance(probe, dict) else None
    if not isinstance(probe, dict) or step is None:
        return []
    for line in reversed(RunFolder(folder, is_main=False).lines_with("probe/mAP")):
        names = {"mAP": "probe/mAP", "rank-1": "probe/rank1"}
        known = {name: line.get(key) for name, key in names.items()}
        values = {name: value / 100 for name, value in known.items() if value is not None}
        if line["step"] == step and values:
            data = probe.get("data") or spec.remembered("data") or "the set that it was tuned on"
            how = f"direct retrieval while it was trained, at step {step:,}"
            return [Figure(str(data), values, how)]
    return []


def say_licence(model: "Backbone", words: "Publication") -> str:
    """What the weights are passed on under, and why, for people.

    Raises:
        UserError: see ``transreid_ssl.models.card.licence_of``.
    """
    from transreid_ssl.models import ancestry, licence_of
    from transreid_ssl.models.card import made_from

    licence = licence_of(model.spec, words)
    rows = [f"  {terms.title}: {terms.text}" for _, terms in made_from(ancestry(model.spec))]
    return "\n".join([f"licence: {licence}; made from", *dict.fromkeys(rows)])


def _text(path: str) -> str:
    return "\n".join(read_lines(path))
