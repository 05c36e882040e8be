"""DINO: self-distillation without labels (Caron et al., 2104.14294), TransReID-SSL's objective.

A student sees all crops of an image, a momentum teacher the large ones only. The student matches
the teacher's sharpened, centred output across crops.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.models import Backbone, DINOHead, ViewBackbone
from transreid_ssl.models.gpu import has_triton
from transreid_ssl.pretrain.center import Centred
from transreid_ssl.pretrain.cross_view import cross_view_loss
from transreid_ssl.pretrain.koleo import koleo_loss
from transreid_ssl.pretrain.masked_patches import MaskedPatches
from transreid_ssl.pretrain.networks import PatchNetwork
from transreid_ssl.pretrain.settings import DINOConfig
from transreid_ssl.pretrain.sinkhorn import sinkhorn
from transreid_ssl.pretrain.trust import MateTrust, weigh_gradient
from transreid_ssl.training.health import feature_spread
from transreid_ssl.training.objective import Objective
from transreid_ssl.training.optim import ema_update
from transreid_ssl.training.phases import Phase
from transreid_ssl.training.schedules import cosine, linear


class DINOLoss(Centred):
    """Centring, sharpening and the cross-view loss. Owns the centre, shared by all processes.

    In training mode ``optimizer.step()`` is followed by ``loss.update_center()``, a step that is
    not made by ``loss.forget()``.

    Args:
        out_dim: K, outputs of the heads.
        num_crops: S, views a student sees of an image.
        num_teacher_crops: T, the first of them, which the teacher sees too.
        warmup_teacher_temp, teacher_temp, warmup_teacher_temp_epochs, student_temp,
            center_momentum, centering: see ``DINOConfig``. With "sinkhorn" the centre stays at 0.
    """

    num_crops: int
    num_teacher_crops: int
    warmup: tuple[float, float, int]

    def __init__(
        self,
        out_dim: int,
        num_crops: int,
        *,
        num_teacher_crops: int = 2,
        warmup_teacher_temp: float = 0.04,
        teacher_temp: float = 0.04,
        warmup_teacher_temp_epochs: int = 0,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        centering: str = "mean",
    ) -> None:
        super().__init__(out_dim, center_momentum)
        self.centering = centering
        self.num_crops, self.num_teacher_crops = num_crops, num_teacher_crops
        self.warmup = (warmup_teacher_temp, teacher_temp, warmup_teacher_temp_epochs)
        self.student_temp = student_temp

    def teacher_temp(self, epoch: int) -> float:
        """The teacher's temperature: equal steps over the warm-up epochs, then constant."""
        start, end, epochs = self.warmup
        if epoch >= epochs:
            return end
        return linear(epoch, start=start, end=end, duration=epochs - 1) if epochs > 1 else start

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, epoch: int) -> Tensor:
        """The loss of one batch; in training mode its teacher logits wait for ``update_center``.

        Args:
            student_logits: (S·B, K), crop-major: view v of image b at v·B + b.
            teacher_logits: (T·B, K), crop-major.
            epoch: 0-based, for the temperature.
        """
        return self.with_entropy(student_logits, teacher_logits, epoch)[0]

    def with_entropy(
        self, student_logits: Tensor, teacher_logits: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """``forward``, and the mean entropy of the teacher's output in nats."""
        compare, mean = self._compare, self.centering == "mean"
        if mean and student_logits.is_cuda and has_triton():
            compare = self._compare_on_gpu
        # In float32 whatever the networks run in: autocast would round the products.
        with torch.autocast(student_logits.device.type, enabled=False):
            loss, entropy = compare(student_logits, teacher_logits, epoch)
        if self.training and mean:
            logits = teacher_logits.detach()
            # Calls, the micro-batches of a step, count alike.
            self.note(logits.mean(dim=0, keepdim=True, dtype=self.center.dtype), 1)
        return loss, entropy

    def _compare(
        self, student_logits: Tensor, teacher_logits: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            sharp = self.sharpen(teacher_logits, epoch)
            if self.centering == "sinkhorn":
                sharp = sinkhorn(sharp)
            normaliser = sharp.logsumexp(dim=-1)
            teacher = (sharp - normaliser[:, None]).exp_()
            entropy = (normaliser - torch.einsum("bk,bk->b", teacher, sharp)).mean()
            teacher = teacher.unflatten(0, (self.num_teacher_crops, -1))
        student = student_logits.unflatten(0, (self.num_crops, -1))
        return cross_view_loss(student, teacher, self.student_temp), entropy

    def _compare_on_gpu(
        self, student_logits: Tensor, teacher_logits: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        from transreid_ssl.pretrain.cross_view_kernels import fused_cross_view

        return fused_cross_view(
            student_logits, teacher_logits, self.center, num_crops=self.num_crops,
            num_teacher_crops=self.num_teacher_crops, student_temp=self.student_temp,
            teacher_temp=self.teacher_temp(epoch),
        )  # fmt: skip

    def sharpen(self, teacher_logits: Tensor, epoch: int) -> Tensor:
        """Centred teacher logits over temperature, of the shape that came in, float32."""
        return (teacher_logits.float() - self.center) / self.teacher_temp(epoch)


def build_head(config: DINOConfig, in_dim: int, out_dim: int | None = None) -> DINOHead:
    """A head of these settings, with their number of outputs or another."""
    return DINOHead(
        in_dim, out_dim or config.out_dim, hidden_dim=config.hidden_dim,
        bottleneck_dim=config.bottleneck_dim, num_layers=config.head_layers,
        norm_last_layer=config.norm_last_layer, use_bn=config.use_bn_in_head,
    )  # fmt: skip


def build_loss(config: DINOConfig, num_crops: int, num_teacher_crops: int) -> DINOLoss:
    """The loss of these settings."""
    return DINOLoss(
        config.out_dim, num_crops, num_teacher_crops=num_teacher_crops,
        warmup_teacher_temp=config.warmup_teacher_temp, teacher_temp=config.teacher_temp,
        warmup_teacher_temp_epochs=config.warmup_teacher_temp_epochs,
        student_temp=config.student_temp, center_momentum=config.center_momentum,
        centering=config.centering,
    )  # fmt: skip


class DINO(Objective):
    """Student, momentum teacher and loss.

    Args:
        backbone: The student's network, which carries ``spec`` (mean, std, embedding size).
        teacher_backbone: The same network without stochastic depth; takes the student's weights.
        config: Settings.
        num_crops: Views of an image: the large ones first, then the small ones.
        num_teacher_crops: How many of them are large.
    """

    name = "dino"

    config: DINOConfig
    student: PatchNetwork
    teacher: PatchNetwork
    loss: DINOLoss

    def __init__(
        self,
        backbone: ViewBackbone,
        teacher_backbone: ViewBackbone,
        config: DINOConfig,
        num_crops: int,
        num_teacher_crops: int = 2,
    ) -> None:
        super().__init__()
        if num_crops < 2 or not 1 <= num_teacher_crops <= num_crops:
            raise UserError(
                f"{num_teacher_crops} large of {num_crops} views: DINO compares views of an image "
                "and needs two or more, a large one among them"
            )
        self.config, spec = config, backbone.spec
        dim = spec.architecture.map_dim if config.part_tokens else spec.embed_dim
        head, patch_head = build_head(config, dim), None
        self.masked: MaskedPatches | None = None
        if config.masked_patches:
            out_dim = config.patch_out_dim or config.out_dim
            self.masked = MaskedPatches(backbone, config, out_dim)
            if config.patch_out_dim:
                patch_head = build_head(config, spec.embed_dim, out_dim)
        self.student = PatchNetwork(backbone, head, patch_head)
        self.teacher = PatchNetwork(
            teacher_backbone, copy.deepcopy(head), copy.deepcopy(patch_head)
        )
        self.teacher.backbone.load_state_dict(backbone.state_dict())
        self.teacher.requires_grad_(False)
        self.loss = build_loss(config, num_crops, num_teacher_crops)
        self.trust: MateTrust | None = None

    def doubt_mates(self) -> None:
        """From now on pairs of frames teach by how surely they show one person (``MateTrust``).

        Raises:
            UserError: the teacher sees no view of the other frame.
        """
        if self.loss.num_teacher_crops < 2:
            raise UserError(
                "--views.doubt_mates asks the teacher about both frames of a pair, and "
                "--views.num_global is 1: give 2 or more"
            )
        self.trust = MateTrust(self.spec.embed_dim)

    @property
    def backbone(self) -> ViewBackbone:
        """The teacher's, which is ahead of the student's until the end."""
        return self.teacher.backbone

    @property
    def backbones(self) -> dict[str, Backbone]:
        return {"kept": self.backbone, "student": self.student.backbone}

    @property
    def networks(self) -> list[nn.Module]:
        return [self.student, self.teacher]

    @property
    def phases(self) -> Sequence[Phase]:
        config = self.config
        kept = "the last layer of the heads stays as it is"
        found = [Phase("dino.freeze_last_layer", config.freeze_last_layer, kept, 0.1)]
        if config.warmup_teacher_temp != config.teacher_temp:
            warms, epochs = "the teacher's temperature warms up", config.warmup_teacher_temp_epochs
            found.append(Phase("dino.warmup_teacher_temp_epochs", epochs, warms, 0.3))
        return found

    def heads(self) -> list[nn.Module]:
        """The student's."""
        heads = self.student.head, self.student.patch_head
        return [head for head in heads if head is not None]

    def forward(self, batch: dict[str, Any], epoch: int) -> dict[str, Tensor]:
        """Loss of a batch of ``views``: uint8 crop groups, crop-major, the large crops first."""
        views, tracks = batch["views"], batch.get("tracks")
        if self.masked is not None:
            student_features, values = self._forward_masked(views, epoch, tracks)
        else:
            with torch.no_grad():
                features, teacher_logits = self.teacher(views[:1])
            student_features, logits = self.student(views)
            values = self.compare(logits, features, teacher_logits, epoch, tracks)
        if self.config.koleo:
            crops = student_features.unflatten(0, (self.loss.num_crops, -1))
            self.add_koleo(values, crops[: self.loss.num_teacher_crops], tracks)
        return values

    def _forward_masked(
        self, views: list[Tensor], epoch: int, tracks: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's features and the values of a batch whose large views hide patches."""
        masked = self.masked.draw(views[0])
        with torch.no_grad():
            features, teacher_logits, targets = self.teacher.with_patches(views[:1], masked.chosen)
        student_features, logits, guesses = self.student.with_patches(
            views, masked.chosen, self.masked.embedding
        )
        values = self.compare(logits, features, teacher_logits, epoch, tracks)
        loss = self.masked(guesses, targets, masked, self.loss.teacher_temp(epoch))
        values["patch_loss"] = loss.detach()
        values["loss"] = values["loss"] + self.config.masked_weight * loss
        return student_features, values

    def add_koleo(self, values: dict[str, Tensor], features: Tensor, tracks: Tensor | None) -> None:
        """Add the regulariser of each large view to the loss; features (T, B, D)."""
        loss = torch.stack([koleo_loss(view, tracks) for view in features]).sum()
        values["koleo_loss"] = loss.detach()
        values["loss"] = values["loss"] + self.config.koleo * loss

    def compare(
        self,
        student_logits: Tensor,
        features: Tensor,
        teacher_logits: Tensor,
        epoch: int,
        tracks: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The values of a batch from the student's logits, the teacher's features and logits."""
        trusted = {}
        if self.trust is not None:
            images, mates, *_ = features.unflatten(0, (self.loss.num_teacher_crops, -1))
            trust = self.trust(images, mates, tracks)
            student_logits = weigh_gradient(student_logits, trust.repeat(self.loss.num_crops))
            trusted["mate_trust"] = trust.mean()
        loss, entropy = self.loss.with_entropy(student_logits, teacher_logits, epoch)
        return {
            "loss": loss,
            "teacher_entropy": entropy,
            "center_norm": self.loss.center.norm(),
            "feature_spread": feature_spread(features),
            **trusted,
        }

    def before_step(self, epoch: int) -> None:
        """Leave the last layer of every head as it is during the first epochs."""
        if epoch < self.config.freeze_last_layer:
            for head in self.heads():
                for parameter in head.last_layer.parameters():
                    parameter.grad = None

    def after_step(self, progress: float) -> None:
        """Move the centre, and the teacher with a momentum that rises to 1 along a cosine."""
        self.loss.update_center()
        if self.trust is not None:
            self.trust.update(progress)
        if self.masked is not None:
            self.masked.update_center()
        momentum = cosine(progress, self.config.momentum_teacher, 1.0)
        ema_update(list(self.teacher.parameters()), list(self.student.parameters()), momentum)
