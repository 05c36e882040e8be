"""Weights that are refused: of other networks, damaged, or dangerous."""

import pickle

import pytest
import safetensors.torch
import torch

from transreid_ssl import UserError
from transreid_ssl.models import build_backbone, load_backbone, load_weights, save_backbone

NANO = {"name": "vit_nano_patch8_ics", "img_size": (64, 32)}
PLAIN = {"name": "vit_nano_patch8_reid", "img_size": (64, 32)}


@pytest.fixture
def backbone():
    return build_backbone(**NANO).eval()


def test_another_architecture_is_refused_with_both_sizes(tmp_path, backbone):
    save_backbone(tmp_path / "b.safetensors", backbone)
    model = build_backbone(name="vit_tiny_patch16_reid", img_size=(32, 16))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, tmp_path / "b.safetensors")
    message = str(caught.value)
    for part in ("b.safetensors", "width 128", "width 192", "build vit_nano_patch8_ics"):
        assert part in message
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_unknown_architecture_is_refused(tmp_path):
    state = build_backbone(**PLAIN).state_dict()
    deeper = state | {"blocks.9.norm1.weight": torch.ones(128)}
    torch.save(deeper, tmp_path / "deep.pth")
    with pytest.raises(UserError, match=r"depth 10.*none of vit_nano"):
        load_backbone(tmp_path / "deep.pth")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.pop("norm.weight"), r"lacks weights of the network \(norm.weight\)"),
        (
            lambda s: s.update({"blocks.0.ls1.gamma": torch.ones(128)}),
            "scaled layers, which is none",
        ),
        (lambda s: s.update({"reg_token": torch.ones(1, 4, 128)}), r"no place for \(reg_token\)"),
        (lambda s: s.update({"dist_token": torch.ones(1, 1, 128)}), "no place for"),
        (lambda s: s.update({"blocks.0.mlp.fc1.bias": torch.ones(8)}), "of other shapes"),
        (lambda s: s.update({"pos_embed": torch.ones(1, 138, 128)}), "no usual image size"),
        (lambda s: s.pop("patch_embed.proj.weight"), "no patch embedding"),
        (lambda s: s.pop("cls_token"), "no vision transformer and no ResNet in it"),
    ],
)
def test_what_would_change_the_computation_is_an_error(tmp_path, change, complaint):
    state = build_backbone(**PLAIN).state_dict()
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=complaint) as caught:
        load_weights(build_backbone(**PLAIN), tmp_path / "x.pth")
    assert str(tmp_path / "x.pth") in str(caught.value)


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the file was run')",)


def test_code_in_a_pickle_is_never_run(tmp_path):
    torch.save({"teacher": Harmful()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil.pth: holds a .*exec, which is refused"):
        load_backbone(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match=r"plain.pth: "):
        load_backbone(tmp_path / "plain.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>", "truncated"])
def test_files_that_are_no_weights(tmp_path, backbone, suffix, content):
    path = tmp_path / f"x{suffix}"
    if content == "truncated":
        if suffix == ".pth":
            torch.save(backbone.state_dict(), path)
        else:
            save_backbone(path, backbone)
        content = path.read_bytes()[:5000]
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a weights file, or damaged") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"weight": torch.ones(2)}])
def test_pickles_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth: "):
        load_backbone(tmp_path / "x.pth")


def test_a_header_of_a_newer_version_is_not_guessed_at(tmp_path, backbone):
    path = tmp_path / "b.safetensors"
    metadata = {"transreid_ssl": '{"name": "vit_nano_patch8_ics", "twist": 2}'}
    safetensors.torch.save_file(backbone.state_dict(), path, metadata)
    with pytest.raises(UserError, match=r"unknown fields twist.*upgrade"):
        load_backbone(path)


def test_saving_refuses_weights_of_another_network(tmp_path, backbone):
    with pytest.raises(ValueError, match="patch_embed"):
        save_backbone(tmp_path / "b.safetensors", backbone, build_backbone(**PLAIN).spec)
    with pytest.raises(UserError, match=r"\.safetensors"):
        save_backbone(tmp_path / "b.pth", backbone)
    assert list(tmp_path.iterdir()) == []
