"""Looking into weights files, and converting published ones to this package's safetensors.

python -m transreid_ssl.weights show vit_small_ics_cfs_lup.pth
python -m transreid_ssl.weights convert checkpoint.pth backbone.safetensors
"""

from collections.abc import Sequence
from typing import Any

from transreid_ssl.command import Parser, run
from transreid_ssl.models import ReIDViT, load_backbone, save_backbone


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and run ``show`` or ``convert``."""
    options = parser().parse(arguments)
    chosen = options[options.subcommand]
    model = load_backbone(chosen.weights, which=chosen.which, **_overrides(chosen))
    print(model.load_report)
    print(describe(model))
    if options.subcommand == "convert":
        save_backbone(chosen.output, model)
        print(f"written to {chosen.output}")


def parser() -> Parser:
    """The command line; both commands take the same settings of the network."""
    top = Parser(
        prog="python -m transreid_ssl.weights",
        description="Look into weights files of any known format, or convert them to safetensors.",
    )
    commands = top.add_subcommands(required=True)
    commands.add_subcommand("show", _command("show"), help="what is in a weights file")
    commands.add_subcommand("convert", _command("convert"), help="write it as safetensors")
    return top


def _command(name: str) -> Parser:
    output = " backbone.safetensors" if name == "convert" else ""
    command = Parser(
        description=f"Example: python -m transreid_ssl.weights {name} checkpoint.pth{output}",
    )
    command.add_argument("weights", type=str, help="weights file, folder or Hugging Face id")
    if name == "convert":
        command.add_argument("output", type=str, help="the .safetensors file to write")
    command.add_argument("--which", default="teacher", help="of DINO's two: teacher or student")
    command.add_argument(
        "--img_size",
        type=tuple[int, int] | None,
        default=None,
        help="resize the position embeddings for another image size: '[384, 128]'",
    )
    command.add_argument(
        "--gem", type=bool, default=False, help="the file cannot tell: trained with GeM pooling"
    )
    command.add_argument("--objective", type=str | None, default=None, help="what it was for")
    return command


def _overrides(chosen: Any) -> dict[str, Any]:
    """The settings that the user gave; all others are the file's."""
    names = ("img_size", "gem", "objective")
    return {name: chosen[name] for name in names if chosen[name]}


def describe(model: ReIDViT) -> str:
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


if __name__ == "__main__":
    run(main)
