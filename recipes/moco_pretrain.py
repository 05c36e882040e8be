"""MoCo v2 pre-training on unlabelled person crops (LUPerson, arXiv 2012.03753).

    python -m transreid_ssl pretrain moco          # the demo: no data needed
    python -m transreid_ssl pretrain moco --processes 8 \\
        --config moco_resnet50_luperson.yaml --data.pool /data/LUPerson

With no argument: generated people and a tiny network, minutes on two CPU cores. The paper's
settings are the YAML files in recipes/configs/, among them its study of augmentations; each opens
with its hardware and expected figures, which have not been reproduced for want of LUPerson.
The run folder then holds backbone.safetensors (the query encoder), best.safetensors (that of the
best probe), metrics.jsonl, curves.png and config.yaml. The same command again resumes a run that
was broken off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transreid_ssl import command, pretrain
from transreid_ssl.data import MultiCropConfig
from transreid_ssl.data.settings import RandomErasingConfig
from transreid_ssl.pretrain import MoCoConfig, PretrainingConfig, check_two_views
from transreid_ssl.training import (
    BackboneSettings,
    OptimizerSettings,
    PoolSettings,
    RunSettings,
    parse_config,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

DEMO = Path(__file__).parent / "configs" / "moco_demo.yaml"


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Settings of MoCo pre-training; the defaults are LUPerson's released run."""

    run: RunSettings = RunSettings(
        output="outputs/moco_pretrain", epochs=200, batch_size=2560, precision="fp16"
    )
    data: PoolSettings = PoolSettings(statistics="luperson")
    model: BackboneSettings = BackboneSettings(name="resnet50_reid", drop_path=0.0)
    views: MultiCropConfig = MultiCropConfig(
        num_local=0, global_scale=(0.2, 1.0), jitter=0.0, saturation=0.4, grayscale=0.2,
        global_blur=(0.5,), global_solarize=(0.0,),
        interpolation="linear",
        erasing=RandomErasingConfig(
            area=(0.02, 0.6), ratio_law="uniform", attempts=100, fill="mean"
        ),
    )  # fmt: skip
    optim: OptimizerSettings = OptimizerSettings(
        name="sgd", lr=0.3, lr_batch=2560, by_epoch=True, min_lr=0.0, warmup_epochs=0,
        weight_decay=1e-4, weight_decay_end=1e-4, decay_all=True, clip=0.0,
        clip_per_parameter=False,
    )  # fmt: skip
    moco: MoCoConfig = MoCoConfig()

    def __post_init__(self) -> None:
        check_two_views(self.views)


def build_objective(config: Config, accelerator: "Accelerator") -> "pretrain.MoCo":
    """Query encoder, key encoder and queue."""
    return pretrain.MoCo(*pretrain.backbone_pair(config, accelerator), config.moco)


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train, and leave the query encoder's backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    pretrain.pretrain(config, origin, "MoCo pre-training", build_objective)


if __name__ == "__main__":
    command.run(main, resumes=True)
