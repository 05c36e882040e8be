"""The command that goes on with a run, as it was typed but for what would begin it anew."""

import pytest

import launch
from transreid_ssl.logs import LAST_LINE
from transreid_ssl.training.begun import to_go_on

RECIPE = str(launch.ROOT / "recipes" / "dino_pretrain.py")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/bin/python3", "/venv/bin/transreid-ssl", "pretrain", "dino", "--data.pool", "my crops"],
         "transreid-ssl pretrain dino --data.pool 'my crops'"),
        (["python", "-m", "transreid_ssl", "finetune", "usl"],
         "python -m transreid_ssl finetune usl"),
        (["python", "-W", "error", "-m", "transreid_ssl.weights", "tutorial"],
         "python -W error -m transreid_ssl.weights tutorial"),
        (["python", RECIPE, "--run.overwrite", "true", "--run.epochs=3"],
         f"python {RECIPE} --run.epochs=3 --run.overwrite false"),
        (["python", RECIPE, "--run.overwrite=true"], f"python {RECIPE} --run.overwrite false"),
        (["python", "-m", "pytest", "tests/training"], None),
        (["python", "ipykernel_launcher.py", "-f", "kernel.json"], None),
    ],
)  # fmt: skip
def test_it_is_the_command_that_was_typed(words, expected):
    assert to_go_on(any("overwrite" in word for word in words), words=words) == expected


def test_it_has_the_processes_that_were_asked_for(monkeypatch):
    words = ["python", "-u", "-m", "transreid_ssl", "pretrain", "dino"]
    assert "--processes" not in to_go_on(False, 2, words)  # of another launcher
    monkeypatch.setenv(LAST_LINE, "file")
    assert to_go_on(False, 2, words) == "python -m transreid_ssl pretrain dino --processes 2"
