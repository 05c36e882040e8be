"""A run of DINO that goes on from another's checkpoint, as a user starts it."""

import shutil

import pytest
import yaml
from safetensors.torch import load_file

import launch

TINY = [
    *launch.TINY, "--views.num_local=0", "--model.name=vit_nano_patch8_reid",
    "--model.drop_path=0",
]  # fmt: skip
PEOPLE = "--data.pool=demo:identities=16,images=4,height=32,width=16"
OTHERS = "--data.pool=demo:identities=16,images=4,first=100,height=32,width=16"
PROBE = ["--probe.data=demo:test=6,images=4,height=32,width=16", "--probe.every=0"]
LATER = ["--optim.lr=1e-4", "--optim.layer_decay=0.75", "--init.heads=true", "--run.epochs=3"]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    arguments = [*TINY, PEOPLE, "--probe.data=null", "--run.epochs=3", "--optim.warmup_epochs=1"]
    launch.run(launch.DINO, *arguments, f"--run.output={folder}")
    return folder


@pytest.fixture(scope="module")
def unbroken(earlier, tmp_path_factory):
    """A run that goes on from it, left alone, and what it said."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    arguments = [launch.DINO, *TINY, OTHERS, *PROBE, *LATER, f"--model.weights={earlier}"]
    return folder, launch.run(*arguments, f"--run.output={folder}")


def test_the_newest_checkpoint_of_a_run_goes_on_and_is_probed_first_and_last(unbroken):
    folder, text = unbroken
    assert "step_00000012.pt: transreid_ssl training checkpoint, continued\n  student: " in text
    first, *_, last = launch.metrics(folder)
    assert (first["step"], last["step"]) == (0, 12)
    assert {"probe/mAP", "probe/rank1"} <= first.keys() & last.keys()
    assert "before (step 0)" in text
    assert "after (step 12)" in text


def test_killed_it_ends_as_the_unbroken_one_and_needs_no_initial_weights(
    earlier, unbroken, tmp_path
):
    weights, folder = tmp_path / "earlier", tmp_path / "run"
    shutil.copytree(earlier, weights)
    arguments = [
        launch.DINO, *TINY, OTHERS, *PROBE, *LATER, f"--model.weights={weights}",
        f"--run.output={folder}", "--run.checkpoint_every=3",
    ]  # fmt: skip
    metrics = folder / "metrics.jsonl"
    launch.kill(*arguments, when=lambda: metrics.exists() and len(launch.losses(folder)) >= 5)
    shutil.rmtree(weights)
    text = launch.run(*arguments)
    assert "resuming from step" in text
    assert "continued" not in text
    assert launch.losses(folder) == launch.losses(unbroken[0])
    expected = load_file(unbroken[0] / "backbone.safetensors")
    found = load_file(folder / "backbone.safetensors")
    assert expected.keys() == found.keys()
    assert all(found[k].numpy().tobytes() == v.numpy().tobytes() for k, v in expected.items())


def test_two_processes_go_on_as_one(earlier, unbroken, tmp_path):
    arguments = [
        launch.DINO,
        *TINY,
        OTHERS,
        "--probe.data=null",
        *LATER,
        f"--model.weights={earlier}",
    ]
    launch.run(*arguments, f"--run.output={tmp_path / 'two'}", processes=2)
    assert launch.losses(tmp_path / "two") == pytest.approx(launch.losses(unbroken[0]), rel=2e-4)


def test_what_is_not_given_is_the_checkpoint_s_and_goes_on_when_that_is_gone(
    earlier, unbroken, tmp_path
):
    weights, folder = tmp_path / "earlier", tmp_path / "run"
    shutil.copytree(earlier, weights)
    options = [
        word for word in TINY if not word.startswith(("--model.name", "--model.img_", "--dino."))
    ]
    options = [word for word in options if not word.endswith("_size=[32,16]")]
    assert len(options) == len(TINY) - 6
    arguments = [
        launch.DINO, *options, OTHERS, "--probe.data=null", *LATER, f"--model.weights={weights}",
        f"--run.output={folder}",
    ]  # fmt: skip
    shown = yaml.safe_load(launch.run(*arguments, "--print_config"))
    assert (shown["model"]["name"], shown["dino"]["out_dim"]) == ("vit_nano_patch8_reid", 32)
    assert not folder.exists()
    text = launch.run(*arguments)
    assert "with the settings that it was made with, --model.name vit_nano_patch8_reid" in text
    assert launch.losses(folder) == launch.losses(unbroken[0])
    shutil.rmtree(weights)
    assert "resuming from step 12 of 12" in launch.run(*arguments)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--dino.out_dim=64"], "give --dino.out_dim 32"),
        (["--model.weights=nowhere.pth"], "nowhere.pth: no such weights file"),
        (["--model.weights=null"], "name the checkpoint to go on from with --model.weights"),
    ],
)
def test_what_cannot_go_on_costs_no_earlier_run(earlier, unbroken, wrong, message):
    folder = unbroken[0]
    before = sorted(folder.rglob("*"))
    arguments = [*TINY, OTHERS, *LATER, f"--model.weights={earlier}", *wrong]
    text = launch.run(
        launch.DINO, *arguments, f"--run.output={folder}", "--run.overwrite=true", code=2
    )
    assert message in text
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
