"""The pages for users: their blocks of commands and code, and how these run at toy size."""

import importlib.util
import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import launch
from transreid_ssl.__main__ import KINDS

_spec = importlib.util.spec_from_file_location("gather", launch.ROOT / "recipes/guides/gather.py")
gather = importlib.util.module_from_spec(_spec)
sys.modules["gather"] = gather  # where its dataclasses look for their types
_spec.loader.exec_module(gather)

NOTEBOOK = "recipes/guides/start.ipynb"
RUN = ["--run.num_workers=0", "--run.num_threads=1", "--run.batch_size=16", "--run.precision=no"]
SIZE = "height=32,width=16"
PEOPLE = f"demo:identities=12,images=4,test=5,{SIZE}"
FAST = ["--num_workers=0", "--batch_size=64"]
TOY = {
    "pretrain": [
        *RUN, f"--data.pool=demo:identities=8,images=4,{SIZE}", "--model.img_size=[32,16]",
        "--views.global_size=[32,16]", "--views.local_size=[16,8]", "--probe.data=null",
    ],
    "finetune": [*RUN, "--model.img_size=[32,16]", "--augment.padding=2", "--probe.every=0"],
    "finetune supervised": [f"--data.name={PEOPLE}"],
    "finetune mgn": [f"--data.name={PEOPLE}"],
    "finetune usl": [
        f"--data.name={PEOPLE}", "--clusters.steps_per_epoch=2", "--clusters.k1=5",
        "--clusters.k2=2", "--clusters.eps=0.7", "--clusters.min_samples=2",
    ],
    "finetune uda": [
        f"--source.name={PEOPLE}", f"--target.name={PEOPLE},style=2", "--source_training.epochs=1",
        "--source_training.batch_size=16",
        "--clusters.steps_per_epoch=2", "--clusters.k1=5", "--clusters.k2=2", "--clusters.eps=0.7",
        "--clusters.min_samples=2",
    ],
    "evaluate": [*FAST, f"--data={PEOPLE}"],
    "transfer": [*FAST, "--sets", PEOPLE],
    "whiten": FAST,
    "calibrate": [*FAST, f"--data={PEOPLE}"],
    "cluster": FAST,
    "search": FAST,
    "embed": FAST,
    "verdict": [*FAST, "--resamples=20"],
    "cfs score": ["--num_workers=0"],
    "plan": ["--steps=1"],
    "data clip": ["--frames=60", "--people=8"],
    "data tracks": ["--num_workers=0", "--min_height=8", "--min_sharpness=0"],
}  # fmt: skip
"""By the beginning of a command: what makes it small, where the page does not say otherwise."""
ALWAYS = {kind: ["--run.epochs=1", "--run.page=true"] for kind in KINDS}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str
    needs: str | None
    """What a comment above it says that it needs: data, a GPU."""

    @property
    def file(self) -> str | None:
        """The file that it is to be written to, if its first line names one."""
        named = re.match(r"# ([\w./-]+\.\w+)\n", self.text)
        return named[1] if named else None

    def commands(self) -> Iterator[list[str]]:
        """Its lines as words, without comments; a command that goes on over lines is one."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for end, group in itertools.groupby(words, lambda word: word == "&&"):
                if not end:
                    yield list(group)


_FENCE = re.compile(
    r"^(?:<!-- needs: (?P<needs>[^\n]+?) -->\n)?```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


def read(page: str) -> str:
    return (launch.ROOT / page).read_text(encoding="utf-8")


def blocks(*languages: str, page: str | None = None) -> list[Block]:
    """The blocks of these languages, in the order of the site's pages."""
    found = []
    for name in gather.pages() if page is None else [page]:
        for match in _FENCE.finditer(read(name)):
            if match["language"] in languages:
                found.append(Block(name, match["language"], match["text"], match["needs"]))
    return found


def placeholder(words: list[str]) -> bool:
    """Whether a command names what a test lacks: /data/…, CROPS/a.jpg, a repository owner/name."""
    return any(re.search(r"(^|=)([A-Z_]{3,}\b|/data/|owner/name)", word) for word in words)


def notebook_cells() -> list[str]:
    """The code of the notebook, cell by cell."""
    cells = json.loads(read(NOTEBOOK))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def inline_commands(page: str) -> list[list[str]]:
    """Commands within sentences, up to a placeholder."""
    text = _FENCE.sub("", read(page))
    found = re.findall(r"`(transreid-ssl [^`]+)`", text)
    return [
        shlex.split(line.replace("\n", " ").partition("…")[0], comments=False) for line in found
    ]


def our_words(words: list[str]) -> list[str] | None:
    """The words after ``transreid-ssl`` of a command of ours however it is started, or None."""
    if words[:2] == ["accelerate", "launch"]:  # its own options are left out
        started = itertools.dropwhile(lambda w: w != "-m" and not w.endswith(".py"), words)
        words = ["python", *started]
    if words[0] == "transreid-ssl":
        return words[1:]
    if words[:2] == ["python", "-m"]:
        package, _, module = words[2].partition(".")
        if package != "transreid_ssl":
            return None
        recipe = module.removeprefix("recipes.")
        return [*(_as_typed(recipe) if recipe != module else filter(None, [module])), *words[3:]]
    if words[0] == "python" and Path(words[1]).parent.name == "recipes":
        return [*_as_typed(Path(words[1]).stem), *words[2:]]
    return None


def _as_typed(recipe: str) -> list[str]:
    method, _, kind = recipe.rpartition("_")
    return [kind, *filter(None, [method])]


def toy(words: list[str]) -> list[str]:
    """A command of ours with the options that make it small."""
    named = {word.partition("=")[0] for word in words}
    more = []
    for beginning, options in TOY.items():
        if " ".join(words).startswith(beginning):
            fresh = [
                option for option in _options(options) if option[0].partition("=")[0] not in named
            ]
            more += [word for option in fresh for word in option]
    if words[:1] == ["plan"]:  # what follows the recipe's name is the recipe's
        return ["plan", *more, *words[1:]]
    return [*words, *more, *ALWAYS.get(words[0], [])] if words else ["--help"]


def _options(words: list[str]) -> Iterator[list[str]]:
    """Each option with its values."""
    option: list[str] = []
    for word in words:
        if word.startswith("--") and option:
            yield option
            option = []
        option = [*option, word]
    if option:
        yield option


def run(words: list[str], folder: Path) -> str | None:
    """Run a command of ours, or a script of a page, in ``folder``; None for a program of others."""
    ours = our_words(words)
    if ours is not None:
        return launch.run("-m", "transreid_ssl", *toy(ours), cwd=folder)
    if words[0] == "python" and words[1].endswith(".py"):
        return launch.run(*words[1:], *RUN, cwd=folder)
    return None


def execute(codes: list[tuple[str, str]], folder: Path, log: Path) -> None:
    """Run pieces of Python one after the other in one namespace; called in a process of its own."""
    os.chdir(folder)
    with open(log, "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    space = {"__name__": "page"}
    for place, code in codes:
        exec(compile(code, place, "exec"), space)
