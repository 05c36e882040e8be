"""The kernels for GPUs compute what plain PyTorch does, checked where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton has no wheels for this system")


NAMES = ["attention", "cross_view", "fold", "memory", "norm", "scaling"]


def test_interpreted_kernels_compute_what_pytorch_does():
    done = _run("interpreted_kernels.py", TRITON_INTERPRET="1")
    checks = "stems memory layouts norms far_means foldings attentions losses scalings clusters"
    assert done.stdout.split() == checks.split(), done.stderr


def test_every_kernel_is_built_for_gpus_that_are_not_here(tmp_path):
    done = _run("compiled_kernels.py", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    for line, capability in zip(done.stdout.splitlines(), ("80", "90"), strict=True):
        found, *kernels = line.split()
        assert found == capability
        assert len(kernels) == 14
        assert sorted({kernel.partition("_kernels.")[0] for kernel in kernels}) == NAMES


def _run(program: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, Path(__file__).with_name(program)],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
