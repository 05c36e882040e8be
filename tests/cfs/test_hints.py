"""What the commands say to do next, pasted into a shell."""

import pickle
import shlex

import launch
from transreid_ssl import tables
from transreid_ssl.outputs import SUBSET

SMALL = [word for word in launch.TINY if not word.startswith("--data.pool")]


def following(text):
    """The words of the one command that was said to be next."""
    (line,) = [line for line in text.splitlines() if line.startswith("next: ")]
    python, module, *words = shlex.split(line.removeprefix("next: "))
    assert (python, module) == ("python", "-m")
    return words


def pretrain(text, folder):
    """Pre-train by the command that ``text`` ends with, in a second; the settings' words."""
    words = following(text)
    assert words[:3] == ["transreid_ssl", "pretrain", "dino"]
    said = launch.run("-m", *words, *SMALL, "--run.batch_size=4", cwd=folder)
    assert "next: " in said
    return dict(zip(words[3::2], words[4::2]))


def test_each_takes_what_the_one_before_has_left(pool, weights, tmp_path):
    """A scoring that was named is selected by, though another one is at the usual place."""
    score = ["transreid_ssl.cfs", "score", "--before", str(weights[0]), "--num_workers", "0"]
    launch.run("-m", *score, "--method", "random", cwd=tmp_path)
    score += ["--after", str(weights[1]), "--out", "my cfs/s.parquet"]
    select = following(launch.run("-m", *score, cwd=tmp_path))
    for number in ("", "_2"):  # the second selection is followed by a run of its own
        text = launch.run("-m", *select, "--keep", "8", cwd=tmp_path)
        assert tables.read_record(tmp_path / SUBSET)["scores"] == "my cfs/s.parquet"
        given = pretrain(text, tmp_path)
        assert given["--data.pool"] == str(tmp_path / "crops")
        assert given["--run.output"] == f"outputs/dino_crops_subset{number}"


def test_a_list_is_pretrained_on_with_the_pool_that_it_is_of(pool, tmp_path):
    (tmp_path / "crops").rename(tmp_path / "my crops")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps(pool.names[:8]))
    called = ["transreid_ssl.cfs", "import", "list.pkl", "--out", "my list.parquet"]
    given = pretrain(launch.run("-m", *called, "--pool", "my crops", cwd=tmp_path), tmp_path)
    assert given["--data.subset"] == "my list.parquet"
    called[-1] = "other.parquet"
    said = launch.run("-m", *called, cwd=tmp_path)
    assert "next: " not in said
    assert "note: --pool POOL" in said


def test_generated_people_are_pretrained_on_beside_the_first_run(tmp_path):
    """Its folder has other images, and is left alone."""
    people = ["--pool", "demo:identities=4,images=4,height=32,width=16"]
    score = ["transreid_ssl.cfs", "score", "--method", "random", *people]
    select = following(launch.run("-m", *score, cwd=tmp_path))
    given = pretrain(launch.run("-m", *select, cwd=tmp_path), tmp_path)
    assert (given["--run.output"], "--config" in given) == ("outputs/dino_subset", False)
