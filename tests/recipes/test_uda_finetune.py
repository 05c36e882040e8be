"""Domain adaptation as a user runs it: two stages, resume, and a source model of one's own."""

import pytest

import launch
from transreid_ssl.models import read_spec

RECIPE = str(launch.ROOT / "recipes" / "uda_finetune.py")
PEOPLE = "identities=10,images=6,test=5,height=32,width=16"
TINY = [
    f"--source.name=demo:{PEOPLE},style=1", f"--target.name=demo:{PEOPLE},first=100,style=2",
    "--model.img_size=[32,16]", "--run.batch_size=16", "--run.epochs=2", "--run.log_every=1",
    "--run.num_workers=0", "--run.num_threads=1", "--run.checkpoint_every=3",
    "--source_training.epochs=2", "--source_training.batch_size=16",
    "--source_training.optim.warmup_epochs=1", "--augment.padding=2", "--probe.every=100",
    "--clusters.steps_per_epoch=4", "--clusters.k1=5", "--clusters.k2=2", "--clusters.eps=0.7",
    "--clusters.min_samples=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "log.txt").write_text(launch.run(RECIPE, *TINY, cwd=folder))
    return folder


def test_both_stages_leave_their_results(home):
    run = home / "outputs" / "uda_finetune"
    text = (home / "log.txt").read_text()
    lengths = ("2 epochs (--source_training.epochs)", "2 epochs (--run.epochs)")
    assert text.index("first stage") < text.index(lengths[0]) < text.index("second stage")
    assert text.index("second stage") < text.index(lengths[1]) < text.index("epoch 1:")
    weights = "outputs/uda_finetune/model.safetensors"  # the first stage is no end
    assert text.count("next: ") == 1
    assert text.endswith(f"next: python -m transreid_ssl.evaluate --weights {weights}\n")
    source, target = (read_spec(path / "model.safetensors") for path in (run / "source", run))
    assert (source.objective, target.objective) == ("supervised", "uda")
    assert "style=1" in source.provenance["data"]
    assert "style=2" in target.provenance["data"]
    assert (target.feature_norm, source.feature_norm) == (True, False)
    assert (run / "best.safetensors").is_file()
    assert [line["step"] for line in launch.metrics(run) if "probe/mAP" in line] == [0, 8]


def test_the_first_stage_is_not_repeated(home):
    run = home / "outputs" / "uda_finetune"
    before = (run / "source" / "model.safetensors").stat().st_mtime_ns
    (run / "checkpoints" / "step_00000008.pt").unlink()
    text = launch.run(RECIPE, *TINY, cwd=home)
    assert "first stage" not in text
    assert "resuming from step 6 of 8" in text
    assert (run / "source" / "model.safetensors").stat().st_mtime_ns == before


def test_a_source_model_takes_the_place_of_the_first_stage(home, tmp_path):
    model = home / "outputs" / "uda_finetune" / "source" / "model.safetensors"
    text = launch.run(
        RECIPE, *TINY, f"--source_model={model}", f"--run.output={tmp_path / 'run'}", cwd=home
    )
    assert "first stage" not in text
    assert not (tmp_path / "run" / "source").exists()
    first = [
        next(line["probe/mAP"] for line in launch.metrics(run) if "probe/mAP" in line)
        for run in (tmp_path / "run", home / "outputs" / "uda_finetune")
    ]
    assert first[0] == first[1]  # direct transfer of the same network


def test_what_cannot_work_is_refused_before_the_first_stage(tmp_path):
    for option, said in (
        ("--model.camera_embedding=true", "the target has other cameras"),
        ("--target.images_per_cluster=5", "--run.batch_size 16: give a multiple"),
        ("--target.name=market1501", "market1501: where is it?"),
    ):
        text = launch.run(RECIPE, *TINY, option, cwd=tmp_path, code=2)
        assert said in text
        assert not list(tmp_path.iterdir())
