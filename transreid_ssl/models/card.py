"""The card of weights that are passed on: what they were made from, and what they are for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from transreid_ssl.errors import UserError
from transreid_ssl.models.lineage import Ancestry, ancestry
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.terms import Terms, allows_commerce, terms_of

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

RESEARCH_ONLY = "research-only"
"""What weights are under of which a source allows no commercial use, or is not known to."""


class Figure(NamedTuple):
    """How well a network does on a labelled set."""

    data: str
    values: Mapping[str, float]
    """Fractions from 0 to 1, by names such as "mAP" and "rank-1"."""
    how: str
    """How it was measured, in words."""


@dataclass(frozen=True)
class Publication:
    """What only a person can say of weights that are passed on.

    Attributes:
        license: as Hugging Face writes it, such as ``apache-2.0``; None for what the sources allow.
        rights: what allows commercial use of sources whose terms are not known here, in a sentence.
        figures: how well the network does.
        notes: Markdown to end the card with.
        title: what the card is called; the name of the folder or repository when None.
    """

    license: str | None = None
    rights: str | None = None
    figures: Sequence[Figure] = ()
    notes: str = ""
    title: str | None = None


def made_from(found: Ancestry) -> list[tuple[BackboneSpec | None, Terms]]:
    """Every source of a network with the stage that took it, the newest stage first."""
    rows: list[tuple[BackboneSpec | None, Terms]]
    rows = [(stage, terms) for stage in found.stages for terms in terms_of(stage)]
    if found.lost:
        gone = f"the initial weights {found.lost}, which are not there any more"
        rows.append((None, Terms(gone, "terms not known here", None)))
    return rows


def licence_of(spec: BackboneSpec, publication: Publication) -> str:
    """The licence that weights are passed on under.

    Raises:
        UserError: one was asked for that allows commercial use, which a source does not allow, or
            is not known to and nobody says why it does.
    """
    asked, unknown = publication.license, []
    for _, terms in made_from(ancestry(spec)):
        if terms.commercial is False and asked and allows_commerce(asked):
            raise UserError(
                f"--license {asked}: would allow commercial use, and the weights are made from "
                f"{terms.title} ({terms.text}); leave --license out, or give one such as "
                "cc-by-nc-4.0"
            )
        if terms.commercial is False:
            return asked or RESEARCH_ONLY
        unknown += [terms] if terms.commercial is None else []
    if unknown and not publication.rights:
        if asked and allows_commerce(asked):
            raise UserError(
                f"--license {asked}: would allow commercial use, and the weights are made from "
                f"{unknown[0].title} ({unknown[0].text}); say in a sentence what allows it, with "
                "--rights, or leave --license out"
            )
        return asked or RESEARCH_ONLY
    return asked or ("see-below" if unknown else "apache-2.0")


def model_card(spec: BackboneSpec, publication: Publication) -> "ModelCard":
    """The card, with the Hub's metadata at its head.

    Raises:
        UserError: see ``licence_of``.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    title = publication.title or spec.name
    results = [
        EvalResult(
            task_type="image-feature-extraction", dataset_type=figure.data.partition(":")[0],
            dataset_name=figure.data, metric_type=name, metric_value=round(value, 4),
        )
        for figure in publication.figures
        for name, value in figure.values.items()
    ]  # fmt: skip
    licence, rows = licence_of(spec, publication), made_from(ancestry(spec))
    own = licence in (RESEARCH_ONLY, "see-below")
    data = ModelCardData(
        license="other" if own else licence, license_name=licence if own else None,
        library_name="transreid_ssl", pipeline_tag="image-feature-extraction",
        tags=["person-re-identification", "timm", spec.objective or "backbone"],
        datasets=sorted({terms.title for _, terms in rows if terms.is_data}),
        model_name=title if results else None, eval_results=results or None,
    )  # fmt: skip
    parts = [f"---\n{data.to_yaml()}\n---", f"# {title}", _introduction(spec), _usage(title)]
    parts += [_sources(rows, publication, licence), _figures(publication.figures)]
    parts += [_INTENDED, _settings(spec), publication.notes.strip()]
    return ModelCard("\n\n".join(filter(None, parts)) + "\n")


def _introduction(spec: BackboneSpec) -> str:
    """What the network is, and how it is fed."""
    height, width = spec.img_size
    trained = f" trained as `{spec.objective}`" if spec.objective else ""
    return (
        f"A network for person re-identification (ReID){trained}: `{spec.name}`. It makes "
        f"{spec.embed_dim} values of the crop of one person, {height}x{width} pixels (height x "
        "width); the higher the cosine of two crops, the more probably they show one person.\n\n"
        "| | |\n|---|---|\n"
        f"| images | RGB, resized to {height}x{width} ({spec.interpolation}), nothing cut off |\n"
        f"| normalised with | mean {_numbers(spec.mean)}, std {_numbers(spec.std)}, of values "
        "from 0 to 1; `uint8` tensors are normalised by the network itself |\n"
        f"| feature | {spec.embed_dim} values, float32; compare by cosine |"
    )


def _usage(title: str) -> str:
    place = f"{'hf-hub' if '/' in title else 'local-dir'}:{title}"
    return (
        "## Use\n\n```python\nimport timm\nimport transreid_ssl\nimport transreid_ssl.models"
        "  # makes the networks known to timm\n\n"
        f'embed = transreid_ssl.Embedder("{title}")  # a folder, or a repository of the Hub\n'
        'features = embed(["a.jpg", "b.jpg"])  # float32 (2, D), of length 1\n'
        f'network = transreid_ssl.load_backbone("{title}")\n'
        f'network = timm.create_model("{place}", pretrained=True)\n'
        "```"
    )


def _sources(
    rows: Sequence[tuple[BackboneSpec | None, Terms]], publication: Publication, licence: str
) -> str:
    """What it was made from, with the terms, and what follows for the weights."""
    lines = ["## What it was made from, and the licence", "", "| training | images | terms |"]
    lines.append("|---|---|---|")
    for stage, terms in rows:
        kind = "before" if stage is None else stage.objective or "initial weights"
        lines.append(f"| {kind} | {terms.title} | {terms.text} |")
    free = all(terms.commercial for _, terms in rows)
    lines += ["", "The newest training first.", "", f"Licence of the weights: **{licence}**."]
    if licence == RESEARCH_ONLY:
        lines.append(
            "They may be used for research as far as the terms above allow it. Commercial use is "
            "not allowed: at least one source excludes it, or is not known to allow it."
        )
    elif not free and publication.rights:
        lines.append(f"What allows it, in the words of who published it: {publication.rights}")
    return "\n".join(lines)


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return "## Figures\n\nNone were measured."
    names = list(dict.fromkeys(name for figure in figures for name in figure.values))
    lines = ["## Figures", "", f"| data | {' | '.join(f'{name} %' for name in names)} | how |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for figure in figures:
        values = [
            f"{100 * figure.values[name]:.1f}" if name in figure.values else "–" for name in names
        ]
        lines.append(f"| {figure.data} | {' | '.join(values)} | {figure.how} |")
    if any(figure.data.startswith("demo") for figure in figures):
        lines += ["", "`demo` is generated people: such figures say nothing about real cameras."]
    return "\n".join(lines)


_INTENDED = """\
## Intended use, and limits

For finding images of the same person again within a set of images that may lawfully be searched,
for research on re-identification, and as initial weights of further training.

- It does not know who anybody is. A similarity is no proof: people in similar clothes look alike to
  it, and one person in other clothes does not. People must look before anything is decided.
- It was not tested for equal error rates over skin colours, ages or sexes, nor at cameras, heights
  and weather other than those of its images.
- Not meant for watching people unlawfully, nor for decisions about somebody without a human being.
  Re-identification processes personal data: ask what the law asks for where it is used."""


def _settings(spec: BackboneSpec) -> str:
    """All settings of the last training, folded away."""
    told = {key: spec.provenance[key] for key in _TOLD if key in spec.provenance}
    if not told:
        return ""
    text = yaml.safe_dump(json.loads(json.dumps(told)), sort_keys=False, allow_unicode=True)
    return (
        "## Settings\n\n<details><summary>of the last training, with the versions of what ran it"
        f"</summary>\n\n```yaml\n{text.strip()}\n```\n\n</details>"
    )


_TOLD = ("step", "settings", "software", "file", "format", "license", "repository")


def _numbers(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
