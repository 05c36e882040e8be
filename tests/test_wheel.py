"""One command, as it is installed: a wheel that is run from an empty folder."""

import configparser
import shutil
import subprocess
import sys
import zipfile

import pytest

import installed
import launch

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
TINY = (
    "pretrain dino --data.pool demo:identities=8,images=4,height=32,width=16 --run.epochs 1 "
    "--model.img_size [32,16] --run.batch_size 16 --run.num_workers 0 --run.num_threads 1 "
    "--views.global_size [32,16] --views.local_size [16,8] --views.num_local 1 --probe.data null"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder of an unpacked wheel."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("transreid_ssl", "recipes"):
        shutil.copytree(
            launch.ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(launch.ROOT / name, source)
    build = [sys.executable, "-c", BUILD, built]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    zipfile.ZipFile(*built.glob("*.whl")).extractall(built / "packages")
    return built / "packages"


def test_a_wheel_holds_every_module_recipe_and_settings_file_and_the_command(wheel):
    package = launch.ROOT / "transreid_ssl"
    expected = {path.relative_to(launch.ROOT) for path in package.rglob("*.py")}
    assert {path for path in expected if not (wheel / path).is_file()} == set()
    assert (wheel / "transreid_ssl/py.typed").is_file()
    for pattern in ("*.py", "configs/*.yaml"):
        shipped = sorted(path.name for path in (launch.ROOT / "recipes").glob(pattern))
        assert sorted(p.name for p in (wheel / "transreid_ssl/recipes").glob(pattern)) == shipped
    (points,) = wheel.glob("*.dist-info/entry_points.txt")
    scripts = configparser.ConfigParser()
    scripts.read(points)
    assert dict(scripts["console_scripts"]) == {"transreid-ssl": "transreid_ssl.__main__:program"}


def test_a_wheel_trains_and_helps_where_there_is_no_source(wheel, tmp_path):
    lines = [
        "", "evaluat", "pretrain dion", "pretrain dino --epochs 1", "evaluate --help",
        "pretrain dino --config dino_cpu.yaml --help", "plan nothing", TINY,
    ]  # fmt: skip
    said = tmp_path / "said"
    process = launch.start(installed.run, wheel, lines, tmp_path, said)
    process.join(launch.PATIENCE)
    texts = said.read_text()
    overview, word, method, option, evaluate, cpu, plan, run, demo = texts.split("code ")
    assert "usage: transreid-ssl NAME ..., " in overview
    assert "no such command; `transreid-ssl` lists all; did you mean evaluate?\n" in word
    assert "mocov3, upreid; did you mean dino?\n" in method
    assert option.endswith("--epochs 1; did you mean --run.epochs?\n")
    assert "usage: transreid-ssl evaluate " in evaluate
    assert "Example: transreid-ssl evaluate --data demo" in evaluate
    assert "  --run.output outputs/dino_cpu " in cpu
    assert "usage: transreid-ssl pretrain dino [--config FILE]" in cpu
    assert "--views.flip" not in cpu
    assert "no such training; name one of pretrain dino, " in plan
    assert (tmp_path / "outputs/dino_pretrain/backbone.safetensors").is_file(), run
    assert "--run.output outputs/dino_pretrain\n" in demo
    assert [text[0] for text in (word, method, option, evaluate, cpu, plan, run)] == list("0222002")
    assert demo[0] == "0"


def test_a_wheel_goes_from_crops_to_a_program_where_there_is_no_source(wheel, tmp_path):
    """Pre-training, figures, a search, pages and an export, each on what was left before."""
    people, fast = "demo:identities=6,images=4,test=4,height=32,width=16", "--num_workers 0"
    lines = [
        f"{TINY} --run.precision no",
        f"evaluate --data {people} --picture true {fast}",
        f"search {people} {people} {fast}",
        "report dino_pretrain",
        "report curves",
        "export net.pt2",
    ]
    said = tmp_path / "said"
    launch.start(installed.run, wheel, lines, tmp_path, said).join(launch.PATIENCE)
    texts = said.read_text().split("code ")
    assert [text[0] for text in texts[1:]] == ["0"] * len(lines), texts
    told = ["next: ", "mAP", "ranking.html", "report.html", "curves.png", "net.pt2"]
    assert [line for line, text in zip(told, texts) if line not in text] == []
    for path in ("evaluate/galleries.png", "search/ranking.html", "dino_pretrain/report.html"):
        assert (tmp_path / "outputs" / path).is_file()
    assert (tmp_path / "net.pt2").stat().st_size > 100_000


def test_accelerate_starts_a_recipe_of_a_wheel(wheel, tmp_path):
    """As on many machines: one process of it here, in an empty folder."""
    variables = launch.environment() | {"PYTHONPATH": str(wheel)}
    _, _, *options = f"{TINY} --run.precision no".split()
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet",
         "--num_processes=1", "-m", "transreid_ssl.recipes.dino_pretrain", *options],
        cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=launch.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "next: python -m transreid_ssl finetune supervised --model.weights" in done.stdout
    assert (tmp_path / "outputs/dino_pretrain/backbone.safetensors").is_file()
