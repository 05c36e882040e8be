"""What a GPU's own programs need of the machine they run on."""

import functools
import importlib.util
import warnings

import torch

from transreid_ssl.models.statistics import IMAGENET


@functools.cache
def has_triton() -> bool:
    """Whether Triton can build kernels for the GPU of this machine; ask where there is one.

    It takes a GPU with bf16 (compute capability 8.0), and what Triton needs to build: a C compiler,
    and Python's headers. So the smallest of the kernels is tried.
    """
    if importlib.util.find_spec("triton") is None or torch.cuda.get_device_capability() < (8, 0):
        return False
    from transreid_ssl.models.fold_kernels import fold_images

    try:
        images = torch.zeros((1, 3, 2, 2), dtype=torch.uint8, device="cuda")
        fold_images(images, IMAGENET, torch.float32)
    except Exception as error:  # of a compiler, a driver, a library: errors of many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"Triton cannot build kernels here ({reason}): PyTorch's are used, which are slower; "
            "it needs gcc or clang and Python's headers",
            stacklevel=2,
        )
        return False
    return True
