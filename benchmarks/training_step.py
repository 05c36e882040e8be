"""A DINO training step of ViT-S/16+ICS beside a plain PyTorch step, in one run.

    python -m benchmarks.training_step --batch-size 8 --rounds 3

Ours is what ``recipes/dino_pretrain.py`` runs: autocast, all crops in one matrix, patches as rows,
the last block for class tokens alone, one cross-view product, fused clipping, AdamW and teacher
update; on a GPU its kernels, too. The baseline is the same networks and views in
float32, of PyTorch's own operations, a pass for each size of crop, a loop over pairs of views with
a log-softmax each, and loops over parameters for the clipping and for the teacher.

Beside the times stands the share of the ceiling: of the rate that products of large matrices reach
in that precision on this machine. What the ceilings alone would allow, ours over the plain step's
time, is the most that ``ratio`` can be.
"""

import argparse
import contextlib
import copy
import time
from collections.abc import Iterator
from unittest import mock

import torch
from accelerate import Accelerator
from torch import nn

from benchmarks.reporting import finish
from transreid_ssl.models import build_backbone
from transreid_ssl.models.ibn import IBN
from transreid_ssl.pretrain import DINO, DINOConfig
from transreid_ssl.training import OptimizerSettings, build_optimizer, clip_gradients, use_cpu
from transreid_ssl.training.ceiling import PRECISIONS, count_flops, product_rate
from transreid_ssl.training.start import has_fast_bf16


def views(batch_size: int, device: torch.device, shrink: int = 1) -> list[torch.Tensor]:
    """Two large and eight small uint8 crops an image, crop-major, ``shrink`` times smaller than
    those of a recipe."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 256 // shrink, 128 // shrink), (8, 128 // shrink, 64 // shrink)]
    return [
        torch.randint(0, 256, (n * batch_size, 3, h, w), dtype=torch.uint8, generator=generator).to(
            device
        )
        for n, h, w in sizes
    ]


def build(name: str, out_dim: int) -> DINO:
    """The objective of the recipe."""
    torch.manual_seed(0)
    networks = [build_backbone(name, img_size=(256, 128), drop_path=rate) for rate in (0.1, 0.0)]
    return DINO(*networks, DINOConfig(out_dim=out_dim), num_crops=10)


class Ours:
    """The step that the training loop takes."""

    def __init__(self, objective: DINO, precision: str) -> None:
        self.accelerator = Accelerator(mixed_precision=precision)
        optimizer = build_optimizer(objective, OptimizerSettings())
        self.objective = objective
        self.model, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-4

    def __call__(self, groups: list[torch.Tensor]) -> torch.Tensor:
        values = self.model({"views": groups}, 1)
        self.accelerator.backward(values["loss"])
        self.accelerator.unscale_gradients(self.optimizer)
        clip_gradients(self.parameters, 3.0, each=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(0.5)
        return values["loss"].detach()


class Plain:
    """The same step as one would first write it: in float32, or under autocast, in float16 with a
    scaler, as published programs do."""

    def __init__(
        self, objective: DINO, device: torch.device, precision: torch.dtype = torch.float32
    ) -> None:
        self.student, self.teacher = objective.student.to(device), objective.teacher.to(device)
        self.center = torch.zeros(1, objective.config.out_dim, device=device)
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, foreach=False, fused=False)
        self.autocast = (
            contextlib.nullcontext()  # who measures may have his own
            if precision == torch.float32
            else torch.autocast(device.type, precision)
        )
        scales = precision == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=scales)

    def loss(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        terms = []
        for t, target in enumerate(teacher.chunk(2)):
            probabilities = ((target - self.center) / 0.04).softmax(dim=-1)
            for s, output in enumerate(student.chunk(10)):
                if s != t:
                    log = nn.functional.log_softmax(output / 0.1, dim=-1)
                    terms.append(-(probabilities * log).sum(dim=-1).mean())
        return sum(terms) / len(terms)

    @staticmethod
    def outputs(network: nn.Module, groups: list[torch.Tensor]) -> torch.Tensor:
        """Logits of crops of several sizes, which pass the backbone one after the other."""
        # With a map, all tokens leave the last block, as they do in other programs.
        features = [network.backbone.forward_with_map(group)[0] for group in groups]
        return network.head(torch.cat(features))

    def clip(self) -> None:
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                norm = parameter.grad.norm().item()
                if norm > 3.0:
                    parameter.grad.mul_(3.0 / (norm + 1e-6))

    @torch.no_grad()
    def follow(self, teacher: torch.Tensor) -> None:
        self.center = 0.9 * self.center + 0.1 * teacher.mean(dim=0, keepdim=True)
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters()):
            slow.mul_(0.998).add_(fast, alpha=0.002)

    def __call__(self, groups: list[torch.Tensor]) -> torch.Tensor:
        with plain_pytorch():
            with self.autocast:
                with torch.no_grad():
                    teacher = self.outputs(self.teacher, groups[:1]).float()
                loss = self.loss(self.outputs(self.student, groups).float(), teacher)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            self.clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.follow(teacher)
        return loss.detach()


def published_ibn(norms: IBN, x: torch.Tensor) -> torch.Tensor:
    """Instance and batch norm side by side, as their authors' program has them."""
    first, second = x.split([norms.split, x.shape[1] - norms.split], dim=1)
    return torch.cat((norms.IN(first.contiguous()), norms.BN(second.contiguous())), dim=1)


@contextlib.contextmanager
def plain_pytorch() -> Iterator[None]:
    """Without operations of our own: what is computed is the same."""
    patches = {
        "models.blocks.has_triton": lambda: False,
        "models.norm_relu.has_triton": lambda: False,
        "pretrain.dino.has_triton": lambda: False,
        "models.stem.norm_relu": lambda x, norm, layer, patch=0: layer(norm(x).relu()),
        "models.stem.PatchEmbedding._takes_rows": lambda self, sides: False,
        "models.ibn.IBN.forward": published_ibn,
    }
    with contextlib.ExitStack() as stack:
        for name, stand_in in patches.items():
            stack.enter_context(mock.patch(f"transreid_ssl.{name}", stand_in))
        yield


def seconds(step, groups: list[torch.Tensor]) -> float:
    """Wall-clock seconds of one step, the device waited for."""
    begin = time.perf_counter()
    step(groups).item()
    return time.perf_counter() - begin


def read_options() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images a step (10 crops each)")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each, in turns")
    fast = torch.cuda.is_available() or has_fast_bf16()
    parser.add_argument(
        "--precision", default="bf16" if fast else "no", choices=["no", "bf16", "fp16"],
        help="of ours; by default bf16 where it is fast, else float32",
    )  # fmt: skip
    parser.add_argument("--model", default="vit_small_patch16_ics")
    parser.add_argument("--out-dim", type=int, default=65536)
    return parser.parse_args()


def main() -> None:
    options = read_options()
    objective = build(options.model, options.out_dim)
    ours = Ours(copy.deepcopy(objective), options.precision)
    device = ours.accelerator.device
    if device.type == "cpu":
        use_cpu(num_workers=0)
    plain = Plain(objective, device)
    groups = views(options.batch_size, device)
    for step in (ours, plain):
        seconds(step, groups)
    times = {"ours": [], "plain": []}
    for _ in range(options.rounds):
        times["ours"].append(seconds(ours, groups))
        times["plain"].append(seconds(plain, groups))
    best = {name: min(values) for name, values in times.items()}
    flops = count_flops(objective, {"views": groups}, 1)
    least = {
        "ours": flops / product_rate(device, PRECISIONS[options.precision]),
        "plain": flops / product_rate(device, torch.float32),
    }
    for name, values in times.items():
        share = f"{least[name] / best[name]:.0%} of the ceiling"
        print(f"{name:6} {' '.join(f'{v:.3f}' for v in values)} s a step, {share}")
    finish(
        best["plain"] / best["ours"],
        model=options.model,
        batch_size=options.batch_size,
        precision=options.precision,
        seconds_ours=best["ours"],
        seconds_plain=best["plain"],
        most_ratio=best["plain"] / least["ours"],
    )


if __name__ == "__main__":
    main()
