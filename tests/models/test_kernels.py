"""The kernels for GPUs compute what plain PyTorch does, checked where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton has no wheels for this system")


def test_interpreted_kernels_compute_what_pytorch_does():
    program = Path(__file__).with_name("interpreted_kernels.py")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=False
    )
    checks = ["stems", "memory", "norms", "far_means", "foldings", "attentions", "losses"]
    assert done.stdout.split() == checks, done.stderr
