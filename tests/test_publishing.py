"""The commands that pass weights on, and what they take from runs and evaluations."""

import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from transreid_ssl import UserError, tutorial, weights
from transreid_ssl.models import build_backbone, load_backbone, save_backbone, weights_digest

SETTINGS = {"data": {"pool": "demo"}, "probe": {"data": "demo:height=64"}, "model": {}}


@pytest.fixture
def run(tmp_path):
    """A run folder with weights and with a probe of them."""
    model = build_backbone("resnet_nano_reid", img_size=(64, 32))
    made_of = {"pool": "demo", "step": 40, "settings": SETTINGS}
    model.spec = replace(model.spec, objective="moco", provenance=made_of)
    folder = tmp_path / "run"
    folder.mkdir()
    save_backbone(folder / "backbone.safetensors", model)
    lines = [{"step": s, "probe/mAP": m, "probe/rank1": 2 * m} for s, m in ((0, 10.0), (40, 30.0))]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 60, "pro')  # killed while it wrote
    return folder


def evaluated(path, source, digest=None):
    """What ``evaluate`` writes."""
    record = {
        "protocol": "market1501: 12 images",
        "weights_digest": digest or weights_digest(source),
        "settings": {"data": "market1501", "flip": True},
        "results": {"network": {"mAP": 0.5, "rank-1": 0.75, "num_queries": 12}},
    }
    path.write_text(json.dumps(record))
    return path


def test_save_says_the_licence_and_takes_the_figures(run, tmp_path, capsys):
    source = run / "backbone.safetensors"
    figures = evaluated(tmp_path / "metrics.json", source)
    (tmp_path / "notes.md").write_text("## More\n\nAsk.")
    words = ["--figures", str(figures), "--notes", str(tmp_path / "notes.md"), "--license", "mit"]
    weights.main(["save", str(source), str(tmp_path / "out"), *words])
    said = capsys.readouterr().out
    assert "licence: mit; made from\n  generated people: drawn by this package" in said
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert "| market1501 | 50.0 | 75.0 | direct retrieval by cosine, with mirrored" in card.text
    assert (
        "| demo:height=64 | 30.0 | 60.0 | direct retrieval while it was trained, at step 40 |"
        in (card.text)
    )
    assert card.text.rstrip().endswith("## More\n\nAsk.")
    assert load_backbone(tmp_path / "out").spec.objective == "moco"


def test_figures_of_other_weights_and_other_files_are_refused(run, tmp_path):
    source, out = str(run / "backbone.safetensors"), str(tmp_path / "out")
    other = evaluated(tmp_path / "metrics.json", source, digest="0" * 32)
    (tmp_path / "x.json").write_text("{}")
    for path, complaint in (
        (other, "figures of other weights"),
        (tmp_path / "x.json", "no figures of"),
        (tmp_path / "none.json", "there is no such file"),
    ):
        with pytest.raises(UserError, match=complaint):
            weights.main(["save", source, out, "--figures", str(path)])
    assert not (tmp_path / "out").exists()


def test_nothing_of_somebody_elses_is_replaced(run, tmp_path):
    source = str(run / "backbone.safetensors")
    weights.main(["save", source, str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"model\.safetensors: is there already"):
        weights.main(["save", source, str(tmp_path / "out")])
    weights.main(["save", source, str(tmp_path / "out"), "--overwrite=true"])  # its own files are
    (tmp_path / "out" / "README.md").write_text("# Mine")
    with pytest.raises(UserError, match=r"README\.md: would be replaced"):
        weights.main(["save", source, str(tmp_path / "out"), "--overwrite=true"])
    with pytest.raises(UserError, match="is read by this command"):
        weights.main(["save", f"{tmp_path}/out/model.safetensors", str(tmp_path / "out")])


def test_show_tells_what_the_training_began_with(run, tmp_path, capsys):
    source = str(run / "backbone.safetensors")
    model = load_backbone(source)
    later = {"pool": "demo", "settings": SETTINGS | {"model": {"weights": source}}}
    save_backbone(tmp_path / "b.safetensors", model, replace(model.spec, provenance=later))
    weights.main(["save", str(tmp_path / "b.safetensors"), str(tmp_path / "out")])
    capsys.readouterr()
    weights.main(["show", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "began with: resnet_nano_reid, moco" in said
    assert "lineage" not in said


def test_the_tutorials_trainings_follow_one_another(monkeypatch, tmp_path, capsys):
    started = []
    monkeypatch.setattr(
        tutorial.shipped, "load_recipe",
        lambda name: type("Recipe", (), {"main": lambda self, options: started.append(options)})(),
    )  # fmt: skip
    weights.main(["tutorial", "--out", str(tmp_path / "t")])
    (first, second) = started
    assert f"--run.output={tmp_path}/t_pretrain" in first
    assert f"--model.weights={tmp_path}/t_pretrain/backbone.safetensors" in second
    assert str(tmp_path / "t_finetune" / "model.safetensors") in capsys.readouterr().out
