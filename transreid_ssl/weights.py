"""Looking into weights files, converting published ones, and passing one's own on.

  python -m transreid_ssl.weights show vit_small_ics_cfs_lup.pth
  python -m transreid_ssl.weights convert checkpoint.pth backbone.safetensors
  python -m transreid_ssl.weights save outputs/dino_pretrain/backbone.safetensors published
  python -m transreid_ssl.weights push outputs/dino_pretrain/backbone.safetensors me/people
  python -m transreid_ssl.weights tutorial

Which of the known formats a file has is told by what is in it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transreid_ssl import command
from transreid_ssl.outputs import MODEL, Overwriting, check_outputs
from transreid_ssl.publishing import Card, publication, say_licence
from transreid_ssl.tutorial import Tutorial, make_tutorial

if TYPE_CHECKING:
    from transreid_ssl.models import Backbone


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What may have to be said of a weights file, or changed.

    Args:
        which: Of DINO's two: teacher or student.
        img_size: Resize the position embeddings for another image size: '[384, 128]'.
        gem: The file cannot tell: trained with GeM pooling.
        objective: What it was for.
        statistics: What its images were normalised with, where the file does not say: ImageNet's
            mean and std, 0.5 for both, or LUPerson's.
    """

    which: str = "teacher"
    img_size: tuple[int, int] | None = None
    gem: bool = False
    objective: str | None = None
    statistics: Literal["imagenet", "half", "luperson"] | None = None


@dataclass(frozen=True)
class Show(Reading):
    """Say what is in a weights file.

    Example: ``python -m transreid_ssl.weights show checkpoint.pth``

    Args:
        weights: Weights file, folder, Hugging Face id, or a name of timm with weights.
    """

    weights: str


@dataclass(frozen=True)
class Convert(Show, Overwriting):
    """Write a weights file as safetensors.

    Example: ``python -m transreid_ssl.weights convert checkpoint.pth backbone.safetensors``

    Args:
        output: The .safetensors file to write.
    """

    output: str


@dataclass(frozen=True)
class Save(Card, Overwriting):
    """Write a folder that load_backbone, timm and the Hub read: weights, config.json and a card.

    Example: ``python -m transreid_ssl.weights save outputs/dino_pretrain/backbone.safetensors
    published``

    Args:
        weights: Weights file, folder or Hugging Face id.
        folder: The folder to write.
    """

    weights: str
    folder: str


@dataclass(frozen=True)
class Push(Card):
    """Upload weights with a card to the Hugging Face hub.

    Example: ``python -m transreid_ssl.weights push outputs/dino_pretrain/backbone.safetensors
    me/people --figures outputs/evaluate/metrics.json``. Look at what `save` writes first. The
    token is that of `hf auth login`.

    Args:
        weights: Weights file, folder or Hugging Face id.
        repository: Where to: owner/name, which is made if it is not there.
        private: Nobody else may see the new repository.
        create_pr: Propose it to the repository's owner, as a pull request.
    """

    weights: str
    repository: str
    private: bool = False
    create_pr: bool = False


def run_show(options: Show) -> "Backbone":
    """The command ``show``; returns the network."""
    from transreid_ssl.models import STATISTICS, load_backbone

    given = {name: getattr(options, name) for name in ("img_size", "gem", "objective")}
    overrides = {name: value for name, value in given.items() if value}  # the file knows the others
    if options.statistics:
        overrides |= STATISTICS[options.statistics]._asdict()
    model = load_backbone(options.weights, which=options.which, **overrides)
    print(model.load_report)
    print(describe(model))
    return model


def run_convert(options: Convert) -> None:
    """The command ``convert``."""
    from transreid_ssl.models import find_weights, save_backbone

    source = find_weights(options.weights)
    check_outputs(options.output, inputs=[source], keep=not options.overwrite)
    save_backbone(options.output, run_show(options))
    print(f"written to {options.output}")


def run_save(options: Save) -> None:
    """The command ``save``."""
    from transreid_ssl.models import find_weights, load_backbone, save_pretrained
    from transreid_ssl.models.publish import CARD, CONFIG

    folder = Path(options.folder)
    ours = {folder / CARD: "library_name: transreid_ssl", folder / CONFIG: '"architecture"'}
    check_outputs(
        folder / MODEL, inputs=[find_weights(options.weights)],
        beside={path: partial(_contains, text) for path, text in ours.items()},
        keep=not options.overwrite,
    )  # fmt: skip
    model = load_backbone(options.weights)
    words = publication(options, options.weights, model.spec)
    print(say_licence(model, words))
    save_pretrained(model, options.folder, words)
    print(f"written to {options.folder}: model.safetensors, config.json, README.md")


def _contains(text: str, path: Path) -> bool:
    """Whether a file was written by ``save``: its card and its config.json hold such a text."""
    return text in path.read_text(encoding="utf-8", errors="replace")


def run_push(options: Push) -> None:
    """The command ``push``."""
    from transreid_ssl.models import load_backbone, push_to_hub

    model = load_backbone(options.weights)
    words = publication(options, options.weights, model.spec)
    print(say_licence(model, words), flush=True)
    private, proposed = options.private, options.create_pr
    place = push_to_hub(model, options.repository, words, private=private, create_pr=proposed)
    print(f"uploaded to {place}")


def describe(model: "Backbone") -> str:
    """What a backbone is and how to feed it, for people."""
    from transreid_ssl.models.lineage import LINEAGE, ancestry

    spec = model.spec
    parameters = sum(value.numel() for value in model.parameters())
    lines = [
        str(spec),
        f"  {parameters / 1e6:.1f} M parameters, features of {spec.embed_dim} values",
        f"  normalise with mean {spec.mean}, std {spec.std}",
    ]
    if spec.readout and spec.readout.dim:
        read = spec.readout
        lines.append(f"  whitened by {read.images} (shrinkage {read.shrinkage:.2g})")
    if spec.patch_size:
        lines.append(f"  position embeddings for other sizes: {spec.position_resampling}")
    lines += _indented({key: v for key, v in spec.provenance.items() if key != LINEAGE}, "  ")
    for number, stage in enumerate(ancestry(spec).stages[1:]):
        made = stage.objective or stage.remembered("file") or "unknown"
        lines += [f"  {'before' if number else 'began with'}: {stage.name}, {made}"]
    return "\n".join(lines)


def _indented(values: Mapping[str, Any], before: str) -> Iterator[str]:
    """A line for each value, with those that hold others above what they hold, as in YAML."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{before}{key}:"
            yield from _indented(value, f"{before}  ")
        else:
            yield f"{before}{key}: {value if isinstance(value, str) else json.dumps(value)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, and run the command that is named."""
    actions = {
        "show": (Show, run_show),
        "convert": (Convert, run_convert),
        "save": (Save, run_save),
        "push": (Push, run_push),
        "tutorial": (Tutorial, make_tutorial),
    }
    command.subcommands("python -m transreid_ssl.weights", __doc__, actions, arguments)


if __name__ == "__main__":
    command.run(main)
