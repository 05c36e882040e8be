"""DINO pre-training on unlabelled person crops (TransReID-SSL, arXiv 2111.12084).

    python -m transreid_ssl pretrain dino          # the demo: no data needed
    python -m transreid_ssl pretrain dino \\
        --config dino_vit_small_ics_luperson60.yaml --data.pool /data/LUPerson

With no argument: generated people and a tiny network, minutes on two CPU cores. The papers'
settings are the YAML files in recipes/configs/; each opens with its hardware and expected figures.
The run folder then holds backbone.safetensors (the teacher), best.safetensors (that of the best
probe), metrics.jsonl, curves.png and config.yaml. The same command again resumes a run that was
broken off. A checkpoint of DINO, iBOT, TransReID-SSL, PersonViT, PASS or an earlier run goes on
with heads and teacher on other crops:

    python -m transreid_ssl pretrain dino --config continue_vit_small.yaml \\
        --model.weights checkpoint.pth --data.pool /data/crops
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transreid_ssl import command, logs, pretrain
from transreid_ssl.pretrain import DINOConfig, InitSettings, PretrainingConfig
from transreid_ssl.training import RunSettings, parse_config

if TYPE_CHECKING:
    from accelerate import Accelerator

    from transreid_ssl.models import TrainingState
    from transreid_ssl.pretrain.own import Chosen

DEMO = Path(__file__).parent / "configs" / "dino_demo.yaml"


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Settings of DINO pre-training; the defaults are the paper's ViT-S/16+ICS."""

    run: RunSettings = RunSettings(output="outputs/dino_pretrain")
    init: InitSettings = InitSettings()
    dino: DINOConfig = DINOConfig()

    def take_over(self, given: Collection[str]) -> "Chosen | None":
        """The settings of a checkpoint that is gone on from: see ``continuing.take_over``."""
        return pretrain.take_over(self, given) if self.init.heads else None


def build_objective(
    config: Config, accelerator: "Accelerator", saved: "TrainingState | None" = None
) -> "pretrain.DINO":
    """Student and teacher: the student drops paths, its momentum teacher does not.

    Both go on from where ``saved`` was.
    """
    views, plain = config.views, pretrain.without_weights(config) if saved else config
    method = pretrain.PartDINO if config.dino.part_tokens else pretrain.DINO
    dino = method(
        *pretrain.backbone_pair(plain, accelerator), config.dino,
        num_crops=views.num_global + views.num_local, num_teacher_crops=views.num_global,
    )  # fmt: skip
    if saved:
        logs.say(accelerator, pretrain.continue_from(dino, saved, config))
    return dino


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train, and leave the teacher's backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    build = partial(build_objective, saved=pretrain.saved_state(config))
    areas = config.dino.part_tokens or config.views.areas
    views = dataclasses.replace(config.views, areas=areas)
    pretrain.pretrain(config, origin, "DINO pre-training", build, views)


if __name__ == "__main__":
    command.run(main, resumes=True)
