"""The half of a pool that resembles the target teaches more than a random half, at toy size."""

import json
from statistics import mean, stdev

import pytest

import launch

SEEDS = ["0", "1", "2"]


@pytest.mark.experiment
@pytest.mark.timeout(3600)
def test_the_half_that_resembles_the_target_teaches_more(tmp_path):
    """Generated people of two styles, a quarter of them the target's, and a tenth bad detections.

    DINO on each half takes 190 steps of 32 images, as many as on the whole. Both halves start from
    the same seed, so that what a seed gives or takes is in both: the gain is compared with its own
    deviation, not with that of the figures. Float32 repeats itself on a machine.
    """
    small = [
        "model.img_size=[32,16]", "run.batch_size=32", "run.num_workers=0", "run.precision=no",
        # The figure below is measured on the target's 100 people, when a run has ended.
        "probe.data=demo:identities=2,images=4,height=32,width=16,test=4",
    ]  # fmt: skip
    launch.run(
        "-m", "benchmarks.selection", "--seeds", *SEEDS, "--epochs=2", "--finetune_epochs=1",
        "--target=demo:identities=200,images=8,height=32,width=16,test=100",
        "--other=demo:identities=250,images=8,height=32,width=16,style=2,first=5000",
        "--others=3", "--parts", "random", "density-ratio", "--threads=1", f"--out={tmp_path}",
        "--pretraining", *small, "views.global_size=[32,16]", "views.local_size=[16,8]",
        "--finetuning", *small,
    )  # fmt: skip
    runs = json.loads((tmp_path / "selection.json").read_text())["runs"]
    found = {
        part: [run["whitened_mAP"] for run in runs if run["part"] == part]
        for part in ("all", "random", "density-ratio")
    }
    gains = [ours - chance for ours, chance in zip(found["density-ratio"], found["random"])]
    assert len(gains) == len(SEEDS)
    assert min(gains) > 0, found
    assert mean(gains) > stdev(gains), found
    assert mean(found["density-ratio"]) > mean(found["all"]), found
    kept = {run["part"]: run["kept"]["target"] for run in runs if "kept" in run}
    assert kept["density-ratio"] > 1.7 * kept["random"]
