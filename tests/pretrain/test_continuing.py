"""Published training checkpoints, made here in their layouts, go on with the loss they had."""

import argparse
import logging
import re

import numpy as np
import pytest
import torch

import launch
import slow_dino
from layouts import prefixed
from transreid_ssl import UserError, logs
from transreid_ssl.data import MultiCropConfig
from transreid_ssl.models import (
    HALF,
    IMAGENET,
    DINOHead,
    build_backbone,
    load_backbone,
    read_spec,
    read_training_state,
    save_backbone,
)
from transreid_ssl.pretrain import DINOConfig, InitSettings, continuing, saved_state, take_over
from transreid_ssl.training import BackboneSettings, PoolSettings, RunSettings

K, SIZE = 24, (64, 32)
SIZES = {"out_dim": K, "hidden_dim": 20, "bottleneck_dim": 8}
PARTS = ("part_token1", "part_token2", "part_token3")


def random_like(shapes, seed):
    """Tensors of the shapes of ``shapes``: weights of which no two are alike."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) * 0.1 + 1.0 * name.endswith("weight_g")
        if value.is_floating_point()
        else value.clone()
        for name, value in shapes.items()
    }


def networks(kind="reid", width=128):
    """Backbone and head of a student and of a teacher, and a centre, all of them random."""
    backbone = build_backbone(f"vit_nano_patch8_{kind}", img_size=SIZE).state_dict()
    head = DINOHead(width, K, hidden_dim=20, bottleneck_dim=8).state_dict()
    pairs = [(random_like(backbone, 2 * n), random_like(head, 2 * n + 1)) for n in (1, 2)]
    return *pairs, torch.randn(1, K, generator=torch.Generator().manual_seed(7)) * 0.05


def dino_file(student, teacher, center, **args):
    """As facebook's and TransReID-SSL's ``main_dino.py`` write it."""
    return {
        "student": prefixed("module.backbone.", student[0]) | prefixed("module.head.", student[1]),
        "teacher": prefixed("backbone.", teacher[0]) | prefixed("head.", teacher[1]),
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-3), "params": [0]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_nano", out_dim=K, **args),
        "dino_loss": {"center": center},
        "fp16_scaler": {"scale": 65536.0},
    }


def ibot_file(student, teacher, center):
    """As ``main_ibot.py`` writes it: the teacher's last layer serves class token and patches."""
    file = dino_file(student, teacher, center)
    del file["dino_loss"]
    file["ibot_loss"] = {"center": center, "center2": torch.ones(1, 1, K)}
    file["student"]["module.backbone.masked_embed"] = torch.ones(1, 128)
    for part in ("weight_g", "weight_v"):
        last = student[1][f"last_layer.{part}"]
        file["student"][f"module.head.last_layer2.{part}"] = last + 1
        file["teacher"][f"head.last_layer2.{part}"] = teacher[1][f"last_layer.{part}"]
    return file


def pass_file(student, teacher, center):
    """As ``main_pass.py`` writes it: a head and a centre for each of the four tokens."""
    file = dino_file(student, teacher, center)
    file["dino_loss"] = {"center_cls": center}
    file["dino_loss"] |= {f"center_pt{i}": center + i for i in (1, 2, 3)}
    for role, (backbone, head) in (("student", student), ("teacher", teacher)):
        outer = "module." * (role == "student")
        named = prefixed(f"{outer}backbone.", backbone)
        for token in ("cls", "pt1", "pt2", "pt3"):
            for name, value in head.items():
                layer, _, rest = name.partition(".")
                shifted = value if token == "cls" else value + 1
                named[f"{outer}head.{layer}_{token}.{rest}"] = shifted
        file[role] = named
    return file


def flat_file(student, teacher, center):
    """As programs write it that keep everything in one module."""
    state = {"dino_loss.center": center}
    for role, (backbone, head) in (("student", student), ("teacher", teacher)):
        state |= prefixed(f"{role}.backbone.", backbone) | prefixed(f"{role}.head.", head)
    return {"state_dict": prefixed("model.", state), "epoch": 3}


def own_file(student, teacher, center):
    """As this package's training loop writes it."""
    state = {"loss.center": center}
    for role, (backbone, head) in (("student", student), ("teacher", teacher)):
        state |= prefixed(f"{role}.backbone.", backbone) | prefixed(f"{role}.head.", head)
    spec = build_backbone("vit_nano_patch8_reid", img_size=SIZE, mean=HALF.mean, std=HALF.std).spec
    return {
        "objective": state, "spec": spec.to_json(), "step": 3, "optimizer": {"state": {}},
        "backbones": {"kept": "teacher.backbone.", "student": "student.backbone."},
    }  # fmt: skip


def config_for(path, kind="reid", **groups):
    """The settings of a run that goes on from ``path``."""
    model = {"name": f"vit_nano_patch8_{kind}", "img_size": SIZE, "drop_path": 0.0, "weights": path}
    given = {
        "run": RunSettings(output="nowhere", **groups.pop("run", {})),
        "model": BackboneSettings(**model | groups.pop("model", {})),
        "dino": DINOConfig(**SIZES | groups.pop("dino", {})),
        "data": PoolSettings(**groups.pop("data", {})),
        "views": MultiCropConfig(**{"global_size": SIZE, "num_local": 0} | groups.pop("views", {})),
        "init": InitSettings(**{"heads": True} | groups.pop("init", {})),
    }
    return launch.recipe("dino_pretrain").Config(**given, **groups)


class Said(logging.Handler):
    """An accelerator's main process, and what is said there."""

    is_main_process = True

    def __init__(self):
        super().__init__()
        self.text = ""

    def emit(self, record):
        self.text += f"{record.getMessage()}\n"


def continued(config):
    """The objective of a run with these settings, and what was said of its beginning."""
    said, recipe, level = Said(), launch.recipe("dino_pretrain"), logs.RUN.level
    logs.RUN.addHandler(said)
    logs.RUN.setLevel(logging.INFO)
    try:
        return recipe.build_objective(config, said, saved_state(config)), said.text
    finally:
        logs.RUN.removeHandler(said)
        logs.RUN.setLevel(level)


def two_views():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 2, 3, *SIZE), dtype=torch.uint8, generator=generator)


LAYOUTS = {
    "dino": (dino_file, "reid", IMAGENET, "imagenet"),
    "ibot": (ibot_file, "reid", HALF, "half"),
    "pass": (pass_file, "pass", IMAGENET, "imagenet"),
    "flat": (flat_file, "reid", IMAGENET, "imagenet"),
    "own": (own_file, "reid", HALF, "half"),
}


@pytest.mark.parametrize("layout", ["dino", "ibot", "pass", "own"])
def test_the_first_loss_is_that_of_the_saved_state(layout, tmp_path):
    write, kind, statistics, name = LAYOUTS[layout]
    student, teacher, center = networks(kind)
    torch.save(write(student, teacher, center), tmp_path / "checkpoint.pth")
    config = config_for(tmp_path / "checkpoint.pth", kind, data={"statistics": name})
    dino, _ = continued(config)
    views = two_views()
    found = dino.train()({"views": [views.flatten(0, 1)]}, 0)["loss"].item()
    leading = PARTS if kind == "pass" else ()
    expected = slow_dino.loss(
        views, student, teacher, center, heads=4, statistics=statistics, leading=leading
    )
    assert found == pytest.approx(expected, rel=1e-4)
    assert expected > 1.1 * np.log(K)  # so that it is not that of equal outputs


PART_HEADS = "the heads of the part tokens"
LEFT = {
    "dino": {"optimizer, epoch, args, fp16_scaler": "the optimiser and the schedules begin anew"},
    "ibot": {
        "student.backbone.masked_embed": "what a masked patch is replaced by; no patch is masked",
        "student.head.last_layer2, teacher.head.last_layer2": "the last layer for patches",
        "loss.center2": "the centre of the patches",
        "optimizer, epoch, args, fp16_scaler": "the optimiser and the schedules begin anew",
    },
    "pass": {
        "student.head.mlp_pt1.0, student.head.mlp_pt1.2 and 22 more": PART_HEADS,
        "loss.center_pt1, loss.center_pt2, loss.center_pt3": "the centres of the part tokens",
        "optimizer, epoch, args, fp16_scaler": "the optimiser and the schedules begin anew",
    },
    "flat": {"epoch": "the optimiser and the schedules begin anew"},
    "own": {"spec, step, optimizer, backbones": "the optimiser and the schedules begin anew"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_is_taken_or_named_in_a_line(layout, tmp_path):
    write, kind, _, name = LAYOUTS[layout]
    student, teacher, center = networks(kind)
    torch.save(write(student, teacher, center), tmp_path / "c.pth")
    dino, text = continued(config_for(tmp_path / "c.pth", kind, data={"statistics": name}))
    found = dict(re.findall(r"^  left: (.+?): (.+)$", text, re.MULTILINE))
    assert found == LEFT[layout]
    assert "note:" not in text
    for network, (backbone, head) in ((dino.student, student), (dino.teacher, teacher)):
        assert all(torch.equal(v, backbone[k]) for k, v in network.backbone.state_dict().items())
        for key, value in network.head.state_dict().items():
            taken = value[:, :128] if key == "mlp.0.weight" else value  # of the class token
            assert torch.equal(taken, head[key])
            assert key != "mlp.0.weight" or not value[:, 128:].any()
    assert torch.equal(dino.loss.center, center)
    assert not any(parameter.requires_grad for parameter in dino.teacher.parameters())


def test_what_is_left_can_be_taken_by_who_has_a_place_for_it(tmp_path):
    student, teacher, center = networks()
    torch.save(ibot_file(student, teacher, center), tmp_path / "c.pth")
    state = read_training_state(tmp_path / "c.pth")
    last = state.take("teacher.head.last_layer2.")
    assert torch.equal(last["weight_v"], teacher[1]["last_layer.weight_v"])
    assert torch.equal(state.take("student.backbone.")["masked_embed"], torch.ones(1, 128))
    assert state.take("loss.")["center2"].shape == (1, 1, K)
    assert {name.rpartition(".")[0] for name in state.others} == {"student.head.last_layer2"}


def test_a_stem_s_norms_go_on_too(tmp_path):
    student, teacher, center = networks("ics")
    torch.save(dino_file(student, teacher, center), tmp_path / "c.pth")
    dino, text = continued(config_for(tmp_path / "c.pth", "ics"))
    for network, (backbone, _) in ((dino.student, student), (dino.teacher, teacher)):
        assert all(torch.equal(v, backbone[k]) for k, v in network.backbone.state_dict().items())
    assert "means nothing" not in text


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_the_one_that_is_there_serves_as_both(which, tmp_path):
    student, teacher, center = networks()
    file = dino_file(student, teacher, center)
    del file["dino_loss"], file["teacher" if which == "student" else "student"]
    torch.save(file, tmp_path / "c.pth")
    dino, text = continued(config_for(tmp_path / "c.pth"))
    chosen = student if which == "student" else teacher
    for network in (dino.student, dino.teacher):
        assert torch.equal(network.backbone.cls_token, chosen[0]["cls_token"])
        assert torch.equal(network.head.mlp[0].weight, chosen[1]["mlp.0.weight"])
    assert f"which are the {which}'s: the file has no " in text
    assert "center: none in the file; it begins at 0" in text


def test_settings_that_do_not_fit_are_said_all_at_once(tmp_path):
    torch.save(dino_file(*networks("ics")), tmp_path / "c.pth")
    wrong = {"dino": {"out_dim": 9, "use_bn_in_head": True}, "data": {"statistics": "half"}}
    with pytest.raises(UserError) as caught:
        saved_state(config_for(tmp_path / "c.pth", "reid", **wrong))
    assert str(caught.value) == (
        f"{tmp_path / 'c.pth'}: to go on from it the settings have to be those that it was made "
        "with; give --model.name vit_nano_patch8_ics --data.statistics imagenet "
        "--dino.out_dim 24 --dino.use_bn_in_head false"
    )


def test_settings_that_were_not_given_by_hand_are_the_checkpoint_s(tmp_path):
    torch.save(dino_file(*networks("ics")), tmp_path / "a c.pth")
    other = {"dino": {"out_dim": 9, "hidden_dim": 7}, "data": {"statistics": "half"}}
    config = config_for(tmp_path / "a c.pth", "reid", **other)
    taken = take_over(config, {"dino.hidden_dim", "run.epochs"})
    assert taken.settings == {
        "model.name": "vit_nano_patch8_ics", "data.statistics": "imagenet", "dino.out_dim": K,
    }  # fmt: skip
    assert taken.lines == [
        f"{tmp_path / 'a c.pth'}: with the settings that it was made with, --model.name "
        "vit_nano_patch8_ics --data.statistics imagenet --dino.out_dim 24"
    ]
    assert take_over(config_for(tmp_path / "a c.pth", "ics"), set()).lines == []
    assert take_over(config_for(None), set()) is None


def test_a_checkpoint_is_read_once_unless_it_changes_meanwhile(tmp_path, monkeypatch):
    reads = []
    read = continuing.read_training_state
    monkeypatch.setattr(
        continuing, "read_training_state", lambda path: reads.append(path) or read(path)
    )
    torch.save(dino_file(*networks()), tmp_path / "c.pth")
    config = config_for(tmp_path / "c.pth")
    for _ in range(2):
        take_over(config, set())
        assert saved_state(config).center.shape == (1, K)
    assert len(reads) == 2
    take_over(config, set())
    torch.save(dino_file(*networks("ics")), tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"--model\.name vit_nano_patch8_ics"):
        saved_state(config)


def test_the_size_of_images_is_that_of_a_checkpoint_of_this_package_alone(tmp_path):
    smaller = {"img_size": (128, 96)}, {"global_size": (128, 96), "local_size": (64, 32)}
    sizes = dict(zip(("model", "views"), smaller))
    torch.save(own_file(*networks()), tmp_path / "own.pt")
    config = config_for(tmp_path / "own.pt", data={"statistics": "half"}, **sizes)
    assert take_over(config, set()).settings == {
        "model.img_size": [64, 32], "views.global_size": [64, 32], "views.local_size": [32, 8],
    }  # fmt: skip
    assert take_over(config, {"views.global_size"}).settings == {}
    torch.save(dino_file(*networks()), tmp_path / "dino.pth")
    assert take_over(config_for(tmp_path / "dino.pth", **sizes), set()).settings == {}


def test_what_changes_the_first_loss_is_noted(tmp_path):
    torch.save(dino_file(*networks(), teacher_temp=0.07), tmp_path / "dino.pth")
    text = continued(config_for(tmp_path / "dino.pth", model={"img_size": (32, 16)}))[1]
    assert "resized pos_embed from 8x4 to 4x2 patches" in text
    assert "note: its positions were resampled for small crops as by --model.position" in text
    assert "temperature was 0.07 in the end, and --dino.teacher_temp is 0.04" in text
    torch.save(ibot_file(*networks()), tmp_path / "ibot.pth")
    text = continued(config_for(tmp_path / "ibot.pth"))[1]
    assert "probably as by --data.statistics half, and now as by imagenet" in text


def harm_center(file):
    file["dino_loss"]["center"] = torch.zeros(1, 5)


def harm_value(file):
    file["teacher"]["head.mlp.0.bias"][3] = torch.nan


def harm_head(file):
    del file["student"]["module.head.mlp.2.bias"]


def add_norm(file):
    file["teacher"]["head.last_norm.running_mean"] = torch.ones(K)


def change_activation(file):
    file["args"].act_in_head = "relu"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (add_norm, r"teacher\.head\.last_norm\.running_mean is in none of DINO's heads"),
        (change_activation, "its heads have relu, and DINO's GELU; leave"),
        (harm_center, r"center has the shape \(1, 5\), for which \(1, 24\) is needed"),
        (harm_value, "some of it is not finite; give an earlier checkpoint"),
        (harm_head, r"its heads differ from DINO's in mlp\.2\.bias"),
        (lambda f: f.pop("teacher") and f.pop("student"), "it holds no student and no teacher"),
        (lambda f: [f["teacher"].pop(k) for k in list(f["teacher"]) if "head" in k], "has none"),
    ],
)
def test_damage_is_one_line(harm, message, tmp_path):
    file = dino_file(*networks())
    harm(file)
    torch.save(file, tmp_path / "c.pth")
    with pytest.raises(UserError, match=rf"c\.pth: .*{message}"):
        continued(config_for(tmp_path / "c.pth"))


def test_a_backbone_alone_has_no_heads(tmp_path):
    save_backbone(tmp_path / "b.safetensors", build_backbone("vit_nano_patch8_reid"))
    with pytest.raises(
        UserError, match=r"no checkpoint of DINO with its heads .* leave --init\.heads"
    ):
        saved_state(config_for(tmp_path / "b.safetensors"))
    with pytest.raises(UserError, match=r"name the checkpoint to go on from with --model\.weights"):
        saved_state(config_for("x", model={"weights": None}))


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_a_backbone_of_ibot_is_read_with_its_statistics(which, tmp_path):
    student, teacher, center = networks()
    torch.save(ibot_file(student, teacher, center), tmp_path / "c.pth")
    spec = read_spec(tmp_path / "c.pth")
    assert (spec.mean, spec.std, spec.objective) == (*HALF, "ibot")
    network = load_backbone(tmp_path / "c.pth", which=which)
    chosen = student if which == "student" else teacher
    assert torch.equal(network.cls_token, chosen[0]["cls_token"])
    assert "with 0.5 for mean and std" in network.load_report.notes[-1]


def test_masked_patches_go_on_with_ibots_layer_and_centre(tmp_path):
    student, teacher, center = networks()
    torch.save(ibot_file(student, teacher, center), tmp_path / "c.pth")
    masked = {"masked_patches": 0.3, "patch_out_dim": K}
    dino, text = continued(config_for(tmp_path / "c.pth", data={"statistics": "half"}, dino=masked))
    assert "masked patches: what a masked patch is replaced by, the patches' centre, the" in text
    assert (dino.masked.embedding == 1).all()
    assert (dino.masked.center == 1).all()
    for network, (_, head), more in ((dino.student, student, 1), (dino.teacher, teacher, 0)):
        found = network.patch_head.state_dict()
        torch.testing.assert_close(found["last_layer.weight_v"], head["last_layer.weight_v"] + more)
        assert torch.equal(found["mlp.0.weight"], head["mlp.0.weight"])
    assert re.findall(r"left: (\S+):", text) == []
    shared, text = continued(
        config_for(tmp_path / "c.pth", data={"statistics": "half"}, dino={"masked_patches": 0.3})
    )
    assert shared.student.patch_head is None
    assert "left: student.head.last_layer2, teacher.head.last_layer2: the last layer" in text


def test_part_tokens_go_on_with_pass_s_heads_and_centres(tmp_path):
    student, teacher, center = networks("pass")
    torch.save(pass_file(student, teacher, center), tmp_path / "c.pth")
    config = config_for(
        tmp_path / "c.pth", "pass", dino={"part_tokens": 3}, views={"num_local": 3, "areas": 3}
    )
    dino, text = continued(config)
    assert "part2: the student's head, the teacher's head, the centre" in text
    assert "left: student" not in text
    for network, (_, head) in ((dino.student, student), (dino.teacher, teacher)):
        assert all(torch.equal(v, head[k]) for k, v in network.head.state_dict().items())
        for part in network.part_heads:
            assert all(torch.equal(v, head[k] + 1) for k, v in part.state_dict().items())
    for number, loss in enumerate(dino.part_losses, 1):
        torch.testing.assert_close(loss.center, center + number)


def test_a_part_s_head_that_differs_is_named_with_what_to_do(tmp_path):
    file = pass_file(*networks("pass"))
    del file["student"]["module.head.mlp_pt2.2.bias"]
    torch.save(file, tmp_path / "c.pth")
    config = config_for(
        tmp_path / "c.pth", "pass", dino={"part_tokens": 3}, views={"num_local": 3, "areas": 3}
    )
    message = r"c\.pth: the head of part2 differs from the settings' in mlp\.2\.bias; give the head"
    with pytest.raises(UserError, match=message):
        continued(config)


def test_a_run_with_masked_patches_and_registers_goes_on_whole(tmp_path):
    """Of this package's own checkpoints all that a run holds is taken."""
    student, teacher, center = networks()
    torch.save(ibot_file(student, teacher, center), tmp_path / "first.pth")
    masked = {"masked_patches": 0.3, "patch_out_dim": K}
    first, _ = continued(
        config_for(tmp_path / "first.pth", data={"statistics": "half"}, dino=masked)
    )
    state = {name: value + 0.01 for name, value in first.state_dict().items()}
    torch.save(
        {
            "objective": state, "spec": first.spec.to_json(), "step": 3,
            "backbones": {"kept": "teacher.backbone.", "student": "student.backbone."},
        },
        tmp_path / "own.pt",
    )  # fmt: skip
    again, text = continued(
        config_for(tmp_path / "own.pt", data={"statistics": "half"}, dino=masked)
    )
    assert "left: student" not in text
    for name, value in again.state_dict().items():
        assert torch.equal(value, state[name]), name
