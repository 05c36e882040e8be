"""Supervised fine-tuning of a multiple granularity network (LUPerson, arXiv 2012.03753).

    python -m transreid_ssl finetune mgn           # the demo: no data needed
    python -m transreid_ssl finetune mgn \\
        --config mgn_resnet50_market1501_luperson.yaml \\
        --data.root /data/Market-1501 --model.weights lup_moco_r50.pth

MGN (arXiv 1804.01438) looks at a person whole, in halves and in thirds. LUPerson evaluates its
pre-trained ResNets with it, also on a share of the labels: --data.label_budget 0.1 keeps a tenth of
the identities, with --data.label_budget_by image a tenth of each one's images.

With no argument: generated people and a tiny network from random weights. In recipes/configs/ the
files …_luperson.yaml are LUPerson's network and losses, which differ from those of MGN's paper; the
others are the paper's network, trained as LUPerson trains its own. The run folder then holds what
that of supervised_finetune.py does. The same command again resumes a run that was broken off.
"""

from collections.abc import Sequence
from pathlib import Path

from transreid_ssl import command, finetune, training
from transreid_ssl.finetune import MGNTraining as Config
from transreid_ssl.training import parse_config

DEMO = Path(__file__).parent / "configs" / "mgn_demo.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, and leave the network in the run folder."""
    config, origin = parse_config(Config, DEMO, __doc__, arguments)
    accelerator, run, protocol = training.start(
        config, origin, "MGN fine-tuning", lambda: finetune.open_labelled(config.data)
    )
    finetune.train_with_labels(config, accelerator, run, protocol)
    training.finish(accelerator)


if __name__ == "__main__":
    command.run(main, resumes=True)
