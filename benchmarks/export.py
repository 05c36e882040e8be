"""A network in onnxruntime, in float32, float16 and 8 bits, beside PyTorch, on a CPU.

    python -m benchmarks.export                          # ViT-S/16 with ICS at 256x128
    python -m benchmarks.export --name resnet50_reid --batches 1 32
    python -m benchmarks.export --size 64 32 --name vit_nano_patch8_conv

Weights are random: speed does not depend on them. Each figure is the best of ``--rounds`` rounds
of a batch, and all take turns in every round, so that a machine that is busy with something else is
so for all of them. ``ratio`` is how many times as fast as PyTorch the fastest program is at the
largest batch.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.reporting import finish, heading, row
from transreid_ssl import command, export
from transreid_ssl.models import UnitFeatures, build_backbone, load_backbone, save_backbone
from transreid_ssl.onnx_files import OnnxNetwork, require_packages

PRECISIONS = ("float32", "fp16", "int8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Export, time in turns, and say."""
    options = parse(arguments)
    require_packages()
    torch.set_num_threads(options.threads)
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        save_backbone(weights, build_backbone(options.name, img_size=options.size).eval())
        programs, sizes = networks(weights, options.images, options.threads)
        seconds = {
            batch: best_seconds(programs, batch, options.size, options.rounds)
            for batch in options.batches
        }
    for line in table(options.batches, seconds, sizes):
        print(line)
    last = seconds[options.batches[-1]]
    fastest = min(last[name] for name in last if name != "PyTorch")
    finish(
        last["PyTorch"] / fastest, network=options.name, size=list(options.size),
        threads=options.threads, megabytes=sizes,
        images_a_second={
            batch: {name: round(batch / value, 2) for name, value in found.items()}
            for batch, found in seconds.items()
        },
    )  # fmt: skip


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="vit_small_patch16_ics")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("H", "W"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--images", default="demo:identities=8,images=8", help="int8's ranges")
    return parser.parse_args(arguments)


def networks(
    weights: Path, images: str, threads: int
) -> tuple[dict[str, Callable[[Tensor], Tensor]], dict[str, float]]:
    """By name the programs, uint8 images to features, and the megabytes of their files."""
    programs: dict[str, Callable[[Tensor], Tensor]] = {
        "PyTorch": UnitFeatures(load_backbone(weights)).eval()
    }
    sizes = {"PyTorch": weights.stat().st_size / 1e6}
    for precision in PRECISIONS:
        path = weights.with_name(f"{precision}.onnx")
        export.export(weights, path, precision=precision, images=images, num_images=32)
        programs[precision] = OnnxNetwork(path, threads)
        sizes[precision] = path.stat().st_size / 1e6
    return programs, {name: round(size, 1) for name, size in sizes.items()}


@torch.inference_mode()
def best_seconds(
    programs: dict[str, Callable[[Tensor], Tensor]], batch: int, size: Sequence[int], rounds: int
) -> dict[str, float]:
    """The shortest time that a batch took each program; the first round is not counted."""
    images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
    best = dict.fromkeys(programs, float("inf"))
    for number in range(rounds + 1):
        for name, program in programs.items():
            begin = time.perf_counter()
            program(images)
            took = time.perf_counter() - begin
            best[name] = min(best[name], took) if number else best[name]
    return best


def table(
    batches: Sequence[int], seconds: dict[int, dict[str, float]], sizes: dict[str, float]
) -> list[str]:
    """Markdown: a program a line."""
    titles = [f"images/s, batch {batch}" for batch in batches]
    lines = heading("program", "MB", *titles)
    for name, size in sizes.items():
        shown = [f"{batch / seconds[batch][name]:.1f}" for batch in batches]
        called = name if name == "PyTorch" else f"onnxruntime, {name}"
        lines.append(row(called, f"{size:.1f}", *shown))
    return lines


if __name__ == "__main__":
    command.run(main)
