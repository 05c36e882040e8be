import pickle

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError

from transreid_ssl.cfs.__main__ import main
from transreid_ssl.command import run


@pytest.fixture
def cfs(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            run(main, [str(a) for a in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


def test_score_select_report_in_a_row(cfs, pool, weights, tmp_path):
    # The pool is the one that the first weights were pre-trained on.
    code, out, err = cfs("score", "--before", weights[0], "--after", weights[1], "--num_workers", 0)
    assert code == 0, err
    assert "11 images, scores" in out
    assert str(tmp_path / "crops") in out
    code, out, _ = cfs("select", "--keep", "0.3")
    assert code == 0
    assert "3 of 11 images" in out
    assert "--data.subset outputs/cfs/subset.parquet" in out
    code, out, _ = cfs("report", "--count", 4)
    assert code == 0
    assert "3 of 11 images kept" in out
    assert (tmp_path / "outputs/cfs/sheet.png").read_bytes().startswith(b"\x89PNG")


def test_weights_in_a_folder_or_on_the_hub(cfs, pool, weights, tmp_path, monkeypatch):
    for name, path in zip(("pretrained", "tuned"), weights):
        (tmp_path / name).mkdir()
        path.rename(tmp_path / name / "model.safetensors")
    asked = []

    def download(repository, name):
        asked.append(repository)
        if name == "backbone.safetensors":
            raise EntryNotFoundError("there is none")
        return str(tmp_path / "tuned" / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for after in ("tuned", "owner/name"):
        # The second is the same scoring: the content counts, not where it lies.
        code, out, err = cfs("score", "--before", "pretrained", "--after", after)
        assert code == 0, err
        assert "11 images, scores" in out
    assert set(asked) == {"owner/name"}
    (tmp_path / "tuned" / "model.safetensors").write_bytes(
        (tmp_path / "pretrained" / "model.safetensors").read_bytes()
    )
    code, _, err = cfs("score", "--before", "pretrained", "--after", "tuned")
    assert (code, "another scoring" in err) == (2, True)


def test_import(cfs, tmp_path):
    (tmp_path / "list.pkl").write_bytes(pickle.dumps(["b", "a"]))
    code, out, _ = cfs("import", "list.pkl", "--out", "list.parquet")
    assert (code, "2 images" in out) == (0, True)


def test_scores_are_not_replaced_by_what_is_made_of_them(cfs, pool, weights, tmp_path):
    cfs("score", "--before", weights[0], "--after", weights[1], "--num_workers", 0, "--out", "s.pq")
    scores = (tmp_path / "s.pq").read_bytes()
    code, _, err = cfs("select", "--scores", "s.pq", "--out", "s.pq")
    assert (code, "s.pq: is read by this command" in err) == (2, True)
    code, _, err = cfs("report", "--scores", "s.pq", "--subset", "s.pq", "--out", "crops/00.png")
    assert (code, "crops/00.png: is there already, in the folder" in err) == (2, True)
    assert (tmp_path / "s.pq").read_bytes() == scores
    (tmp_path / "t.corrupt.txt").write_text("my notes")
    command = "score", "--before", weights[0], "--after", weights[1], "--out", "t.pq"
    code, _, err = cfs(*command)
    assert (code, "t.corrupt.txt: would be replaced" in err) == (2, True)
    code, _, err = cfs(*command[:-1], "crops.pq", "--overwrite", "true")
    assert code == 0
    (tmp_path / "thesis").write_text("years of work")
    code, _, err = cfs(*command[:-1], "thesis", "--overwrite", "true")
    assert (code, "thesis: not a readable Parquet table" in err) == (2, True)
    assert (tmp_path / "thesis").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "python -m transreid_ssl pretrain dino"),
        (["select"], "python -m transreid_ssl.cfs score"),
        (["report"], "python -m transreid_ssl.cfs score"),
        (["import", "missing.pkl"], "missing.pkl"),
        (["select", "--keep", "many"], "keep"),
        (["select", "--scores", "there.parquet"], "there.parquet"),
        (["select", "--strategy", "worst"], "strategy"),
        (["score", "--method", "nearest"], "--target"),
        (["score", "--method", "nearest", "--target", "x", "--after", "y"], "--after"),
        (["select", "--fraction", "0.5"], "fraction"),
        (["score", "--batch_size", "0"], "--batch_size 0: give 1 or more"),
        (["score", "--shard_size", "-5"], "--shard_size -5: give 1 or more"),
        (["score", "--num_workers", "-1"], "--num_workers -1: give 0 or more"),
        (["score", "--max_bad_fraction", "2"], "--max_bad_fraction 2.0: give 0 to 1"),
        (["score", "--before", "there.pth"], "there.pth: no such weights file"),
        (["score", "--before", "."], "no backbone.safetensors or model.safetensors"),
        (["select", "--seed", "-1"], "--seed -1: give 0 or more"),
        (["report", "--count", "0"], "--count 0: give 1 or more"),
        (["sort"], "sort"),
        ([], "give what to do: score, select, report or import"),
    ],
)
def test_errors_are_one_line(cfs, arguments, message):
    code, out, err = cfs(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("name", ["score", "select", "report", "import"])
def test_help_has_an_example(cfs, name):
    code, out, _ = cfs(name, "--help")
    assert code == 0
    assert f"transreid_ssl.cfs {name}" in out.partition("Example")[2].replace("\n", " ")
