"""DINO's additions as a user gives them: killed, resumed, saved, loaded and fine-tuned."""

from safetensors.torch import load_file

import launch
import transreid_ssl

TINY = [
    *launch.TINY, "--data.pool=demo:identities=12,images=4,height=32,width=16",
    "--run.batch_size=12", "--run.checkpoint_every=3",
]  # fmt: skip
ADDED = [
    "--dino.masked_patches=0.4", "--dino.koleo=0.1", "--dino.centering=sinkhorn",
    "--dino.patch_out_dim=16", "--model.registers=2", "--model.token_norm=instance",
]  # fmt: skip


def test_a_killed_run_with_all_additions_ends_as_an_unbroken_one(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    arguments = [launch.DINO, *TINY, *ADDED]
    launch.run(*arguments, f"--run.output={one}")
    began = other / "metrics.jsonl"
    broken = [*arguments, f"--run.output={other}"]
    launch.kill(*broken, when=lambda: began.exists() and len(launch.losses(other)) >= 4)
    assert "resuming from step" in launch.run(*broken)
    assert launch.losses(other) == launch.losses(one)
    expected, found = (load_file(folder / "backbone.safetensors") for folder in (one, other))
    assert expected.keys() == found.keys()
    assert all(value.equal(found[name]) for name, value in expected.items())
    assert not [name for name in found if "embedding" in name or "head" in name]
    backbone = transreid_ssl.load_backbone(one / "backbone.safetensors")
    assert (backbone.spec.registers, backbone.spec.token_norm) == (2, "instance")
    assert {"patch_loss", "koleo_loss"} <= launch.metrics(one)[-1].keys()


def test_part_tokens_are_trained_by_one_option_and_a_network_that_has_them(tmp_path):
    parts = ["--dino.part_tokens=3", "--model.name=vit_nano_patch8_pass", "--run.epochs=1"]
    launch.run(launch.DINO, *TINY, *parts, "--views.num_local=3", f"--run.output={tmp_path}")
    assert all("part_loss" in line for line in launch.metrics(tmp_path) if "loss" in line)
    spec = transreid_ssl.load_backbone(tmp_path / "backbone.safetensors").spec
    assert (spec.objective, spec.embed_dim) == ("dino_parts", 256)
