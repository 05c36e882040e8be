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

import numpy as np
from accelerate import Accelerator

from transreid_ssl import command
from transreid_ssl.data import (
    IdentitySampler,
    LabelledDataset,
    ReIDProtocol,
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
from transreid_ssl.models import BackboneSpec, save_backbone
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


def check(config: Config) -> None:
    """Refuse what cannot work before anything is written."""
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


def training_images(config: Config, protocol: ReIDProtocol, spec: BackboneSpec) -> LabelledDataset:
    """The labelled images under the network's size and statistics, which erasing fills with."""
    erasing = dataclasses.replace(config.augment.erasing, mean=spec.mean, std=spec.std)
    augment = dataclasses.replace(config.augment, size=config.model.img_size, erasing=erasing)
    return LabelledDataset(protocol.train, ReIDAugment(augment), config.run.seed)


def identity_batches(
    config: Config, accelerator: Accelerator, labels: np.ndarray, **steps: int
) -> IdentitySampler:
    """P x K batches. Step s sees the same global batch, on any number of processes."""
    return IdentitySampler(
        labels, config.run.seed,
        identities_per_batch=config.run.batch_size // config.data.images_per_identity,
        images_per_identity=config.data.images_per_identity,
        rank=accelerator.process_index, world_size=accelerator.num_processes,
        accumulation=config.run.accumulation, **steps,
    )  # fmt: skip


def probe_settings(config: Config) -> ProbeSettings:
    """Without a set of its own the probe looks at the queries and the gallery of the target."""
    if config.probe.data is not None:
        return config.probe
    data = config.data
    return dataclasses.replace(config.probe, data=data.name, root=data.root, pattern=data.pattern)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, and leave the backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    check(config)
    accelerator, run = start(config, origin, "supervised fine-tuning")
    protocol = open_reid(config.data.name, config.data.root, config.data.pattern)
    accelerator.print(*[protocol.describe(), *check_protocol(protocol)], sep="\n", flush=True)

    backbone = trained_backbone(config.model, accelerator, protocol.train.num_cameras)
    set_statistics(backbone, config.data.statistics, config.model.weights)
    dataset = training_images(config, protocol, backbone.spec)
    objective = SupervisedObjective(backbone, dataset.num_identities, config.supervised)
    if config.run.compile:
        objective.backbone.compile()

    length = identity_batches(config, accelerator, dataset.labels, num_steps=0).steps_per_epoch
    plan: Plan = sgd_plan(config.optim, config.run, length)
    probe = probe_settings(config)
    trainer = Trainer(
        accelerator, objective, build_sgd(objective, config.optim), plan, run, config.run,
        data_key=fingerprint([protocol.train.pool.fingerprint, dataset.labels.tobytes()]),
        probe=retrieval_probe(probe, lambda: objective.backbone, accelerator),
        probe_every=probe.every,
    )  # fmt: skip

    sampler = identity_batches(
        config, accelerator, dataset.labels, first_step=trainer.step, num_steps=plan.total_steps
    )
    trainer.fit(iter(training_loader(dataset, sampler, config.run.num_workers)))

    if accelerator.is_main_process:
        spec = dataclasses.replace(
            backbone.spec, objective="supervised", provenance=provenance(config, data=protocol.name)
        )
        save_backbone(run.path / "model.safetensors", backbone, spec)
    trainer.report("model.safetensors")
    finish(accelerator)


if __name__ == "__main__":
    command.run(main)
