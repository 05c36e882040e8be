"""Published training checkpoints, made here in their layouts, go on with the loss they had."""

import argparse

import numpy as np
import pytest
import torch

import launch
import slow_dino
from layouts import prefixed
from transreid_ssl import UserError
from transreid_ssl.models import HALF, IMAGENET, DINOHead, build_backbone, load_backbone
from transreid_ssl.models.training_state import read_training_state
from transreid_ssl.pretrain import saved_state
from transreid_ssl.training import parse_config

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


def options(kind="reid", **given):
    settings = {
        "model.name": f"vit_nano_patch8_{kind}", "model.img_size": list(SIZE),
        "views.global_size": list(SIZE), "model.drop_path": 0, "init.heads": "true",
        "run.output": "nowhere",
        **{f"dino.{name}": value for name, value in SIZES.items()}, **given,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in settings.items()]


def config_for(path, *arguments, kind="reid", **given):
    recipe = launch.recipe("dino_pretrain")
    words = [*options(kind, **given), f"--model.weights={path}", *arguments]
    return parse_config(recipe.Config, recipe.DEMO, "", words)[0]


class Said:
    """An accelerator that keeps what it is to print."""

    def __init__(self):
        self.text = ""

    def print(self, text, **options):
        self.text += f"{text}\n"


def continued(config):
    """The objective of a run with these settings, and what was said of its beginning."""
    said, recipe = Said(), launch.recipe("dino_pretrain")
    return recipe.build_objective(config, said, saved_state(config)), said.text


def two_views():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 3, *SIZE), dtype=torch.uint8, generator=generator)


LAYOUTS = {
    "dino": (dino_file, "reid", IMAGENET, "imagenet"),
    "ibot": (ibot_file, "reid", HALF, "half"),
    "pass": (pass_file, "pass", IMAGENET, "imagenet"),
    "flat": (flat_file, "reid", IMAGENET, "imagenet"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_loss_is_that_of_the_saved_state(layout, tmp_path):
    write, kind, statistics, name = LAYOUTS[layout]
    student, teacher, center = networks(kind)
    torch.save(write(student, teacher, center), tmp_path / "checkpoint.pth")
    config = config_for(tmp_path / "checkpoint.pth", kind=kind, **{"data.statistics": name})
    dino, _ = continued(config)
    views = two_views()
    found = dino.train()({"views": [views.flatten(0, 1)]}, 0)["loss"].item()
    leading = PARTS if kind == "pass" else ()
    expected = slow_dino.loss(
        views, student, teacher, center, heads=4, statistics=statistics, leading=leading
    )
    assert found == pytest.approx(expected, rel=1e-4)
    assert expected > 1.1 * np.log(K)  # so that it is not that of equal outputs


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_left_is_named_in_a_line_each(layout, tmp_path):
    write, kind, _, name = LAYOUTS[layout]
    torch.save(write(*networks(kind)), tmp_path / "c.pth")
    text = continued(config_for(tmp_path / "c.pth", kind=kind, **{"data.statistics": name}))[1]
    print(text)
    assert 0
