"""No step asks for what the host of a GPU would wait for: then launches run ahead of kernels.

Such operations give the host numbers, or a tensor whose size is known only when they are done; that
they are not called is seen on a CPU too. Copies between host and GPU are not seen.
"""

import contextlib
import importlib
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import launch
import tiny_dino
from transreid_ssl.finetune import ClusterObjective, ClusterSettings, SupervisedObjective
from transreid_ssl.finetune.mgn import MGNObjective
from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import MoBY, MoBYConfig, MoCo, MoCoConfig, MoCoV3, MoCoV3Config
from transreid_ssl.training import OptimizerSettings, build_optimizer, clip_gradients

WAITED_FOR = {
    "_local_scalar_dense", "_unique2", "bincount", "equal", "is_nonzero", "masked_select",
    "nonzero", "unique_consecutive", "unique_dim",
}  # fmt: skip


class Waits(TorchDispatchMode):
    """Notes what would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.patches = contextlib.ExitStack()

    def __enter__(self):
        for name in ("cpu", "numpy", "tolist"):
            self.patches.enter_context(mock.patch.object(Tensor, name, self.noting(name)))
        return super().__enter__()

    def __exit__(self, *error):
        self.patches.close()
        return super().__exit__(*error)

    def noting(self, name):
        call = getattr(Tensor, name)

        def noted(tensor, *arguments, **options):
            self.found.append(name)
            return call(tensor, *arguments, **options)

        return noted

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function._schema.name.partition("::")[2]
        masks = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (arguments[1] if isinstance(arguments[1], (list, tuple)) else ())
        )
        counts = name == "repeat_interleave" and function._overloadname == "Tensor"
        if name in WAITED_FOR or masks or counts:
            self.found.append(name)
        return function(*arguments, **options or {})


def backbone(name="vit_nano_patch8_ics", **options):
    return build_backbone(name, img_size=(32, 16), **options)


def two(kind, config, **options):
    return kind(*(backbone("vit_nano_patch8_reid") for _ in range(2)), config, **options)


def clusters():
    """Which move to their hardest images; to each, a kernel moves them on a GPU alone."""
    objective = ClusterObjective(backbone(feature_norm=True), ClusterSettings(hard=True))
    objective.begin_epoch(0, torch.arange(4).repeat(2).numpy(), torch.randn(4, 128))
    return objective


def people():
    images = torch.randint(0, 256, (8, 3, 32, 16), dtype=torch.uint8)
    return {"images": images, "identities": torch.arange(8) // 2}


def pairs():
    return {"views": [torch.randint(0, 256, (8, 3, 32, 16), dtype=torch.uint8)]}


STEPS = {
    "dino": (tiny_dino.build_dino, tiny_dino.batch),
    "dino with additions": (
        lambda: tiny_dino.build_dino(koleo=0.1, centering="sinkhorn"), tiny_dino.batch,
    ),
    "moco": (lambda: two(MoCo, MoCoConfig(dim=8, queue_size=16)), pairs),
    "mocov3": (lambda: two(MoCoV3, MoCoV3Config(dim=8, hidden_dim=16)), pairs),
    "moby": (lambda: two(MoBY, MoBYConfig(dim=8, hidden_dim=16, queue_size=16)), pairs),
    "supervised": (lambda: SupervisedObjective(backbone(drop_path=0.1), 4), people),
    "mgn": (lambda: MGNObjective(backbone("mgn_resnet_nano"), 4), people),
    "clusters": (clusters, people),
}  # fmt: skip


def step(objective, batch, optimizer):
    """As the training loop makes it."""
    loss = objective(batch, 1)["loss"]
    loss.backward()
    clip_gradients([p for p in objective.parameters() if p.requires_grad], 3.0, each=False)
    objective.before_step(1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    objective.after_step(0.5)


@pytest.mark.parametrize(
    ("method", "name"),
    [*((method, "adamw") for method in STEPS), ("supervised", "adam"), ("supervised", "sgd")],
)
def test_the_host_waits_for_nothing(method, name, monkeypatch):
    pytest.importorskip("triton", reason="Triton has no wheels for this system")
    monkeypatch.syspath_prepend(launch.ROOT)
    as_on_a_gpu = importlib.import_module("benchmarks.counts").as_on_a_gpu
    build, data = STEPS[method]
    objective = build().train()
    settings = OptimizerSettings(name=name, lr=1e-3)
    optimizer = build_optimizer(objective, settings, torch.device("cuda"))
    with as_on_a_gpu(), Waits() as waits:
        for _ in range(2):  # the first makes what the optimiser keeps
            step(objective, data(), optimizer)
    assert waits.found == []


def test_what_is_waited_for_is_found():
    with Waits() as waits:
        numbers = torch.arange(4.0)
        numbers[numbers > 1]
        numbers.max().item()
        torch.arange(2).repeat_interleave(torch.tensor([1, 2]))
        numbers.unique_consecutive()
        numbers.cpu().numpy()
        numbers.tolist()
    assert waits.found == [
        "index", "_local_scalar_dense", "repeat_interleave", "unique_consecutive", "cpu", "numpy",
        "tolist",
    ]  # fmt: skip
