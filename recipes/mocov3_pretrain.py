"""MoCo v3 pre-training on unlabelled person crops (arXiv 2104.02057).

    python -m transreid_ssl pretrain mocov3          # the demo: no data needed
    python -m transreid_ssl pretrain mocov3 --processes 8 \\
        --config mocov3_vit_small_luperson.yaml --data.pool /data/LUPerson

With no argument: generated people and a tiny network, minutes on two CPU cores. The settings of
TransReID-SSL's comparison are the YAML files in recipes/configs/; each opens with its hardware and
expected figures, which have not been reproduced for want of LUPerson.
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
from transreid_ssl.pretrain import MoCoV3Config, PretrainingConfig, check_two_views
from transreid_ssl.training import BackboneSettings, OptimizerSettings, RunSettings, parse_config

if TYPE_CHECKING:
    from accelerate import Accelerator

DEMO = Path(__file__).parent / "configs" / "mocov3_demo.yaml"


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Settings of MoCo v3 pre-training; the defaults are TransReID-SSL's run of a ViT-S/16,
    but for the last step of its warm-up, which mocov3_vit_small_luperson.yaml gives."""

    run: RunSettings = RunSettings(output="outputs/mocov3_pretrain", epochs=300, batch_size=1024)
    model: BackboneSettings = BackboneSettings(name="vit_small_patch16_heads12_reid", drop_path=0.0)
    views: MultiCropConfig = MultiCropConfig(num_local=0, global_scale=(0.08, 1.0))
    optim: OptimizerSettings = OptimizerSettings(
        lr=1.5e-4, min_lr=0.0, warmup_epochs=40, weight_decay=0.1, weight_decay_end=0.1,
        decay_all=True, clip=0.0, clip_per_parameter=False,
    )  # fmt: skip
    mocov3: MoCoV3Config = MoCoV3Config()

    def __post_init__(self) -> None:
        check_two_views(self.views)


def build_objective(config: Config, accelerator: "Accelerator") -> "pretrain.MoCoV3":
    """Query encoder with a prediction head, and key encoder."""
    pair = pretrain.backbone_pair(config, accelerator)
    return pretrain.MoCoV3(*pair, config.mocov3, fresh=not config.model.weights)


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train, and leave the query encoder's backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    pretrain.pretrain(config, origin, "MoCo v3 pre-training", build_objective)


if __name__ == "__main__":
    command.run(main, resumes=True)
