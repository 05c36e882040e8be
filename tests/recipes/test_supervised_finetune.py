"""The fine-tuning recipe as a user runs it, and CFS on what it leaves."""

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import launch
import transreid_ssl
from transreid_ssl.cfs.__main__ import main as cfs
from transreid_ssl.errors import UserError
from transreid_ssl.models import HALF, build_backbone, read_spec, save_backbone

RECIPE = str(launch.ROOT / "recipes" / "supervised_finetune.py")
TINY = [
    "--data.name=demo:identities=12,images=4,test=6,height=32,width=16",
    "--model.img_size=[32,16]", "--run.batch_size=16", "--run.epochs=4", "--run.log_every=1",
    "--run.num_workers=0", "--run.num_threads=1", "--run.checkpoint_every=5", "--augment.padding=2",
    "--optim.warmup_epochs=1",
]  # fmt: skip
BEFORE = "outputs/dino_pretrain/backbone.safetensors"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder where the demo of pre-training has been, and then that of fine-tuning."""
    folder = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    before = build_backbone(
        "vit_nano_patch8_ics", img_size=(32, 16), objective="dino",
        provenance={"pool": "demo:identities=5,images=3,height=32,width=16"},
    )  # fmt: skip
    save_backbone(folder / BEFORE, before)
    text = launch.run(RECIPE, *TINY, cwd=folder)
    (folder / "log.txt").write_text(text)
    return folder


def test_a_run_leaves_its_results(home):
    run = home / "outputs" / "supervised_finetune"
    assert "generated" in (home / "log.txt").read_text()
    assert len(launch.losses(run)) == 12
    assert {"id_loss", "triplet_loss", "accuracy"} <= set(launch.metrics(run)[1])
    assert [line["step"] for line in launch.metrics(run) if "probe/mAP" in line] == [0, 12]
    spec = read_spec(run / "model.safetensors")
    assert (spec.objective, spec.mean, spec.std) == ("supervised", *HALF)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    before, after = load_file(home / BEFORE), load_file(run / "model.safetensors")
    assert before.keys() == after.keys()
    last = transreid_ssl.load_backbone(run / "checkpoints" / "step_00000012.pt").state_dict()
    assert all(torch.equal(value, last[name]) for name, value in after.items())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_cfs_goes_on_from_there_with_no_argument(home, monkeypatch):
    monkeypatch.chdir(home)
    for command in ("score", "select", "report"):
        cfs([command])
    assert len(pq.read_table(home / "outputs/cfs/scores.parquet")) == 15
    assert len(pq.read_table(home / "outputs/cfs/subset.parquet")) == 8
    assert (home / "outputs/cfs/sheet.png").is_file()


def test_a_run_that_lost_its_end_ends_as_before(home):
    run = home / "outputs" / "supervised_finetune"
    whole = load_file(run / "model.safetensors")
    (run / "model.safetensors").unlink()
    (run / "checkpoints" / "step_00000012.pt").unlink()  # left is that of step 10
    assert "resuming from step 10 of 12" in launch.run(RECIPE, *TINY, cwd=home)
    resumed = load_file(run / "model.safetensors")
    assert len(launch.losses(run)) == 12
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)


def test_without_pre_training_it_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="transreid_ssl pretrain dino"):
        launch.recipe("supervised_finetune").main([])
    assert not list(tmp_path.iterdir())


def test_a_batch_holds_whole_identities(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--run\.batch_size 30: .*images_per_identity, which is 4"):
        launch.recipe("supervised_finetune").main(
            ["--model.weights=null", "--run.batch_size=30", "--data.images_per_identity=4"]
        )
    assert not list(tmp_path.iterdir())


def test_overlapping_patches_gem_jigsaw_and_camera_embeddings_train_and_evaluate(tmp_path):
    folder = tmp_path / "run"
    launch.run(
        RECIPE, *TINY, "--model.name=vit_nano_patch8_reid", "--model.weights=null",
        "--model.stride=4", "--model.gem=true", "--model.camera_embedding=true",
        "--model.jpm=true",
        "--run.epochs=1", f"--run.output={folder}", cwd=tmp_path,
    )  # fmt: skip
    spec = read_spec(folder / "model.safetensors")
    assert (spec.grid, spec.gem, spec.num_cameras, spec.jpm) == ((7, 3), True, 6, True)
    text = launch.run(
        "-m", "transreid_ssl.evaluate", f"--weights={folder / 'model.safetensors'}", cwd=tmp_path
    )
    probe = [line for line in launch.metrics(folder) if "probe/mAP" in line][-1]
    assert f"{probe['probe/mAP']:.1f}" in text


def test_a_label_budget_trains_on_a_share(home, tmp_path):
    folder = tmp_path / "run"
    text = launch.run(
        RECIPE, *TINY, "--data.label_budget=0.5", "--data.label_budget_by=image",
        "--run.epochs=1", "--probe.data=demo:test=2,images=4", f"--run.output={folder}", cwd=home,
    )  # fmt: skip
    assert "50 % of the labels by image: 12 of 12 identities, 24 of 48 images" in text


def test_an_mgn_trains_and_is_evaluated(tmp_path):
    text = launch.run(
        str(launch.ROOT / "recipes" / "mgn_finetune.py"),
        "--data.name=demo:identities=12,images=4,test=6,height=48,width=16",
        "--model.img_size=[48,16]", "--run.batch_size=16", "--run.epochs=1", "--run.log_every=1",
        "--run.num_workers=0", "--run.num_threads=1", "--augment.padding=2", cwd=tmp_path,
    )  # fmt: skip
    assert "probe at step 3" in text
    spec = read_spec(tmp_path / "outputs" / "mgn_finetune" / "model.safetensors")
    assert (spec.name, spec.objective, spec.img_size) == ("mgn_resnet_nano", "mgn", (48, 16))
