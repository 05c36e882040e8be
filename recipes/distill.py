"""Distil a large network into a small one, without labels, for trackers and small machines.

    python -m transreid_ssl distill    # the demo, after pretrain dino
    python -m transreid_ssl distill --config distill_cpu.yaml \\
        --data.pool /data/crops --distill.teacher outputs/supervised_cpu/best.safetensors
    python -m transreid_ssl distill --processes 8 \\
        --config distill_repvit.yaml --data.pool /data/crops --distill.teacher teacher.safetensors

The teacher is any weights file, of any size of images. The student is any network of this program,
or any of timm by its name: --model.name timm:repvit_m1_0, timm:mobilenetv4_conv_small,
timm:resnet18, vit_tiny_patch16_reid. It begins with --model.weights, a file of timm's or the name
of its repository on Hugging Face (timm/repvit_m1_0.dist_450e_in1k), or at random.

With no argument: generated people, and the network that the demo of dino_pretrain.py leaves as the
teacher. The run folder then holds backbone.safetensors (the student), which evaluate, embed,
search, calibrate, verify and export take like any other, best.safetensors (that of the best probe),
metrics.jsonl, curves.png and config.yaml. The same command again resumes a run that was broken off.
recipes/guides/trackers.md goes on from there.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transreid_ssl import command, logs, outputs, pretrain
from transreid_ssl.data import MultiCropConfig
from transreid_ssl.errors import UserError
from transreid_ssl.pretrain import DistillConfig, PretrainingConfig
from transreid_ssl.training import BackboneSettings, RunSettings, parse_config

if TYPE_CHECKING:
    from accelerate import Accelerator

DEMO = Path(__file__).parent / "configs" / "distill_demo.yaml"


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Settings of a distillation."""

    run: RunSettings = RunSettings(output="outputs/distill", epochs=30)
    model: BackboneSettings = BackboneSettings(name="timm:repvit_m1_0", drop_path=0.0)
    views: MultiCropConfig = MultiCropConfig(
        num_global=1, num_local=0, global_scale=(0.7, 1.0), grayscale=0.0, global_blur=(0.1,),
        global_solarize=(0.0,), jitter_strength=0.5,
    )  # fmt: skip
    distill: DistillConfig = DistillConfig()

    def __post_init__(self) -> None:
        if self.views.num_local:
            raise UserError(
                f"--views.num_local {self.views.num_local}: both networks see large views; give 0"
            )


def build_objective(config: Config, accelerator: "Accelerator") -> "pretrain.Distill":
    """The student, and the teacher beside it."""
    from transreid_ssl.models import load_backbone, weights_digest

    teacher = load_backbone(config.distill.teacher).to(accelerator.device)
    logs.say(accelerator, f"teacher {config.distill.teacher}: {teacher.spec}")
    student = pretrain.student(config, accelerator)
    digest = weights_digest(config.distill.teacher)
    return pretrain.Distill(student, teacher, digest, config.distill)


def main(arguments: Sequence[str] | None = None) -> None:
    """Distil, and leave the student in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    from transreid_ssl.models import BackboneSpec, read_spec

    outputs.require(config.distill.teacher, "name another with --distill.teacher")
    student = BackboneSpec(config.model.name, config.model.img_size)
    teacher = read_spec(config.distill.teacher)
    if teacher.num_cameras:
        raise UserError(
            f"--distill.teacher {config.distill.teacher}: needs the camera of each image, which is "
            "not known here; give another"
        )
    size = max(student.img_size, teacher.img_size, key=math.prod)
    views = dataclasses.replace(config.views, global_size=size)
    pretrain.pretrain(config, origin, "distillation", build_objective, views)


if __name__ == "__main__":
    command.run(main, resumes=True)
