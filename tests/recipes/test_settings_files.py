"""Every settings file belongs to a recipe, which understands it and sends it where it says."""

import importlib.util

import pytest

import launch
from transreid_ssl.training import parse_config
from transreid_ssl.training.config import as_plain

RECIPES = {path.stem: path for path in (launch.ROOT / "recipes").glob("*.py")}
FILES = sorted((launch.ROOT / "recipes" / "configs").iterdir())


def recipe_of(path):
    """The recipe whose name begins as the file's does, as a module."""
    (name,) = [n for n in RECIPES if n.split("_")[0] == path.stem.split("_")[0]]
    spec = importlib.util.spec_from_file_location(name, RECIPES[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_settings_files_are_understood(path):
    recipe = recipe_of(path)
    config, _ = parse_config(recipe.Config, recipe.DEMO, "", ["--config", str(path)])
    name = recipe.__name__ if path == recipe.DEMO else path.stem
    assert config.run.output == f"outputs/{name}"
    if recipe.__name__ == "supervised_finetune":
        assert config.run.batch_size % config.data.images_per_identity == 0


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
    del shared["dino"]
    for name in ("moco", "mocov3", "moby", "upreid"):
        found = settings(name)
        assert {part: found[part] for part in shared} == shared
