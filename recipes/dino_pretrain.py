"""DINO pre-training on unlabelled person crops (TransReID-SSL, arXiv 2111.12084).

    accelerate launch recipes/dino_pretrain.py          # the demo: no data needed
    accelerate launch recipes/dino_pretrain.py \
        --config recipes/configs/dino_vit_small_ics_luperson60.yaml --data.pool /data/LUPerson

With no argument: generated people and a tiny network, minutes on two CPU cores. The papers'
settings are the YAML files in recipes/configs/; each opens with its hardware and expected figures.
The run folder then holds backbone.safetensors (the teacher), metrics.jsonl, curves.png and
config.yaml. The same command again resumes a run that was broken off.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator

from transreid_ssl import command
from transreid_ssl.data import (
    EpochSampler,
    MultiCrop,
    MultiCropConfig,
    ViewsDataset,
    training_loader,
)
from transreid_ssl.errors import UserError
from transreid_ssl.models import save_backbone
from transreid_ssl.pretrain import DINO, DINOConfig
from transreid_ssl.training import (
    BackboneSettings,
    OptimizerSettings,
    Plan,
    PoolSettings,
    ProbeSettings,
    RunSettings,
    Trainer,
    build_optimizer,
    finish,
    parse_config,
    pretraining_plan,
    provenance,
    retrieval_probe,
    start,
    trained_backbone,
    training_pool,
)

DEMO = Path(__file__).parent / "configs" / "dino_demo.yaml"


@dataclass(frozen=True)
class Config:
    """Settings of DINO pre-training; the defaults are the paper's ViT-S/16+ICS."""

    run: RunSettings = field(default_factory=lambda: RunSettings(output="outputs/dino_pretrain"))
    data: PoolSettings = field(default_factory=PoolSettings)
    model: BackboneSettings = field(default_factory=BackboneSettings)
    views: MultiCropConfig = field(default_factory=MultiCropConfig)
    dino: DINOConfig = field(default_factory=DINOConfig)
    optim: OptimizerSettings = field(default_factory=OptimizerSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)


def check_sizes(config: Config) -> None:
    """The network is built for the large views: a probe and fine-tuning see images of that size."""
    if tuple(config.views.global_size) != tuple(config.model.img_size):
        raise UserError(
            f"--views.global_size is {list(config.views.global_size)} and --model.img_size "
            f"{list(config.model.img_size)}: give both the same (height, width)"
        )


def build_objective(config: Config, accelerator: Accelerator) -> DINO:
    """Student and teacher: the student drops paths, its momentum teacher does not."""
    student = trained_backbone(config.model, accelerator)
    still = dataclasses.replace(config.model, drop_path=0.0, weights=None)
    views = config.views
    objective = DINO(
        student, trained_backbone(still, accelerator), config.dino,
        num_crops=views.num_global + views.num_local, num_teacher_crops=views.num_global,
        accumulation=config.run.accumulation,
    )  # fmt: skip
    if config.run.compile:
        objective.student.compile()
        objective.teacher.compile()
    return objective


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train, and leave the teacher's backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    check_sizes(config)
    accelerator, run = start(config, origin, "DINO pre-training")
    pool = training_pool(config.data, run, accelerator)

    objective = build_objective(config, accelerator)
    teacher = objective.teacher.backbone

    plan: Plan = pretraining_plan(config.optim, config.run, len(pool))
    trainer = Trainer(
        accelerator, objective, build_optimizer(objective, config.optim), plan, run, config.run,
        data_key=pool.fingerprint,
        max_bad_images=int(config.data.max_bad_fraction * len(pool)),
        probe=retrieval_probe(config.probe, lambda: teacher, accelerator),
        probe_every=config.probe.every,
    )  # fmt: skip

    # Step s sees the same global batch, in the same views, on any number of processes.
    sampler = EpochSampler(
        len(pool), config.run.batch_size, config.run.seed,
        first_step=trainer.step, num_steps=plan.total_steps,
        rank=accelerator.process_index, world_size=accelerator.num_processes,
        accumulation=config.run.accumulation,
    )  # fmt: skip
    dataset = ViewsDataset(pool, MultiCrop(config.views), config.run.seed)
    trainer.fit(iter(training_loader(dataset, sampler, config.run.num_workers)))

    if accelerator.is_main_process:
        spec = dataclasses.replace(
            teacher.spec, objective="dino", provenance=provenance(config, pool=pool.source)
        )
        save_backbone(run.path / "backbone.safetensors", teacher, spec)
    trainer.report("backbone.safetensors")
    finish(accelerator)


if __name__ == "__main__":
    command.run(main)
