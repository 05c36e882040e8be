"""What benchmarks say: tables, error bars, and one line of JSON with the machine at the end."""

import json
import platform
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from transreid_ssl.machine import num_cores


def finish(ratio: float | None, **figures: object) -> None:
    """Print the last line of a benchmark: {"ratio": ..., figures, "hardware": {...}}.

    `ratio` says how many times better (faster, smaller) this project is than the baseline; it is
    None where the baseline was not run.
    """
    rounded = None if ratio is None else round(ratio, 3)
    print(json.dumps({"ratio": rounded, **figures, "hardware": hardware()}), flush=True)


def hardware() -> dict:
    """Processor, cores this process may use, GPU (None without one) and torch version."""
    return {
        "cpu": _processor_name(),
        "cores": num_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def spread(values: Sequence[float]) -> str:
    """``46.1 ± 1.2 (45.0, 46.3, 47.1)``; a single value stands alone."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    single = ", ".join(f"{value:.1f}" for value in values)
    return f"{mean(values):.1f} ± {stdev(values):.1f} ({single})"


def heading(*titles: str) -> list[str]:
    """The first two lines of a table in Markdown; all columns but the first hold numbers."""
    return [row(*titles), "|---|" + "---:|" * (len(titles) - 1)]


def row(*cells: str) -> str:
    """A line of one."""
    return f"| {' | '.join(cells)} |"


def deviations(found: Sequence[Sequence[float]], name: str) -> dict[str, Any]:
    """Means, under ``name``, with error bars; none where there was one seed."""
    errors = [stdev(values) for values in found] if len(found[0]) > 1 else None
    return {name: [mean(values) for values in found], "yerr": errors, "capsize": 3}
