"""Every settings file belongs to a recipe, which understands it and sends it where it says."""

import importlib.util

import pytest

import launch
from transreid_ssl.training import parse_config

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
