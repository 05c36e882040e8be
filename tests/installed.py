"""The package as it is installed, in a process that has imported what is slow."""

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


def run(packages: Path, lines: Sequence[str], folder: Path, log: Path) -> None:
    """Start ``transreid-ssl`` with each of ``lines`` in a folder, then a recipe for its help.

    What they print goes to ``log``, before each exit code the word "code".
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "transreid_ssl"]:
        del sys.modules[name]
    source = {str(Path(__file__).parents[1]), ""}
    sys.path[:] = [str(packages), *(path for path in sys.path if path not in source)]
    os.chdir(folder)
    with open(log, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.orig_argv[:2] = ["python", "bin/transreid-ssl"]
    program = importlib.import_module("transreid_ssl.__main__")
    assert Path(program.__file__).is_relative_to(packages)
    for line in lines:
        sys.argv = ["transreid-ssl", *line.split()]
        try:
            program.program()
        except SystemExit as end:
            print(f"code {end.code}", flush=True)
    sys.argv = ["dino_pretrain", "--help"]
    runpy.run_module("transreid_ssl.recipes.dino_pretrain", run_name="__main__")
