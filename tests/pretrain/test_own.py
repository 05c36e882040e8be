"""Settings that are chosen for one's own crops: from what, by whom overridden, and kept."""

import contextlib
import dataclasses
import importlib
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import launch
from transreid_ssl import data
from transreid_ssl.data.packing import pack
from transreid_ssl.data.people import PeopleConfig, PeoplePool
from transreid_ssl.data.track_columns import make_table
from transreid_ssl.errors import UserError
from transreid_ssl.pretrain.own import FEW, base_settings, choose_for
from transreid_ssl.pretrain.surroundings import Crops, Machine
from transreid_ssl.training import parse_config
from transreid_ssl.training.config import as_options, as_plain, flat

METHODS = ("dino", "moco", "mocov3", "moby", "upreid")
RECIPE = str(launch.ROOT / "recipes" / "dino_pretrain.py")
POOL = "demo:identities=6,images=4,height=32,width=16"
TINY = [
    "--config=auto", f"--data.pool={POOL}", "--model.img_size=[32,16]", "--run.batch_size=8",
    "--run.epochs=2", "--run.log_every=1", "--dino.out_dim=16", "--dino.hidden_dim=16",
]  # fmt: skip


def chosen(crops, machine, *options, method="dino"):
    """The settings that would run, and what is said of them."""
    recipe = launch.recipe(f"{method}_pretrain")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("{}")
        file.flush()
        nothing = Path(file.name)  # instead of the demo
        by_hand, _ = parse_config(recipe.Config, nothing, "", options)
        names = {option.removeprefix("--").partition("=")[0] for option in options}
        base = base_settings(recipe.Config, recipe.DEMO)
        found = choose_for(crops, machine, by_hand, names, base)
        arguments = [*as_options(found.settings), *options]
        return parse_config(recipe.Config, nothing, "", arguments)[0], "\n".join(found.lines)


@pytest.fixture
def pool(tmp_path):
    """Twelve crops of three tracks in two cameras, as shards that know them."""
    people = PeoplePool(PeopleConfig.from_spec("demo:identities=3,images=4,height=32,width=16"))
    tracks = [f"t{n // 4}" for n in range(len(people))]
    cameras = ["a"] * len(people)
    people.annotations = make_table(
        camera=cameras, video=cameras, track=tracks, frame=np.arange(len(people)) % 4
    )
    pack(people, tmp_path / "pool")
    return data.open_pool(tmp_path / "pool")


FROM_NOTHING = ["--model.weights=null", "--init.heads=false", "--optim.warmup_epochs=1"]
CONFIG = launch.recipe("dino_pretrain").Config()
BASE = base_settings(type(CONFIG), launch.recipe("dino_pretrain").DEMO)
CPU, GPU = Machine(2), Machine(16, 80.0)
CROPS = Crops(3000, 128.0, 2.0)


def test_a_run_of_one_epoch_is_not_all_warm_up():
    config, said = chosen(dataclasses.replace(CROPS, count=400_000), CPU)
    assert (config.run.epochs, config.optim.warmup_epochs) == (1, 0.1)
    assert "warm-up    0.1: a tenth of the run" in said
    config, said = chosen(CROPS, CPU, "--run.epochs=20", "--optim.warmup_epochs=5")
    assert config.optim.warmup_epochs == 5
    assert "warm-up    5.0: given by hand" in said


def test_what_is_measured_on_a_cpu_is_what_it_chooses():
    config, said = chosen(CROPS, CPU)
    file = launch.ROOT / "recipes" / "configs" / "dino_cpu.yaml"
    recipe = launch.recipe("dino_pretrain")
    tried = parse_config(recipe.Config, recipe.DEMO, "", ["--config", str(file)])[0]
    plain, expected = flat(as_plain(config)), flat(as_plain(tried))
    differ = {name for name in plain if as_plain(plain[name]) != as_plain(expected[name])}
    assert differ == {"run.output", "run.epochs"}
    assert config.run.epochs == 60
    assert "3,000 images" in said


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
def test_every_method_has_the_same_settings_but_its_own(method, machine):
    crops = dataclasses.replace(CROPS, mates=0.9, sure=True)
    mine, theirs = (
        as_plain(chosen(crops, machine, method=name)[0]) for name in (method, "dino")
    )  # fmt: skip
    for plain in (mine, theirs):
        del plain["run"]["output"], plain["views"]["erasing"]
        plain["optim"].pop("momentum")
    if method == "upreid":  # whose terms compare parts of one image
        assert (mine["views"].pop("mates"), theirs["views"].pop("mates")) == ("image", "track")
        mine["probe"] = theirs["probe"]
    for part in ("data", "model", "run", "views", "optim", "probe"):
        assert mine[part] == theirs[part], part


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    count=st.integers(8, 5_000_000),
    height=st.floats(8, 2000),
    aspect=st.floats(0.3, 6),
    mates=st.one_of(st.none(), st.floats(0, 1)),
    cores=st.integers(1, 128),
    memory=st.one_of(st.none(), st.floats(4, 200)),
    processes=st.sampled_from([1, 2, 3, 8]),
)
def test_any_pool_on_any_machine_gets_settings_that_run(
    count, height, aspect, mates, cores, memory, processes
):
    crops, machine = Crops(count, height, aspect, mates), Machine(cores, memory, processes)
    found = choose_for(crops, machine, CONFIG, (), BASE)
    run, views, model = (
        {name: found.settings.get(f"{part}.{name}", value) for name, value in known.items()}
        for part, known in as_plain(CONFIG).items()
        if part in ("run", "views", "model")
    )
    model, views = sorted((model, views), key=lambda part: "mates" in part)
    assert run["batch_size"] % (processes * run["accumulation"]) == 0
    assert run["batch_size"] <= max(count, processes)
    assert list(views["global_size"]) == list(model["img_size"])
    assert all(side % 8 == 0 for side in model["img_size"])
    assert 0 <= run["num_workers"] < cores
    assert run["epochs"] >= 1
    assert (views["mates"] == "track") == (mates is not None and mates >= 0.5)
    few = count < FEW or memory is None
    assert (views["num_local"] == 0, model["name"].endswith("conv")) == (few, few)
    assert all(line.count(": ") >= 1 for line in found.lines[1:])
    assert choose_for(crops, machine, CONFIG, (), BASE) == found


def test_what_is_given_by_hand_stays_and_others_follow_it():
    config, said = chosen(CROPS, GPU, "--model.img_size=[128,96]", "--run.batch_size=512")
    assert tuple(config.views.global_size) == (128, 96)
    assert config.views.ratio == pytest.approx((0.63, 0.9))
    assert config.run.batch_size == 512
    assert said.count("given by hand") == 3  # size, batch, and the head line
    assert chosen(CROPS, Machine(4, 8.0), "--run.batch_size=512")[0].run.accumulation > 1
    assert chosen(Crops(200, 128.0, 2.0), CPU, method="moco")[0].moco.queue_size == 100


def test_a_pool_is_looked_at_and_its_tracks_are_used(pool, tmp_path, capsys):
    recipe = launch.recipe("dino_pretrain")
    listed = tmp_path / "part.txt"
    listed.write_text("\n".join(name for name in pool.names[:6]))
    options = ["--config=auto", f"--data.pool={pool.source}", f"--run.output={tmp_path / 'run'}"]
    config, origin = parse_config(recipe.Config, recipe.DEMO, "", options)
    assert (config.views.mates, config.probe.data, config.probe.root) == (
        "track", "auto", None
    )  # fmt: skip
    assert (
        "12 images (median height 32, height / width 2.00; 100% of them" in capsys.readouterr().out
    )
    assert "chosen" in origin
    config, _ = parse_config(recipe.Config, recipe.DEMO, "", [*options, f"--data.subset={listed}"])
    assert "6 images" in capsys.readouterr().out
    assert config.views.mates == "track"
    assert (
        parse_config(recipe.Config, recipe.DEMO, "", [*options, "--views.mates=image"])[
            0
        ].views.mates
        == "image"
    )


def test_a_run_on_a_subset_with_mates_and_the_same_again(pool, tmp_path, monkeypatch):
    """A part of a packed pool keeps its tracks; what was chosen stays when the machine changes."""
    listed, folder = tmp_path / "part.txt", tmp_path / "run"
    listed.write_text("\n".join(pool.names[n] for n in range(10)))
    options = [*TINY, f"--data.pool={pool.source}", f"--data.subset={listed}"]
    options += [f"--run.output={folder}", "--probe.data=null", "--run.batch_size=4"]
    text = launch.run(RECIPE, *options)
    assert "10 of 10 images have a mate" in text
    assert text.index("network") < text.index("run folder")
    saved = (folder / "config.yaml").read_text()
    assert "mates: track" in saved
    older = saved.replace("  interpolation: linear\n", "")
    assert older != saved
    (folder / "config.yaml").write_text(older)
    monkeypatch.setattr("transreid_ssl.pretrain.surroundings.own_cores", lambda: 64)
    monkeypatch.setattr("transreid_ssl.pretrain.own._SEEN", {"cpu": 99})
    text = launch.run(RECIPE, *options, "--run.extend_to=3")
    assert "resuming from step 4 of 6" in text
    assert f"as {folder} was begun" in text


@pytest.mark.parametrize("knows", [True, False])
def test_tracks_of_the_pool_are_probed_where_nobody_named_a_probe(knows, pool, tmp_path):
    """Before the first step and after the last one; crops without tracks are not probed."""
    folder, source = tmp_path / "run", pool.source if knows else launch.TINY[0].partition("=")[2]
    tiny = [word for word in launch.TINY[1:] if not word.startswith("--probe")]
    options = [f"--data.pool={source}", f"--run.output={folder}", "--run.batch_size=4"]
    text = launch.run(launch.DINO, "--config=continue_cpu.yaml", *tiny, *options, *FROM_NOTHING)
    assert ("probe: pairs that tracks of the pool know, as they tell" in text) == knows
    assert ("ROC area %" in text) == knows
    lines = launch.metrics(folder)
    probed = [line["step"] for line in lines if "probe/roc_area" in line]
    assert probed == ([0, lines[-1]["step"]] if knows else [])


def test_two_processes_choose_alike_and_say_it_once(tmp_path):
    text = launch.run(RECIPE, *TINY, f"--run.output={tmp_path / 'run'}", processes=2)
    assert text.count("--config auto, for 24 images") == 1
    assert "2 processes, each of a CPU" in text
    assert len(launch.losses(tmp_path / "run")) == 6


def test_processes_that_are_not_alike_are_told(monkeypatch):
    start = importlib.import_module("transreid_ssl.training.start")
    one = SimpleNamespace(is_main_process=True, num_processes=1)
    for name, refused in (("seed", True), ("num_workers", False)):
        first = dataclasses.replace(CONFIG, run=dataclasses.replace(CONFIG.run, **{name: 3}))
        monkeypatch.setattr(start, "on_main", lambda _, __, first=first: as_plain(first))
        told = pytest.raises(UserError, match=r"run\.seed \(3 there, 0 now\) \(the first")
        with told if refused else contextlib.nullcontext():
            start._check_alike(one, CONFIG)


def test_only_pre_training_chooses(tmp_path):
    script = str(launch.ROOT / "recipes" / "supervised_finetune.py")
    text = launch.run(script, "--config=auto", code=2)
    assert "settings are chosen for pre-training alone" in text


@pytest.mark.parametrize("method", METHODS)
def test_help_tells_what_is_chosen_from(method, capsys):
    recipe = launch.recipe(f"{method}_pretrain")
    with pytest.raises(SystemExit):
        parse_config(recipe.Config, recipe.DEMO, "", ["--config=auto", "--help-all"])
    said = " ".join(capsys.readouterr().out.split())
    assert "default: vit_nano_patch8_conv" in said
    assert '"auto": settings chosen for the pool' in said
