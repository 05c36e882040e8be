"""What makes the steps of a GPU fast: compiled blocks."""

import torch

from transreid_ssl.models.gpu import has_triton
from transreid_ssl.training.objective import Objective
from transreid_ssl.training.settings import RunSettings

PROGRAMS = 64
"""Of one function: student and teacher, first and last blocks and every batch size have their own;
beyond the compiler's usual 8 it would go on without compiling."""


def make_fast(objective: Objective, settings: RunSettings, device: torch.device) -> None:
    """Do what ``--run.compile`` asks for; norms have to be those that will train.

    Of ViTs, ResNets and MGNs the blocks are compiled, those of one size together, which takes
    seconds; other networks whole, if they are asked for.
    """
    on_gpu = device.type == "cuda" and has_triton()
    if not settings.compile or (settings.compile == "auto" and not on_gpu):
        return
    set_compiler(settings.compile_memory)
    for network in objective.networks:
        of_blocks = [module for module in network.modules() if hasattr(module, "compile_blocks")]
        for module in of_blocks:
            module.compile_blocks()
        if not of_blocks and settings.compile is True:
            network.compile()


def set_compiler(memory: float) -> None:
    """Tell it how much to keep for backward passes, ``--run.compile_memory``."""
    from torch import _dynamo as dynamo  # seconds to import, for who compiles
    from torch._functorch import config as functorch

    functorch.activation_memory_budget = memory
    dynamo.config.recompile_limit = PROGRAMS
    # Blocks are compiled one by one: none has to be cut where a bucket of gradients is full.
    dynamo.config.optimize_ddp = False
