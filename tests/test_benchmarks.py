"""Every benchmark runs, at a small size, and ends with its figure; how large it is, is no test."""

import ast
import importlib
import json
from dataclasses import replace

import pytest
import torch

import launch

SMALL = {
    "views": ["--images=2", "--rounds=1"],
    "training_step": [
        "--model=vit_nano_patch16_ics", "--batch-size=2", "--rounds=1", "--out-dim=64",
        "--precision=no",
    ],
    "counts": ["--model=vit_nano_patch8_ics", "--out-dim=1000", "--shrink=4"],
    "compiled": [
        "--model=vit_nano_patch8_ics", "--out-dim=1000", "--shrink=4", "--memory", "0.8", "0.3",
    ],
    "launches": [
        "--labels=vit_nano_patch8_ics", "--clusters=vit_nano_patch8_ics", "--mgn=mgn_resnet_nano",
        "--shrink=4",
    ],
    "scoring": [
        "--model=vit_nano_patch8_ics", "--size", "32", "16", "--images=64", "--batch-size=16",
    ],
    "gpu": [
        "--device=cpu", "--models=vit_nano_patch16_reid", "--batch-sizes=2", "--out-dim=64",
        "--finetune-batch-size=4", "--labels=vit_nano_patch16_reid",
        "--clusters=vit_nano_patch16_reid", "--mgn=mgn_resnet_nano", "--steps=1", "--out={out}",
    ],
}  # fmt: skip
TRITON = {"counts", "compiled", "launches"}  # which has no wheels for some systems
# Each measurement is a process, which takes seconds to begin.
SCALING = {
    "evaluation": ["--sizes", "40x200", "60x300", "--plain-limit=200", "--dim=16"],
    "reranking": ["--sizes", "200", "--dim=16"],
    "clustering": ["--sizes", "200", "--dim=16"],
}


def last_line(text):
    """The figures that a benchmark ends with."""
    figures = json.loads(text.strip().splitlines()[-1])
    assert figures["ratio"] > 0
    assert figures["hardware"]["cores"] >= 1
    return figures


@pytest.mark.parametrize("name", [name for name in SMALL if name not in TRITON])
def test_a_benchmark_ends_with_one_line_of_json(name, tmp_path):
    options = [option.format(out=tmp_path) for option in SMALL[name]]
    figures = last_line(launch.run("-m", f"benchmarks.{name}", *options))
    if name == "gpu":
        assert not figures["failed"]
        ways = {entry["how"] for entry in figures["rows"]}
        assert ways >= {"ours", "plain, bf16", "as published programs do it"}
        assert figures["numbers"][0]["gradients"] < 1e-3
        assert "| fine-tuning, labels | ours |" in (tmp_path / "gpu.md").read_text()


def test_what_was_measured_of_a_gpu_is_kept_when_the_minutes_are_over(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(launch.ROOT)
    bench = importlib.import_module("benchmarks.gpu").Bench
    measure = bench.measure

    def once(self, *arguments):
        measure(self, *arguments)
        written = json.loads((tmp_path / "gpu.json").read_text())
        assert (len(written["rows"]), len(written["numbers"])) == (0, 1)  # what came before it
        self.end = 0.0

    monkeypatch.setattr(bench, "measure", once)
    options = [option.format(out=tmp_path) for option in SMALL["gpu"]]
    with pytest.raises(SystemExit, match="1"):
        importlib.import_module("benchmarks.gpu").main(options)
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert [entry["how"] for entry in written["rows"]] == ["ours"]
    assert [failed.partition(":")[2][:24] for failed in written["failed"]] == (
        [" DINO, as published prog", " DINO, plain, bf16: the ", " DINO, ours, --run.compi"]
        + [" DINO, ours, not compile"] + 6 * [" the minutes were over; "]
    )  # fmt: skip


def test_a_device_that_is_none_is_one_line(tmp_path):
    words = ("-m", "benchmarks.gpu", f"--out={tmp_path / 'out'}", "--device=bogus")
    assert launch.run(*words, code=2) == "error: --device bogus: give cuda, cuda:1 or cpu\n"
    assert not (tmp_path / "out").exists()


def test_a_step_asks_little_of_a_gpu():
    """Whoever adds operations, copies or tensors that are kept looks here."""
    pytest.importorskip("triton", reason="Triton has no wheels for this system")
    figures = last_line(launch.run("-m", "benchmarks.counts", *SMALL["counts"]))
    ours, plain = figures["ours"], figures["plain"]
    assert ours["operations"] < min(720, plain["operations"] / 2.7)
    assert ours["copied"] < min(370_000, plain["copied"] / 10)  # bytes an image
    assert ours["kept"] < min(6_100_000, 0.9 * plain["kept"])
    assert ours["logits"] == (10 + 2) * 1000 * 4  # the student's once, and the teacher's


# The compiler looks whether tensors have a gradient, which torch warns of.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_less_is_kept_of_compiled_blocks():
    pytest.importorskip("triton", reason="Triton has no wheels for this system")
    figures = last_line(launch.run("-m", "benchmarks.compiled", *SMALL["compiled"]))
    kept, products = figures["kept"], figures["products"]
    assert kept["0.3"] < 0.7 * kept["0.8"] < 0.7 * kept["1.0"] < 0.7 * figures["plain"]
    assert products["1.0"] == 1 <= products["0.8"] < 1.04 < products["0.3"] < 1.2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_the_host_starts_little_for_a_step_of_fine_tuning():
    """Of networks so small, what surrounds their blocks is most of it."""
    pytest.importorskip("triton", reason="Triton has no wheels for this system")
    figures = last_line(launch.run("-m", "benchmarks.launches", *SMALL["launches"]))
    for name, most in {"labels": 296, "clusters": 285, "mgn": 465}.items():
        plain, ours = figures[name]
        assert ours < min(most, plain / 1.55)


def test_all_of_a_training_is_on_its_device(monkeypatch):
    """What is no registered module, as the memory of clusters, does not move with the rest."""
    monkeypatch.syspath_prepend(launch.ROOT)
    trainings = importlib.import_module("benchmarks.launches").TRAININGS
    training = replace(trainings["clusters"], model="vit_nano_patch8_ics")
    objective = training.objective((32, 16), "meta")
    assert objective.memory.features.device == objective.device == torch.device("meta")


def test_all_of_them_by_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(launch.ROOT)
    monkeypatch.setenv("PYTHONPATH", str(launch.ROOT))
    together = importlib.import_module("benchmarks.__main__")
    parts = {"views": ("crops", SMALL["views"]), "nothing": ("no such benchmark", [])}
    monkeypatch.setattr(together, "PARTS", parts)
    with pytest.raises(SystemExit, match="1"):
        together.main(["--only", "views", "nothing", f"--out={tmp_path}"])
    views, nothing = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert views["ratio"] > 0
    assert "exit code 1" in nothing["failed"]
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert f"| `views` | crops | {views['ratio']:.1f} |" in table
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
    assert "minutes were over" in together.run("views", tmp_path, end=0)["failed"]


@pytest.mark.parametrize("name", SCALING)
def test_time_and_memory_against_size(name, tmp_path):
    text = launch.run("-m", f"benchmarks.{name}", *SCALING[name], f"--out={tmp_path}")
    figures = last_line(text)
    compared, *alone = figures["runs"]
    assert figures["benchmark"] == name
    assert compared["plain_seconds"] > 0
    assert all("plain_seconds" not in run for run in alone)
    assert all(run["peak_mb"] >= run["before_mb"] > 0 for run in figures["runs"])
    assert "both agree" in text
    assert text.count("\n| ") == 1 + len(figures["runs"])  # a heading, and a line a size
    picture = (tmp_path / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_every_benchmark_is_told_of_and_tested():
    folder = launch.ROOT / "benchmarks"
    names = {path.parent.name for path in folder.glob("*/__main__.py")}
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        names |= {path.stem} if 'if __name__ == "__main__"' in text else set()
    assert {"views", "evaluation", "objectives"} < names
    names.remove("__main__")  # all of them
    words = set()  # of the tests' code, without comments
    for path in (launch.ROOT / "tests").glob("test_*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        words |= {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert all(f"benchmarks.{name}" in words for name in names - {*SMALL, *SCALING})
    readme = (launch.ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in names)
