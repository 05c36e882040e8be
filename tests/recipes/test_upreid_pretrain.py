"""The UP-ReID recipe as a user runs it: terms in the log, exact resume, any number of processes."""

from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

import launch
import transreid_ssl
from transreid_ssl.models import read_spec
from transreid_ssl.pretrain import RegularisersConfig
from transreid_ssl.training import parse_config

RECIPE = str(launch.ROOT / "recipes" / "upreid_pretrain.py")
TINY = [
    "--data.pool=demo:identities=24,images=4,height=32,width=16", "--model.img_size=[32,16]",
    "--model.name=vit_nano_patch8_reid", "--views.global_size=[32,16]", "--run.batch_size=16",
    "--run.epochs=2", "--run.log_every=1", "--run.num_workers=0", "--run.num_threads=1",
    "--run.precision=no", "--run.checkpoint_every=5", "--probe.data=null",
    "--moco.queue_size=128", "--moco.dim=16", "--moco.hidden_dim=32",
    "--dino.out_dim=32", "--dino.hidden_dim=32", "--dino.bottleneck_dim=16",
    "--regularisers.patch_dim=16", "--regularisers.patch_hidden_dim=32",
]  # fmt: skip
LAST = "checkpoints/step_00000012.pt"


def logged(folder, name="loss"):
    return [line[name] for line in launch.metrics(folder) if name in line]


def queue(folder):
    """The keys and the pointer at the end of a run."""
    state = torch.load(folder / LAST, weights_only=True)["objective"]
    return state["queue.keys"], state["queue.pointer"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run in one process, left alone to its end."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    text = launch.run(RECIPE, *TINY, f"--run.output={folder}")
    assert "UP-ReID pre-training on moco" in text
    return folder


def test_a_run_logs_both_terms_and_leaves_the_query_encoder(unbroken):
    terms = [logged(unbroken, name) for name in ("base_loss", "consistency", "intrinsic")]
    assert [len(term) for term in terms] == [12] * 3
    for loss, *values in zip(logged(unbroken), *terms, strict=True):
        assert loss == pytest.approx(values[0] + 1.0 * values[1] + 0.2 * values[2], rel=1e-5)
    assert all(0.3 < share <= 1 for share in logged(unbroken, "patches_compared"))
    assert read_spec(unbroken / "backbone.safetensors").objective == "upreid"
    final = load_file(unbroken / "backbone.safetensors")
    kept = transreid_ssl.load_backbone(unbroken / LAST).state_dict()
    assert all(torch.equal(value, final[name]) for name, value in kept.items())


def test_a_killed_run_ends_as_the_unbroken_one_with_the_queue_bit_for_bit(unbroken, tmp_path):
    folder = tmp_path / "run"
    arguments = [RECIPE, *TINY, f"--run.output={folder}"]
    metrics = folder / "metrics.jsonl"
    launch.kill(*arguments, when=lambda: metrics.exists() and len(logged(folder)) >= 7)
    assert "resuming from step" in launch.run(*arguments)
    assert logged(folder) == logged(unbroken)
    for one, other in zip(queue(folder), queue(unbroken), strict=True):
        assert torch.equal(one, other)
    final, expected = (load_file(f / "backbone.safetensors") for f in (folder, unbroken))
    assert all(torch.equal(value, expected[name]) for name, value in final.items())


def test_two_processes_and_accumulation_give_the_losses_and_the_queue_of_one(unbroken, tmp_path):
    options = [*TINY, f"--run.output={tmp_path / 'two'}", "--run.accumulation=2"]
    assert "2 processes" in launch.run(RECIPE, *options, processes=2)
    for name in ("loss", "consistency", "intrinsic", "patches_compared"):
        assert logged(tmp_path / "two", name) == pytest.approx(logged(unbroken, name), rel=2e-4)
    (keys, pointer), (expected, place) = queue(tmp_path / "two"), queue(unbroken)
    assert torch.equal(pointer, place)
    torch.testing.assert_close(keys, expected, rtol=0, atol=2e-4)


def test_the_terms_run_on_dino_too(tmp_path):
    folder = tmp_path / "run"
    launch.run(
        RECIPE, *TINY, "--base=dino", "--views.num_local=2", "--views.local_size=[16,8]",
        "--run.epochs=1", f"--run.output={folder}",
    )  # fmt: skip
    for name in ("teacher_entropy", "consistency", "intrinsic"):
        assert len(logged(folder, name)) == 6
    assert read_spec(folder / "backbone.safetensors").objective == "upreid_dino"


def understood(recipe, name):
    """The settings of a file as its recipe understands them, with the recipe's own defaults."""
    script = launch.recipe(f"{recipe}_pretrain")
    arguments = ["--config", str(launch.ROOT / "recipes" / "configs" / f"{name}.yaml")]
    return asdict(parse_config(script.Config, script.DEMO, "", arguments)[0])


@pytest.mark.parametrize(
    ("name", "base", "other"),
    [
        ("upreid_demo", "dino", "dino_demo"),
        ("upreid_resnet50_luperson", "moco", "moco_resnet50_luperson"),
        ("upreid_dino_vit_small_ics_luperson", "dino", "dino_vit_small_ics_lupersonfull"),
    ],
)
def test_settings_are_those_of_the_base_but_for_the_terms(name, base, other):
    ours, theirs = understood("upreid", name), understood(base, other)
    ours["run"]["output"] = theirs["run"]["output"]
    theirs.pop("init", None)  # DINO alone goes on from other runs
    assert {section: ours[section] for section in theirs} == theirs
    assert ours["regularisers"] == asdict(RegularisersConfig())
    assert ours["base"] == base or name.endswith("demo")
