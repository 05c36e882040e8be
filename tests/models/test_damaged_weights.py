"""Weights files that are damaged, or made to do harm: a model or one line, and nothing else."""

import argparse
import json
import pickle
import random
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

import damage
import launch
from transreid_ssl import UserError
from transreid_ssl.models import build_backbone, load_backbone, read_spec, save_backbone
from transreid_ssl.reading import verify_zip

PLAIN = {"name": "vit_nano_patch8_reid", "img_size": (64, 32)}


@pytest.fixture
def backbone():
    return build_backbone(**PLAIN).eval()


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def with_header(path, state, **changes):
    """Our safetensors with a changed header, and no checksum that would tell."""
    spec = json.loads(build_backbone(**PLAIN).spec.to_json()) | changes
    safetensors.torch.save_file(state, path, {"transreid_ssl": json.dumps(spec)})


def test_a_flipped_bit_shows_by_its_checksum(tmp_path, backbone):
    path = tmp_path / "b.safetensors"
    for place in (-1, 200_000):
        save_backbone(path, backbone)
        flip(path, place)
        with pytest.raises(UserError, match=r"b\.safetensors: damaged: its checksum differs"):
            load_backbone(path)
    save_backbone(path, backbone)
    path.write_bytes(path.read_bytes().replace(b"0.485", b"0.585"))
    with pytest.raises(UserError, match="its checksum differs"):
        load_backbone(path)


def test_a_flipped_bit_in_a_file_of_torch_shows_too(tmp_path, backbone):
    path = tmp_path / "b.pth"
    torch.save(backbone.state_dict(), path)
    verify_zip(path)
    flip(path, 300_000)
    with pytest.raises(UserError, match=r"b\.pth: damaged: the checksum of b/data/\d+ differs"):
        load_backbone(path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(backbone.state_dict(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    load_backbone(path)  # it has none


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"img_size": [1_000_000, 1_000_000]}, "img_size"),
        ({"img_size": [4000, 1600]}, "pos_embed has the shape"),
        ({"img_size": [64.5, 32]}, "img_size .*whole number"),
        ({"img_size": [-64, 32]}, "img_size"),
        ({"img_size": 64}, "img_size"),
        ({"stride": -1}, "stride"),
        ({"num_cameras": 10**9}, "num_cameras"),
        ({"num_cameras": 50_000}, "lacks sie_embed"),
        ({"std": [0.5, 0, 0.5]}, "std"),
        ({"std": [0.5, float("nan"), 0.5]}, "std"),
        ({"std": [0.5, float("inf"), 0.5]}, "std"),
        ({"mean": ["a", "b", "c"]}, "mean .*a number"),
        ({"stride": 10**400}, "header cannot be read"),
        ({"name": ["vit"]}, "name .*a text"),
        ({"gem": "yes"}, "gem .*true or false"),
        ({"provenance": "text"}, "provenance"),
    ],
)
def test_headers_that_no_network_can_have(tmp_path, backbone, changes, complaint):
    with_header(tmp_path / "b.safetensors", backbone.state_dict(), **changes)
    with pytest.raises(UserError, match=rf"b\.safetensors: .*{complaint}") as caught:
        load_backbone(tmp_path / "b.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [40, 100_000])
def test_a_header_that_is_nested_deeply(tmp_path, backbone, depth):
    text = f'{{"name": "x", "provenance": {{"a": {"[" * depth}{"]" * depth}}}}}'
    metadata = {"transreid_ssl": text}
    safetensors.torch.save_file(backbone.state_dict(), tmp_path / "b.safetensors", metadata)
    with pytest.raises(UserError, match="header cannot be read"):
        read_spec(tmp_path / "b.safetensors")


def test_provenance_of_any_kind_is_only_read_where_it_fits(backbone):
    spec = build_backbone(**PLAIN, provenance={"settings": "text", "pool": 3, "a": {"b": "c"}}).spec
    assert spec.remembered("settings", "data", "name") is None
    assert spec.remembered("pool") is None
    assert spec.remembered("a", "b") == "c"


def test_a_stride_of_zero_is_the_network_s_own(tmp_path, backbone):
    with_header(tmp_path / "b.safetensors", backbone.state_dict(), stride=0)
    assert load_backbone(tmp_path / "b.safetensors").spec.stride == 8


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.update(cls_token=s["cls_token"].to_sparse()), "no plain tensor"),
        (lambda s: s.update(cls_token="text"), "no vision transformer"),
        (lambda s: s.update(pos_embed=torch.ones(128)), r"pos_embed has the shape \(128,\)"),
        (lambda s: s.update(pos_embed=torch.ones(0, 33, 128)), "pos_embed has the shape"),
        (lambda s: s.update({"x" * 400: torch.ones(1)}), "no plain tensor"),
        (lambda s: s.update(sie_embed=torch.ones(1, 1, 128).expand(10**6, 1, 128)), "claims more"),
        (lambda s: s.update({"blocks.99999999.a": torch.ones(1)}), "depth 100000000"),
        (lambda s: s.update(pixel_mean=torch.ones(3), pixel_std=torch.zeros(3)), "std"),
    ],
)
def test_odd_tensors(tmp_path, backbone, change, complaint):
    state = backbone.state_dict()
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"x\.pth: .*{complaint}"):
        load_backbone(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "content",
    [
        {"objective": {0: torch.ones(2)}, "backbones": {"kept": "a."}, "spec": "{}"},
        {"objective": {"a.b": torch.ones(2)}, "backbones": {"kept": "a."}, "spec": "no JSON"},
        {"objective": {"a.b": torch.ones(2)}, "backbones": ["a."], "spec": "{}"},
        {"objective": {"a.b": torch.ones(2)}, "backbones": {"kept": 3}, "spec": 3},
        {0: torch.ones(2), "fc.weight": torch.ones(())},
    ],
)
def test_odd_checkpoints(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: "):
        load_backbone(tmp_path / "x.pt")


def test_a_classifier_of_odd_shape_is_no_classifier(tmp_path):
    state = build_backbone("resnet_nano_reid").state_dict()
    for shape in ((), (0,)):
        torch.save(state | {"fc.weight": torch.ones(shape)}, tmp_path / "r.pth")
        assert load_backbone(tmp_path / "r.pth").load_report.format.startswith("ResNet without")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One whole file of each format; the networks are small, so that damage meets their headers."""
    folder = tmp_path_factory.mktemp("whole")
    model = build_backbone(**PLAIN)
    state = model.state_dict()
    save_backbone(folder / "ours.safetensors", model)
    teacher = {f"backbone.{name}": value for name, value in state.items()}
    torch.save({"teacher": teacher, "args": argparse.Namespace(lr=1)}, folder / "zip.pth")
    legacy = {"state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(legacy, folder / "legacy.pth.tar", _use_new_zipfile_serialization=False)
    plain = {name: value.tolist() if value.ndim == 1 else 1 for name, value in state.items()}
    (folder / "plain.pth").write_bytes(pickle.dumps(plain))
    return folder


@pytest.mark.parametrize("name", ["ours.safetensors", "zip.pth", "legacy.pth.tar", "plain.pth"])
def test_random_damage_gives_a_model_or_one_line(tmp_path, files, name):
    whole, draw, loaded = (files / name).read_bytes(), random.Random(name), 0
    for trial in range(40):
        content = bytearray(whole)
        end = len(content) if trial % 2 else 4000  # headers are where parsers are at work
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(min(end, len(content)))] ^= 1 << draw.randrange(8)
        if trial % 4 == 0:
            del content[draw.randrange(len(content)) :]
        (tmp_path / name).write_bytes(content)
        try:
            load_backbone(tmp_path / name)
        except UserError:
            continue
        loaded += 1
    # Only files without checksums can hide damage: of an old format, in its tensors.
    assert (loaded > 0) == (name == "legacy.pth.tar")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_that_is_cut_short_once_it_was_read_does_no_harm(tmp_path, backbone, suffix):
    """A mapped one would end the process, by SIGBUS: so in a process of its own."""
    path = tmp_path / f"b.{suffix}"
    state = backbone.state_dict() | {"other": torch.ones(2**20)}
    save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
    save(state, path)
    process = launch.start(damage.read_and_cut, path)
    process.join(launch.PATIENCE)
    assert process.exitcode == 0


@pytest.mark.parametrize("processes", [1, 3])  # of a launcher, which all read it
def test_a_file_too_large_for_the_memory_is_mapped(tmp_path, backbone, monkeypatch, processes):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    asked, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: asked.append(k["mmap"]) or load(*a, **k))
    torch.save(backbone.state_dict(), tmp_path / "b.pth")
    needed = 2 * processes * (tmp_path / "b.pth").stat().st_size
    for available in (needed, needed - 1):
        memory = SimpleNamespace(available=available)
        monkeypatch.setattr("psutil.virtual_memory", lambda memory=memory: memory)
        read_spec(tmp_path / "b.pth")
    assert asked == [False, True]
