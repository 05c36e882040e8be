"""The recipe of distillation: a student of another family, size and length of features."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import launch
from transreid_ssl import UserError
from transreid_ssl.models import build_backbone, load_backbone, read_spec, save_backbone

PEOPLE = "demo:identities=16,images=4,height=32,width=16"
TINY = [
    f"--data.pool={PEOPLE}", "--model.img_size=[64,32]", "--views.global_size=[64,32]",
    "--run.batch_size=16", "--run.epochs=3", "--run.log_every=1", "--run.num_workers=0",
    "--run.num_threads=1", "--run.precision=no", "--run.checkpoint_every=5",
]  # fmt: skip
PROBE = ["--probe.data=demo:test=6,images=4,height=32,width=16", "--probe.every=0"]
PATH = str(launch.ROOT / "recipes" / "distill.py")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A network of 128 values at 32x16, while the students are of 64x32."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_backbone(path, build_backbone("vit_nano_patch8_conv", img_size=(32, 16)))
    return f"--distill.teacher={path}"


def run(*arguments):
    with launch.fresh_process():
        launch.recipe("distill").main([*TINY, *arguments])


@pytest.fixture(scope="module")
def unbroken(teacher, tmp_path_factory):
    """Options of a run with a student of timm's, and the folder of one that was left alone."""
    folder = tmp_path_factory.mktemp("distill") / "run"
    options = [*PROBE, teacher, "--model.name=timm:test_resnet", f"--run.output={folder}"]
    run(*options)
    return options, folder


def test_a_run_leaves_a_student_and_ends_as_before_when_it_lost_its_end(unbroken, capfd):
    options, folder = unbroken
    lines = launch.metrics(folder)
    assert {"relation", "feature", "feature_spread"} < set(lines[1])
    assert [line["step"] for line in lines if "probe/mAP" in line] == [0, 12]
    result = folder / "backbone.safetensors"
    spec = read_spec(result)
    assert (spec.name, spec.objective, spec.embed_dim) == ("timm:test_resnet", "distill", 96)
    whole, before = load_file(result), launch.losses(folder)
    last = folder / "checkpoints" / "step_00000012.pt"
    state = torch.load(last, weights_only=True)["objective"]
    assert not any(name.startswith("_teacher") or "cls_token" in name for name in state)
    kept = load_backbone(last)
    assert torch.equal(kept.state_dict()["net.conv1.0.weight"], whole["net.conv1.0.weight"])
    last.unlink()
    result.unlink()
    run(*options)
    said = capfd.readouterr().out
    assert "resuming from step 10 of 12" in said
    exported = folder / "network.onnx"
    assert said.endswith(f"next: python -m transreid_ssl.export {result} {exported}\n")
    assert launch.losses(folder) == before
    resumed = load_file(result)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_killed_run_ends_with_the_same_bits(unbroken, tmp_path):
    options, folder = unbroken
    killed = tmp_path / "run"
    arguments = [PATH, *TINY, *options[:-1], f"--run.output={killed}"]
    checkpoint = killed / "checkpoints" / "step_00000005.pt"
    launch.kill(*arguments, when=checkpoint.exists)
    assert not (killed / "backbone.safetensors").exists()
    launch.run(*arguments)
    one, other = (load_file(path / "backbone.safetensors") for path in (folder, killed))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert launch.losses(killed) == launch.losses(folder)


@pytest.mark.parametrize("relation", ["kl", "l2"])
def test_two_processes_give_the_losses_of_one(teacher, tmp_path, relation):
    plain = [teacher, "--model.name=vit_nano_patch8_reid", "--probe.data=null"]
    plain += [f"--distill.relation={relation}"]
    run(*plain, f"--run.output={tmp_path / 'one'}")
    two = [*TINY, *plain, f"--run.output={tmp_path / 'two'}"]
    assert "2 processes" in launch.run(PATH, *two, processes=2)
    one = launch.losses(tmp_path / "one")
    assert len(one) == 12
    assert launch.losses(tmp_path / "two") == pytest.approx(one, rel=2e-4)


def test_a_run_goes_on_with_no_other_teacher(unbroken, teacher):
    options, _ = unbroken
    path = Path(teacher.partition("=")[2])
    content = path.read_bytes()
    save_backbone(path, build_backbone("vit_nano_patch8_conv", img_size=(32, 16)))
    try:
        with pytest.raises(UserError, match="is another network than the one that this run began"):
            run(*options)
    finally:
        path.write_bytes(content)


def test_what_cannot_be_distilled_is_refused_before_anything_is_written(tmp_path, teacher):
    output = f"--run.output={tmp_path / 'run'}"
    with pytest.raises(UserError, match=r"none.safetensors: there is no such file"):
        run(output, "--distill.teacher=none.safetensors")
    with pytest.raises(UserError, match=r"num_local 2: both networks see large views"):
        run(output, teacher, "--views.num_local=2")
    with pytest.raises(UserError, match="both 0, and nothing would be learnt"):
        run(output, teacher, "--distill.relation_weight=0", "--distill.feature_weight=0")
    with pytest.raises(UserError, match=r"timm .* has none of this name; did you mean timm:resnet"):
        run(output, teacher, "--model.name=timm:resnet_18")
    assert not list(tmp_path.iterdir())
