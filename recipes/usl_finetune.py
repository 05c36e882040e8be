"""Unsupervised ReID: fine-tuning on a target without its labels (TransReID-SSL, arXiv 2111.12084).

    python -m transreid_ssl finetune usl           # the demo, after pretrain dino
    python -m transreid_ssl finetune usl \\
        --config usl_vit_small_ics_market1501.yaml \\
        --data.root /data/Market-1501 --model.weights outputs/dino_pretrain/backbone.safetensors

Every epoch clusters all training images by the Jaccard distance of their k-reciprocal neighbours
(DBSCAN), and trains on the clusters with a memory of one vector each (Cluster Contrast). Labels,
where the target has them, are only used to say how good clusters and retrieval are.

With no argument: generated people and the tiny network that the demo of dino_pretrain.py leaves.
The papers' settings are the YAML files in recipes/configs/; each opens with its hardware and
expected figures. The run folder then holds model.safetensors (the last), best.safetensors (that of
the best probe, which is chosen on the test set, as the papers' is), metrics.jsonl, curves.png and
config.yaml. The same command again resumes a run that was broken off.
"""

from collections.abc import Sequence
from pathlib import Path

from transreid_ssl import command, finetune, training
from transreid_ssl.finetune import ClusterTraining as Config
from transreid_ssl.training import parse_config

DEMO = Path(__file__).parent / "configs" / "usl_demo.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on clusters, and leave the backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    accelerator, run, images = training.start(
        config, origin, "unsupervised fine-tuning", lambda: finetune.open_target(config.data)
    )
    finetune.train_on_clusters(config, accelerator, run, images, "usl")
    training.finish(accelerator)


if __name__ == "__main__":
    command.run(main, resumes=True)
