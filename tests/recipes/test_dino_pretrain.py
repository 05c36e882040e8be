"""The pre-training recipe as a user runs it: resume, processes, results and refusals."""

import pytest
import torch
from safetensors.torch import load_file

import launch
import transreid_ssl
from transreid_ssl.models import read_spec

RECIPE = str(launch.ROOT / "recipes" / "dino_pretrain.py")
TINY = [
    "--data.pool=demo:identities=24,images=4,height=32,width=16", "--model.img_size=[32,16]",
    "--views.global_size=[32,16]", "--views.local_size=[16,8]", "--views.num_local=2",
    "--run.batch_size=16", "--run.epochs=3", "--run.log_every=1", "--run.num_workers=0",
    "--run.num_threads=1",
    "--dino.out_dim=32", "--dino.hidden_dim=32", "--dino.bottleneck_dim=16",
    "--run.precision=no",
]  # fmt: skip
NO_PROBE = ["--probe.data=null"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run with a checkpoint every five steps and the probe, left alone to its end."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    text = launch.run(
        RECIPE, *TINY, *SMALL_PROBE, "--run.checkpoint_every=5", f"--run.output={folder}"
    )
    return folder, text


SMALL_PROBE = ["--probe.data=demo:test=6,images=4,height=32,width=16", "--probe.every=9"]


def test_a_run_leaves_its_results_and_says_what_it_did(unbroken):
    folder, text = unbroken
    assert "generated" in text
    assert "demo settings" in text
    assert "millions of images, and here are 96; views for thousands are chosen by" in text
    assert len(launch.losses(folder)) == 18
    probes = [line for line in launch.metrics(folder) if "probe/mAP" in line]
    assert [line["step"] for line in probes] == [0, 9, 18]
    assert 0 < probes[0]["probe/mAP_chance"] < probes[0]["probe/mAP_histogram"] <= 100
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "vit_nano_patch8_ics" in (folder / "config.yaml").read_text()
    spec = read_spec(folder / "backbone.safetensors")
    assert (spec.objective, tuple(spec.img_size)) == ("dino", (32, 16))
    assert spec.provenance["pool"].startswith("demo:identities=24")
    assert transreid_ssl.load_backbone(folder / "backbone.safetensors").spec == spec


def test_a_checkpoint_is_a_weights_file_too(unbroken):
    folder, _ = unbroken
    last = folder / "checkpoints" / "step_00000018.pt"
    teacher, student = (transreid_ssl.load_backbone(last, which=w) for w in ("teacher", "student"))
    final = load_file(folder / "backbone.safetensors")
    assert teacher.spec.img_size == (32, 16)
    assert all(torch.equal(value, final[name]) for name, value in teacher.state_dict().items())
    assert not torch.equal(student.state_dict()["cls_token"], final["cls_token"])


def test_a_killed_run_ends_as_the_unbroken_one_bit_for_bit(unbroken, tmp_path):
    folder = tmp_path / "run"
    arguments = [RECIPE, *TINY, *SMALL_PROBE, "--run.checkpoint_every=5", f"--run.output={folder}"]
    metrics = folder / "metrics.jsonl"
    launch.kill(*arguments, when=lambda: metrics.exists() and len(launch.losses(folder)) >= 7)
    assert "resuming from step" in launch.run(*arguments)
    expected = load_file(unbroken[0] / "backbone.safetensors")
    found = load_file(folder / "backbone.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.numpy().tobytes() == found[name].numpy().tobytes(), name
    assert launch.losses(folder) == launch.losses(unbroken[0])


def test_a_finished_run_goes_on_as_a_longer_one(unbroken, tmp_path):
    shorter = [*TINY, *NO_PROBE, f"--run.output={tmp_path / 'run'}", "--run.epochs=2"]
    launch.run(RECIPE, *shorter)
    text = launch.run(RECIPE, *shorter, "--run.extend_to=3")
    assert "resuming from step 12 of 18" in text
    mine, longer = (
        [line["lr"] for line in launch.metrics(folder) if "lr" in line]
        for folder in (tmp_path / "run", unbroken[0])
    )
    assert mine[12:] == longer[12:]
    assert read_spec(tmp_path / "run" / "backbone.safetensors").provenance["step"] == 18


@pytest.mark.parametrize("wrong", ["--data.pool=nowhere", "--model.weights=nowhere.pth"])
def test_a_run_is_not_thrown_away_for_one_that_cannot_begin(unbroken, wrong):
    folder, _ = unbroken
    before = sorted(folder.rglob("*"))
    text = launch.run(
        RECIPE, *TINY, wrong, f"--run.output={folder}", "--run.overwrite=true", code=2
    )
    assert "nowhere" in text
    assert sorted(folder.rglob("*")) == before


def test_two_processes_and_accumulation_give_the_losses_of_one(tmp_path):
    plain = [*TINY, *NO_PROBE, "--model.name=vit_nano_patch8_reid", "--model.drop_path=0"]
    launch.run(RECIPE, *plain, f"--run.output={tmp_path / 'one'}")
    text = launch.run(RECIPE, *plain, f"--run.output={tmp_path / 'two'}", processes=2)
    assert "2 processes" in text
    launch.run(RECIPE, *plain, f"--run.output={tmp_path / 'parts'}", "--run.accumulation=4")
    one = launch.losses(tmp_path / "one")
    assert len(one) == 18
    assert launch.losses(tmp_path / "two") == pytest.approx(one, rel=2e-4)
    assert launch.losses(tmp_path / "parts") == pytest.approx(one, rel=2e-4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.pool=/nowhere"], "/nowhere"),
        (["--optim.learning_rate=1"], "learning_rate"),
        (["--run.batch_size=1000"], "cannot fill one batch"),
        (["--model.name=vit_huge"], "vit_huge"),
        (["--model.name=mgn_resnet_nano"], "an MGN is not pre-trained"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--model.img_size=[64,32]"], "global_size"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, expected, tmp_path):
    text = launch.run(
        RECIPE, *TINY, *NO_PROBE, f"--run.output={tmp_path / 'run'}", *arguments, code=2
    )
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "Traceback" not in text


def test_the_folder_of_other_settings_is_refused(unbroken):
    text = launch.run(
        RECIPE, *TINY, *SMALL_PROBE, f"--run.output={unbroken[0]}", "--optim.lr=1", code=2
    )
    assert "optim.lr" in text
