"""Supervised fine-tuning on a labelled target (TransReID-SSL, arXiv 2111.12084).

    python -m transreid_ssl finetune supervised    # the demo, after pretrain dino
    python -m transreid_ssl finetune supervised \\
        --config supervised_vit_small_ics_market1501.yaml \\
        --data.root /data/Market-1501 --model.weights outputs/dino_pretrain/backbone.safetensors

With no argument: generated people and the tiny network that the demo of dino_pretrain.py leaves.
The papers' settings are the YAML files in recipes/configs/; each opens with its hardware and
expected figures. The run folder then holds model.safetensors (the backbone, whose features are
taken before the BN neck), best.safetensors (that of the best probe), metrics.jsonl, curves.png and
config.yaml. The same command again resumes a run that was broken off. With several processes each
looks for triplets among its own identities; one process, as in the papers' runs, looks among all
of a batch.
"""

from collections.abc import Sequence
from pathlib import Path

from transreid_ssl import command, finetune, training
from transreid_ssl.finetune import SupervisedTraining as Config
from transreid_ssl.training import parse_config

DEMO = Path(__file__).parent / "configs" / "supervised_demo.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, and leave the backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    accelerator, run, protocol = training.start(
        config, origin, "supervised fine-tuning", lambda: finetune.open_labelled(config.data)
    )
    finetune.train_with_labels(config, accelerator, run, protocol)
    training.finish(accelerator)


if __name__ == "__main__":
    command.run(main, resumes=True)
