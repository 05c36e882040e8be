"""What a training would take: measured as a user would, and the arithmetic behind it."""

import re
from dataclasses import replace

import pytest

import launch
from transreid_ssl.data import open_pool
from transreid_ssl.plan import describe, shortages
from transreid_ssl.training.measure import Measurement

PEOPLE = "height=32,width=16"
RUN = [
    "--model.img_size=[32,16]", "--run.batch_size=16", "--run.num_workers=0", "--run.num_threads=1",
    "--run.checkpoint_every=5",
]  # fmt: skip
DINO = [
    "dino_pretrain", f"--data.pool=demo:identities=24,images=4,{PEOPLE}", *RUN, "--run.epochs=3",
    "--views.global_size=[32,16]", "--views.local_size=[16,8]", "--views.num_local=2",
    f"--probe.data=demo:test=5,images=4,{PEOPLE}", "--probe.every=7",
]  # fmt: skip
USL = [
    "usl_finetune", f"--data.name=demo:identities=10,images=6,test=5,{PEOPLE}", *RUN,
    "--model.weights=null", "--data.statistics=half", "--augment.padding=2", "--run.epochs=2",
    "--clusters.steps_per_epoch=4", "--clusters.k1=5", "--clusters.k2=2", "--clusters.eps=0.7",
    "--clusters.min_samples=2", "--clusters.embed_batch_size=16",
]  # fmt: skip
PAPER = "--config=dino_vit_small_ics_luperson50.yaml"


def plan(*arguments, code=0):
    return launch.run("-m", "transreid_ssl.plan", *arguments, code=code)


def test_a_few_steps_are_measured_and_nothing_is_left(tmp_path):
    run = tmp_path / "run"
    text = plan("--steps=2", *DINO, f"--run.output={run}")
    assert re.search(r"measured on cpu: 2 steps of 16 images after the first, \S+ s each", text)
    assert re.search(r"\n  \d+% of the rate that products of large matrices reach", text)
    assert (
        "this run, on demo:identities=24,images=4,height=32,width=16: 18 steps (3 epochs of 6), "
        in text
    )
    assert re.search(r"LUPerson \(4,180,243 images\), as many epochs: \S+ h", text)
    assert re.search(r"memory: \d+\.\d GB a process .* disk: \d+\.\d+ GB of checkpoints", text)
    assert "to be measured, nothing is kept; 1 process" in text
    assert not run.exists()


def test_a_training_is_planned_by_the_words_that_start_it():
    text = plan("--steps=1", "pretrain", "dino", *DINO[1:], "--processes=4")
    assert "s each on 4 processes that share these cores" in text
    (line,) = plan("pretrain", "dio", code=2).splitlines()
    assert line.startswith("error: pretrain dio: give one of dino, ")


def test_it_speaks_of_ones_own_pool_and_of_no_other(tmp_path):
    crops = tmp_path / "crops"
    crops.mkdir()
    pool = open_pool(f"demo:identities=6,images=4,{PEOPLE}")
    for index in range(len(pool)):
        (crops / f"{index}.png").write_bytes(pool.read(index))
    own = ["--config", "auto", f"--data.pool={crops}"]
    text = plan("--steps=1", "dino_pretrain", *own, *RUN[2:], "--run.epochs=2")
    assert f"this run, on {crops}: " in text
    assert "LUPerson" not in text
    assert "run folder" not in text
    known = ["dino_pretrain", "--config=dino_vit_small_ics_luperson50.yaml", f"--data.pool={crops}"]
    text = plan("--gpu=h200", *known, "--data.subset=null")
    assert f"  {crops} (24 images), 100 epochs: 0.0 h" in text


def test_what_stops_the_steps_names_the_folder_that_was_given(tmp_path):
    run = tmp_path / "run"
    wrong = ["--optim.lr=1e30", "--optim.clip=0", "--optim.warmup_epochs=0", "--probe.data=null"]
    text = plan("--steps=6", *DINO, *wrong, f"--run.output={run}", code=2)
    assert text.splitlines()[-1].startswith(f"error: {run}: ")


def test_processes_share_a_batch():
    text = plan("--steps=1", "--processes=4", *DINO)
    assert "s each on 4 processes that share these cores" in text
    assert (
        "this run, on demo:identities=24,images=4,height=32,width=16: 18 steps (3 epochs of 6), "
        in text
    )


def test_checkpoints_are_as_large_as_when_all_weights_learn():
    """Prototypes rest in the first epoch, and have no moments of the optimiser until then."""
    sizes = []
    for frozen in (1, 0):
        large = ["--dino.out_dim=20000", f"--dino.freeze_last_layer={frozen}"]
        text = plan("--steps=1", *DINO, *large)
        sizes.append(float(re.search(r"disk: (\S+) GB", text)[1]))
    assert sizes[0] == pytest.approx(sizes[1], abs=0.011)
    assert sizes[0] > 0.1  # the moments of prototypes are 0.04 of it


def test_an_epoch_of_clustering_is_no_pass_over_the_images():
    text = plan("--steps=1", "--processes=2", *USL)
    assert "images=6,test=5,height=32,width=16: 8 steps (2 epochs of 4), " in text
    assert "LUPerson" not in text


def test_a_run_may_be_shorter_than_what_is_to_be_measured():
    assert "17 steps of 16 images" in plan("--steps=50", *DINO)
    text = plan(*DINO, "--run.epochs=1", "--run.batch_size=96", code=2)
    assert text.splitlines()[-1].startswith("error: the run has one step")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: there is no such training; name one of pretrain dino, "),
        (["uda_finetune"], "has two stages: plan `finetune supervised` and "),
        (["--steps=0", "dino_pretrain"], "steps"),
        (["--steps", "many", "dino_pretrain"], "many"),
        (["--step=3", "dino_pretrain"], "step"),
        (["pretrain", "dino", "--gpu"], "--gpu"),
        (["--processes=7", *DINO], "--processes 7: 16 images are not shared by 7 processes"),
        (["--gpu=b300"], "--gpu b300: nothing was measured on it; give one of h200, h100"),
        (["--gpu="], "nothing was measured on it; give one of "),
        (["--gpu=h200", "--config", "auto"], "--config auto: chooses for the machine that it is"),
        (["--gpu=h200", "pretrain", "mocov3"], "known are dino_pretrain with "),
        (["--gpu=h200", PAPER, "--run.precision=no"], "--run.precision changes"),
        (["--gpu=h200", PAPER, "--data.pool=/nowhere"], "/nowhere"),
        (["--gpu=h200", PAPER, "--run.accumulation=3"], "--run.accumulation: 512 images"),
        (["dino_pretrain", "--data.pool=/nowhere"], "/nowhere"),
        (["dino_pretrain", "--optim.learning_rate=1"], "learning_rate"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    (line,) = plan(*arguments, code=2).splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_arithmetic():
    found = Measurement(
        device="cpu", batch_size=100, steps=8, began=60.0, first=121.0, step=1.0, data_wait=0.25,
        epoch_start=30.0, baselines=20.0, probe=5.0, checkpoint=3.0, steps_per_epoch=100, epochs=10,
        probes=4, checkpoints=20, checkpoints_kept=2, checkpoint_bytes=250_000_000,
        memory=1_500_000_000, machine_memory=3_200_000_000, ceiling_share=0.425, watts=400.0,
    )  # fmt: skip
    on_gpus = replace(found, device="NVIDIA H200")
    lines = describe(on_gpus, start=12.0, processes=2, images="crops", stands_in=True)
    assert lines == [
        "measured on NVIDIA H200: 8 steps of 100 images after the first, 0.5 s each on 2 processes "
        "that never wait for each other",
        "  200 images/s; 25% of a step is waiting for images; the first step took 60.5 s",
        "  42% of the rate that products of large matrices reach on this device",
        "this run, on crops: 1,000 steps (10 epochs of 100), 16 min 12 s (the start 0 min 12 s, "
        "training 9 min 20 s, the beginnings of epochs 5 min 00 s, 4 probes 0 min 40 s, "
        "20 checkpoints 1 min 00 s)",
        "  LUPerson (4,180,243 images), as many epochs: 58.1 h",
        "  its half, as many epochs: 29.0 h",
        "memory: 1.5 GB a process with its loaders; disk: 0.50 GB of checkpoints",
        "energy: 0.2 kWh, at 400 W a GPU",
    ]
    told = describe(found, start=12.0, processes=2, images="crops", stands_in=True)
    assert told[0].endswith(", 1 s each on 2 processes that share these cores")
    assert told[1].startswith("  100 images/s; ")
    assert ", 25 min 32 s (the start 0 min 12 s, training 18 min 40 s, " in told[3]
    assert [line.split(":")[0] for line in shortages(found, processes=2, free=700_000_000)] == [
        "the loaders are too slow", "the memory hardly suffices", "the disk does not suffice",
    ]  # fmt: skip
    enough = replace(found, data_wait=0.05)
    assert not shortages(enough, processes=1, free=750_000_000)
    assert not shortages(replace(on_gpus, data_wait=0.05), processes=2, free=750_000_000)


def test_a_gpu_that_was_measured_is_planned_for_without_one():
    text = plan("--gpu=h200", "--processes=8", "dino_pretrain", PAPER, "--run.batch_size=2048")
    assert "measured on one H200: 2,273 images/s with 256 at once, with " in text
    assert "8 of them are 18,184 images/s if they never wait" in text
    hours = 4_180_243 // 2 * 100 / 18184 / 3600
    assert f"its half, 100 epochs: {hours:.1f} h, at most {hours * 8 * 0.7:.1f} kWh" in text
    assert "memory: 20.0 of the 139 GiB of a GPU for 256 images at once; " in text
    assert "disk: 1.46 GB of checkpoints" in text
    assert plan("--gpu=H200", "--processes=8", PAPER, "--run.batch_size=2048") == text
    assert (
        plan(PAPER, "--run.batch_size=2048", "--run.compile", "auto", "--gpu=h200", "--processes=8")
        == text
    )
    # The training may be left out, and the plan's options may stand behind those of the training.
    assert plan(PAPER, "--run.batch_size=2048", "--gpu", "h200", "--processes", "8") == text


def test_another_gpu_and_another_batch_are_arithmetic():
    text = plan("--gpu=h100", PAPER)
    assert "by arithmetic one H100 reaches 1,586 to 2,273 images/s: " in text
    hours = [4_180_243 * 100 / 2273 / 3600 / share for share in (1, 3.35 / 4.8)]
    assert f"{hours[0]:.1f} to {hours[1]:.1f} h, at most {hours[1] * 0.7:.1f} kWh" in text
    gib = 0.84 + (20 - 0.84) * 2
    assert f"memory: about {gib:.1f} of the 79 GiB of a GPU for 512 images at once " in text
    large = plan("--gpu=h100", PAPER, "--run.batch_size=2048", "--run.accumulation=2")
    assert "suffice" not in text
    assert "for 1,024 images at once (by arithmetic from 20.0 for 256), which do not suf" in large
    assert "--run.accumulation 4 takes fewer at once" in large
