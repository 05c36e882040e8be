"""The command that whitens weights, and commands that take what it wrote."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import transreid_ssl
from transreid_ssl import UserError, calibrate, evaluate, export, weights, whiten
from transreid_ssl.features import find_run
from transreid_ssl.models import build_backbone, load_backbone, read_spec, save_backbone
from transreid_ssl.outputs import choose_run
from transreid_ssl.terms import sources

PEOPLE = "demo:identities=8,images=6,test=8,height=32,width=16"
FAST = ["--num_workers=0", "--batch_size=16"]


@pytest.fixture(autouse=True)
def network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    spec = {
        "img_size": (32, 16),
        "provenance": {"pool": transreid_ssl.data.open_pool(PEOPLE).source},
    }
    save_backbone("net.safetensors", build_backbone("vit_nano_patch8_reid", **spec))


def test_whitened_weights_give_their_features_to_every_command(capsys):
    whiten.main([*FAST, "--weights=net.safetensors", "--dim=20"])
    said = capsys.readouterr().out
    assert "4 stripes whitened to 20 values by 48 images: demo:" in said
    assert "note: 48 images for 20 values: among these very images" in said
    found = read_spec(whiten.DEFAULT_OUT)
    assert (found.readout.parts, found.readout.dim, found.embed_dim) == (4, 20, 20)
    assert found.readout.images.startswith("48 images: demo:identities=8,images=6")
    features = transreid_ssl.Embedder(whiten.DEFAULT_OUT, "cpu")(
        transreid_ssl.data.open_pool(PEOPLE)
    )
    assert features.shape == (48, 20)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)

    evaluate.main([*FAST, f"--weights={whiten.DEFAULT_OUT}", f"--data={PEOPLE}", "--picture=false"])
    assert "4 stripes whitened to 20 values" in capsys.readouterr().out
    export.main([f"--weights={whiten.DEFAULT_OUT}", "net.pt2"])
    program = torch.export.load("net.pt2").module()
    images = torch.randint(0, 256, (2, 3, 32, 16), dtype=torch.uint8)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(load_backbone(whiten.DEFAULT_OUT)(images))
        torch.testing.assert_close(program(images), expected, atol=1e-5, rtol=1e-5)


def test_what_whitened_a_network_is_among_what_it_was_made_from(capsys):
    others = "demo:identities=5,images=6,height=32,width=16,style=1"
    whiten.main([*FAST, "--weights=net.safetensors", "--dim=8", f"--images={others}"])
    spec = read_spec(whiten.DEFAULT_OUT)
    assert [source.generated.split(",")[0] for source in sources(spec)] == [
        "demo:identities=8", "demo:identities=5",
    ]  # fmt: skip
    weights.main(["show", whiten.DEFAULT_OUT])
    assert "whitened by 30 images: demo:identities=5" in capsys.readouterr().out
    whiten.main([*FAST, f"--weights={whiten.DEFAULT_OUT}", "--dim=8"])
    assert len(sources(read_spec(whiten.DEFAULT_OUT))) == 1


def test_whitening_again_begins_with_the_network_itself(capsys):
    """In place, of other images, and with another readout."""
    plain = load_backbone("net.safetensors")
    whiten.main([*FAST, "--weights=net.safetensors", "--in_place=true", "--dim=10"])
    whiten.main([*FAST, "--weights=net.safetensors", "--parts=0", "--max_images=30", "--dim=12"])
    assert "30 of these at random" in capsys.readouterr().out
    twice = read_spec(whiten.DEFAULT_OUT).readout
    assert (twice.parts, twice.dim) == (0, 12)
    again = load_backbone(whiten.DEFAULT_OUT, readout=None)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in plain.state_dict().items())


def run_of(name, age, **more):
    """A finished run of the network, which ended so many seconds ago."""
    network = load_backbone("net.safetensors")
    path = Path("outputs", name, "backbone.safetensors")
    spec = network.spec.changed(provenance=network.spec.provenance | {"run": name}, **more)
    save_backbone(path, network, spec)
    path.with_name("run.lock").touch()
    os.utime(path, (time.time() - age,) * 2)


def taken(capsys):
    """The weights that are taken unasked, and why."""
    capsys.readouterr()
    path = find_run(None, None)
    line = capsys.readouterr().out
    assert line.startswith(f"--weights {path}: ")
    return path, line


def test_the_copy_that_is_of_the_newest_run_is_taken_and_said(capsys):
    run_of("old", 500)
    run_of("new", 400)
    path, why = taken(capsys)
    assert (path, "newest of 2 finished runs" in why) == ("outputs/new/backbone.safetensors", True)
    whiten.main([*FAST, "--dim=8"])
    path, why = taken(capsys)
    assert path == whiten.DEFAULT_OUT
    assert ": a whitened copy of new, the newest of 2 finished runs in outputs/ (ended 2" in why
    assert why.endswith("; --run new takes outputs/new/backbone.safetensors\n")
    calibrate.main([*FAST, "--data=demo:identities=2,images=6,test=16,height=32,width=16"])
    path, why = taken(capsys)
    assert (path, "a whitened and calibrated copy of new" in why) == (calibrate.DEFAULT_OUT, True)
    whiten.main([*FAST, "--dim=8"])  # begins with the run's own
    assert "--weights outputs/new/backbone.safetensors: the newest of 2" in capsys.readouterr().out
    run_of("newer", -5)
    path, why = taken(capsys)
    assert (path, "3 finished runs" in why) == ("outputs/newer/backbone.safetensors", True)
    assert choose_run(None)[0].folder.name == "newer"


def test_a_copy_of_another_network_is_not_taken_where_a_run_has_ended(capsys):
    whiten.main([*FAST, "--weights=net.safetensors", "--dim=8"])
    path, why = taken(capsys)
    assert (path, "no run in outputs/ has ended, and this is a whitened copy" in why) == (
        whiten.DEFAULT_OUT, True,
    )  # fmt: skip
    run_of("old", 500)
    path, why = taken(capsys)
    assert path == "outputs/old/backbone.safetensors"
    assert why.endswith(f"; {whiten.DEFAULT_OUT} is of another network, or cannot be read\n")
    Path(whiten.DEFAULT_OUT).write_bytes(b"damaged")
    assert taken(capsys) == (path, why)


def test_weights_that_are_there_are_replaced_only_when_that_is_asked_for():
    """At its default place only by those of the same network; never those that a run left."""
    run_of("old", 500)
    given = [*FAST, "--weights=net.safetensors", "--dim=8"]
    whiten.main([*given, "--out=a.safetensors"])
    before = Path("a.safetensors").read_bytes()
    with pytest.raises(
        UserError, match=r"a\.safetensors: is there already; write elsewhere, or re"
    ):
        whiten.main([*given, "--out=a.safetensors", "--dim=9"])
    assert Path("a.safetensors").read_bytes() == before
    whiten.main([*given, "--out=a.safetensors", "--dim=9", "--overwrite=true"])
    assert read_spec("a.safetensors").embed_dim == 9
    whiten.main(given)
    whiten.main([*given, "--dim=9"])
    with pytest.raises(UserError, match=rf"{whiten.DEFAULT_OUT}: is a copy of another network; gi"):
        whiten.main([*FAST, "--run=old", "--dim=8"])
    whiten.main([*FAST, "--run=old", "--dim=8", "--overwrite=true"])
    with pytest.raises(UserError, match=r"old/model\.safetensors: is where a run leaves its own"):
        whiten.main([*given, "--out=outputs/old/model.safetensors"])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--images=nowhere"], "nowhere"),
        (["--parts=9"], "has 4 rows; give 4 or fewer"),
        (["--max_images=5"], "5 images: too few to whiten by; give 20"),
        (["--out=net.safetensors"], "net.safetensors"),
        (["--out=net.npz"], "name it ….safetensors"),
        (["--out=a.safetensors", "--in_place=true"], "give one of them"),
        (["--feature=before"], "--feature"),
        (["--flip=true"], "--flip: whitening is learnt of images as they are"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(options, complaint):
    before = Path("net.safetensors").read_bytes()
    with pytest.raises(UserError, match=complaint):
        whiten.main([*FAST, "--weights=net.safetensors", *options])
    assert Path("net.safetensors").read_bytes() == before
    assert not Path("outputs").exists()


def test_a_whitened_network_has_no_feature_before_or_after_a_norm():
    whiten.main([*FAST, "--weights=net.safetensors", "--dim=10"])
    with pytest.raises(UserError, match="its features are whitened: leave --feature out"):
        evaluate.main([*FAST, f"--weights={whiten.DEFAULT_OUT}", "--feature=before"])


def test_broken_weights_are_told_by_the_first_image():
    model = load_backbone("net.safetensors")
    with torch.no_grad():
        model.cls_token.fill_(torch.nan)
    save_backbone("broken.safetensors", model)
    with pytest.raises(UserError, match="its features are not finite"):
        whiten.main([*FAST, "--weights=broken.safetensors"])
