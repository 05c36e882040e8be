"""The names that users and their programs rely on."""

import subprocess
import sys

import launch

NAMES = [
    "load_backbone",
    "models.load_weights",
    "models.save_backbone",
    "models.build_backbone",
    "pretrain.DINOLoss",
    "pretrain.DINO",
    "finetune.batch_hard_triplet",
    "cfs.score",
    "cfs.select",
    "cfs.import_list",
    "retrieval.evaluate",
    "retrieval.rerank",
    "retrieval.jaccard_graph",
    "retrieval.cluster",
    "retrieval.embed_images",
    "data.open_pool",
    "data.open_reid",
    "training.Trainer",
]


def run(program):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=launch.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_plain_import_reaches_every_public_name_and_models_registers_the_networks():
    done = run(
        "import sys, transreid_ssl\n"
        "print(sorted({'torch', 'timm', 'numpy'} & set(sys.modules)))\n"
        "from operator import attrgetter\n"
        "import transreid_ssl.retrieval\n"
        "print(sorted({'timm', 'sklearn', 'datasets', 'matplotlib'} & set(sys.modules)))\n"
        f"assert all(callable(attrgetter(n)(transreid_ssl)) for n in {NAMES})\n"
        "import timm\n"
        "model = timm.create_model('vit_small_patch16_ics', img_size=(256, 128))\n"
        "print(sum(p.numel() for p in model.parameters()))\n"
        "transreid_ssl.nothing\n"
    )
    alone, retrieval, parameters = done.stdout.splitlines()
    assert alone == retrieval == "[]", "slow libraries are imported when they are needed"
    assert int(parameters) > 20e6
    assert done.stderr.strip().endswith("has no attribute 'nothing'")
