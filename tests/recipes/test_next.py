"""What a training says to do next: a command of this run's paths, which runs as it stands."""

import shlex
from pathlib import Path

import pytest

import launch
from transreid_ssl import data
from transreid_ssl.data.packing import pack

RECIPES = launch.ROOT / "recipes"
CROPS = "demo:identities=8,images=4,height=32,width=16"
SMALL = ["--run.epochs=1", "--run.num_workers=0", "--run.num_threads=1", "--run.page=false"]


def following(text):
    """The words of the command in the last line of what a training has printed."""
    head, *words = shlex.split(text.strip().splitlines()[-1])
    assert (head, words[:2]) == ("next:", ["python", "-m"])
    return words[2:]


def test_generated_crops_are_followed_by_labels_and_these_by_figures(tmp_path):
    text = launch.run(launch.DINO, *launch.TINY, f"--run.output={tmp_path / 'a run'}")
    package, *words = following(text)
    assert (package, words[:2]) == ("transreid_ssl", ["finetune", "supervised"])
    demo = ["--data.name=demo:identities=10,images=6,test=5,height=32,width=16"]
    tuned = ["--run.precision=no", "--run.batch_size=16", f"--run.output={tmp_path / 'tuned'}"]
    recipe = str(RECIPES / "supervised_finetune.py")
    text = launch.run(recipe, *words[2:], *demo, *tuned, *SMALL)
    assert following(text) == [
        "transreid_ssl.evaluate", "--weights", str(tmp_path / "tuned" / "model.safetensors")
    ]  # fmt: skip
    assert "mAP" in launch.run("-m", *following(text), cwd=tmp_path)


@pytest.mark.parametrize("copy", [False, True], ids=["first", "beside another's copy"])
def test_crops_of_ones_own_are_followed_by_whitening(tmp_path, copy):
    pack(data.open_pool(CROPS), tmp_path / "crops")
    if copy:
        place = Path(tmp_path, "outputs", "whiten", "model.safetensors")
        place.parent.mkdir(parents=True)
        place.write_bytes(b"another's")
    output = "--run.output=run"
    text = launch.run(launch.DINO, *launch.TINY, "--data.pool=crops", output, cwd=tmp_path)
    command, *options = following(text)
    assert (command, "crops" in options) == ("transreid_ssl.whiten", True)
    assert "written to" in launch.run("-m", command, *options, cwd=tmp_path)


def test_clusters_of_ones_own_crops_are_followed_by_a_look_at_them(tmp_path):
    pack(data.open_pool(CROPS), tmp_path / "crops")
    options = [
        "--data.name=pool", "--data.root=crops", "--model.weights=null", "--run.precision=no",
        "--model.img_size=[32,16]", "--run.batch_size=16", "--clusters.steps_per_epoch=1",
        "--clusters.k1=5", "--clusters.k2=2", "--clusters.eps=0.3", "--clusters.min_samples=2",
        "--run.output=usl",
    ]  # fmt: skip
    recipe = str(RECIPES / "usl_finetune.py")
    command, *words = following(launch.run(recipe, *options, *SMALL, cwd=tmp_path))
    assert (command, words) == (
        "transreid_ssl.cluster", ["crops", "--weights", "usl/model.safetensors"]
    )  # fmt: skip
