"""Training on clusters as a user runs it: results, resume, processes and refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file

import launch
import transreid_ssl
from transreid_ssl.models import HALF, build_backbone, read_spec, save_backbone

RECIPE = str(launch.ROOT / "recipes" / "usl_finetune.py")
TINY = [
    "--data.name=demo:identities=10,images=6,test=5,height=32,width=16", "--model.img_size=[32,16]",
    "--run.batch_size=16", "--run.epochs=3", "--run.log_every=1", "--run.num_workers=0",
    "--run.num_threads=1", "--run.checkpoint_every=3", "--augment.padding=2", "--probe.every=4",
    "--clusters.steps_per_epoch=4", "--clusters.k1=5", "--clusters.k2=2", "--clusters.eps=0.7",
    "--clusters.min_samples=2", "--clusters.embed_batch_size=16", "--data.statistics=half",
]  # fmt: skip
BEFORE = "outputs/dino_pretrain/backbone.safetensors"


def logged(folder, name):
    return [(line["step"], line[name]) for line in launch.metrics(folder) if name in line]


def cluster_lines(folder):
    return [
        {name: value for name, value in line.items() if name.startswith("clusters/")}
        for line in launch.metrics(folder)
        if "clusters/found" in line
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder where the demo of pre-training has been, and then that of training on clusters."""
    folder = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    before = build_backbone("vit_nano_patch8_ics", img_size=(32, 16), objective="dino")
    save_backbone(folder / BEFORE, before)
    text = launch.run(RECIPE, *TINY, "--run.page=true", cwd=folder)
    (folder / "log.txt").write_text(text)
    return folder


def test_a_run_leaves_its_results(home):
    run = home / "outputs" / "usl_finetune"
    text = (home / "log.txt").read_text()
    assert "epoch 2: " in text
    assert "(10 people)" in text
    assert len(logged(run, "loss")) == 12
    assert [step for step, _ in logged(run, "clusters/found")] == [0, 4, 8]
    assert all(-1 <= index <= 1 for _, index in logged(run, "clusters/adjusted_rand_index"))
    assert [step for step, _ in logged(run, "probe/mAP")] == [0, 4, 8, 12]
    spec = read_spec(run / "model.safetensors")
    assert (spec.objective, spec.feature_norm, spec.mean, spec.std) == ("usl", True, *HALF)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report.html").read_text()
    for chapter in ("figures", "gallery", "rates", "attention", "map", "clusters", "speed"):
        assert f'<section id="{chapter}"' in page
    before, after = load_file(home / BEFORE), load_file(run / "model.safetensors")
    last = transreid_ssl.load_backbone(run / "checkpoints" / "step_00000012.pt").state_dict()
    assert all(torch.equal(value, last[name]) for name, value in after.items())
    assert set(after) - set(before) == {
        f"bottleneck.{name}"
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_the_best_model_is_that_of_the_best_probe(home):
    run = home / "outputs" / "usl_finetune"
    best = max(logged(run, "probe/mAP"), key=lambda entry: entry[1])
    spec = read_spec(run / "best.safetensors")
    assert spec.provenance["step"] == best[0]
    text = launch.run(
        "-m", "transreid_ssl.evaluate", f"--weights={run / 'best.safetensors'}", cwd=home
    )
    assert f"{best[1]:.1f}" in text


def test_a_killed_run_ends_as_the_unbroken_one_bit_for_bit(home, tmp_path):
    unbroken, folder = home / "outputs" / "usl_finetune", tmp_path / "run"
    arguments = [RECIPE, *TINY, f"--run.output={folder}"]
    midst = folder / "checkpoints" / "step_00000006.pt"  # of the second epoch
    launch.kill(*arguments, when=midst.exists, cwd=home)
    assert "resuming from step" in launch.run(*arguments, cwd=home)
    for name in ("loss", "probe/mAP", "clusters/found", "clusters/adjusted_rand_index"):
        assert logged(folder, name) == logged(unbroken, name)
    expected, found = (load_file(run / "model.safetensors") for run in (unbroken, folder))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.numpy().tobytes() == found[name].numpy().tobytes(), name


def test_a_run_broken_off_between_epochs_clusters_anew(home):
    run = home / "outputs" / "usl_finetune"
    whole, clusters = load_file(run / "model.safetensors"), cluster_lines(run)
    for step in (9, 12):
        (run / "checkpoints" / f"step_{step:08d}.pt").unlink()
    text = launch.run(RECIPE, *TINY, "--run.checkpoint_every=4", cwd=home)
    assert "resuming from step" not in text  # the newest two were kept, and are gone
    assert cluster_lines(run) == clusters
    (run / "checkpoints" / "step_00000012.pt").unlink()
    assert "resuming from step 8 of 12" in launch.run(RECIPE, *TINY, cwd=home)
    assert cluster_lines(run) == clusters
    resumed = load_file(run / "model.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_two_processes_and_accumulation_find_the_clusters_and_losses_of_one(home, tmp_path):
    plain = [
        *TINY, "--clusters.frozen_norms=true", "--model.name=vit_nano_patch8_reid",
        "--model.weights=null", "--probe.every=0", "--run.epochs=2", "--optim.lr=0.001",
        "--run.seed=3",
    ]  # fmt: skip
    for name, options, processes in (
        ("one", [], 1), ("two", [], 2), ("parts", ["--run.accumulation=2"], 1)
    ):  # fmt: skip
        launch.run(
            RECIPE, *plain, *options, f"--run.output={tmp_path / name}",
            processes=processes, cwd=home,
        )  # fmt: skip
    one = tmp_path / "one"
    assert len(logged(one, "loss")) == 8
    for other in (tmp_path / "two", tmp_path / "parts"):
        assert cluster_lines(other) == cluster_lines(one)
        assert dict(logged(other, "loss")) == pytest.approx(dict(logged(one, "loss")), rel=2e-4)


def test_norms_of_so_many_images_give_equal_losses_on_one_process_and_on_four(home, tmp_path):
    """The norms of stem and neck are trained, and their running statistics find the clusters."""
    plain = [
        *TINY, "--run.norm_images=4", "--data.images_per_cluster=4", "--model.weights=null",
        "--probe.every=0", "--run.epochs=2", "--optim.lr=0.001", "--run.seed=3",
        "--clusters.eps=0.6",
    ]  # fmt: skip
    runs = {"1": [], "2": [], "4": [], "parts": ["--run.accumulation=2"]}
    for name, options in runs.items():
        launch.run(
            RECIPE, *plain, *options, f"--run.output={tmp_path / name}",
            processes=int(name) if name.isdigit() else 1, cwd=home,
        )  # fmt: skip
    expected = dict(logged(tmp_path / "1", "loss"))
    assert len(expected) == 8
    for name in runs:
        assert cluster_lines(tmp_path / name) == cluster_lines(tmp_path / "1")
        assert dict(logged(tmp_path / name, "loss")) == pytest.approx(expected, rel=2e-4)
    launch.run(RECIPE, *plain, "--run.norm_images=16", f"--run.output={tmp_path / 'all'}", cwd=home)
    others = dict(logged(tmp_path / "all", "loss"))
    assert abs(others[1] - expected[1]) > 0.01 * expected[1]


def test_two_processes_resume_between_epochs_with_the_batch_norms_of_one(home, tmp_path):
    run = tmp_path / "run"
    arguments = [*TINY, "--probe.every=0", "--run.epochs=2", f"--run.output={run}"]
    arguments += ["--run.checkpoint_every=4", "--clusters.eps=0.5"]
    launch.run(RECIPE, *arguments, processes=2, cwd=home)
    whole, clusters = load_file(run / "model.safetensors"), cluster_lines(run)
    (run / "checkpoints" / "step_00000008.pt").unlink()
    lines = [
        line for line in launch.metrics(run) if "clusters/found" not in line or not line["step"]
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = launch.run(RECIPE, *arguments, processes=2, cwd=home)
    assert "resuming from step 4 of 8" in text
    assert cluster_lines(run) == clusters
    resumed = load_file(run / "model.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_no_cluster_is_one_line_and_keeps_the_state(home, tmp_path):
    arguments = ["--clusters.eps_end=0.001", f"--run.output={tmp_path / 'run'}"]
    text = launch.run(RECIPE, *TINY, *arguments, "--clusters.min_samples_end=50", cwd=home, code=2)
    (error,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "eps" in error
    assert "min_samples" in error
    assert "Traceback" not in text
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_any_unlabelled_pool_will_do(home, tmp_path):
    text = launch.run(
        RECIPE, *TINY, "--data.name=pool", "--run.epochs=1", f"--run.output={tmp_path / 'run'}",
        "--data.root=demo:identities=10,images=6,height=32,width=16", cwd=home,
    )  # fmt: skip
    assert "people)" not in text  # nobody knows how many there are
    assert "clusters/adjusted_rand_index" not in launch.metrics(tmp_path / "run")[0]
    refused = launch.run(
        RECIPE, *TINY, "--data.name=pool", f"--run.output={tmp_path / 'other'}",
        "--data.cross_camera=true", cwd=home, code=2,
    )  # fmt: skip
    assert "--data.cross_camera: the cameras of pool are not known" in refused
