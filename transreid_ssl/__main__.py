"""What there is: ``python -m transreid_ssl`` lists every command and every recipe."""

import ast
from pathlib import Path

COMMANDS = {
    "data": (
        "Look at images before training: inspect, verify, pack into shards, generate a demo set.",
        "inspect demo",
    ),
    "cfs": (
        "Choose pre-training data by the catastrophic forgetting score: score, select, report.",
        "score",
    ),
    "evaluate": (
        "mAP, CMC and mINP of a network on a labelled set, and a picture of ranked galleries.",
        "--data market1501 --root /data/Market-1501",
    ),
    "transfer": (
        "Direct transfer: one network on several labelled sets that it never saw, as a table.",
        "--sets market1501=/data/Market-1501 msmt17=/data/MSMT17",
    ),
    "verdict": (
        "Which of two networks is better, without labels: by the tracks of a pool.",
        "before.safetensors after.safetensors --pool outputs/tracks",
    ),
    "embed": (
        "Write the features of a pool of images to a file.",
        "--images demo:identities=20 --out features.npy",
    ),
    "calibrate": (
        "Find which similarity means which probability of one person; keep it with the weights.",
        "--data market1501 --root /data/Market-1501",
    ),
    "verify": ("Say whether two images show the same person, and how sure that is.", "a.jpg b.jpg"),
    "search": (
        "Find the images of a gallery that are most like a query: a ranked table and a picture.",
        "lost.jpg /data/crops",
    ),
    "cluster": (
        "Group the images of a pool by who is on them: a table and a contact sheet.",
        "demo:identities=20",
    ),
    "plan": (
        "What a training would take: images a second, hours, memory, disk, by a few of its steps.",
        "dino_pretrain",
    ),
    "report": (
        "Pictures of what a run has learnt: curves and attention.",
        "curves outputs/dino_pretrain",
    ),
    "weights": (
        "Look into weights files of any known format, or convert them to safetensors.",
        "show outputs/dino_pretrain/backbone.safetensors",
    ),
    "export": (
        "Export a network as a program that runs without this package.",
        "outputs/dino_pretrain/backbone.safetensors backbone.pt2",
    ),
}


def recipes(folder: Path = Path("recipes")) -> dict[str, str]:
    """The recipes in ``folder``, and the first line of what each says of itself.

    They are not installed: by default they are looked for where the user stands, as launching does.
    """
    found = {}
    for path in sorted(folder.glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if text:
            found[path.name] = text.partition("\n")[0]
    return found


def overview() -> str:
    """The text that is printed."""
    lines = ["Self-supervised learning for person re-identification: commands and recipes.", ""]
    for name, (sentence, example) in COMMANDS.items():
        lines += [f"  {sentence}", f"    python -m transreid_ssl.{name} {example}", ""]
    scripts = recipes()
    if scripts:
        lines += ["Training, on one CPU or many GPUs; without options on generated people:", ""]
    else:
        lines.append(
            "The training recipes are scripts in the source code; list them from its folder."
        )
    for name, sentence in scripts.items():
        lines += [f"  {sentence}", f"    accelerate launch recipes/{name}", ""]
    return "\n".join([*lines, "Each takes --help."])


if __name__ == "__main__":
    print(overview())
