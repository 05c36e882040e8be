"""What every test begins with: its share of the cores, and the same random numbers."""

import gc
import os
import random
import sys
from pathlib import Path

if sys.dont_write_bytecode:
    # Compiling torch and timm takes six seconds of every program that a test starts: they are
    # compiled once, beside what pytest keeps, and not where nothing was to be written.
    _compiled = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = _compiled
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Tests side by side share the cores: threads that wait for one another do so in a busy loop,
    # and take ten times as long. The package reads the first, as torch's launcher sets it; NumPy
    # the other, when it is imported.
    _workers = os.environ["LOCAL_WORLD_SIZE"] = os.environ["PYTEST_XDIST_WORKER_COUNT"]
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(_workers)))

import numpy as np
import pytest
import torch

from transreid_ssl import logs
from transreid_ssl.machine import own_cores

LONGEST = [
    "test_selection_gain", "test_pages", "test_faults", "test_benchmarks", "test_kernels",
    "test_usl_finetune", "test_launching", "test_likeness", "test_options", "test_dino_pretrain",
    "test_tracks_benchmark", "test_selection_benchmark", "test_wheel", "test_processes",
]  # fmt: skip
"""Files of more than a dozen seconds, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A worker that is free takes the next file: those that take longest begin, in their order, so
    that workers side by side end at about one time."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_configure(config: pytest.Config) -> None:
    """Files begin in the order above, and runs leave no page."""
    os.environ["TRANSREID_SSL_PAGES"] = "0"  # a second of each run; who tests them asks for them
    config.option.loadscopereorder = False  # pytest-xdist begins with the files of most tests


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test's command took of the cores is given back before the fixtures of the next."""
    torch.set_num_threads(own_cores())


def pytest_collection_finish() -> None:
    """Every run of a recipe ends with a search for garbage, for which what has been imported so far
    is none."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def console():
    """What is logged is shown, as commands and recipes have it."""
    logs.hide()
    logs.show()
    yield
    logs.hide()


@pytest.fixture(autouse=True)
def seed():
    """The same random networks and images in every run, whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
