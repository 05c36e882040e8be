"""What few runs ask for: compiled networks, trackers, fp16 without a GPU, several processes."""

import importlib
from typing import ClassVar

import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType
from torch._dynamo.utils import counters

import launch
from transreid_ssl.data import open_pool
from transreid_ssl.models.blocks import PackedBlock


def pretrain(folder, *arguments, code=0):
    return launch.run(launch.DINO, *launch.TINY, f"--run.output={folder}", *arguments, code=code)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's
def test_compiled_networks_have_the_losses_of_plain_ones(tmp_path, monkeypatch):
    """The graphs are captured; a compiler for them, which not every machine has, is torch's."""
    pretrain(tmp_path / "plain")
    graphs = torch.compile(PackedBlock.forward_packed, backend="eager", dynamic=False)
    monkeypatch.setattr("transreid_ssl.models.vit.compiled_block", lambda: graphs)
    torch._dynamo.reset()
    counters.clear()
    pretrain(tmp_path / "compiled", "--run.compile=true")
    assert counters["stats"]["unique_graphs"] >= 2  # student and teacher
    assert not counters["graph_break"]
    plain, compiled = (launch.losses(tmp_path / name) for name in ("plain", "compiled"))
    assert len(plain) == 4
    assert compiled == pytest.approx(plain, rel=1e-5)


def test_fp16_without_a_gpu_is_said_to_be_float32(tmp_path):
    assert "precision no (fp16 needs a GPU)" in pretrain(tmp_path / "half", "--run.precision=fp16")
    pretrain(tmp_path / "full")
    assert launch.losses(tmp_path / "half") == launch.losses(tmp_path / "full")


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_is_left_to_processors_that_have_it(tmp_path, monkeypatch, fast):
    # Not as an attribute of its package, which has a function "start".
    beginning = importlib.import_module("transreid_ssl.training.start")
    monkeypatch.setattr(beginning, "has_fast_bf16", lambda: fast)
    text = pretrain(tmp_path / "half", "--run.precision=bf16")
    pretrain(tmp_path / "full")
    assert ("precision bf16" if fast else "precision no (bf16 needs a GPU or a CPU") in text
    same = launch.losses(tmp_path / "half") == launch.losses(tmp_path / "full")
    assert same is not fast


class Notebook(tracking.GeneralTracker):
    """A tracker that keeps what it is told."""

    name, requires_logging_directory, tracker = "tensorboard", True, None
    kept: ClassVar[list] = []

    def __init__(self, run_name, logging_dir, **options):
        super().__init__()
        self.kept.append(("name", run_name))

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.kept.append(("settings", values))

    def log(self, values, step=None, **options):
        self.kept.append(("values", step, values))

    def log_images(self, values, step=None, **options):
        self.kept.append(("pictures", step, values))


def test_a_tracker_is_told_the_settings_and_the_values(tmp_path, monkeypatch):
    monkeypatch.setattr(Notebook, "kept", [])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Notebook)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    pretrain(tmp_path / "run", "--run.tracker=tensorboard")
    (_, name), (_, settings), *logged, (_, last, pictures) = Notebook.kept
    assert last == 4
    assert pictures["curves"].shape[::3] == (1, 3)  # (N, H, W, C)
    assert name == "dino-pre-training"
    assert settings["optim.betas"] == "[0.9, 0.999]"
    assert (settings["run.batch_size"], settings["probe.data"]) == (16, "None")
    assert all(type(value) in (bool, int, float, str) for value in settings.values())
    losses = {step: values["loss"] for _, step, values in logged if "loss" in values}
    assert list(losses) == [1, 2, 3, 4]
    assert list(losses.values()) == pytest.approx(launch.losses(tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("comet_ml", "its package is not installed; run: pip install comet-ml"),
        ("tensorbord", "not known; choose one of aim"),
    ],
)
def test_a_tracker_that_is_not_there_is_an_error(name, message, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    said = pretrain(tmp_path / "run", f"--run.tracker={name}", code=2)
    assert f"error: --run.tracker {name}: {message}" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_when_an_image_was_lost_meanwhile(tmp_path):
    people, crops = open_pool("demo:identities=8,images=4,height=32,width=16"), tmp_path / "crops"
    crops.mkdir()
    for index in range(len(people)):
        (crops / f"{index:02}.jpg").write_bytes(people.read(index))
    run = tmp_path / "run"
    options = [f"--data.pool={crops}", "--run.checkpoint_every=2", "--data.max_bad_fraction=0.1"]
    pretrain(run, *options)
    before = launch.losses(run)
    (run / "checkpoints" / "step_00000004.pt").unlink()
    (crops / "07.jpg").write_bytes(b"")
    assert "resuming from step 2 of 4" in pretrain(run, *options)
    after = launch.losses(run)
    assert after[:2] == before[:2]
    assert len(after) == 4
    assert "07.jpg" in (run / "bad_images_met.txt").read_text()


PEOPLE = "identities=8,images=4,test=3,height=32,width=16"
FINETUNING = [
    "--model.name=vit_nano_patch8_reid", "--model.weights=null", "--model.img_size=[32,16]",
    "--run.batch_size=16", "--run.epochs=2", "--run.log_every=1", "--run.num_workers=0",
    "--run.num_threads=1", "--run.precision=no", "--augment.padding=2",
    "--run.norm_images=8", "--model.drop_path=0",
]  # fmt: skip
RECIPES = {
    "supervised": [f"--data.name=demo:{PEOPLE}", "--optim.warmup_epochs=1"],
    "uda": [
        f"--source.name=demo:{PEOPLE},style=1", f"--target.name=demo:{PEOPLE},first=100,style=2",
        "--source_training.epochs=1", "--source_training.batch_size=16",
        "--source_training.optim.warmup_epochs=1", "--source_training.norm_images=8",
        "--source_training.drop_path=0", "--clusters.steps_per_epoch=2",
        "--clusters.k1=5", "--clusters.k2=2", "--clusters.eps=0.7", "--clusters.min_samples=2",
        "--clusters.frozen_norms=true", "--probe.every=0",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_fine_tune_with_the_losses_of_two_micro_batches(name, tmp_path):
    recipe = str(launch.ROOT / "recipes" / f"{name}_finetune.py")
    for processes in (1, 2):
        launch.run(
            recipe, *FINETUNING, *RECIPES[name], f"--run.accumulation={3 - processes}",
            f"--run.output={tmp_path / str(processes)}", processes=processes, cwd=tmp_path,
        )  # fmt: skip
    for stage in ("", "source") if name == "uda" else ("",):
        one, two = (tmp_path / str(processes) / stage for processes in (1, 2))
        assert len(launch.losses(one)) >= 2
        assert launch.losses(two) == pytest.approx(launch.losses(one), rel=1e-3)
