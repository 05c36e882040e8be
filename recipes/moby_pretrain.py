"""MoBY pre-training on unlabelled person crops (arXiv 2105.04553).

    python -m transreid_ssl pretrain moby          # the demo: no data needed
    python -m transreid_ssl pretrain moby --processes 8 \\
        --config moby_vit_small_luperson.yaml --data.pool /data/LUPerson

With no argument: generated people and a tiny network, minutes on two CPU cores. The settings of
its authors' DeiT-S, which TransReID-SSL's comparison took over, are the YAML files in
recipes/configs/; each opens with its hardware and expected figures, which have not been reproduced
for want of LUPerson.
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
from transreid_ssl.pretrain import MoBYConfig, PretrainingConfig, check_two_views
from transreid_ssl.training import BackboneSettings, OptimizerSettings, RunSettings, parse_config

if TYPE_CHECKING:
    from accelerate import Accelerator

DEMO = Path(__file__).parent / "configs" / "moby_demo.yaml"


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Settings of MoBY pre-training; the defaults are its authors' run of DeiT-S,
    but for the form of its cosine, which moby_vit_small_luperson.yaml gives."""

    run: RunSettings = RunSettings(output="outputs/moby_pretrain", epochs=300, batch_size=512)
    model: BackboneSettings = BackboneSettings(name="vit_small_patch16_reid", drop_path=0.2)
    views: MultiCropConfig = MultiCropConfig(num_local=0, global_scale=(0.08, 1.0))
    optim: OptimizerSettings = OptimizerSettings(
        lr=1e-3, lr_batch=512, min_lr=5e-6, warmup_epochs=5, weight_decay=0.05,
        weight_decay_end=0.05, clip=5.0, clip_per_parameter=False,
    )  # fmt: skip
    moby: MoBYConfig = MoBYConfig()

    def __post_init__(self) -> None:
        check_two_views(self.views)


def build_objective(config: Config, accelerator: "Accelerator") -> "pretrain.MoBY":
    """Query encoder with a prediction head, key encoder, and a queue for each view."""
    return pretrain.MoBY(*pretrain.backbone_pair(config, accelerator), config.moby)


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train, and leave the query encoder's backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    pretrain.pretrain(config, origin, "MoBY pre-training", build_objective)


if __name__ == "__main__":
    command.run(main, resumes=True)
