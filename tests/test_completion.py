"""What a shell is told to complete the commands, in a real shell."""

import shutil
import subprocess
import sys

import pytest

from transreid_ssl import UserError, completion


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab")
    path = tmp_path_factory.mktemp("completion") / "script"
    with pytest.MonkeyPatch.context() as patch, open(path, "w") as file:
        patch.setattr(sys, "stdout", file)
        completion.main(["bash"])
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ev", {"evaluate"}),
        ("pretrain mo", {"moby", "moco", "mocov3"}),
        ("pretrain dino --run.prec", {"--run.precision"}),
        ("pretrain dino --run.precision b", {"bf16"}),
        ("finetune usl --proc", {"--processes"}),
        ("data i", {"inspect"}),
        ("evaluate --rer", {"--rerank", "--rerank_k1"}),
        ("evaluate --rerank t", {"true"}),
    ],
)
def test_words_are_completed(script, typed, offered):
    words = ["transreid-ssl", *typed.split()]
    done = subprocess.run(
        ["bash", "-c", 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
         '_shtab_transreid_ssl; printf "%s\n" "${COMPREPLY[@]}"', script, *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) == offered


def test_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(UserError, match=r"not installed; run: pip install shtab"):
        completion.main(["bash"])
