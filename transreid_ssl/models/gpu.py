"""What a GPU's own programs need of the machine they run on."""

import functools
import importlib.util
import shutil


@functools.cache
def has_triton() -> bool:
    """Whether Triton can build kernels here; it takes a C compiler along with its package."""
    compilers = ("cc", "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))
