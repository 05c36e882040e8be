"""One command for all: ``python -m transreid_ssl NAME …``, once installed ``transreid-ssl NAME …``.

Without a name it lists every command and every training.
"""

import runpy
import sys

from transreid_ssl import __version__, command, launching, shipped
from transreid_ssl.errors import UserError
from transreid_ssl.shipped import ALONE, KINDS
from transreid_ssl.short_help import columns, shortened
from transreid_ssl.words import nearest

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
    "whiten": (
        "Features that tell people apart better, without training: of stripes, and whitened.",
        "--images /data/crops",
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
        "Group the images of a pool by who is on them: a table, a contact sheet and a page.",
        "demo:identities=20",
    ),
    "plan": (
        "What a training would take: images a second, hours, memory, disk, by a few of its steps.",
        "pretrain dino",
    ),
    "report": ("Pages of runs, alone or compared; curves and attention.", "outputs/dino_pretrain"),
    "weights": (
        "Look into weights files of any known format, convert them, or pass them on with a card.",
        "show outputs/dino_pretrain/backbone.safetensors",
    ),
    "export": ("Export a network as a program that runs without this package.", "backbone.pt2"),
    "completion": ("Let a shell complete the commands and options.", "bash"),
}
"""What is here is a command: the module or package of that name, a sentence and an example."""


_MORE = """
On the eight GPUs of a machine: python -m transreid_ssl pretrain dino --processes 8
On many machines, on each: accelerate launch -m transreid_ssl pretrain dino
Each takes --help and --help-all; --version says which version this is."""


def overview() -> str:
    """What ``--help`` prints: a line for each command and each training."""
    names = {name: sentence for name, (sentence, _) in COMMANDS.items()}
    trainings = {
        shipped.as_words(name): shipped.sentence(path) for name, path in shipped.recipes().items()
    }
    column = 2 + max(map(len, [*names, *trainings]))

    def rows(told: dict[str, str]) -> list[str]:
        room = columns() - column - 2
        return [f"  {name:{column}}{shortened(text, room)}" for name, text in told.items()]

    lines = [
        "Self-supervised learning for person re-identification.", "",
        "usage: python -m transreid_ssl NAME ..., NAME being a command or a training", "",
        "commands:", *rows(names), "",
        "trainings, without options on generated people:", *rows(trainings), _MORE,
        "--help-all shows an example of each here.",
    ]  # fmt: skip
    return command.as_started("\n".join(lines))


def examples() -> str:
    """What ``--help-all`` prints: an example of each command and each training."""
    lines = ["Self-supervised learning for person re-identification: commands and trainings.", ""]
    for name, (sentence, example) in COMMANDS.items():
        lines += [f"  {sentence}", f"    python -m transreid_ssl.{name} {example}", ""]
    lines += ["Training; without options on generated people:", ""]
    for name, path in shipped.recipes().items():
        typed = f"python -m transreid_ssl {shipped.as_words(name)}"
        lines += [f"  {shipped.sentence(path)}", f"    {typed}", ""]
    return command.as_started("\n".join([*lines[:-1], _MORE]))


def main() -> int | None:
    """Run the command or the training that is named, as if it alone had been started."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name == "help":
        name, *rest = [*rest, "--help"]
    asked = {name, *rest[: name in KINDS]}
    if asked & {"-h", "--help"}:
        print(overview())
    elif "--help-all" in asked:
        print(examples())
    elif name == "--version":
        print(f"transreid_ssl {__version__}")
    elif name in COMMANDS:
        sys.argv[1:] = rest
        runpy.run_module(f"transreid_ssl.{name}", run_name="__main__", alter_sys=True)
    elif name in KINDS or name == ALONE:
        return train([name, *rest])
    else:
        raise UserError(
            f"{name}: there is no such command; `python -m transreid_ssl` lists all"
            + nearest(name, [*COMMANDS, *KINDS, ALONE])
        )


def train(arguments: list[str]) -> int:
    """Run the training that the first of ``arguments`` name.

    Returns:
        The exit code of the processes that ``--processes`` asks for.

    Raises:
        UserError: there is none.
    """
    words, options = shipped.split(arguments)
    processes, options = launching.split(options)
    if processes is not None:
        return launching.launch(processes, [*words, *options])
    sys.argv = [command.as_started(f"python -m transreid_ssl {' '.join(words)}"), *options]
    command.run(shipped.load_recipe(" ".join(words)).main, options, resumes=True)


def program() -> None:
    """What the console script ``transreid-ssl`` calls."""
    command.run(main)


if __name__ == "__main__":
    program()
