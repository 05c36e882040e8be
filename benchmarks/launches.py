"""What the host of a GPU starts in a step of fine-tuning, counted on a CPU.

    python -m benchmarks.launches                      # three trainings, a minute
    python -m benchmarks.launches --trainings labels --labels vit_base_patch16_ics

Fine-tuning has 64 images at once, which a GPU computes sooner than its host starts all that it
takes one by one. So this counts what is started: operations, kernels of our own, and programs that
were compiled of many, each once forward and once backward. Ours is the step that a GPU takes; the
plain one has PyTorch's own operations, and optimisers that take many weights at once, as they do on
GPUs by default. Nothing is timed: ``benchmarks.gpu`` does that. ``ratio`` is the least of all.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks import counts
from benchmarks.compiled import Divided
from benchmarks.counts import as_on_a_gpu
from benchmarks.reporting import finish, heading, row
from benchmarks.training_step import plain_pytorch
from transreid_ssl import command
from transreid_ssl.finetune import ClusterObjective, SupervisedObjective
from transreid_ssl.finetune.mgn import MGNObjective
from transreid_ssl.models import build_backbone, resnet, vit
from transreid_ssl.models.blocks import PackedBlock
from transreid_ssl.training import (
    Objective,
    OptimizerSettings,
    RunSettings,
    build_optimizer,
    clip_gradients,
)
from transreid_ssl.training.speed import make_fast

PEOPLE = 751
"""Identities, or clusters: those of Market-1501's training images."""


@dataclass(frozen=True)
class Training:
    """One kind of fine-tuning.

    Attributes:
        model: its network.
        optimizer: what its recipe trains with.
        options: of the network.
        build: the objective of a network.
    """

    model: str
    optimizer: str
    options: dict[str, Any]
    build: Callable[[Any], Objective]

    def objective(self, size: tuple[int, int], device: torch.device | str = "cpu") -> Objective:
        """With random weights, for images (height, width)."""
        torch.manual_seed(0)
        backbone = build_backbone(self.model, img_size=size, **self.options)
        return self.build(backbone.to(device)).to(device).train()


def _clusters(backbone: Any) -> ClusterObjective:
    objective = ClusterObjective(backbone)
    vectors = torch.randn(PEOPLE, backbone.spec.embed_dim)
    objective.begin_epoch(0, torch.arange(PEOPLE).numpy(), vectors)
    return objective


TRAININGS = {
    "labels": Training(
        "vit_small_patch16_ics", "sgd", {"drop_path": 0.1},
        lambda backbone: SupervisedObjective(backbone, PEOPLE),
    ),
    "clusters": Training(
        "vit_small_patch16_ics", "adam", {"drop_path": 0.1, "feature_norm": True}, _clusters
    ),
    "mgn": Training("mgn_resnet50", "adam", {}, lambda backbone: MGNObjective(backbone, PEOPLE)),
}  # fmt: skip
"""Fine-tuning with labels, on clusters, and of an MGN with labels."""
EPOCH = 50
"""Of the step: no weights rest any more."""


def inputs(images: int, size: tuple[int, int], device: torch.device) -> dict[str, Tensor]:
    """A batch of noise, four images a person."""
    shape = (images, 3, *size)
    return {
        "images": torch.randint(0, 256, shape, dtype=torch.uint8, device=device),
        "identities": torch.arange(images, device=device) // 4,
    }


class Programs(Divided):
    """Compiled programs, which are run without being looked into, and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.made: dict[Any, Callable[..., Tensor]] = {}

    def _count(self, graph: GraphModule, given: Any) -> Callable[..., Any]:
        call = super()._count(graph, given)

        def run(arguments: list[Any]) -> Any:
            self.runs += 1
            with _disable_current_modes():
                return call(arguments)

        run._boxed_call = True
        return run

    def of(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """``torch.compile(function)``, made once."""
        program = self.made.setdefault(
            function, torch.compile(function, dynamic=False, backend=self.backend)
        )

        def start(*arguments: Any) -> Tensor:
            with _disable_current_modes():  # the compiler keeps out of what somebody looks into
                return program(*arguments)

        return start

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Within it they are what networks compile."""
        of_vits = self.of(PackedBlock.forward_packed)
        with (
            mock.patch.object(vit, "compiled_block", return_value=of_vits),
            mock.patch.object(resnet, "compiled", lambda block: self.of(block.plain_forward)),
        ):
            yield


def ours(training: Training, images: int, size: tuple[int, int]) -> int:
    """What is started in the step that a GPU takes."""
    torch.compiler.reset()
    objective, programs = training.objective(size), Programs()
    cpu = torch.device("cpu")
    make_fast(objective, RunSettings(compile=True), cpu)
    settings = OptimizerSettings(name=training.optimizer)
    optimizer = build_optimizer(objective, settings, torch.device("cuda"))

    def clip() -> None:
        clip_gradients(objective.parameters(), 1.0, each=False)

    with as_on_a_gpu(), programs.taken():
        for _ in range(2):  # the first one compiles, and makes the optimiser's state
            programs.runs = 0
            started = _started(objective, optimizer, clip, inputs(images, size, cpu))
        return started + programs.runs


def plain(training: Training, images: int, size: tuple[int, int]) -> int:
    """What is started in the step as one would first write it."""
    objective = training.objective(size)
    weights = [p for p in objective.parameters() if p.requires_grad]
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    momentum = {"momentum": 0.9} if training.optimizer == "sgd" else {}
    optimizer = kinds[training.optimizer](
        weights, lr=1e-3, weight_decay=1e-4, foreach=True, **momentum
    )

    def clip() -> None:
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)

    with plain_pytorch():
        for _ in range(2):
            batch = inputs(images, size, torch.device("cpu"))
            started = _started(objective, optimizer, clip, batch)
        return started


def _started(
    objective: Objective, optimizer: torch.optim.Optimizer, clip: Callable[[], None],
    batch: dict[str, Tensor],
) -> int:  # fmt: skip
    """Operations and kernels of a step, as the training loop makes it."""
    with mock.patch("benchmarks.counts.KERNELS", 0), counts.Counting() as counting:
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(batch, EPOCH)["loss"]
        loss.backward()
        clip()
        objective.before_step(EPOCH)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step(0.5)
        return counting.operations + counts.KERNELS


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and say it."""
    options = parse(arguments)
    size = (256 // options.shrink, 128 // options.shrink)
    found = {}
    print("\n".join(heading("fine-tuning", "network", "plain", "ours")))
    for name in options.trainings:
        training = replace(TRAININGS[name], model=getattr(options, name))
        found[name] = [way(training, options.images, size) for way in (plain, ours)]
        print(row(name, training.model, *(f"{number:,}" for number in found[name])), flush=True)
    ratio = min(before / after for before, after in found.values())
    finish(ratio, benchmark="launches", **found)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--trainings", nargs="+", choices=list(TRAININGS), default=list(TRAININGS))
    for name, training in TRAININGS.items():
        add(f"--{name}", default=training.model, metavar="MODEL", help=f"network of {name}")
    add("--images", type=int, default=8, help="of a batch; what is started does not depend on it")
    add("--shrink", type=int, default=2, help="images so many times smaller; the same")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    command.run(main)
