"""The comparison of objectives: its budget, tables and resume, mostly with pretended runs."""

import importlib
import json
import os
import signal

import pytest

import launch
from transreid_ssl.errors import UserError

DEMO = "demo:identities=20,images=8,height=32,width=16"
SETTINGS = [
    "--rows=moco", "--seeds", "0", "1", "--epochs=3", "--batch_size=16", "--finetune_epochs=2",
    f"--target={DEMO}",
]  # fmt: skip
CONFIG = "data: {images_per_identity: 4}\nrun: {batch_size: 16}\n"
# mAP of the probes of a fine-tuning, by row and seed: before and after.
FIGURES = {
    ("untrained", 0): (4.0, 20.0), ("untrained", 1): (6.0, 24.0),
    ("untrained_ics", 0): (1.0, 2.0), ("dino_ics", 0): (3.0, 8.0),
    ("moco", 0): (10.0, 40.0), ("moco", 1): (12.0, 48.0), ("dino", 0): (11.0, 30.0),
}  # fmt: skip
BASELINES = {
    "probe/mAP_histogram": 30.0, "probe/rank1_histogram": 50.0,
    "probe/mAP_chance": 2.0, "probe/rank1_chance": 1.0,
}  # fmt: skip


@pytest.fixture
def benchmark(monkeypatch):
    """The module and a list of the runs that it has made, whose files are made up."""
    monkeypatch.syspath_prepend(launch.ROOT)
    objectives = importlib.import_module("benchmarks.objectives.__main__")
    runs = importlib.import_module("benchmarks.runs")
    made = []

    def pretend(run):
        made.append(run)
        run.folder.mkdir(parents=True, exist_ok=True)
        name, _, seed = run.folder.parent.name.rpartition("_seed")
        lines = [{"step": 30, "loss": 1.0, "step_seconds": 0.25 + int(seed)}]
        if run.kind == "fine-tuning":
            cut = 1.0 if run.folder.name == "finetune" else 0.5
            before, after = (cut * value for value in FIGURES[name, int(seed)])
            lines = [
                {"step": step, "probe/mAP": value, "probe/rank1": value + 1, **BASELINES}
                for step, value in ((0, before), (20, after))
            ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run.folder / "metrics.jsonl").write_text(text)
        (run.folder / "config.yaml").write_text(CONFIG)
        (run.folder / runs.RESULTS[run.kind]).touch()
        record = run.origin | {"seconds": 60.0}
        run.beside("json").write_text(json.dumps(record))
        return record

    monkeypatch.setattr(runs, "_execute", pretend)
    return objectives, made


def test_the_table_the_files_and_the_last_line_say_what_the_runs_left(benchmark, tmp_path, capsys):
    objectives, made = benchmark
    objectives.main([*SETTINGS, "--budgets", "0.5", "1", f"--out={tmp_path}"])
    text = capsys.readouterr().out
    assert "1/10  untrained, seed 0: fine-tuning (60 s, mAP 4.0 % -> mAP 20.0 %)" in text
    assert "10/10" in text
    assert "2/10  MoCo v2, seed 0: pre-training (60 s); about 8 min left\n" in text
    assert (
        "3/10  MoCo v2, seed 0: fine-tuning (60 s, mAP 10.0 % -> mAP 40.0 %); about 7 min" in text
    )
    table = (tmp_path / "table.md").read_text()
    assert table in text
    assert "On generated people" in table
    assert "Pre-training: 30 steps of 16 images" in table
    assert (
        "| untrained | 5.0 ± 1.4 (4.0, 6.0) | 6.0 ± 1.4 (5.0, 7.0) | 22.0 ± 2.8 (20.0, 24.0) | "
        "23.0 ± 2.8 (21.0, 25.0) | – |" in table
    )
    assert "| MoCo v2 | 11.0 ± 1.4 (10.0, 12.0) |" in table
    assert "| 250 |\n" in table  # ms a step of the fastest seed
    assert "| colour histogram | 30.0 | 50.0 | – | – | – |" in table
    assert "| 50% by identity | 10 | 80 | 11.0 ± 1.4 (10.0, 12.0) |" in table
    assert "| 100% by identity | 20 | 160 | 22.0 ± 2.8 (20.0, 24.0) |" in table
    everything = json.loads((tmp_path / "objectives.json").read_text())
    assert len(everything["runs"]) == 4
    assert len(everything["budgets"]) == 8
    assert (tmp_path / "objectives.png").read_bytes().startswith(b"\x89PNG")
    last = json.loads(text.splitlines()[-1])
    assert last["ratio"] == 2.0  # 44 to 22
    assert (last["best"], last["generated"]) == ("moco", True)
    assert last["rows"]["moco"]["direct"] == 11.0
    assert last["hardware"]["cores"] >= 1
    assert len(made) == 10


def test_finished_runs_are_read_and_others_made(benchmark, tmp_path):
    objectives, made = benchmark
    command = [*SETTINGS, "--budgets", "--seeds", "0", f"--out={tmp_path}"]
    objectives.main(command)
    assert len(made) == 3
    objectives.main(command)
    assert len(made) == 3
    (tmp_path / "moco_seed0" / "finetune" / "model.safetensors").unlink()
    objectives.main(command)
    assert [run.folder.name for run in made[3:]] == ["finetune"]
    objectives.main([*command, "--epochs=4"])
    assert [run.folder.name for run in made[4:]] == ["pretrain"]


def test_all_objectives_have_one_budget(benchmark, tmp_path):
    objectives, made = benchmark
    rows = ["--rows", "moco", "dino_ics", "dino", "--seeds", "0", "--budgets"]
    objectives.main([*SETTINGS, *rows, f"--out={tmp_path}", "--pretraining", "optim.lr=0.5"])
    names = [run.folder.parent.name.partition("_seed")[0] for run in made]
    assert names == ["untrained", "untrained_ics", *["dino"] * 2, *["dino_ics"] * 2, *["moco"] * 2]
    for kind in ("pre-training", "fine-tuning"):
        alike = {
            frozenset(o for o in run.options if not o.startswith(("--model.name", "--model.weigh")))
            for run in made
            if run.kind == kind
        }
        assert len(alike) == 1
    networks = {
        name: option.partition("=")[2]
        for name, run in zip(names, made)
        for option in run.options
        if option.startswith("--model.name")
    }
    ics = {name for name, network in networks.items() if network == "vit_nano_patch8_ics"}
    assert ics == {"untrained_ics", "dino_ics"}
    assert set(networks.values()) == {"vit_nano_patch8_ics", "vit_nano_patch8_conv"}
    assert "--optim.lr=0.5" in made[2].options
    assert "--optim.lr=0.5" not in made[3].options


def test_a_setting_may_be_one_rows_alone(benchmark):
    objectives, _ = benchmark
    settings = ["moco:moco.queue_size=64", "data.pool=demo:images=4"]
    command = [*SETTINGS, "--pretraining", *settings]
    options = objectives.parse(command)
    for name, own in (("moco", ["--moco.queue_size=64"]), ("dino", [])):
        given = objectives.pretraining(name, 0, options).options
        assert list(given[-len(own) - 1 :]) == [*own, "--data.pool=demo:images=4"]


def test_label_budgets_take_about_as_many_steps_as_all_labels(benchmark, tmp_path):
    objectives, made = benchmark
    budgets = ["--budgets", "0.25", "--budget_by", "identity", "image", "--seeds", "0"]
    objectives.main([*SETTINGS, *budgets, f"--out={tmp_path}"])
    # Batches of 4 people with 4 images: 5 people of 8 images make 2 a epoch, 20 of 2 make 5.
    epochs = {
        run.folder.name: [o for o in run.options if "run.epochs" in o or "warmup" in o]
        for run in made
        if "0.25" in run.folder.name
    }
    assert epochs == {
        "finetune_0.25_identity": ["--run.epochs=10", "--optim.warmup_epochs=2"],
        "finetune_0.25_image": ["--run.epochs=4", "--optim.warmup_epochs=1"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone=resnet_nano_reid", "--rows", "moco", "dino_ics"], "no variant with ICS"),
        (["--budgets", "0.5", "1.5"], r"a label budget of 1\.5: give a share above 0"),
        (["--target=nowhere"], "nowhere: unknown labelled set"),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_run(benchmark, arguments, message):
    objectives, made = benchmark
    with pytest.raises(UserError, match=message):
        objectives.main(arguments)
    assert not made


def test_a_run_that_fails_is_told_of_with_its_last_line(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(launch.ROOT)
    runs = importlib.import_module("benchmarks.runs")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "some_pretrain.py"
    recipe.write_text("import sys\nprint('begun', flush=True)\nsys.exit('error: no such pool')")
    run = runs.Run("pre-training", "Some, seed 0", tmp_path / "a" / "pretrain", recipe.stem, ())
    with (
        launch.fresh_process(),
        pytest.raises(UserError, match=r"Some, seed 0, pre-training: .*error: no such pool"),
    ):
        runs.Runs(runs.Counter({"pre-training": 1}))(run)
    assert (tmp_path / "a" / "pretrain.log").read_text().startswith("begun")
    assert not (tmp_path / "a" / "pretrain.json").exists()


def test_the_recipes_give_a_table(tmp_path):
    images = "height=32,width=16"
    command = [
        "-m", "benchmarks.objectives", "--rows=moco", "--seeds=0", "--img_size", "32", "16",
        "--epochs=1", "--batch_size=16", f"--pool=demo:identities=8,images=4,{images}",
        "--finetune_epochs=1", f"--target=demo:identities=8,images=4,test=4,{images}",
        "--budgets", "--threads=1", "--pretraining", "run.num_workers=0", "run.precision=no",
        "--finetuning", "run.num_workers=0", "run.batch_size=16", f"--out={tmp_path}",
    ]  # fmt: skip
    last = json.loads(launch.run(*command).splitlines()[-1])
    assert last["ratio"] > 0
    direct, tuned = ({"direct", "direct_rank1"}, {"finetuned", "finetuned_rank1"})
    assert last["rows"].keys() == {"untrained", "moco"}
    assert all(row.keys() == direct | tuned for row in last["rows"].values())
    assert all(0 < value <= 100 for row in last["rows"].values() for value in row.values())
    steps = launch.metrics(tmp_path / "moco_seed0" / "pretrain")[-1]["step"]
    assert f"Pre-training: {steps} steps of 16" in (tmp_path / "table.md").read_text()


def test_a_stop_is_passed_on_and_is_no_failure(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(launch.ROOT)
    runs = importlib.import_module("benchmarks.runs")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "slow_pretrain.py").write_text(
        "import os, signal, sys, time\nos.kill(int(sys.argv[-1]), signal.SIGTERM)\ntime.sleep(60)"
    )
    folder, ours = tmp_path / "a" / "run", (str(os.getpid()),)
    run = runs.Run("pre-training", "Slow, seed 0", folder, "slow_pretrain", ours)
    before = signal.getsignal(signal.SIGTERM)
    with launch.fresh_process(), pytest.raises(KeyboardInterrupt):
        runs.Runs(runs.Counter({"pre-training": 1}))(run)
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "a" / "run.json").exists()
