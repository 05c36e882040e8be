"""Images a second on a GPU, where the time goes, and that what is fast computes what is plain.

    python -m benchmarks.gpu --out outputs/gpu     # eight minutes at most; all it needs is a GPU

DINO steps of ViT-S, ViT-S+ICS and ViT-B+ICS (2 crops of 256x128 and 8 of 128x64 an image, 65,536
outputs, bf16, synthetic uint8 crops on the device), and fine-tuning: of ViT-S+ICS with labels and
on clusters, of an MGN of ResNet-50 with labels. Every row has images a second, peak memory, and the
share of the ceiling: arithmetic of the step, which is that of the step as one would first write it,
over what the product of two large matrices reaches in the same minute.

Beside them stand the step as one would first write it (a pass for each size of crop, PyTorch's own
operations, a loop over pairs of views in the loss, and loops over parameters for clipping and the
teacher), and the same as published programs make it, in float16 with a loss scaler. And before any
timing, features and gradients of the fast way are compared with those of plain PyTorch in float64
(without stochastic depth, whose draws no two devices share); if they are further apart than bf16
explains, that is a failure.

What was measured is written after each row. A part that fails, or that is left out as the minutes
are over, is named in the table, and the exit code is 1.
"""

import argparse
import copy
import gc
import math
import re
import statistics
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.launches import EPOCH, TRAININGS, inputs
from benchmarks.reporting import finish, hardware, heading, row
from benchmarks.training_step import Ours, Plain, build, views
from transreid_ssl import command
from transreid_ssl.errors import UserError
from transreid_ssl.files import write_json, write_text
from transreid_ssl.models import build_backbone, normalise
from transreid_ssl.training import OptimizerSettings, RunSettings, build_optimizer
from transreid_ssl.training.ceiling import count_flops, product_rate
from transreid_ssl.training.speed import make_fast

OURS, EAGER, KEEPING = "ours", "ours, not compiled", "ours, --run.compile_memory 0.8"
PLAIN, PUBLISHED = "plain, bf16", "as published programs do it"
WAYS = {
    OURS: RunSettings(),
    KEEPING: RunSettings(compile_memory=0.8),
    EAGER: RunSettings(compile=False),
}
PRECISIONS = {PLAIN: torch.bfloat16, PUBLISHED: torch.float16}
"""Of ours it is bf16; on a CPU all are of float32."""
FEATURES_APART, GRADIENTS_APART = 2e-2, 1e-1
"""Norms of differences over norms; an H200 had 6e-3 and 1.2e-2."""
Step = Callable[[], Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all of it, then write and say the tables."""
    options = parse(arguments)
    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        raise UserError(f"--device {options.device}: give cuda, cuda:1 or cpu") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "there is no GPU here; python -m benchmarks.training_step measures on a CPU"
        )
    bench = Bench(options, device)
    bench.ceiling()
    for name, batch in zip(options.models, options.batch_sizes, strict=True):
        bench.attempt(f"{name}: numbers", lambda name=name: bench.compare(name))
        bench.dino(name, batch)
    for name in TRAININGS:
        bench.fine_tuning(name, getattr(options, name))
    print("\n".join(bench.tables()), flush=True)
    rates = {(entry["what"], entry["how"]): entry["images_per_second"] for entry in bench.rows}
    first = options.models[0]
    ours, published = rates.get((first, OURS)), rates.get((first, PUBLISHED))
    ratio = ours / published if ours and published else None
    finish(ratio, benchmark="gpu", rows=bench.rows, numbers=bench.numbers, failed=bench.failed)
    if bench.failed:
        raise SystemExit(1)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("outputs/gpu"), help="folder of the tables")
    add("--device", default="cuda", help="where it runs; a CPU serves to try the program")
    add(
        "--models", nargs="+", metavar="MODEL",
        default=["vit_small_patch16_ics", "vit_small_patch16_reid", "vit_base_patch16_ics"],
    )  # fmt: skip
    add("--batch-sizes", nargs="+", type=int, default=[256, 256, 128], help="one for each model")
    for name, training in TRAININGS.items():
        add(f"--{name}", default=training.model, metavar="MODEL", help=f"fine-tuned, {name}")
    add("--finetune-batch-size", type=int, default=64)
    add("--out-dim", type=int, default=65536, help="outputs of DINO's head")
    add("--steps", type=int, default=10, help="timed steps of each row")
    add("--minutes", type=float, default=8, help="after which nothing new is begun")
    options = parser.parse_args(arguments)
    if len(options.models) != len(options.batch_sizes):
        raise UserError("--batch-sizes: give one for each of --models")
    return options


class Bench:
    """What was measured so far."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.on_gpu = device.type == "cuda"
        self.rows: list[dict[str, Any]] = []
        self.numbers: list[dict[str, Any]] = []
        self.profiles: dict[str, list[tuple[str, float, float]]] = {}
        self.failed: list[str] = []
        self.peak_flops = 0.0
        self.end = time.monotonic() + 60 * options.minutes

    def attempt(self, what: str, part: Callable[[], None]) -> None:
        """Run a part and write what is known; if it fails, say so and go on with the next."""
        if time.monotonic() >= self.end:
            self.failed.append(f"{what}: the minutes were over; raise --minutes")
            self.save(self.options.out)
            return
        print(f"{what} …", flush=True)
        try:
            part()
        except Exception as error:
            traceback.print_exc()
            self.failed.append(
                f"{what}: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            )
        finally:
            torch._dynamo.reset()
            gc.collect()
            if self.on_gpu:
                torch.cuda.empty_cache()
            self.save(self.options.out)

    def ceiling(self) -> None:
        """Arithmetic a second of a large product of matrices of random numbers."""
        self.peak_flops = product_rate(
            self.device, torch.bfloat16 if self.on_gpu else torch.float32
        )

    def compare(self, name: str) -> None:
        """Features and gradients of the fast way beside plain PyTorch's in float64."""
        torch.manual_seed(0)
        backbone = build_backbone(name, img_size=(256, 128))
        groups = [group.cpu() for group in views(2, torch.device("cpu"))]
        fast = copy.deepcopy(backbone).to(self.device)
        if self.on_gpu:
            fast.compile_blocks()
        plain = backbone.double()
        spec = plain.spec
        expected = torch.cat(
            [plain(normalise(group, spec.mean, spec.std).double()) for group in groups]
        )
        gradient = torch.randn_like(expected)
        expected.backward(gradient)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu):
            found = fast.forward_groups([group.to(self.device) for group in groups])
        found.backward(gradient.to(found))
        apart = _apart(found, expected), _apart(_gradients(fast), _gradients(plain))
        self.numbers.append(
            {
                "model": name, "precision": "bf16" if self.on_gpu else "float32",
                "features": apart[0], "gradients": apart[1],
            }
        )  # fmt: skip
        if not (apart[0] < FEATURES_APART and apart[1] < GRADIENTS_APART):
            raise RuntimeError(f"features {apart[0]:.1e} and gradients {apart[1]:.1e} apart")

    def dino(self, name: str, batch: int) -> None:
        """The steps of one network: ours, compiled and not, the published and the plain one."""
        precision = "bf16" if self.on_gpu else "no"

        def measure(how: str) -> None:
            objective = build(name, self.options.out_dim)
            arithmetic = count_flops(objective, {"views": views(2, self.device)}, 1) / 2
            groups = views(batch, self.device)
            objective.to(self.device)
            if how in WAYS:
                make_fast(objective, WAYS[how], self.device)
                step = Ours(objective, precision)
            else:
                half = PRECISIONS[how] if self.on_gpu else torch.float32
                step = Plain(objective, self.device, half)
            self.measure(name, how, batch, lambda: step(groups), arithmetic)

        for how in (OURS, PUBLISHED, PLAIN, KEEPING, EAGER):
            self.attempt(f"{name}: DINO, {how}", lambda how=how: measure(how))

    def fine_tuning(self, name: str, model: str) -> None:
        """A step of one kind of fine-tuning, compiled and not."""
        training = replace(TRAININGS[name], model=model)
        batch = self.options.finetune_batch_size

        def measure(how: str) -> None:
            batch_inputs = inputs(batch, (256, 128), self.device)
            objective = training.objective((256, 128), self.device)
            make_fast(objective, WAYS[how], self.device)
            arithmetic = count_flops(objective, batch_inputs, EPOCH) / batch
            settings = OptimizerSettings(name=training.optimizer, lr=1e-4)
            optimizer = build_optimizer(objective, settings, self.device)

            def step() -> Tensor:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu):
                    loss = objective(batch_inputs, EPOCH)["loss"]
                loss.backward()
                objective.before_step(EPOCH)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                objective.after_step(0.5)
                return loss.detach()

            self.measure(f"fine-tuning, {name}", how, batch, step, arithmetic)

        for how in (OURS, EAGER):
            self.attempt(f"fine-tuning, {name}, {how}", lambda how=how: measure(how))

    def measure(self, what: str, how: str, batch: int, step: Step, arithmetic: float) -> None:
        """Time a step, and on a GPU profile it; ``arithmetic`` is that of an image."""
        begin = time.perf_counter()
        loss = float(step())
        first = time.perf_counter() - begin
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = self.seconds(step)
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else None
        share = arithmetic * batch / seconds / self.peak_flops
        if not (math.isfinite(loss) and math.isfinite(float(step()))):
            raise RuntimeError("the loss is not finite")
        self.rows.append(
            {
                "what": what, "how": how, "batch": batch, "milliseconds": 1e3 * seconds,
                "images_per_second": batch / seconds, "peak_gib": peak, "share": share,
                "first_step_seconds": first,
            }
        )  # fmt: skip
        print(f"  {how}: {batch / seconds:,.0f} images a second", flush=True)
        if self.on_gpu and how != EAGER:
            self.profiles[f"{what}, {how}"] = profile(step)

    def seconds(self, step: Step) -> float:
        """The median of some steps, after two that warm up."""
        times = []
        for _ in range(self.options.steps + 2):
            if self.on_gpu:
                torch.cuda.synchronize()
            begin = time.perf_counter()
            step()
            if self.on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return statistics.median(times[2:])

    def save(self, folder: Path) -> None:
        """Write gpu.json and gpu.md."""
        folder.mkdir(parents=True, exist_ok=True)
        about = {"hardware": hardware(), "ceiling_tflops": self.peak_flops / 1e12}
        found = {"rows": self.rows, "numbers": self.numbers, "profiles": self.profiles}
        write_json(folder / "gpu.json", about | found | {"failed": self.failed})
        write_text(folder / "gpu.md", "\n".join(self.tables()) + "\n")

    def tables(self) -> Iterator[str]:
        machine = hardware()
        yield (
            f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}; a product of matrices "
            f"reaches {self.peak_flops / 1e12:,.1f} TFLOP/s\n"
        )
        yield from heading(
            "step", "way", "batch", "ms", "images/s", "peak GiB", "of the ceiling", "first step, s"
        )
        for entry in self.rows:
            peak = "" if entry["peak_gib"] is None else f"{entry['peak_gib']:.1f}"
            yield row(
                entry["what"], entry["how"], str(entry["batch"]), f"{entry['milliseconds']:.1f}",
                f"{entry['images_per_second']:,.0f}", peak, f"{entry['share']:.0%}",
                f"{entry['first_step_seconds']:.1f}",
            )  # fmt: skip
        for entry in self.numbers:
            yield (
                f"\n{entry['model']}, {entry['precision']} beside float64: features "
                f"{entry['features']:.1e} apart, gradients {entry['gradients']:.1e}"
            )
        for what, kinds in self.profiles.items():
            yield f"\n{what}: milliseconds of a step\n"
            yield from heading("kind", "ms", "kernels")
            for kind, milliseconds, count in kinds:
                yield row(kind, f"{milliseconds:.2f}", f"{count:.0f}")
        for failure in self.failed:
            yield f"\nFAILED {failure}"


KINDS = {
    "attention": r"sdpa|flash|fmha|^attention_|compute_dot|convert_dq",
    "stem: norm and ReLU": r"^_(fold|moments|moments_of_images|apply|sums|combine)$|batch_norm|bn_",
    "loss": r"^_(teacher_rows|student_rows|student_gradient)$|softmax",
    "convolutions": r"conv|wgrad|dgrad|fprop|implicit_gemm|nchw|nhwc",
    "linear layers": r"nvjet|gemm|cutlass|splitK|cublas",
    "optimiser and teacher": r"multi_tensor|adam|lerp|Optimizer|^_scale$",
    "layer norms, GELU, residuals": r"triton_|layer_norm|gelu|Gelu|GammaBeta",
    "copies": r"copy|Memcpy|Memset|CatArray|fill",
}


def profile(step: Step, steps: int = 2) -> list[tuple[str, float, float]]:
    """(kind, milliseconds, kernels) of a step on the GPU, the longest first."""
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as found:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    times, counts = defaultdict(float), defaultdict(float)
    for event in found.events():
        if event.device_type != torch.autograd.DeviceType.CUDA or event.is_user_annotation:
            continue
        kind = next((k for k, pattern in KINDS.items() if re.search(pattern, event.name)), "other")
        times[kind] += event.device_time / 1e3 / steps
        counts[kind] += 1 / steps
    return sorted(((k, times[k], counts[k]) for k in times), key=lambda entry: -entry[1])


def _gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


def _apart(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what is expected."""
    found = found.detach().double().cpu()
    return float((found - expected.detach()).norm() / expected.detach().norm())


if __name__ == "__main__":
    command.run(main)
