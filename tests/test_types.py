"""What type checkers are told: py.typed promises them types for all public names."""

import json
import subprocess
import sys

import pytest

import launch


def test_every_public_name_has_a_type_that_all_checkers_agree_on():
    pytest.importorskip("basedpyright")
    done = subprocess.run(
        [
            sys.executable, "-m", "basedpyright", "--verifytypes", "transreid_ssl",
            "--ignoreexternal", "--outputjson", "--pythonpath", sys.executable,
        ],
        cwd=launch.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["typeCompleteness"]
    assert found["exportedSymbolCounts"]["withKnownType"] > 1000
    unknown = [_told(symbol) for symbol in found["symbols"] if not _is_sure(symbol)]
    assert not unknown, "\n".join(unknown)


def _told(symbol: dict) -> str:
    reasons = [reason["message"] for reason in symbol.get("diagnostics", [])]
    return ": ".join([symbol["name"], *reasons])


def _is_sure(symbol: dict) -> bool:
    return (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]) or not symbol["isExported"]
