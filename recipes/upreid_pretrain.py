"""Pre-training after UP-ReID (arXiv 2112.00317): two terms within an image, on MoCo v2 or on DINO.

    python -m transreid_ssl pretrain upreid          # the demo: no data needed
    python -m transreid_ssl pretrain upreid --base dino
    python -m transreid_ssl pretrain upreid --processes 8 \\
        --config upreid_resnet50_luperson.yaml --data.pool /data/LUPerson

The paper's program was never published and its constants were not available: what stands under
"regularisers" is ours, and so are the forms of both terms. They cost a further pass of the learning
network where the base has one view ask, and one of its slow copy on the plain images.

With no argument: generated people and a tiny network, minutes on two CPU cores. The run folder then
holds backbone.safetensors (MoCo: the query encoder, DINO: the teacher), best.safetensors (that of
the best probe), metrics.jsonl, curves.png and config.yaml. The same command again resumes a run
that was broken off.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from transreid_ssl import command, pretrain
from transreid_ssl.pretrain import (
    DINOConfig,
    MoCoConfig,
    PretrainingConfig,
    RegularisersConfig,
    check_two_views,
)
from transreid_ssl.training import RunSettings, parse_config

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

DEMO = Path(__file__).parent / "configs" / "upreid_demo.yaml"


@dataclass(frozen=True)
class Config(PretrainingConfig):
    """Settings of UP-ReID pre-training; recipes/configs/upreid_*.yaml have those of large runs.

    Args:
        base: The objective that the two terms are added to, with the settings of its name.
    """

    run: RunSettings = RunSettings(output="outputs/upreid_pretrain")
    base: Literal["moco", "dino"] = "moco"
    moco: MoCoConfig = MoCoConfig()
    dino: DINOConfig = DINOConfig()
    regularisers: RegularisersConfig = RegularisersConfig()


def build_objective(config: Config, accelerator: "Accelerator") -> "nn.Module":
    """The base objective with both terms."""
    views, terms = config.views, config.regularisers
    if config.base == "moco":
        check_two_views(views)
        return pretrain.UPReID(*pretrain.backbone_pair(config, accelerator), config.moco, terms)
    return pretrain.UPReIDDINO(
        *pretrain.backbone_pair(config, accelerator), config.dino, terms,
        num_crops=views.num_global + views.num_local, num_teacher_crops=views.num_global,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train, and leave the kept backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    # Both terms ask where a view lies in its image; without them the plain image is not needed.
    views = dataclasses.replace(config.views, original=config.regularisers.active)
    pretrain.pretrain(
        config, origin, f"UP-ReID pre-training on {config.base}", build_objective, views
    )


if __name__ == "__main__":
    command.run(main, resumes=True)
