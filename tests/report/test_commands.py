"""Which runs ``report`` takes, by which names."""

import json
import os

import pytest

import launch


@pytest.fixture
def place(tmp_path):
    """A folder with two runs below outputs/, of which the second has not ended."""
    for age, name in enumerate(("first", "second")):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        (folder / "run.lock").touch()
        os.utime(folder / "run.lock", (age, age))
        (folder / "config.yaml").write_text(json.dumps({"run": {"epochs": 1}}))
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (tmp_path / "outputs" / "first" / "backbone.safetensors").touch()
    return tmp_path


def report(place, *arguments, code=0):
    return launch.run("-m", "transreid_ssl.report", *arguments, cwd=place, code=code)


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        ([], "first/report.html"),
        (["second"], "second/report.html"),
        (["--run", "second"], "second/report.html"),
        (["page", "--run=outputs/second"], "second/report.html"),
        (["first", "outputs/second"], "report/comparison.html"),
        (["first", "--run", "second"], "report/comparison.html"),
        (["--out", "outputs/both.html", "first", "second"], "both.html"),
        (["curves"], "first/curves.png"),
        (["curves", "second"], "second/curves.png"),
        (["curves", "--run", "second"], "second/curves.png"),
    ],
)
def test_runs_are_named_by_their_folder_or_its_name(place, arguments, made):
    said = report(place, *arguments)
    assert said.splitlines()[-1] == f"outputs/{made}"
    assert (place / "outputs" / made).is_file()
    assert len(list(place.glob("outputs/**/*.html")) + list(place.glob("outputs/*/*.png"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frist"], "frist: there is no such run; outputs/ has second, first; did"),
        (["--run", "frist"], "did you mean first?"),
        (["curves", "frist"], "did you mean first?"),
        (["curvs"], "did you mean curves?"),
        (["curves", "first", "--run", "second"], "first and --run second: name one of them"),
    ],
)
def test_an_error_names_the_runs_that_there_are(place, arguments, message):
    said = report(place, *arguments, code=2)
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
