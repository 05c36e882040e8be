"""Counts in words; and of misspelt words the nearest is asked for, whatever list it is of."""

import pytest

import launch
from transreid_ssl.words import counted, nearest, part_of


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (1, ("image",), "1 image"),
        (0, ("image",), "0 images"),
        (2000, ("image",), "2,000 images"),
        (1, ("identity", "identities"), "1 identity"),
        (3, ("identity", "identities"), "3 identities"),
    ],
)
def test_one_is_one_and_all_others_are_several(count, words, said):
    assert counted(count, *words) == said


@pytest.mark.parametrize(
    ("count", "total", "more", "said"),
    [
        (1, 5, {"verb": "is/are"}, "1 of 5 images is"),
        (2, 5, {"verb": "is/are", "its": "its"}, "2 of its 5 images are"),
        (0, 1, {"verb": "has/have"}, "0 of 1 image have"),
        (2000, 3000, {}, "2,000 of 3,000 images"),
    ],
)
def test_a_verb_agrees_with_the_part_and_the_noun_with_the_whole(count, total, more, said):
    assert part_of(count, total, "image", **more) == said


def test_the_nearest_word():
    assert nearest("vit_smal_patch16_ics", ["vit_small_patch16_ics", "resnet50_reid"]) == (
        "; did you mean vit_small_patch16_ics?"
    )
    assert nearest("MSMT17", ["market1501", "msmt17"]) == "; did you mean msmt17?"
    assert nearest("lr", ["optim.lr", "ir"], "--") == "; did you mean --optim.lr?"
    assert nearest("nothing", ["of", "the", "kind"]) == nearest("", ["a"]) == ""


DINO = ["pretrain", "dino"]
USL = ["finetune", "usl"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ([*DINO, "--model.name=vit_smal_patch16_ics"], "vit_small_patch16_ics"),
        ([*DINO, "--model.name=resnet18"], "timm:resnet18"),
        ([*DINO, "--model.name=timm:resnet81"], "timm:resnet18"),
        ([*DINO, "--run.tracker=wnb"], "wandb"),
        ([*DINO, "--run.precision=bf61"], "bf16"),
        ([*DINO, "--optim.clip_per_parameter=ture"], "true"),
        ([*DINO, "--data.pool=demo:identites=3"], "identities"),
        ([*DINO, "--data.pool=demo:difficulty=hart"], "hard"),
        ([*USL, "--data.name=Market-1501"], "market1501"),
        ([*USL, "--data.name=pol"], "pool"),
        ([*USL, "--clusters.method=lovain"], "louvain"),
        (["cfs", "score", "--method=density-ration"], "density-ratio"),
        (["data", "inspect", "demo", "--protocol=duke"], "dukemtmc"),
        (["plan", "pretrin", "dino"], "pretrain"),
        (["completion", "bsh"], "bash"),
    ],
)
def test_a_misspelt_word_of_a_list(typed, meant, tmp_path):
    said = launch.run("-m", "transreid_ssl", *typed, cwd=tmp_path, code=2)
    assert said.splitlines()[-1].endswith(f"; did you mean {meant}?")
    assert len(said.splitlines()[-1]) < 300
