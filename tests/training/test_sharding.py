"""Sharded runs have the numbers, checkpoints and images of others, whoever goes on with them."""

import json
import shutil
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import launch
from transreid_ssl import UserError
from transreid_ssl.training import RunSettings
from transreid_ssl.training.checkpoint import load_checkpoint
from transreid_ssl.training.sharding import shard
from transreid_ssl.training.start import start

RECIPE = """
import json, os, sys
from unittest import mock
from torch.distributed.tensor import DTensor
from transreid_ssl import command
from transreid_ssl.shipped import load_recipe
from transreid_ssl.training import RunFolder
from transreid_ssl.training.watch import Watch

recipe, seen, *arguments = sys.argv[1:]
note = Watch.note

def write(self, batch):
    sharded = all(isinstance(parameter, DTensor) for parameter in self.parameters)
    with open(f"{seen}.{os.environ.get('RANK', 0)}", "a") as file:
        print(json.dumps([sharded, batch["index"].tolist()]), file=file)
    note(self, batch)

# Curves take a second to draw.
with mock.patch.object(Watch, "note", write), mock.patch.object(RunFolder, "draw_curves"):
    command.run(lambda: load_recipe(recipe).main(arguments), resumes=True)
"""
"""A recipe that notes which images each process sees, and whether with a part of the weights."""
OPTIONS = [
    "--data.pool=demo:identities=12,images=3,height=32,width=16", "--model.img_size=[32,16]",
    "--views.global_size=[32,16]", "--views.local_size=[16,16]", "--views.num_local=1",
    "--model.name=vit_nano_patch16_reid", "--model.drop_path=0", "--dino.out_dim=33",
    "--dino.hidden_dim=32", "--dino.bottleneck_dim=16", "--run.batch_size=12", "--run.epochs=1",
    "--run.accumulation=2", "--run.log_every=1", "--run.checkpoint_every=1",
    "--run.keep_checkpoints=3", "--run.num_workers=0", "--run.num_threads=1", "--run.precision=no",
    "--probe.data=null", "--optim.warmup_epochs=0",
]  # fmt: skip


def train(folder, name, *options, processes=1, after=None, step=0):
    """Train in ``folder / name`` to the end, from the ``step`` of the run ``after``."""
    script, run = folder / "recipe.py", folder / name
    script.write_text(RECIPE)
    if after:
        later = [f"step_{number:08d}.pt" for number in range(step + 1, 4)]
        shutil.copytree(folder / after, run, ignore=shutil.ignore_patterns(*later))
    recipe, seen = launch.ROOT / "recipes" / "dino_pretrain.py", folder / f"{name}.seen"
    arguments = [str(script), str(recipe), str(seen), *OPTIONS, *options, f"--run.output={run}"]
    launch.run(*arguments, processes=processes)
    return run


def read_seen(run):
    """Whether processes had a part of the weights, and the images of each micro-batch."""
    files = sorted(run.parent.glob(f"{run.name}.seen.*"))
    noted = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    sharded = {part for lines in noted for part, _ in lines}
    return sharded, [[i for _, images in parts for i in images] for parts in zip(*noted)]


def test_a_run_goes_on_sharded_and_as_one_process_again(tmp_path):
    whole = train(tmp_path, "whole")
    sharded = train(tmp_path, "sharded", "--run.shard=true", processes=2, after="whole", step=1)
    again = train(tmp_path, "again", after="sharded", step=2)
    rounding = {"rtol": 1e-5, "atol": 1e-6}
    _, seen = read_seen(whole)
    assert sorted(chain(*seen)) == list(range(36))
    for run, parts, first in ((sharded, True, 1), (again, False, 2)):
        assert read_seen(run) == ({parts}, seen[2 * first :])  # a step has two micro-batches
        for found, expected in zip(launch.metrics(run), launch.metrics(whole), strict=True):
            for name in ("loss", "gradient_norm", "weight_norm"):
                assert found[name] == pytest.approx(expected[name], rel=1e-5), name
        weights, expected = (load_file(path / "backbone.safetensors") for path in (run, whole))
        torch.testing.assert_close(weights, expected, **rounding)
    states = [load_checkpoint(run / "checkpoints" / "step_00000003.pt") for run in (sharded, whole)]
    for part in ("objective", "optimizer"):
        torch.testing.assert_close(*(state[part] for state in states), **rounding)


TWICE = """
import torch
from accelerate import Accelerator
from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import MoBY, MoBYConfig
from transreid_ssl.training import clip_gradients, finish
from transreid_ssl.training.sharding import norms, own_parts, shard, whole

def objective():
    torch.manual_seed(0)
    networks = [build_backbone("vit_nano_patch16_reid", img_size=(32, 16)) for _ in range(2)]
    return MoBY(*networks, MoBYConfig(dim=8, hidden_dim=16, head_norm=False, queue_size=16))

def step(objective, views):
    loss = objective({"views": [views.flatten(0, 1)]}, 0)["loss"]
    loss.backward()
    learning = [p for p in objective.parameters() if p.requires_grad]
    gradients = [p.grad for p in learning]
    norm = clip_gradients(learning, 1.0, each=False)
    found = norms(gradients)
    with torch.no_grad():
        torch._foreach_sub_(own_parts(learning), own_parts(gradients))
    objective.after_step(0.5)
    return loss.detach(), norm, found, whole(objective.state_dict())

views = torch.randint(0, 256, (2, 4, 3, 32, 16), dtype=torch.uint8)
expected = step(objective(), views)
accelerator, sharded = Accelerator(cpu=True), objective()
shard(sharded, accelerator)
loss, *rest = step(sharded, views.chunk(2, dim=1)[accelerator.process_index])
loss = accelerator.reduce(loss, "mean")
torch.testing.assert_close((loss, *rest), expected, rtol=1e-4, atol=1e-5)
print("equal", flush=True)
finish(accelerator)
"""


def test_blocks_that_are_passed_twice_a_step_are_sharded_too(tmp_path):
    script = tmp_path / "twice.py"
    script.write_text(TWICE)
    assert launch.run(str(script), processes=2).count("equal") == 2


def test_a_scaled_loss_is_refused():
    with pytest.raises(UserError, match="give bf16"):
        shard(None, SimpleNamespace(scaler=torch.amp.GradScaler("cpu")))


def test_other_ways_to_shard_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    config = SimpleNamespace(run=RunSettings())
    with pytest.raises(UserError, match=r"asked for fsdp.*--run\.shard true"):
        start(config, "", "", list)
