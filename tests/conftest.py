"""What every test begins with: its share of the cores, and the same random numbers."""

import gc
import os
import random
import sys
from pathlib import Path

if sys.dont_write_bytecode:
    # Compiling torch and timm takes six seconds of each of the hundred programs that tests start:
    # they are compiled once, beside what pytest keeps, and not where nothing was to be written.
    _compiled = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = _compiled
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False

import numpy as np
import pytest
import torch

from transreid_ssl import logs

LONGEST = {
    "test_benchmarks", "test_dino_pretrain", "test_faults", "test_objectives_benchmark",
    "test_options", "test_pages", "test_processes", "test_selection_benchmark",
    "test_selection_gain", "test_usl_finetune",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin, so that workers side by side end at about one time."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_configure(config: pytest.Config) -> None:
    """Tests side by side share the cores, as threads that wait for one another are slow."""
    os.environ["TRANSREID_SSL_PAGES"] = "0"  # a second of each run; who tests them asks for them
    config.option.loadscopereorder = False  # pytest-xdist begins with the files of most tests
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, (cores or 1) // workers))


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
