"""Every settings file belongs to a recipe, which understands it and sends it where it says."""

import itertools
import re

import numpy as np
import pytest

import launch
from transreid_ssl.data.erasing import RandomErasing
from transreid_ssl.training import parse_config
from transreid_ssl.training.config import as_plain
from transreid_ssl.training.phases import of_optimizer, without_end

RECIPES = sorted(path.stem for path in (launch.ROOT / "recipes").glob("*.py"))
FILES = sorted((launch.ROOT / "recipes" / "configs").iterdir())


def recipe_of(path):
    """The recipe whose name begins as the file's does, as a module; some are of DINO's."""
    method = {"continue": "dino", "own": "dino"}.get(first := path.stem.split("_")[0], first)
    (name,) = [n for n in RECIPES if n.split("_")[0] == method]
    return launch.recipe(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_settings_files_are_understood(path):
    recipe = recipe_of(path)
    config, _ = parse_config(recipe.Config, recipe.DEMO, "", ["--config", str(path)])
    name = recipe.__name__ if path == recipe.DEMO else path.stem
    assert config.run.output == f"outputs/{name}"
    # Who turns clipping on with a number means the whole gradient, as is usual.
    assert config.optim.clip or not config.optim.clip_per_parameter
    assert not without_end(of_optimizer(config.optim), config.run, 100)
    if recipe.__name__ == "supervised_finetune":
        assert config.run.batch_size % config.data.images_per_identity == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_settings_file_begins_with_the_command_that_runs_it(path):
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    text = "\n".join(line.lstrip("# ") for line in lines).replace("\\\n", " ")
    command = re.search(r"transreid-ssl (.*)", text)[1].split()
    method, _, kind = recipe_of(path).__name__.rpartition("_")
    assert command[: 1 + bool(method)] == [kind, *filter(None, [method])]
    if not path.stem.endswith("_demo"):
        assert command[command.index("--config") + 1] in (path.name, "auto")
    assert "accelerate launch" not in text  # whose own report would come after an error


def test_every_recipe_has_a_demo():
    demos = {path.stem.split("_")[0] for path in FILES if path.stem.endswith("_demo")}
    assert demos == {name.split("_")[0] for name in RECIPES}


def test_demos_of_pre_training_differ_by_the_method_alone():
    def settings(name):
        demo = launch.ROOT / "recipes" / "configs" / f"{name}_demo.yaml"
        recipe = recipe_of(demo)
        plain = as_plain(parse_config(recipe.Config, recipe.DEMO, "", ["--config", str(demo)])[0])
        del plain["run"]["output"]
        if not plain["views"]["erasing"]["probability"]:
            del plain["views"]["erasing"]  # the rest of it has no effect
        return plain

    shared = settings("dino")
    del shared["dino"], shared["init"]  # how a run of DINO may begin
    for name in ("moco", "mocov3", "moby", "upreid"):
        found = settings(name)
        assert {part: found[part] for part in shared} == shared


def published(stem):
    path = launch.ROOT / "recipes" / "configs" / f"{stem}.yaml"
    recipe = recipe_of(path)
    return parse_config(recipe.Config, recipe.DEMO, "", ["--config", str(path)])[0]


@pytest.mark.parametrize(
    ("stem", "area", "tall"),
    [
        ("usl_vit_small_market1501", 0.204, 0.80),
        ("moco_resnet50_luperson", 0.294, 0.86),
        ("upreid_resnet50_luperson", 0.294, 0.86),
        ("moco_resnet50_luperson_erase80", 0.352, 0.88),
        ("supervised_vit_small_market1501", 0.165, 0.57),
    ],
)
def test_erased_boxes_are_the_authors(stem, area, tall):
    """Their mean area, and the share of those taller than wide, measured with their programs."""
    config = published(stem)
    erasing = config.augment.erasing if hasattr(config, "augment") else config.views.erasing
    rng, draw = np.random.default_rng(0), RandomErasing(erasing).sample_box
    boxes = np.array([box for _ in range(12_000) if (box := draw(rng, 256, 128))])
    height, width = boxes[:, 2], boxes[:, 3]
    assert (height * width / (256 * 128)).mean() == pytest.approx(area, abs=0.004)
    assert (height > width).mean() == pytest.approx(tall, abs=0.015)


def test_settings_that_change_published_figures_are_the_authors():
    for stem, images in (("market1501", 64), ("msmt17", 128)):
        usl = published(f"usl_vit_small_ics_{stem}")
        assert (usl.run.norm_images, usl.run.precision, usl.clusters.precision) == (
            images, "no", "no",
        )  # fmt: skip
        assert usl.augment.erasing.fill_colour().tolist() == [189, 186, 179]
        assert usl.data.whole_passes
        assert (usl.augment.interpolation, usl.model.interpolation) == ("cubic", "cubic")
        mgn = published(f"mgn_resnet50_{stem}_luperson")
        assert (mgn.run.norm_images, mgn.run.precision, mgn.data.epoch) == (16, "no", "images")
        assert mgn.augment.erasing.fill_colour().tolist() == [0, 0, 0]
        assert mgn.mgn.triplet_part == 16
    uda = published("uda_vit_small_market1501_to_msmt17")
    assert (uda.run.norm_images, uda.source_training.norm_images) == (128, None)
    assert uda.source_training.augment.erasing.fill == "noise"
    assert published("supervised_vit_small_market1501_msmt17").data.name.endswith("msmt17_train")
    assert published("dino_vit_small_ics_luperson60").model.position_resampling == "dino"
    assert published("mocov3_vit_small_luperson").model.name == "vit_small_patch16_heads12_reid"
    moco = published("moco_resnet50_luperson")
    assert (moco.views.interpolation, moco.optim.by_epoch) == ("linear", True)
    for stem in ("moco_resnet50", "upreid_resnet50", "mocov3_vit_small"):
        assert published(f"{stem}_luperson").optim.decay_all
    assert published("upreid_resnet50_luperson").optim == moco.optim
    moby = published("moby_vit_small_luperson").optim
    assert (moby.whole_cosine, moby.decay_all) == (True, False)


@pytest.mark.parametrize("name", RECIPES)
def test_help_shows_examples_as_they_are_typed(name):
    lines = launch.recipe(name).__doc__.splitlines()
    assert any(line.startswith("    python -m transreid_ssl ") for line in lines)
    # A single backslash in a docstring joins two lines, and is gone.
    assert all(len(line) <= 100 for line in lines)
    for line, after in itertools.pairwise(lines):
        assert line.endswith("\\") == after.startswith("        --")
