"""Unsupervised ReID: fine-tuning on a target without its labels (TransReID-SSL, arXiv 2111.12084).

    accelerate launch recipes/usl_finetune.py           # the demo
    accelerate launch recipes/usl_finetune.py \\
        --config recipes/configs/usl_vit_small_ics_market1501.yaml \\
        --data.root /data/Market-1501 --model.weights outputs/dino_pretrain/backbone.safetensors

Every epoch clusters all training images by the Jaccard distance of their k-reciprocal neighbours
(DBSCAN), and trains on the clusters with a memory of one vector each (Cluster Contrast). Labels,
where the target has them, are only used to say how good clusters and retrieval are.

With no argument: generated people and the tiny network that the demo of dino_pretrain.py leaves,
which is run first where it has not been. The papers' settings are the YAML files in
recipes/configs/; each opens with its hardware and expected figures. The run folder then holds
model.safetensors (the last), best.safetensors (that of the best probe, which is chosen on the test
set, as the papers' is), metrics.jsonl, curves.png and config.yaml. The same command again resumes a
run that was broken off.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from transreid_ssl import command
from transreid_ssl.finetune import ClusterTraining as Config
from transreid_ssl.finetune import open_target, train_on_clusters
from transreid_ssl.outputs import PRETRAINED, require
from transreid_ssl.training import finish, parse_config, start

DEMO = Path(__file__).parent / "configs" / "usl_demo.yaml"


def pretrain_first() -> None:
    """Run the demo of pre-training, whose network the demo here starts from."""
    recipe = Path(__file__).with_name("dino_pretrain.py")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        require(PRETRAINED)
    print(f"{PRETRAINED}: there is no such file yet; running the demo of {recipe.name} first")
    code = subprocess.run([sys.executable, str(recipe)], check=False).returncode
    if code:
        sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on clusters, and leave the backbone in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    generated = config.data.name.partition(":")[0] == "demo"  # a real set wants a real network
    if generated and config.model.weights == PRETRAINED and not Path(PRETRAINED).is_file():
        pretrain_first()
    accelerator, run, images = start(
        config, origin, "unsupervised fine-tuning", lambda: open_target(config.data)
    )
    train_on_clusters(config, accelerator, run, images, "usl")
    finish(accelerator)


if __name__ == "__main__":
    command.run(main, resumes=True)
