"""Exported programs: the same features in onnxruntime, smaller ones nearly so, and what is said."""

import importlib
import json
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from transreid_ssl import UserError, data, export
from transreid_ssl.models import HALF, build_backbone, save_backbone
from transreid_ssl.models.exported import ExportedNetwork, normalise_pixels, resize

SIZE = (64, 32)
PEOPLE = "demo:identities=8,images=4,height=80,width=40,test=4"


@pytest.fixture
def weights(tmp_path):
    """A network whose every weight matters, in a file."""
    model = build_backbone(
        "vit_nano_patch16_conv", img_size=SIZE, mean=HALF.mean, std=HALF.std
    ).eval()
    save_backbone(tmp_path / "b.safetensors", model)
    return tmp_path / "b.safetensors", model


def pixels(count, size=SIZE):
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8)


def smooth(height, width, seed=0):
    """An image uint8 (height, width, 3) of slopes and spots."""
    random = np.random.default_rng(seed).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    return data.images.resize(random, (height, width), "cubic")


SIZES = [(128, 64), (200, 90), (97, 33), (40, 20), (40, 100), (9, 300), (64, 32), (2, 2)]


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("old", SIZES, ids=str)
def test_resizing_within_a_program_is_that_of_the_loader(old, interpolation):
    image = smooth(*old)
    expected = data.images.resize(image, SIZE, interpolation).astype(np.float32)
    found = resize(torch.from_numpy(image).permute(2, 0, 1)[None].float(), SIZE, interpolation)
    found = found.clamp(0, 255).round()[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1  # grey levels
    assert np.abs(found - expected).mean() < 0.3


def test_each_kind_of_input_is_the_same_image(weights):
    model, images = weights[1], pixels(2)
    expected = F.normalize(model(images), dim=1)
    given = {
        "uint8": images,
        "float": images.float() / 255,
        "normalised": (images.float() / 255 - 0.5) / 0.5,
    }
    for kind, values in given.items():
        assert_close(ExportedNetwork(model, kind)(values), expected, rtol=1e-4, atol=1e-5)
    assert_close(normalise_pixels(images, model.spec), normalise_pixels(images.float(), model.spec))


def test_a_pt2_program_resizes(weights, tmp_path):
    path, model = weights
    (said,) = export.export(path, tmp_path / "b.pt2", resize=True)
    assert "at most (float32, random images)" in said
    program = torch.export.load(tmp_path / "b.pt2").module()
    for old in ((80, 50), (31, 70)):
        image = smooth(*old)
        expected = torch.from_numpy(data.images.resize(image, SIZE)).permute(2, 0, 1)[None]
        found = program(torch.from_numpy(image).permute(2, 0, 1)[None])
        assert F.cosine_similarity(found, model(expected)) > 0.999


def test_an_onnx_program_runs_by_itself_for_any_batch(weights, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    path, model = weights
    export.main([str(path), str(tmp_path / "b.onnx"), "--input", "float"])
    session = runtime.InferenceSession(tmp_path / "b.onnx", providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 3, *SIZE], "tensor(float)")
    assert (made.name, made.shape[0], made.type) == ("features", "batch", "tensor(float)")
    for count in (1, 5):
        images = pixels(count)
        (found,) = session.run(None, {"images": images.float().div(255).numpy()})
        expected = F.normalize(model(images), dim=1).detach()
        assert_close(torch.from_numpy(found), expected, rtol=0, atol=export.PARITY)


def test_int8_resizes_is_small_and_says_what_it_loses(weights, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    from transreid_ssl.onnx_files import OnnxNetwork

    path, model = weights
    words = ["--precision", "int8", "--images", PEOPLE, "--num_images", "8", "--resize", "true"]
    export.main([str(path), str(tmp_path / "b.onnx"), *words, "--data", PEOPLE])
    said = capsys.readouterr().out
    mean, lowest = map(float, re.search(r"mean ([\d.]+), lowest ([\d.]+) \(int8\)", said).groups())
    assert 0.9 < lowest <= mean < 1
    for name in ("network, float32", "program, int8"):
        assert re.search(rf"{name} +\d+\.\d%", said)
    assert (tmp_path / "b.onnx").stat().st_size < 0.5 * path.stat().st_size
    program = OnnxNetwork(tmp_path / "b.onnx")
    assert program.spec == model.spec
    images = torch.from_numpy(smooth(100, 60)).permute(2, 0, 1)[None]
    small = torch.from_numpy(data.images.resize(smooth(100, 60), SIZE)).permute(2, 0, 1)[None]
    found = program(images)
    assert_close(found.norm(dim=1), torch.ones(1))
    assert 0.9 < F.cosine_similarity(found, model(small).detach()) < 0.999999


def test_fp16_is_half_as_large_and_keeps_the_features(weights, tmp_path):
    pytest.importorskip("onnxruntime")
    from transreid_ssl.onnx_files import OnnxNetwork

    path = weights[0]
    said = export.export(path, tmp_path / "b.onnx", precision="fp16", images=PEOPLE, num_images=4)
    assert re.search(r"mean (0\.999|1\.0)\d+, lowest (0\.999|1\.0)\d+ \(fp16\)", said[0])
    assert (tmp_path / "b.onnx").stat().st_size < 0.7 * path.stat().st_size
    found = OnnxNetwork(tmp_path / "b.onnx")(pixels(2))
    assert found.dtype == torch.float32


def test_a_program_that_gives_something_else_is_not_written(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "PARITY", 0.0)
    with pytest.raises(UserError, match=r"b\.pt2: not written: its features differ"):
        export.export(weights[0], tmp_path / "b.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]


def test_the_benchmark_times_each_program(monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    benchmark = importlib.import_module("benchmarks.export")
    monkeypatch.setattr(benchmark, "PRECISIONS", ("float32",))
    size = ["--size", "32", "32", "--name", "vit_nano_patch16_conv"]
    benchmark.main([*size, "--batches", "1", "2", "--rounds", "1", "--images", PEOPLE])
    *_, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures["ratio"] > 0
    assert all(
        set(found) == {"PyTorch", "float32"} for found in figures["images_a_second"].values()
    )


def test_complaints(weights, tmp_path, monkeypatch):
    path = weights[0]
    for name, value in (("precision", "int8"), ("images", PEOPLE), ("data", "demo")):
        with pytest.raises(UserError, match=f"--{name} {value}: is for ONNX"):
            export.export(path, tmp_path / "b.pt2", **{name: value})
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install 'transreid_ssl\[export\]'"):
            export.export(path, tmp_path / "b.onnx")
    with pytest.raises(UserError, match=r"and --weights .*: name one of them"):
        export.main([str(path), str(tmp_path / "b.pt2"), f"--weights={path}"])
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="which images"):
        export.export(path, tmp_path / "b.onnx", precision="int8")
    from transreid_ssl.onnx_files import OnnxNetwork

    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"x\.onnx: onnxruntime cannot run it"):
        OnnxNetwork(tmp_path / "x.onnx")
