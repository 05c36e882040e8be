"""Supervised fine-tuning on a labelled target (TransReID-SSL, arXiv 2111.12084).

    accelerate launch recipes/supervised_finetune.py    # the demo, after recipes/dino_pretrain.py
    accelerate launch recipes/supervised_finetune.py \\
        --config recipes/configs/supervised_vit_small_ics_market1501.yaml \\
        --data.root /data/Market-1501 --model.weights outputs/dino_pretrain/backbone.safetensors

With no argument: generated people and the tiny network that the demo of dino_pretrain.py leaves.
The papers' settings are the YAML files in recipes/configs/; each opens with its hardware and
expected figures. The run folder then holds model.safetensors (the backbone, whose features are
taken before the BN neck), metrics.jsonl, curves.png and config.yaml. The same command again
resumes a run that was broken off. With several processes each looks for triplets among its own
identities; one process, as in the papers' runs, looks among all of a batch.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transreid_ssl import command
from transreid_ssl.data import (
    IdentitySampler,
    LabelledDataset,
    check_protocol,
    open_reid,
    training_loader,
)
from transreid_ssl.data.views import ReIDAugment, ReIDAugmentConfig
from transreid_ssl.errors import UserError
from transreid_ssl.files import fingerprint
from transreid_ssl.finetune import (
    LabelledSettings,
    SGDSettings,
    SupervisedConfig,
    SupervisedObjective,
    build_sgd,
    set_statistics,
    sgd_plan,
)
from transreid_ssl.models import save_backbone
from transreid_ssl.training import (
    BackboneSettings,
    Plan,
    ProbeSettings,
    RunSettings,
    Trainer,
    finish,
    parse_config,
    provenance,
    retrieval_probe,
    start,
    trained_backbone,
)

DEMO = Path(__file__).parent / "configs" / "supervised_demo.yaml"
PRETRAINED = "outputs/dino_pretrain/backbone.safetensors"


@dataclass(frozen=True)
class Config:
    """Settings of supervised fine-tuning; the defaults are the paper's ViT-S/16+ICS."""

    run: RunSettings = field(
        default_factory=lambda: RunSettings(
            output="outputs/supervised_finetune", epochs=120, batch_size=64
        )
    )
    data: LabelledSettings = field(default_factory=LabelledSettings)
    model: BackboneSettings = field(default_factory=BackboneSettings)
    augment: ReIDAugmentConfig = field(default_factory=ReIDAugmentConfig)
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    optim: SGDSettings = field(default_factory=SGDSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, and leave the backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    if config.model.weights == PRETRAINED and not Path(PRETRAINED).is_file():
        raise UserError(
            f"{PRETRAINED}: there is no such file yet; make it with `accelerate launch "
            "recipes/dino_pretrain.py`, or name other weights with --model.weights"
        )
    if config.run.batch_size % config.data.images_per_identity:
        raise UserError(
            f"--run.batch_size {config.run.batch_size}: give a multiple of "
            f"--data.images_per_identity, which is {config.data.images_per_identity}"
        )
    accelerator, run = start(config, origin, "supervised fine-tuning")
    protocol = open_reid(config.data.name, config.data.root, config.data.pattern)
    accelerator.print(*[protocol.describe(), *check_protocol(protocol)], sep="\n", flush=True)

    backbone = trained_backbone(config.model, accelerator, protocol.train.num_cameras)
    set_statistics(backbone, config.data.statistics, config.model.weights)
    mean, std = backbone.spec.mean, backbone.spec.std
    augment = dataclasses.replace(
        config.augment,
        size=config.model.img_size,
        erasing=dataclasses.replace(config.augment.erasing, mean=mean, std=std),
    )
    dataset = LabelledDataset(protocol.train, ReIDAugment(augment), config.run.seed)
    objective = SupervisedObjective(backbone, dataset.num_identities, config.supervised)
    if config.run.compile:
        objective.backbone.compile()

    # Step s sees the same global batch, in the same views, on any number of processes.
    def sampler(first_step: int, num_steps: int) -> IdentitySampler:
        return IdentitySampler(
            dataset.labels, config.run.seed,
            identities_per_batch=config.run.batch_size // config.data.images_per_identity,
            images_per_identity=config.data.images_per_identity,
            first_step=first_step, num_steps=num_steps,
            rank=accelerator.process_index, world_size=accelerator.num_processes,
            accumulation=config.run.accumulation,
        )  # fmt: skip

    plan: Plan = sgd_plan(config.optim, config.run, sampler(0, 0).steps_per_epoch)
    labels = fingerprint([protocol.train.pool.fingerprint, dataset.labels.tobytes()])
    # Without a set of its own the probe looks at the queries and the gallery of the target.
    probe = config.probe
    if probe.data is None:
        probe = dataclasses.replace(
            probe, data=config.data.name, root=config.data.root, pattern=config.data.pattern
        )
    trainer = Trainer(
        accelerator, objective, build_sgd(objective, config.optim), plan, run, config.run,
        data_key=labels,
        probe=retrieval_probe(probe, lambda: objective.backbone, accelerator),
        probe_every=probe.every,
    )  # fmt: skip
    batches = sampler(trainer.step, plan.total_steps)
    trainer.fit(iter(training_loader(dataset, batches, config.run.num_workers)))

    if accelerator.is_main_process:
        spec = dataclasses.replace(
            backbone.spec, objective="supervised", provenance=provenance(config, data=protocol.name)
        )
        save_backbone(run.path / "model.safetensors", backbone, spec)
    trainer.report("model.safetensors")
    finish(accelerator)


if __name__ == "__main__":
    command.run(main)
