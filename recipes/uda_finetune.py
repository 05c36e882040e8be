"""Domain-adaptive ReID: labels on a source, none on the target (TransReID-SSL, arXiv 2111.12084).

    python -m transreid_ssl finetune uda           # the demo: no data needed
    python -m transreid_ssl finetune uda \\
        --config uda_vit_small_ics_msmt17_to_market1501.yaml \\
        --source.root /data/MSMT17 --target.root /data/Market-1501 \\
        --model.weights outputs/dino_pretrain/backbone.safetensors

Two stages in one command: supervised fine-tuning on the source (as supervised_finetune.py), then
training on clusters of the target (as usl_finetune.py), which begins with the source's network.
The first probe of the second stage is direct transfer: what adaptation has to beat. A network
that was fine-tuned on the source already takes the place of the first stage: --source_model FILE.

With no argument: generated people of two camera styles, a sunny place and a dim hall, from random
weights. The run folder then holds model.safetensors (the last), best.safetensors (that of the best
probe on the target's test set, as the papers' is), metrics.jsonl, curves.png and config.yaml, and
in source/ the same of the first stage. The same command again resumes a run that was broken off.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transreid_ssl import command, finetune, logs, training
from transreid_ssl.data import ReIDAugmentConfig
from transreid_ssl.errors import UserError
from transreid_ssl.finetune import (
    ClusterSettings,
    ClusterTraining,
    LabelledSettings,
    SupervisedConfig,
    SupervisedTraining,
    TargetSettings,
)
from transreid_ssl.finetune.settings import (
    CLUSTER_AUGMENT,
    CLUSTER_OPTIM,
    SUPERVISED_AUGMENT,
    SUPERVISED_OPTIM,
)
from transreid_ssl.outputs import MODEL
from transreid_ssl.processes import on_main
from transreid_ssl.training import (
    BackboneSettings,
    OptimizerSettings,
    ProbeSettings,
    RunSettings,
    parse_config,
)
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from accelerate import Accelerator

    from transreid_ssl.data import LabelledImages, ReIDProtocol

DEMO = Path(__file__).parent / "configs" / "uda_demo.yaml"


@dataclass(frozen=True)
class SourceTraining:
    """The first stage, on the source.

    Args:
        epochs: Passes over the source.
        batch_size: Images an optimiser step.
        drop_path: Stochastic depth.
        norm_images: See ``run.norm_images``, which is the second stage's.
        augment: Its augmentation; its test images are resized linearly, as in the papers.
        supervised: The losses.
        optim: The optimiser.
    """

    epochs: int = 120
    batch_size: int = 64
    drop_path: float = 0.1
    norm_images: int | None = None
    augment: ReIDAugmentConfig = SUPERVISED_AUGMENT
    supervised: SupervisedConfig = SupervisedConfig()
    optim: OptimizerSettings = SUPERVISED_OPTIM


@dataclass(frozen=True)
class Config:
    """Settings of domain-adaptive fine-tuning; the defaults are the paper's ViT-S/16+ICS.

    Args:
        run: The run; epochs and batch size are those of the second stage.
        source: The labelled source.
        source_training: The first stage.
        source_model: A network fine-tuned on the source; null trains it.
        target: The target, whose labels are not used.
        model: The network.
        augment: The augmentation of the second stage.
        clusters: How the target is clustered.
        optim: The optimiser of the second stage.
        probe: What is evaluated meanwhile; by default the test set of each stage's own images.
    """

    run: RunSettings = RunSettings(
        output="outputs/uda_finetune",
        epochs=50,
        batch_size=256,
        precision="no",
        checkpoint_every=200,
    )
    source: LabelledSettings = LabelledSettings()
    source_training: SourceTraining = SourceTraining()
    source_model: str | None = None
    target: TargetSettings = TargetSettings()
    model: BackboneSettings = BackboneSettings(drop_path=0.3, interpolation="cubic")
    augment: ReIDAugmentConfig = CLUSTER_AUGMENT
    clusters: ClusterSettings = ClusterSettings()
    optim: OptimizerSettings = CLUSTER_OPTIM
    probe: ProbeSettings = ProbeSettings(every=2000)

    def __post_init__(self) -> None:
        if self.model.camera_embedding:
            raise UserError(
                "--model.camera_embedding: the target has other cameras; set it to false"
            )


def source_stage(config: Config) -> SupervisedTraining:
    """The settings of the first stage, in a folder of its own."""
    stage, output = config.source_training, str(Path(config.run.output) / "source")
    return SupervisedTraining(
        run=dataclasses.replace(
            config.run, output=output, epochs=stage.epochs, extend_to=None,
            batch_size=stage.batch_size, norm_images=stage.norm_images,
        ),
        data=config.source,
        model=dataclasses.replace(
            config.model, drop_path=stage.drop_path, interpolation="linear"
        ),
        augment=stage.augment, supervised=stage.supervised, optim=stage.optim, probe=config.probe,
    )  # fmt: skip


def target_stage(config: Config, source_model: str) -> ClusterTraining:
    """The settings of the second stage, which begins with the source's network."""
    return ClusterTraining(
        run=config.run, data=config.target,
        model=dataclasses.replace(config.model, weights=source_model),
        augment=config.augment, clusters=config.clusters, optim=config.optim, probe=config.probe,
    )  # fmt: skip


def open_images(
    config: Config, first: SupervisedTraining
) -> "tuple[ReIDProtocol | None, LabelledImages]":
    """What both stages train on; None for the source once its stage is done."""
    done = config.source_model or (not config.run.overwrite and source_network(first).is_file())
    source = None if done else finetune.open_labelled(config.source)
    return source, finetune.open_target(config.target)


def source_network(first: SupervisedTraining) -> Path:
    """What the first stage leaves."""
    return Path(first.run.output) / MODEL


def train_on_source(
    config: SupervisedTraining, accelerator: "Accelerator", protocol: "ReIDProtocol"
) -> None:
    """Fine-tune on the source, in a run folder of its own."""
    group, is_main = "source_training", accelerator.is_main_process
    run = training.RunFolder(config.run.output, is_main, stage="source/", group=group)
    on_main(accelerator, lambda: run.claim(config))
    _say(accelerator, "first stage: supervised on the source", config, group)
    scaler = accelerator.scaler
    fresh = scaler.state_dict() if scaler else {}
    finetune.train_with_labels(config, accelerator, run, protocol)
    accelerator.free_memory()
    if scaler:  # a start after a kill between the stages has a fresh one
        scaler.load_state_dict(fresh)


def _say(
    accelerator: "Accelerator", stage: str, config: SupervisedTraining | ClusterTraining, group: str
) -> None:
    """Which stage begins, how long it is, and which setting says so."""
    logs.say(accelerator, f"{stage}, {counted(config.run.epochs, 'epoch')} (--{group}.epochs)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on the source, adapt to the target, and leave the backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    first = source_stage(config)
    target_stage(config, "")  # refused now, not after the first stage
    accelerator, run, (source, target) = training.start(
        config, origin, "domain-adaptive fine-tuning", lambda: open_images(config, first)
    )
    if source is not None:
        train_on_source(first, accelerator, source)
    if not config.source_model:
        run.first_tracked_step = training.RunFolder(first.run.output).newest_step() or 0
    second = target_stage(config, config.source_model or str(source_network(first)))
    _say(accelerator, "second stage: clusters of the target", second, "run")
    finetune.train_on_clusters(second, accelerator, run, target, "uda")
    training.finish(accelerator)


if __name__ == "__main__":
    command.run(main, resumes=True)
