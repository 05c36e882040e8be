"""The names that users and their programs rely on, and what is imported for them."""

import importlib
import subprocess
import sys

import pytest

import launch

NAMES = [
    "Embedder",
    "load_backbone",
    "load_recipe",
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
    "retrieval.count_pairs",
    "data.open_pool",
    "data.open_reid",
    "training.Trainer",
]


def run(program):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=launch.environment(), cwd=launch.ROOT,
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
        "try:\n"
        "    transreid_ssl.embed\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
        "from transreid_ssl import embed\n"
        "transreid_ssl.nothing\n"
    )
    alone, retrieval, parameters, embed = done.stdout.splitlines()
    assert alone == retrieval == "[]", "slow libraries are imported when they are needed"
    assert int(parameters) > 20e6
    assert embed == "No transreid_ssl attribute embed; take transreid_ssl.Embedder(weights)(images)"
    assert done.stderr.strip().endswith("No transreid_ssl attribute nothing")


ASK = """
import contextlib, io, os, re, runpy, sys
from pathlib import Path
from transreid_ssl.__main__ import COMMANDS, overview

def said(run, name, *arguments):
    sys.argv, text = [name, *arguments], io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            run(name, run_name="__main__")
        except SystemExit as end:
            return end.code, text.getvalue()

os.environ["COLUMNS"] = "80"

def told(run, name, *words):
    # What --help says, which fits a screen, and --help-all.
    help, full = said(run, name, *words, "--help"), said(run, name, *words, "--help-all")
    assert help[0] == full[0] == 0 and "--help-all" in help[1], help
    assert help[1].startswith("usage: ") and len(help[1].splitlines()) <= 45, help[1]
    options = set(re.findall(r"^  (--[\\w.-]+)", help[1], re.M)) - {"--help-all"}
    assert all(re.search(rf"^  (-h, )?{option}\\b", full[1], re.M) for option in options), options
    return help[1]

programs = [(runpy.run_module, f"transreid_ssl.{name}") for name in COMMANDS]
programs += [(runpy.run_path, str(path)) for path in Path("recipes").glob("*.py")]
for run, name in programs:
    text = told(run, name)
    choices = re.search(r"{([a-z,]+)} \\.\\.\\.", text)
    for words in [[word] for word in choices[1].split(",")] if choices else [[]]:
        if words:
            told(run, name, *words)
        code, text = said(run, name, *words, "--misspelt=1")
        assert code == 2 and text.startswith("error: ") and text.count("\\n") == 1, text
        print(name, *words)
assert len(overview().splitlines()) <= 45, overview()
slow = {"accelerate", "cv2", "datasets", "matplotlib", "scipy", "sklearn", "timm", "torch"}
print(sorted(slow & set(sys.modules)))
"""


def test_help_and_a_misspelt_option_of_every_program_wait_for_no_slow_library():
    done = run(ASK)
    assert not done.stderr
    *asked, imported = done.stdout.splitlines()
    for name in ("recipes/uda_finetune.py", "transreid_ssl.cfs score", "transreid_ssl.plan"):
        assert name in asked
    assert imported == "[]"


@pytest.mark.parametrize("room", ["cfs", "data", "finetune", "pretrain", "report", "training"])
def test_a_room_lists_what_it_holds_though_nothing_is_imported_yet(room):
    package = importlib.import_module(f"transreid_ssl.{room}")
    assert package.__all__ == dir(package)
    assert all(hasattr(package, name) for name in package.__all__)
