"""Distillation without labels: a small network learns the features of a large one.

Two losses that ask for no common length of features: images are to be as alike to the student as
they are to the teacher (probabilistic knowledge transfer, Passalis and Tefas, 1803.10837, or
similarity-preserving distillation, Tung and Mori, 1907.09682), and a linear map of the student's
feature is to point where the teacher's does (FitNets, Romero et al., 1412.6550, at the last layer).
The linear map is left behind.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.errors import UserError
from transreid_ssl.models import Backbone, ViewBackbone, normalise
from transreid_ssl.pretrain.networks import unit
from transreid_ssl.pretrain.settings import DistillConfig
from transreid_ssl.training.health import feature_spread
from transreid_ssl.training.objective import Objective


class Distill(Objective):
    """The student, a linear map, and the teacher, which is not part of the state.

    Both see the same views, which a network of another size gets resized. The recipe makes them at
    the larger of the two sizes: a teacher of 256x128 sees all that it is used to while its student
    sees 128x64.

    Args:
        backbone: The student, which carries ``spec``.
        teacher: A network on its device; it stays as it is.
        digest: Of the teacher's weights, 32 hexadecimal digits: a run goes on with no other.
        config: Settings.
    """

    name = "distill"
    digest: Tensor

    backbone: ViewBackbone
    config: DistillConfig
    to_teacher: nn.Linear | None

    def __init__(
        self, backbone: ViewBackbone, teacher: Backbone, digest: str, config: DistillConfig
    ) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self._teacher = [teacher.requires_grad_(False).eval()]  # in a list: no submodule
        sizes = backbone.spec.embed_dim, teacher.spec.embed_dim
        self.to_teacher = nn.Linear(*sizes) if config.feature_weight else None
        self.register_buffer("digest", torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_check_digest)

    @property
    def teacher(self) -> Backbone:
        """The large network."""
        return self._teacher[0]

    def forward(self, batch: dict[str, Any], epoch: int) -> dict[str, Tensor]:
        """Losses of a batch of ``views``: one group of large crops, uint8 (v·B, 3, H, W)."""
        images = batch["views"][0]
        with torch.no_grad():
            target = unit(self.teacher(sized(images, self.teacher.spec)))  # (N, D)
        features = self.backbone(sized(images, self.spec))  # (N, d)
        values = {"feature_spread": feature_spread(features)}
        loss = features.new_zeros((), dtype=torch.float32)
        if self.config.relation_weight:
            values["relation"] = relation_loss(
                unit(features), target, self.config.relation, self.config.temperature
            )
            loss = loss + self.config.relation_weight * values["relation"]
        if self.to_teacher is not None:
            values["feature"] = 1 - (unit(self.to_teacher(features)) * target).sum(1).mean()
            loss = loss + self.config.feature_weight * values["feature"]
        return {"loss": loss, **values}


def sized(images: Tensor, spec: Any) -> Tensor:
    """uint8 images (N, 3, H, W) for a network: as they are, or normalised and of its size."""
    if tuple(images.shape[-2:]) == tuple(spec.img_size):
        return images
    pixels = normalise(images, spec.mean, spec.std)
    return F.interpolate(pixels, tuple(spec.img_size), mode="bilinear", antialias=True)


def relation_loss(features: Tensor, target: Tensor, kind: str, temperature: float) -> Tensor:
    """How differently two networks find the images of a batch alike; 0-d float32.

    The batch is that of all processes: each compares its own images with all. An image's likeness
    to itself, 1 for both, is left out.

    Args:
        features: the student's, of length 1, (N, d).
        target: the teacher's, of length 1, (N, D).
        kind: "kl" or "l2", see ``DistillConfig``.
        temperature: of the softmaxes of "kl".

    Raises:
        UserError: there is one image.
    """
    with torch.autocast(features.device.type, enabled=False):
        all_features, all_targets = gather_with_gradient(features), gather_with_gradient(target)
        if len(all_targets) < 2:
            raise UserError("a batch of one image has nothing to compare: raise --run.batch_size")
        found, wanted = features @ all_features.T, target @ all_targets.T  # (N, M)
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        own = torch.arange(len(found), device=found.device)[:, None] + rank * len(found)
        others = torch.arange(found.shape[1] - 1, device=found.device)
        # By numbers of columns: a mask would let the host wait for the device.
        others = others + (others >= own)  # (N, M - 1)
        found, wanted = found.gather(1, others), wanted.gather(1, others)
        if kind == "l2":
            return F.mse_loss(found, wanted)
        logits = [F.log_softmax(x / temperature, dim=1) for x in (found, wanted)]
        return F.kl_div(*logits, reduction="batchmean", log_target=True)


class _Gather(torch.autograd.Function):
    """Rows of every process, in the order of the processes; gradients go back to where they came
    from, and are summed over the processes whose losses they are of."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """(N, D) of every process -> (W·N, D), through which gradients flow; as they are for one."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _Gather.apply(rows) if several else rows


def _check_digest(module: Distill, state: dict[str, Any], prefix: str, *_: Any) -> None:
    found = state.get(f"{prefix}digest")
    if found is not None and not torch.equal(found.cpu(), module.digest.cpu()):
        raise UserError(
            f"--distill.teacher {module.config.teacher}: is another network than the one that this "
            "run began with; put that back, or give another --run.output"
        )
