"""Weights that are passed on: what timm and the Hub read, the lineage, and the licence."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from packaging.version import Version
from torch.testing import assert_close

from transreid_ssl import UserError
from transreid_ssl.models import (
    HALF,
    BackboneSpec,
    Figure,
    Publication,
    ancestry,
    build_backbone,
    licence_of,
    load_backbone,
    push_to_hub,
    read_spec,
    save_backbone,
    save_pretrained,
)
from transreid_ssl.models.lineage import began_with

NANO = {"name": "vit_nano_patch8_ics", "img_size": (64, 32)}


def network(name=NANO["name"], objective="dino", provenance=None, **options):
    model = build_backbone(name, img_size=(64, 32), **options).eval()
    for parameter in model.parameters():  # nothing at its initial value: all of it must travel
        torch.nn.init.normal_(parameter, std=0.1)
    model.spec = replace(model.spec, objective=objective, provenance=provenance or {})
    return model


def trained(data, weights=None):
    """What a recipe writes of a training on a labelled set, or on a pool in a folder."""
    where = {"pool": data} if data.startswith("/") else {"data": data}
    settings = {"data": {"name": data} if "data" in where else {"pool": data}}
    return {**where, "step": 5, "settings": settings | {"model": {"weights": weights}}}


def spec(provenance):
    return BackboneSpec(NANO["name"], provenance=provenance)


def images(count=3):
    return torch.randint(0, 256, (count, 3, 64, 32), dtype=torch.uint8)


NETWORKS = {
    "vit": {"mean": HALF.mean, "std": HALF.std, "interpolation": "cubic", "gem": True},
    "stride": {"name": "vit_nano_patch8_reid", "stride": 4, "feature_norm": True},
    "jpm": {"jpm": True},
    "parts": {"name": "vit_nano_patch8_pass"},
    "cameras": {"num_cameras": 3},
    "resnet": {"name": "resnet_nano_reid", "stride": 16},
    "mgn": {"name": "mgn_resnet_nano"},
    "timm": {"name": "timm:test_resnet", "feature_norm": True},
}


OF_A_FOLDER = pytest.mark.skipif(
    Version(timm.__version__) < Version("1.0.26"), reason="timm reads weights of a folder later"
)


@OF_A_FOLDER
@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_timm_builds_the_same_network_from_the_folder(tmp_path, options):
    model = network(**options)
    save_pretrained(model, tmp_path / "it")
    built = timm.create_model(f"local-dir:{tmp_path}/it", pretrained=True).eval()
    ours = load_backbone(tmp_path / "it")
    cameras = [torch.tensor([0, 2, 1])] if model.spec.num_cameras else []
    pixels = images()
    with torch.inference_mode():
        expected = model(pixels, *cameras)
        assert_close(built(pixels, *cameras), expected, rtol=0, atol=0)
        assert_close(ours(pixels, *cameras), expected, rtol=0, atol=0)
    assert built.spec == ours.spec == model.spec


@OF_A_FOLDER
@pytest.mark.parametrize("options", [NETWORKS["vit"], NETWORKS["resnet"]], ids=["vit", "resnet"])
def test_timm_is_told_how_to_make_images_as_the_spec_says(tmp_path, options):
    model = network(**options)
    save_pretrained(model, tmp_path / "it")
    built = timm.create_model(f"local-dir:{tmp_path}/it", pretrained=True)
    for one in (model, built):
        for tested in (False, True):
            told = timm.data.resolve_model_data_config(one, use_test_size=tested)
            assert told["input_size"] == (3, 64, 32)
            assert (tuple(told["mean"]), tuple(told["std"])) == (one.spec.mean, one.spec.std)
            assert (told["crop_pct"], told["crop_mode"]) == (1.0, "squash")
            cubic = one.spec.interpolation == "cubic"
            assert told["interpolation"] == ("bicubic" if cubic else "bilinear")
        transform = timm.data.create_transform(**told)
        pixels = torch.randint(0, 256, (64, 32, 3), dtype=torch.uint8)
        image = timm.data.transforms.transforms.ToPILImage()(pixels.permute(2, 0, 1))
        features = one.eval()(transform(image)[None])
        assert_close(features, one(pixels.permute(2, 0, 1)[None]), rtol=1e-4, atol=1e-5)


def test_what_is_recommended_for_another_size_is_forgotten():
    given = {"test_input_size": (3, 288, 288), "pool_size": (7, 7), "test_crop_pct": 0.9}
    model = timm.create_model(
        "vit_nano_patch8_ics", img_size=(64, 32), pretrained_cfg_overlay=given
    )
    model.set_input_size((32, 32))
    told = timm.data.resolve_model_data_config(model, use_test_size=True)
    assert told["input_size"] == (3, 32, 32)
    assert told["crop_pct"] == 1.0


def test_the_card_has_the_hubs_metadata_and_tells_the_whole_way(tmp_path):
    first = network(provenance=trained("/data/LUPerson/crops"))
    save_backbone(tmp_path / "first.safetensors", first)
    tuned = network(
        objective="supervised", provenance=trained("demo", f"{tmp_path}/first.safetensors")
    )
    figure = Figure("market1501", {"mAP": 0.914, "rank-1": 0.962}, "as in a test")
    words = Publication(figures=[figure], notes="Ask us.", title="me/people")
    save_pretrained(tuned, tmp_path / "it", words)
    card = ModelCard.load(tmp_path / "it" / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "research-only")
    assert card.data.to_dict()["library_name"] == "transreid_ssl"
    assert card.data.datasets == ["LUPerson", "generated people"]
    assert [r.metric_value for r in card.data.eval_results] == [0.914, 0.962]
    rows = (
        "| supervised | generated people |",
        "| dino | LUPerson |",
        "| market1501 | 91.4 | 96.2 |",
    )
    for part in (*rows, "for research only", "Intended use, and limits", "Ask us.", "mean 0.485"):
        assert part in card.text
    (settings,) = yaml.safe_load_all(card.text.partition("```yaml\n")[2].partition("```")[0])
    assert settings["settings"]["data"] == {"name": "demo"}


def test_the_way_travels_in_the_header_where_no_file_is(tmp_path):
    save_backbone(tmp_path / "a.safetensors", network(provenance=trained("/data/LUPerson")))
    second = network(objective="usl", provenance=trained("msmt17", f"{tmp_path}/a.safetensors"))
    save_backbone(tmp_path / "b.safetensors", second)
    third = trained("demo", f"{tmp_path}/b.safetensors")
    third |= began_with(third["settings"]["model"]["weights"], NANO["name"])
    for name in "ab":
        (tmp_path / f"{name}.safetensors").unlink()
    save_pretrained(network(objective="supervised", provenance=third), tmp_path / "it")
    found = ancestry(read_spec(tmp_path / "it"))
    assert [stage.objective for stage in found.stages] == ["supervised", "usl", "dino"]
    assert found.lost is None
    gone = ancestry(spec(trained("demo", "gone.safetensors")))
    assert (len(gone.stages), gone.lost) == (1, "gone.safetensors")


def test_paths_of_this_machine_stay_here(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/quentin")
    model = network(provenance=trained("/home/quentin/secret/of/mine/market1501/train"))
    save_pretrained(model, tmp_path / "it")
    for path in (tmp_path / "it").iterdir():
        assert b"quentin" not in path.read_bytes()
        assert b"secret" not in path.read_bytes()
    assert read_spec(tmp_path / "it").provenance["pool"] == "mine/market1501/train"
    assert licence_of(read_spec(tmp_path / "it"), Publication()) == "research-only"


LICENCES = [
    ("demo", "apache-2.0", None, "apache-2.0"),
    ("demo", None, None, "apache-2.0"),
    ("market1501", None, None, "research-only"),
    ("market1501", "cc-by-nc-4.0", None, "cc-by-nc-4.0"),
    ("market1501", "apache-2.0", None, "Market-1501"),
    ("market1501", "apache-2.0", "I say so.", "Market-1501"),
    ("demo+msmt17", "mit", "I say so.", "MSMT17"),
    ("/data/LUP/part", "openrail", "I say so.", "LUPerson"),
    ("/data/mine", None, None, "research-only"),
    ("/data/mine", "mit", None, "--rights"),
    ("/data/mine", "mit", "Everybody on them agreed.", "mit"),
    ("/data/mine", None, "Everybody on them agreed.", "see-below"),
]


@pytest.mark.parametrize(("data", "asked", "rights", "expected"), LICENCES)
def test_weights_are_commercial_only_where_every_source_is(data, asked, rights, expected):
    first = spec(trained(data))
    record = {"name": first.name, "objective": "dino", "provenance": first.provenance}
    later = spec(trained("demo") | {"lineage": [record]})
    words = Publication(license=asked, rights=rights)
    for one in (first, later):
        if expected in ("--rights", "Market-1501", "MSMT17", "LUPerson"):
            with pytest.raises(UserError, match=f"--license {asked}: .*{expected}"):
                licence_of(one, words)
        else:
            assert licence_of(one, words) == expected


def test_a_stage_that_nobody_knows_is_not_called_commercial():
    lost = spec(trained("demo", "gone.safetensors"))
    assert licence_of(lost, Publication()) == "research-only"
    for licence in ("cc-by-nc-4.0", "CC-BY-NC-4.0", "research-only"):
        foreign = spec({"file": "v.pth", "license": licence})
        with pytest.raises(UserError, match=r"v\.pth"):
            licence_of(foreign, Publication(license="mit", rights="I say so."))


def test_nothing_is_written_where_a_licence_is_refused(tmp_path):
    with pytest.raises(UserError, match="Market-1501"):
        save_pretrained(
            network(provenance=trained("market1501")), tmp_path / "it", Publication("apache-2.0")
        )
    assert not (tmp_path / "it").exists()


def test_the_hub_gets_the_folder_and_its_refusal_is_one_line(monkeypatch, tmp_path):
    seen = {}

    def create(self, repo_id, *, private, exist_ok):
        return type("Url", (str,), {"repo_id": repo_id})(f"https://huggingface.co/{repo_id}")

    def upload(self, *, repo_id, folder_path, commit_message, create_pr):
        seen[repo_id] = load_backbone(folder_path)
        seen["card"] = ModelCard.load(f"{folder_path}/README.md").text

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = network(provenance=trained("demo"))
    assert model.push_to_hub("me/people").endswith("me/people")
    assert_close(seen["me/people"](images(1)).shape, model(images(1)).shape)
    assert "hf-hub:me/people" in seen["card"]

    def refuse(self, *arguments, **options):
        raise ConnectionError("nobody there\nfor long")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match=r"me/people: not uploaded .*\(nobody there\)"):
        push_to_hub(model, "me/people")


@pytest.mark.parametrize("name", ["resnet_nano_reid", "timm:test_resnet"])
def test_a_network_has_the_names_that_hugging_face_gives(tmp_path, name):
    model = network(name)
    model.save_pretrained(tmp_path / "it")
    again = type(model).from_pretrained(tmp_path / "it", img_size=(32, 32))
    assert again.spec.img_size == (32, 32)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Hugging Face's hub as a folder: what is asked for is found there, or is not."""
    from huggingface_hub.errors import EntryNotFoundError

    def download(repository, name, revision=None):
        path = tmp_path / "hub" / repository / (revision or "main") / name
        if not path.is_file():
            raise EntryNotFoundError(f"no {name}")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return tmp_path / "hub"


def test_a_repository_and_its_revisions(hub):
    model = network(provenance=trained("demo"))
    save_pretrained(model, hub / "me" / "people" / "main")
    save_pretrained(network("resnet_nano_reid"), hub / "me" / "people" / "v2")
    for source in ("me/people", "hf-hub:me/people"):
        assert load_backbone(source).spec == model.spec
    assert load_backbone("me/people@v2").spec.name == "resnet_nano_reid"
    with pytest.raises(UserError, match=r"me/nothing: this hub repository has no"):
        load_backbone("me/nothing")


def test_what_was_downloaded_is_found_without_a_network(tmp_path, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    kept = save_pretrained(network(), tmp_path / "it") / "model.safetensors"

    asked = []

    def offline(repository, name, revision=None, local_files_only=False):
        asked.append(local_files_only)
        if (repository, name) == ("me/people", "model.safetensors"):
            return str(kept)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    assert read_spec("me/people").objective == "dino"
    asked.clear()
    with pytest.raises(UserError, match=r"me/other: neither .* \(no connection\)"):
        read_spec("me/other")
    assert asked == [False, True]  # it takes half a minute to find that there is no network


def test_a_name_of_timm_gives_its_weights_and_what_timm_says_of_them(hub):
    record = timm.models.get_pretrained_cfg("vit_tiny_patch16_224.augreg_in21k")
    published = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    folder = hub / record.hf_hub_id / "main"
    folder.mkdir(parents=True)
    safetensors.torch.save_file(published.state_dict(), folder / "model.safetensors")
    for source in ("vit_tiny_patch16_224.augreg_in21k", f"timm:{record.architecture}.augreg_in21k"):
        found = read_spec(source)
        assert (found.mean, found.std, found.interpolation) == (*HALF, "cubic")
        assert (record.mean, record.std, record.interpolation) == (*HALF, "bicubic")
        assert found.provenance["license"] == record.license
        assert found.provenance["repository"] == record.hf_hub_id
    model = load_backbone(source, img_size=(256, 128))
    assert model.spec.grid == (16, 8)
    assert not any("does not say" in note for note in model.load_report.notes)
    # The same by the repository, whose config.json says it, or does not.
    assert read_spec(record.hf_hub_id).mean != record.mean
    config = {"architecture": "x", "pretrained_cfg": {"mean": record.mean, "std": record.std}}
    (folder / "config.json").write_text(json.dumps(config))
    assert read_spec(record.hf_hub_id).mean == read_spec(folder).mean == record.mean


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("timm:nothing", "timm knows no network of this name"),
        ("vit_nano_patch8_ics", "no weights of this name"),
        ("vit_tiny_patch16_224.nonsense", "(?i)tag|no such weights"),
        ("nothing", "no such weights file"),
    ],
)
def test_names_without_weights_are_said_to_be(source, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=complaint):
        load_backbone(source)
