"""Every benchmark runs, at a small size, and ends with its figure; how large it is, is no test."""

import json

import pytest

import launch

SMALL = {
    "views": ["--images=2", "--rounds=1"],
    "training_step": [
        "--model=vit_nano_patch16_ics", "--batch-size=2", "--rounds=1", "--out-dim=64",
        "--precision=no",
    ],
    "reranking": ["--size=300", "--queries=40", "--plain-size=300"],
    "clustering": ["--size=300", "--plain-size=300"],
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_ends_with_one_line_of_json(name):
    text = launch.run("-m", f"benchmarks.{name}", *SMALL[name])
    last = json.loads(text.strip().splitlines()[-1])
    assert last["ratio"] > 0
    assert last["hardware"]["cores"] >= 1


def test_every_benchmark_is_told_of_and_tested():
    names = {path.stem for path in (launch.ROOT / "benchmarks").glob("*.py")}
    assert names - {"__init__", "reporting", "dense_reciprocal"} == set(SMALL) | {"evaluation"}
    readme = (launch.ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in [*SMALL, "evaluation"])
