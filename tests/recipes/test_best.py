"""Pre-training keeps the network of its best probe, however it gets to its end."""

import json

import pytest
import torch
from safetensors.torch import load_file

import launch
from transreid_ssl.models import load_backbone, read_spec

RECIPE = """
import json, pathlib, sys
from unittest import mock
from transreid_ssl import command
from transreid_ssl.shipped import load_recipe
from transreid_ssl.training import RetrievalProbe

recipe, *arguments = sys.argv[1:]
measure = RetrievalProbe._log
figures = json.loads(pathlib.Path("figures.json").read_text())

def log(self, step, features):
    if str(step) not in figures:
        raise KeyboardInterrupt
    return measure(self, step, features) | {"probe/mAP": figures[str(step)]}

with mock.patch.object(RetrievalProbe, "_log", log):
    command.run(lambda: load_recipe(recipe).main(arguments), resumes=True)
"""
"""The recipe, with a probe that finds what a file tells, and ends a run of which it tells none."""
SECOND_IS_BEST = {0: 20.0, 2: 60.0, 4: 40.0}
OPTIONS = [
    launch.DINO, *launch.TINY, "--model.name=vit_nano_patch16_reid", "--model.drop_path=0",
    "--views.local_size=[16,16]", "--probe.data=demo:test=3,images=4,height=32,width=16",
    "--probe.every=2", "--run.checkpoint_every=1", "--run.keep_checkpoints=4",
    "--run.page=false", "--run.output=run",
]  # fmt: skip


def begin(folder):
    """The words that start a run in a folder of its own, under the same name in all."""
    folder.mkdir()
    (folder / "recipe.py").write_text(RECIPE)
    (folder / "figures.json").write_text(json.dumps(SECOND_IS_BEST))
    return [str(folder / "recipe.py"), *OPTIONS]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best") / "unbroken"
    return folder / "run", launch.run(*begin(folder), cwd=folder)


def test_the_best_network_is_kept_and_said_beside_the_last(unbroken):
    run, said = unbroken
    assert "is that of step 2: mAP 60.0 %, and the last has mAP 40.0 %" in said
    assert "--weights run/best.safetensors" in said
    for name, step in (("best", 2), ("backbone", 4)):
        file = run / f"{name}.safetensors"
        assert read_spec(file).provenance["step"] == step
        teacher = load_backbone(run / "checkpoints" / f"step_{step:08d}.pt").state_dict()
        assert all(torch.equal(value, teacher[name]) for name, value in load_file(file).items())


def test_a_killed_run_ends_with_the_same_best_network(unbroken, tmp_path):
    words, folder = begin(tmp_path / "killed"), tmp_path / "killed"
    third = folder / "run" / "checkpoints" / "step_00000003.pt"
    launch.kill(*words, when=third.exists, cwd=folder)
    assert "resuming from step" in launch.run(*words, cwd=folder)
    for name in ("best.safetensors", "backbone.safetensors"):
        found, expected = folder / "run" / name, unbroken[0] / name
        assert read_spec(found) == read_spec(expected)
        torch.testing.assert_close(load_file(found), load_file(expected), rtol=0, atol=0)
    assert not (folder / "run" / "checkpoints" / "best.safetensors").exists()


def test_the_network_of_a_step_that_is_made_again_otherwise_is_not_kept(unbroken, tmp_path):
    words, folder = begin(tmp_path / "killed"), tmp_path / "killed"
    run, checkpoints = folder / "run", folder / "run" / "checkpoints"
    (folder / "figures.json").write_text(json.dumps({0: 20.0, 2: 60.0}))
    launch.run(*words, cwd=folder, code=130)
    assert read_spec(run / "best.safetensors").provenance["step"] == 2
    for path in checkpoints.glob("step_*.pt"):
        if path.name != "step_00000001.pt":
            path.unlink()
    (folder / "figures.json").write_text(json.dumps({0: 20.0, 2: 15.0, 4: 10.0}))
    said = launch.run(*words, cwd=folder)
    assert "is that of step 0 (before training): mAP 20.0 %, and the last has mAP 10.0 %" in said
    assert read_spec(run / "best.safetensors").provenance["step"] == 0


def test_a_sharded_run_keeps_the_same_best_network(unbroken, tmp_path):
    words, folder = begin(tmp_path / "sharded"), tmp_path / "sharded"
    said = launch.run(*words, "--run.shard=true", processes=2, cwd=folder)
    assert said.count("is that of step 2: mAP 60.0 %") == 1
    best, expected = (load_file(run / "best.safetensors") for run in (folder / "run", unbroken[0]))
    torch.testing.assert_close(best, expected, rtol=1e-4, atol=1e-5)
