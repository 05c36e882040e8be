"""Looking into weights files, and converting published ones to this package's safetensors.

  python -m transreid_ssl.weights show vit_small_ics_cfs_lup.pth
  python -m transreid_ssl.weights convert checkpoint.pth backbone.safetensors

Which of the known formats a file has is told by what is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from transreid_ssl import command
from transreid_ssl.outputs import check_outputs

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
        weights: Weights file, folder or Hugging Face id.
    """

    weights: str


@dataclass(frozen=True)
class Convert(Show):
    """Write a weights file as safetensors.

    Example: ``python -m transreid_ssl.weights convert checkpoint.pth backbone.safetensors``

    Args:
        output: The .safetensors file to write.
    """

    output: str


def run_show(options: Show) -> "Backbone":
    """The command ``show``; returns the network."""
    from transreid_ssl.models import HALF, IMAGENET, LUPERSON, load_backbone

    given = {name: getattr(options, name) for name in ("img_size", "gem", "objective")}
    overrides = {name: value for name, value in given.items() if value}  # the file knows the others
    if options.statistics:
        known = {"imagenet": IMAGENET, "half": HALF, "luperson": LUPERSON}
        overrides |= known[options.statistics]._asdict()
    model = load_backbone(options.weights, which=options.which, **overrides)
    print(model.load_report)
    print(describe(model))
    return model


def run_convert(options: Convert) -> None:
    """The command ``convert``."""
    from transreid_ssl.models import find_weights, save_backbone

    check_outputs(options.output, inputs=[find_weights(options.weights)])
    save_backbone(options.output, run_show(options))
    print(f"written to {options.output}")


def describe(model: "Backbone") -> str:
    """What a backbone is and how to feed it, for people."""
    spec = model.spec
    parameters = sum(value.numel() for value in model.parameters())
    lines = [
        str(spec),
        f"  {parameters / 1e6:.1f} M parameters, features of {spec.embed_dim} values",
        f"  normalise with mean {spec.mean}, std {spec.std}",
    ]
    if spec.patch_size:
        lines.append(f"  position embeddings for other sizes: {spec.position_resampling}")
    lines += [f"  {key}: {value}" for key, value in spec.provenance.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and run ``show`` or ``convert``."""
    actions = {"show": (Show, run_show), "convert": (Convert, run_convert)}
    command.subcommands("python -m transreid_ssl.weights", __doc__, actions, arguments)


if __name__ == "__main__":
    command.run(main)
