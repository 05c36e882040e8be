"""The recipes of MoCo, MoCo v3 and MoBY: results, resume and processes, queues among them."""

import pytest
import torch
from safetensors.torch import load_file

import launch
from transreid_ssl import UserError
from transreid_ssl.data import open_pool, packing
from transreid_ssl.data.track_columns import make_table
from transreid_ssl.models import LUPERSON, read_spec
from transreid_ssl.training import parse_config
from transreid_ssl.training.config import as_plain, differences

METHODS = {
    "moco": ["--moco.queue_size=40"],
    "mocov3": ["--mocov3.hidden_dim=32", "--mocov3.dim=16"],
    "moby": ["--moby.hidden_dim=32", "--moby.dim=16", "--moby.queue_size=40"],
}
PEOPLE = "demo:identities=16,images=4,height=32,width=16"
TINY = [
    f"--data.pool={PEOPLE}", "--model.img_size=[32,16]",
    "--views.global_size=[32,16]", "--run.batch_size=16", "--run.epochs=3", "--run.log_every=1",
    "--run.num_workers=0", "--run.num_threads=1", "--run.precision=no", "--run.checkpoint_every=5",
    "--data.statistics=luperson", "--model.drop_path=0.2",
]  # fmt: skip
PROBE = ["--probe.data=demo:test=6,images=4,height=32,width=16", "--probe.every=0"]
PLAIN = ["--model.name=vit_nano_patch8_reid", "--model.drop_path=0", "--probe.data=null"]


def path(method):
    return launch.ROOT / "recipes" / f"{method}_pretrain.py"


def run(method, *arguments):
    """The recipe in this process: what a launch would add is tested with two processes."""
    with launch.fresh_process():
        launch.recipe(f"{method}_pretrain").main([*TINY, *METHODS[method], *arguments])


@pytest.fixture(scope="module")
def of_tracks(tmp_path_factory):
    """Options: the generated people as a pool of a track each, views of two of its frames, which
    are believed as far as they show one person; two people of a video are certain negatives."""
    folder = tmp_path_factory.mktemp("tracks") / "pool"
    people, (tracks, videos) = open_pool(PEOPLE), ([str(i // n) for i in range(64)] for n in (4, 8))
    people.annotations = make_table(
        camera=videos, video=videos, track=tracks, frame=[i % 4 for i in range(64)]
    )
    packing.pack(people, folder)
    options = ["--views.mates=track", "--views.doubt_mates=true", "--views.certain_negatives=3"]
    return [f"--data.pool={folder}", *options]


@pytest.fixture(scope="module", params=METHODS)
def unbroken(request, tmp_path_factory, of_tracks):
    """A method's name and options, and the folder of a run that was left alone.

    Methods with a queue learn from tracks, the other one from images.
    """
    folder = tmp_path_factory.mktemp(request.param) / "run"
    options = [*PROBE, f"--run.output={folder}", *([] if request.param == "mocov3" else of_tracks)]
    run(request.param, *options)
    return request.param, options, folder


def test_a_run_leaves_its_results_and_ends_as_before_when_it_lost_its_end(unbroken, capfd):
    method, options, folder = unbroken
    lines = launch.metrics(folder)
    assert len(launch.losses(folder)) == 12
    assert {"contrast_accuracy", "feature_spread"} < set(lines[1])
    assert [line["step"] for line in lines if "probe/mAP" in line] == [0, 12]
    result = folder / "backbone.safetensors"
    spec = read_spec(result)
    assert (spec.objective, spec.mean, spec.std) == (method, *LUPERSON)
    whole, before = load_file(result), launch.losses(folder)

    last = folder / "checkpoints" / "step_00000012.pt"
    state = torch.load(last, weights_only=True)["objective"]
    assert torch.equal(state["encoder_q.backbone.cls_token"], whole["cls_token"])
    assert not torch.equal(state["encoder_k.backbone.cls_token"], whole["cls_token"])
    pointers = [value.item() for name, value in state.items() if name.endswith("pointer")]
    assert pointers == [12 * 16 % 40] * {"moco": 1, "mocov3": 0, "moby": 2}[method]
    remembered = [value for name, value in state.items() if name.endswith(".tracks")]
    assert all(value.min() >= 0 and value.max() < 16 for value in remembered)
    last.unlink()
    result.unlink()
    run(method, *options)
    assert "resuming from step 10 of 12" in capfd.readouterr().out
    assert launch.losses(folder) == before
    resumed, again = load_file(result), torch.load(last, weights_only=True)["objective"]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert state.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in state.items())


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_the_losses_of_one(method, tmp_path, of_tracks):
    plain = PLAIN + of_tracks + ([] if method == "moco" else [f"--{method}.head_norm=false"])
    run(method, *plain, f"--run.output={tmp_path / 'one'}")
    arguments = [*TINY, *METHODS[method], *plain, f"--run.output={tmp_path / 'two'}"]
    assert "2 processes" in launch.run(str(path(method)), *arguments, processes=2)
    one = launch.losses(tmp_path / "one")
    assert len(one) == 12
    assert launch.losses(tmp_path / "two") == pytest.approx(one, rel=2e-4)


@pytest.mark.parametrize("method", METHODS)
def test_views_that_cannot_be_contrasted_are_refused_before_anything_is_written(method, tmp_path):
    with pytest.raises(UserError, match=r"--views\.num_global is 2 and --views\.num_local 4"):
        run(method, "--views.num_local=4", f"--run.output={tmp_path / 'run'}")
    assert not list(tmp_path.iterdir())


def test_a_pool_that_knows_no_tracks_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"demo:.* does not tell .* transreid_ssl\.data tracks"):
        run("moco", "--views.mates=track", f"--run.output={tmp_path / 'run'}")
    assert not list(tmp_path.iterdir())


def settings(name):
    """The settings in a file of MoCo's as plain values; the recipe's defaults where None."""
    recipe, file = (
        launch.recipe("moco_pretrain"),
        launch.ROOT / "recipes" / "configs" / f"{name}.yaml",
    )
    if name is None:
        return as_plain(recipe.Config())
    return as_plain(parse_config(recipe.Config, recipe.DEMO, "", ["--config", str(file)])[0])


ERASED, JITTERED = "views.erasing.probability (0.5 there, 0.0 now)", "views.jitter (0.0 there, 0.8"
AREA, NETWORK = "views.erasing.area ([0.02, 0.6] there", "model.name (resnet50_reid there"
VARIANTS = {
    None: ["data.pool (data/LUPerson there"],
    "moco_resnet50_luperson_ori": [JITTERED, ERASED],
    "moco_resnet50_luperson_nojitter": [ERASED],
    "moco_resnet50_luperson_erase20": [f"{AREA}, [0.02, 0.2] now)"],
    "moco_resnet50_luperson_erase40": [f"{AREA}, [0.02, 0.4] now)"],
    "moco_resnet50_luperson_erase80": [f"{AREA}, [0.02, 0.8] now)"],
    "moco_resnet50_ibn_luperson": [f"{NETWORK}, resnet50_ibn_reid now)"],
    "moco_resnet101_luperson": [f"{NETWORK}, resnet101_reid now)"],
    "moco_resnet152_luperson": [f"{NETWORK}, resnet152_reid now)"],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_luperson_files_differ_from_the_released_run_as_they_say(name):
    found = differences(settings("moco_resnet50_luperson"), settings(name))
    assert found[0].startswith("run.output")
    assert len(found) - 1 == len(VARIANTS[name])
    for line, expected in zip(found[1:], VARIANTS[name]):
        assert line.startswith(expected)
