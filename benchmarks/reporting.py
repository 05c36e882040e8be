"""What every benchmark says at its end: the machine it ran on and one line of JSON."""

import json
import os
import platform
from pathlib import Path

import torch


def hardware() -> dict:
    """Processor, cores this process may use, GPU (None without one) and torch version."""
    has_gpu = torch.cuda.is_available()
    return {
        "cpu": _processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "torch": torch.__version__,
    }


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_result(ratio: float, **figures: object) -> None:
    """Print the last line of a benchmark: {"ratio": ..., figures, "hardware": ...}.

    `ratio` says how many times better (faster, smaller) this project is than the baseline.
    """
    print(json.dumps({"ratio": round(ratio, 3), **figures, "hardware": hardware()}), flush=True)
