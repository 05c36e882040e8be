"""The command line: what a person sees, and exit codes."""

import re
import shlex

import cv2
import pytest

import launch
from transreid_ssl.command import run
from transreid_ssl.data.__main__ import main
from transreid_ssl.data.name_patterns import guess_pattern
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.readers import open_reid
from transreid_ssl.errors import UserError
from transreid_ssl.training.config import parse_config
from transreid_ssl.words import counted

SMALL = "demo:identities=2,images=6,test=2,height=64,width=32"


@pytest.fixture
def images(tmp_path, write_images):
    return write_images(tmp_path / "images", ["0001_c1_0.jpg", "0001_c2_0.jpg", "0002_c1_0.jpg"])


def test_inspect_a_pool(images, capsys):
    (images / "0002_c1_0.jpg").write_bytes(b"")
    assert main(["inspect", str(images)]) == 0
    text = capsys.readouterr().out
    assert f"folder {images}: 3 images" in text
    assert "3 of 3 images looked at, 1 broken" in text
    assert "note: 0002_c1_0.jpg: empty (0 bytes)" in text
    assert (
        f"the names hold identities and cameras: `python -m transreid_ssl.data inspect {images} --p"
        in text
    )
    assert "tracks" not in text, "these names tell no frame"
    assert "transreid_ssl pretrain dino --config auto" in text
    assert f"--run.output outputs/dino_images --data.pool {images}\n" in text


def test_inspect_a_protocol(capsys):
    assert main(["inspect", SMALL, "--protocol", "demo", "--sample", "6"]) == 0
    text = capsys.readouterr().out
    assert "demo: train 12 images / 2 identities" in text
    assert text.count("2 of ") == 3
    assert "nothing odd was found" in text
    assert f"finetune supervised --data.name {SMALL}\n" in text


BUILT_ALIKE = {  # names of camera 0 to 2, track 0 to 9 and frame, and what they are
    "cam{c}_track{t:03}_{f:06}.jpg": r"cam(?P<camera>\d+)_track(?P<track>\d+)_(?P<frame>\d+)",
    "2026-11-28/c{c}-t{t}-f{f}.jpg": r"c(?P<camera>\d+)-t(?P<track>\d+)-f(?P<frame>\d+)",
    "{c}_{t:04}_{f:05}.jpg": r"(?P<camera>\d+)_(?P<track>\d+)_(?P<frame>\d+)",
    "{word}/{t}/{f:05}.jpg": r"(?P<camera>[^/]+)/(?P<track>\d+)/(?P<frame>\d+)",
    "{word}/id{t} frame{f}.jpg": r"(?P<camera>[^/]+)/id(?P<track>\d+)\ frame(?P<frame>\d+)",
    "{t}/{f}.jpg": r"(?P<track>\d+)/(?P<frame>\d+)",
    "person{t}_cam{c}_{f}.jpg": r"person(?P<identity>\d+)_cam(?P<camera>\d+)",
    "c{c}/x7_{t}_k9_{f}.jpg": r"c(?P<camera>\d+)/x\d+_(?P<track>\d+)_k\d+_(?P<frame>\d+)",
    "person_{t:03}/Cam-{c}, {f}.jpg": r"(?P<identity>\d+)/Cam-(?P<camera>\d+)",
}


@pytest.mark.parametrize("built", BUILT_ALIKE)
def test_names_that_tell_something_are_told_with_a_command_that_reads_them(
    tmp_path, write_images, capsys, monkeypatch, built
):
    """As it is written, it finds all crops of the ten tracks or people."""
    monkeypatch.chdir(tmp_path)
    names = [
        built.format(c=t % 3, t=t, f=10 * n + t, word=["door", "hall", "yard"][t % 3])
        for t in range(10)
        for n in range(3)
    ]
    write_images(tmp_path / "my crops", names)
    main(["inspect", "my crops", "--sample=3"])
    (said,) = re.findall("note: names such as .*`(python .*)` reads", capsys.readouterr().out)
    words = shlex.split(said)
    assert words[words.index("--pattern") + 1] == BUILT_ALIKE[built]
    assert main(words[3:]) == 0
    text = capsys.readouterr().out
    cameras = BUILT_ALIKE[built].count("<camera>") * 2 + 1
    seen_by = counted(cameras, "camera")
    if words[3] == "tracks":
        assert f"{seen_by}, {counted(cameras, 'video')}, 10 tracks of 3 to 3 images" in text
    else:
        assert f"train 30 images / 10 identities / {seen_by}" in text


@pytest.mark.parametrize(
    "names",
    [
        [f"{n:06}.jpg" for n in range(12)],  # nothing repeats
        [f"{n:06}_{n % 3}.jpg" for n in range(12)],  # a number of the image, then of its camera?
        [f"{n}_{'abc'[n % 3] * (1 + n % 2)}.jpg" for n in range(12)],  # not built alike
        [f"t{n % 4}/{n}.jpg" for n in range(11)] + ["other/deeper/1.jpg"],
        [f"t{n % 4}_f{n % 2}_{n}.jpg" for n in range(16)],  # many crops of a track in a frame
        [f"t{n % 4}_f{'9' * 5000}{n}.jpg" for n in range(16)],  # no number of a frame
    ],
)
def test_names_that_no_pattern_fits_are_left_alone(names):
    assert guess_pattern(names) is None


def test_frames_that_follow_one_another_are_all_asked_for():
    guess = guess_pattern([f"t{n // 6}_f{n % 6}.jpg" for n in range(60)])
    assert (guess.pattern, guess.dense) == (r"t(?P<track>\d+)_f(?P<frame>\d+)", True)


def test_a_large_pool_is_looked_at_in_runs():
    names = [f"t{n // 6}_f{n}.jpg" for n in range(101_000)]
    assert guess_pattern(names).found == {"track": "0", "frame": "0"}


def hint(text):
    """The command that inspect says to run next: its recipe and its options."""
    (line,) = [line for line in text.splitlines() if line.startswith("next: ")]
    words = shlex.split(line)
    kind, method, *options = words[words.index("transreid_ssl") + 1 :]
    return f"{method}_{kind}", options


def understood(recipe, arguments, monkeypatch):
    """The settings that a recipe makes of a hint's options."""
    monkeypatch.chdir(launch.ROOT)
    module = launch.recipe(recipe)
    return parse_config(module.Config, module.DEMO, "", arguments)[0]


def test_the_next_command_runs_as_it_is_written(tmp_path, write_images, capsys, monkeypatch):
    root = write_images(tmp_path / "my crops", ["track1_a.jpg", "track1_b.jpg", "track2_a.jpg"])
    assert main(["inspect", str(root)]) == 0
    config = understood(*hint(capsys.readouterr().out), monkeypatch)
    assert (config.data.pool, config.run.output) == (str(root), "outputs/dino_my_crops")
    pattern = r"track(?P<identity>\d+)"
    assert main(["inspect", str(root), "--protocol", "folder", "--pattern", pattern]) == 0
    text = capsys.readouterr().out
    assert "another camera" not in text
    config = understood(*hint(text), monkeypatch)
    assert (config.data.root, config.data.pattern) == (str(root), pattern)
    assert config.run.output == "outputs/supervised_my_crops"
    assert config.model.weights is None
    out = str(tmp_path / "labels.txt")
    given = ["--data", "folder", "--root", str(root), "--pattern", pattern, "--share", "0.5"]
    assert main(["budget", *given, "--out", out]) == 0
    config = understood(*hint(capsys.readouterr().out), monkeypatch)
    assert (config.data.pattern, config.data.label_list) == (pattern, out)


def test_a_set_without_training_images_is_for_evaluation(tmp_path, write_images, capsys):
    names = ["query/0001_c1_0.jpg", "bounding_box_test/0001_c2_0.jpg"]
    root = write_images(tmp_path, names)
    (root / names[1]).write_bytes(b"")
    assert main(["inspect", str(root), "--protocol", "market1501"]) == 0
    text = capsys.readouterr().out
    assert "gallery: 100.00% of the images are broken: evaluation stops at the first" in text
    assert f"next: python -m transreid_ssl.evaluate --data market1501 --root {root}\n" in text


def test_verify(images, tmp_path, capsys):
    listed = tmp_path / "bad.txt"
    assert main(["verify", str(images), "--list", str(listed)]) == 0
    assert listed.read_text() == ""
    (images / "0001_c1_0.jpg").write_bytes(b"GIF")
    with pytest.raises(UserError, match=r"bad\.txt: is there already; write elsewhere, or replace"):
        main(["verify", str(images), "--list", str(listed)])
    assert main(["verify", str(images), "--list", str(listed), "--overwrite=true"]) == 1
    assert listed.read_text().startswith("0001_c1_0.jpg\tcannot be decoded")
    assert main(["verify", str(images)]) == 1
    assert "  0001_c1_0.jpg: cannot be decoded" in capsys.readouterr().out


def test_demo_writes_what_can_be_opened(tmp_path, capsys):
    out = tmp_path / "some people"
    assert main(["demo", str(out), "--people", SMALL]) == 0
    assert cv2.imread(str(out / "sheet.png")).shape[2] == 3
    assert len(open_pool(out / "pool")) == 12
    written, drawn = open_reid("market1501", out / "market1501"), open_reid(SMALL)
    for part in ("train", "query", "gallery"):
        a, b = getattr(written, part), getattr(drawn, part)
        assert len(a) == len(b)
        assert (a.num_identities, a.num_cameras) == (b.num_identities, b.num_cameras)
        assert a.identities.min() >= 1
        assert {a.read(i) for i in range(len(a))} == {b.read(i) for i in range(len(b))}
    for look in re.findall("; python -m transreid_ssl.data (inspect .*)", capsys.readouterr().out):
        assert main(shlex.split(look)) == 0


def test_pack(images, tmp_path, capsys):
    def following():
        said, _, words = capsys.readouterr().out.rpartition("next: python -m transreid_ssl.data ")
        return said, shlex.split(words)

    packed = tmp_path / "packed crops"
    assert main(["pack", str(images), str(packed)]) == 0
    said, words = following()
    assert said.endswith(": 3 images\n")
    assert (packed / "train-00000-of-00001.parquet").is_file()
    assert main(words) == 0
    assert main(["pack", str(images), str(tmp_path / "lup"), "--format", "lmdb"]) == 0
    _, words = following()
    assert main(words) == 0
    assert f"LMDB {tmp_path / 'lup'}: 3 images" in capsys.readouterr().out


def test_budget(tmp_path, capsys):
    out = tmp_path / "lists" / "used_ids_0.50.txt"
    arguments = [
        "budget",
        "--data",
        SMALL.replace("identities=2", "identities=4"),
        "--share",
        "0.5",
    ]
    assert main([*arguments, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "50 % of the labels by identity: 2 of 4 identities, 12 of 24 images" in text
    assert f"--data.label_list {out}" in text
    first = out.read_text()
    assert len(first.splitlines()) == 2
    arguments += ["--out", str(out), "--overwrite=true"]
    assert main([*arguments, "--seed", "1"]) == 0
    assert out.read_text() != first
    assert main([*arguments, "--by", "image"]) == 0
    assert [line.count(";") for line in out.read_text().splitlines()] == [2] * 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "/nothing/there"], "/nothing/there: no such file or folder"),
        (["inspect", "demo:people=3"], "people=3"),
        (["pack", "demo"], "out"),
        (["verify", "demo", "--lst", "x"], "--lst"),
        (["explore"], "explore"),
        (["budget", "--share", "10"], "a label budget of 10.0: give a share above 0"),
        (["budget", "--by", "people"], "people"),
        (["budget", "--seed", "-1"], "--seed -1: give 0 or more"),
        (["budget", "--data", "market1501"], "market1501: where is it?"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        run(main, arguments)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize("command", ["inspect", "verify", "pack", "demo", "budget"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: python -m transreid_ssl.data {command} " in text
