"""The command lines for weights: show, convert, export."""

import pytest
import torch
from torch.nn import functional as F

from transreid_ssl import UserError, export, weights
from transreid_ssl.models import HALF, build_backbone, load_backbone, read_spec, save_backbone

NANO = {"name": "vit_nano_patch8_ics", "img_size": (64, 32)}


@pytest.fixture
def published(tmp_path):
    state = {f"base.{k}": v for k, v in build_backbone(**NANO).state_dict().items()}
    torch.save(state | {"classifier.weight": torch.ones(751, 128)}, tmp_path / "t.pth")
    return tmp_path / "t.pth"


def test_show_says_what_a_file_is(published, capsys):
    weights.main(["show", str(published)])
    said = capsys.readouterr().out
    for part in ("TransReID fine-tuned", "dropped 1: classifier", "vit_nano_patch8_ics at 64x32"):
        assert part in said
    assert "mean (0.5, 0.5, 0.5)" in said


def test_show_has_a_line_for_each_setting(tmp_path, capsys):
    settings = {"run": {"epochs": 3, "page": None}, "model": {"img_size": [64, 32]}, "probe": {}}
    model = build_backbone(**NANO, provenance={"pool": "crops", "settings": settings})
    save_backbone(tmp_path / "net.safetensors", model)
    weights.main(["show", str(tmp_path / "net.safetensors")])
    lines = ["pool: crops", "settings:", "  run:", "    epochs: 3", "    page: null", "  model:",
             "    img_size: [64, 32]", "  probe: {}"]  # fmt: skip
    assert "".join(f"  {line}\n" for line in lines) in capsys.readouterr().out


def test_convert_writes_what_needs_no_questions(published, tmp_path, capsys):
    output = tmp_path / "backbone.safetensors"
    arguments = ["convert", str(published), str(output), "--img_size", "[96, 32]", "--gem", "true"]
    weights.main(arguments)
    spec = read_spec(output)
    assert (spec.img_size, spec.gem, spec.mean) == ((96, 32), True, HALF.mean)
    assert spec.provenance["file"] == "t.pth"
    assert "resized pos_embed from 8x4 to 12x4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "give what to do: show, convert, save, push or tutorial"),
        ("show", "required: weights"),
        ("show {0}/none.pth", "none.pth: no such weights file"),
        ("show {0}/t.pth --which nobody", "teacher or student"),
        (
            "show {0}/t.pth --img_size tall",
            "--img_size tall: give 2 whole numbers as .A, B. or null",
        ),
        ("convert {0}/t.pth {0}/x.pth", r"x.pth: .*\.safetensors"),
        ("shake {0}/t.pth", "shake"),
    ],
)
def test_commands_complain_in_one_line(published, tmp_path, arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        weights.main(arguments.format(tmp_path).split())
    assert list(tmp_path.iterdir()) == [published]


def test_an_exported_program_gives_the_same_unit_features(tmp_path, capsys):
    model = build_backbone(**NANO, mean=HALF.mean, std=HALF.std).eval()
    save_backbone(tmp_path / "b.safetensors", model)
    export.main([str(tmp_path / "b.safetensors"), str(tmp_path / "b.pt2")])
    assert "written to" in capsys.readouterr().out
    program = torch.export.load(tmp_path / "b.pt2").module()
    for batch in (1, 5):
        images = torch.randint(0, 256, (batch, 3, 64, 32), dtype=torch.uint8)
        expected = F.normalize(model(images), dim=1)
        torch.testing.assert_close(program(images), expected)


def test_export_refuses_what_it_cannot_do(tmp_path):
    path = tmp_path / "b.safetensors"
    save_backbone(path, build_backbone(**NANO, num_cameras=3))
    with pytest.raises(UserError, match="camera"):
        export.export(path, tmp_path / "b.pt2")
    with pytest.raises(UserError, match="choose pt2 or onnx"):
        export.export(path, tmp_path / "b.pt2", format="caffe")
    for name, format in (("b.onnx", "pt2"), ("b.pt2", "onnx"), ("b.bin", None)):
        with pytest.raises(UserError, match=rf"{name}: name the file b\.\w+.*, after its format"):
            export.export(path, tmp_path / name, format=format)
    with pytest.raises(UserError, match="is read by this command"):
        weights.main(["convert", str(path), str(path)])
    assert load_backbone(path).spec.num_cameras == 3


def test_a_full_disk_does_not_end_the_process(tmp_path, monkeypatch):
    save_backbone(tmp_path / "b.safetensors", build_backbone(**NANO))

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(UserError, match=r"b\.pt2: writing failed .No space left on device"):
        export.export(tmp_path / "b.safetensors", tmp_path / "b.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]
