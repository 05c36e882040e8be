"""Look at images before training on them, and write them in other forms.

  python -m transreid_ssl.data inspect PATH    what is there: counts, sizes, problems, what next
  python -m transreid_ssl.data verify PATH     decode every image and list the broken ones
  python -m transreid_ssl.data pack PATH OUT   write a pool as Parquet shards or as an LMDB
  python -m transreid_ssl.data tracks PATH     cut people out of videos that a tracker has seen
  python -m transreid_ssl.data clip OUT        write a generated video with its tracks
  python -m transreid_ssl.data demo OUT        write generated people as image files
  python -m transreid_ssl.data budget          write a list of a share of the training labels

PATH is a folder of images, a list of paths, Parquet shards, an LMDB, or demo. Add --help after a
command for its options.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from transreid_ssl import command, data, hints
from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.data.tracks.settings import Clip, Tracks
from transreid_ssl.errors import check_ranges
from transreid_ssl.outputs import DONE, Overwriting, check_outputs, keeps
from transreid_ssl.progress import progress
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from transreid_ssl.data import Pool

_COMMAND = "python -m transreid_ssl.data"
_SMALL = "next is a small network, for a CPU; its --help tells how to give other settings"


@dataclass(frozen=True)
class Inspect:
    """Say what a pool or a labelled set holds, and what is odd about it.

    Example: ``python -m transreid_ssl.data inspect demo --sample 100``, or for labelled images
    ``python -m transreid_ssl.data inspect demo --protocol demo --sample 100``.

    Args:
        path: A pool, or the root of a labelled set.
        protocol: Read it as a labelled set: market1501, msmt17, several joined by +, folder, demo.
        pattern: Of the protocol folder: where a path says the identity and the camera.
        subset: A subset table or list of the pool.
        sample: How many images to decode.
    """

    path: str
    protocol: str | None = None
    pattern: str = DEFAULT_PATTERN
    subset: str | None = None
    sample: int = 1_000


@dataclass(frozen=True)
class Verify(Overwriting):
    """Decode every image; exit code 1 if some are broken.

    Example: ``python -m transreid_ssl.data verify demo:identities=20 --list bad.txt``.

    Args:
        path: A pool.
        list: Where to write the broken images: name, tab, reason.
    """

    path: str
    list: str | None = None


@dataclass(frozen=True)
class Pack:
    """Write a pool as Parquet shards or as an LMDB, which open faster than millions of files.

    Example: ``python -m transreid_ssl.data pack demo:identities=20 packed``. Read it again with
    ``--data.pool packed`` or ``datasets.load_dataset("parquet", data_files="packed/*.parquet")``.
    A stopped packing goes on when the same command is given again; until its end what is written
    lies in OUT.unfinished.

    Args:
        path: A pool.
        out: The new folder.
        subset: Only these images of the pool.
        format: "parquet", which HuggingFace reads too, or "lmdb", as LUPerson's programs want it.
        rows_per_shard: Images in one Parquet file.
    """

    path: str
    out: str
    subset: str | None = None
    format: Literal["parquet", "lmdb"] = "parquet"
    rows_per_shard: int = 20_000


@dataclass(frozen=True)
class Demo:
    """Write generated people: pool/, market1501/ (a labelled set) and sheet.png; OUT must be new.

    Example: ``python -m transreid_ssl.data demo people --people demo:identities=20``.

    Args:
        out: The new folder.
        people: What to draw: demo:identities=300,images=16,cameras=6,seed=0,difficulty=moderate,….
    """

    out: str
    people: str = "demo:identities=60,images=16,test=30"


@dataclass(frozen=True)
class Budget(Overwriting):
    """Choose a share of the training labels, as LUPerson's authors do, and write it as a list.

    Example: ``python -m transreid_ssl.data budget --share 0.1 --by image --out used_ims_0.10.txt``,
    or for a set on disk add ``--data market1501 --root /data/Market-1501``. Fine-tuning reads the
    list with ``--data.label_list``.

    Args:
        data: The labelled set: market1501, msmt17, several joined by +, folder, demo.
        root: The folder that holds it.
        pattern: Of the set folder: where a path says the identity and the camera.
        share: How much to keep, above 0 and up to 1.
        by: Of what the share is: the identities, with all their images, or the images of each.
        seed: Another seed is another draw; with the same one a smaller share is part of a larger.
        out: The list.
    """

    data: str = "demo"
    root: str | None = None
    pattern: str = DEFAULT_PATTERN
    share: float = 0.1
    by: Literal["identity", "image"] = "identity"
    seed: int = 0
    out: str = "outputs/label_budget.txt"

    def __post_init__(self) -> None:
        check_ranges(self, seed=(0, None))


def run_inspect(options: Inspect) -> int:
    """The command ``inspect``."""
    advice, note, following = (_inspect_protocol if options.protocol else _inspect_pool)(options)
    notes = "\n".join(f"note: {line}" for line in advice)
    print(command.as_started(notes) or "nothing odd was found")
    if note:
        print(f"note: {note}")
    hints.say_next(following)
    return 0


def _inspect_pool(options: Inspect) -> tuple[list[str], str, str]:
    """Print what a pool holds; what is odd about it, a note on what to run next, and that."""
    pool = data.open_pool(options.path, options.subset)
    print(pool.describe())
    if pool.tracks is not None:
        print(pool.tracks.describe())
    advice = _look(pool, options.sample) + _name_advice(pool, options)
    given = {"--data.pool": options.path, "--data.subset": options.subset}
    note = ""
    if not pool.generated:
        given = hints.settings_for(options.path, "dino", "auto") | given
        note = "the next command chooses settings for these images and this machine, and says why"
    return advice, note, f"python -m transreid_ssl pretrain dino{command.spelled(given)}"


def _inspect_protocol(options: Inspect) -> tuple[list[str], str, str]:
    """The same for a labelled set, part by part."""
    generated = options.protocol.startswith("demo")
    name = options.path if generated and options.path.startswith("demo") else options.protocol
    root = None if name == options.path else options.path
    protocol = data.open_reid(name, root, options.pattern)
    print(protocol.describe().replace("; ", "\n  "))
    advice = data.doctor.check_protocol(protocol)
    for part in data.reid.PARTS:
        images = getattr(protocol, part)
        if len(images):
            print(f"{part}:")
            advice += [f"{part}: {line}" for line in _look(images, options.sample // 3, part)]
    if not len(protocol.train):
        given = {"--data": name, "--root": options.path} | _pattern(options, "--pattern")
        return advice, "", f"python -m transreid_ssl.evaluate{command.spelled(given)}"
    given, note = {"--data.name": name}, ""
    if not generated:
        # Their settings begin with weights of another run, which need not be there.
        given = hints.settings_for(options.path, "supervised") | {"--model.weights": "null"} | given
        given |= {"--data.root": options.path} | _pattern(options)
        note = _SMALL
    return advice, note, f"python -m transreid_ssl finetune supervised{command.spelled(given)}"


def _pattern(options: Any, name: str = "--data.pattern") -> dict[str, str]:
    """The pattern, if another one than usual was given."""
    return {} if options.pattern == DEFAULT_PATTERN else {name: options.pattern}


def _look(images: Any, sample: int, part: str | None = None) -> list[str]:
    indices = data.doctor.choose(len(images), max(1, sample))
    with progress(len(indices), "images") as tick:
        findings = data.doctor.examine(images, indices, tick)
    print(
        f"{findings.checked:,} of {counted(findings.total, 'image')} looked at, "
        f"{len(findings.bad):,} broken"
    )
    print("\n".join(data.doctor.size_table(findings)))
    first = list(findings.bad.items())[:3]
    broken = [f"{data.images.printable(images.names[index])}: {reason}" for index, reason in first]
    return broken + data.doctor.advise(findings, part)


def _name_advice(pool: "Pool", options: Inspect) -> list[str]:
    """What names seem to tell that nobody has read yet, and a command that reads it."""
    if pool.generated or pool.tracks is not None or options.subset:
        return []
    path = shlex.quote(options.path)
    labelled = f"`{_COMMAND} inspect {path} --protocol folder"
    tracks = f"`{_COMMAND} tracks {path} --out outputs/tracks"
    if all(re.search(DEFAULT_PATTERN, name) for name in pool.names[:100]):
        said = f"the names hold identities and cameras: {labelled}` reads them"
        layout = data.tracks.layout_of(pool)
        return [said + f", and {tracks}` makes a pool of their tracks" * (layout is not None)]
    if layout := data.tracks.layout_of(pool):
        return [f"the names tell tracks, as {layout} does: {tracks}` makes a pool of them"]
    guess = data.name_patterns.guess_pattern(pool.names)
    if guess is None:
        return []
    told = ", ".join(f"{role} {value}" for role, value in guess.found.items())
    following = tracks if "track" in guess.found else labelled
    following += f" --pattern {shlex.quote(guess.pattern)}" + " --every 1" * guess.dense
    return [f"names such as {guess.example} seem to tell {told}; if so, {following}` reads them"]


def run_verify(options: Verify) -> int:
    """The command ``verify``."""
    written = filter(None, [options.list])
    check_outputs(*written, inputs=[options.path], keep=not options.overwrite)
    pool = data.open_pool(options.path)
    print(pool.describe(), flush=True)
    with progress(len(pool), "images") as tick:
        findings = data.doctor.examine(pool, range(len(pool)), tick)
    print(f"{counted(findings.checked, 'image')} looked at, {len(findings.bad):,} broken")
    if options.list:
        data.doctor.write_bad(options.list, pool, findings)
        print(f"{options.list}: the broken ones")
    else:
        for index, reason in list(findings.bad.items())[:20]:
            print(f"  {data.images.printable(pool.names[index])}: {reason}")
    print("\n".join(f"note: {line}" for line in data.doctor.advise(findings)) or "all is well")
    return 1 if findings.bad else 0


def run_pack(options: Pack) -> int:
    """The command ``pack``."""
    pool = data.open_pool(options.path, options.subset)
    print(pool.describe(), flush=True)
    if data.packing.finished(pool, options.out, options.rows_per_shard, options.format) is not None:
        print(f"{options.out}: {DONE}")
    with progress(len(pool), "images") as tick:
        left_out = data.packing.pack(
            pool, options.out, options.rows_per_shard, lambda: tick(1), options.format
        )
    count = len(pool) - len(left_out)
    print(f"{options.out}: {counted(count, 'image')}")
    if left_out:
        print(f"note: broken and left out: {len(left_out):,}, named in {options.out}/left_out.txt")
    hints.say_next(f"{_COMMAND} inspect {shlex.quote(options.out)}")
    return 0


def run_demo(options: Demo) -> int:
    """The command ``demo``."""
    config = data.PeopleConfig.from_spec(options.people)
    with progress(None, "images") as tick:
        data.packing.write_demo(config, options.out, lambda: tick(1))
    print(f"{options.out}/sheet.png: what they look like")
    look = command.as_started(f"{_COMMAND} inspect")
    pool, market = f"{options.out}/pool", f"{options.out}/market1501"
    print(f"{pool}: unlabelled; {look} {shlex.quote(pool)}")
    print(f"{market}: labelled; {look} {shlex.quote(market)} --protocol market1501")
    return 0


def run_budget(options: Budget) -> int:
    """The command ``budget``."""
    check_outputs(options.out, inputs=[options.root], keep=keeps(options))
    train = data.open_reid(options.data, options.root, options.pattern).train
    indices = data.budget.label_budget(train, options.share, options.by, options.seed)
    data.budget.write_budget(options.out, train, indices, options.by)
    print(data.budget.describe_budget(train, train.subset(indices), options.share, options.by))
    print(f"{options.out}: the list of them")
    given = {"--data.name": options.data}
    if options.root:
        small = hints.settings_for(options.out, "supervised")
        given = small | {"--model.weights": "null"} | given | {"--data.root": options.root}
    given |= _pattern(options) | {"--data.label_list": options.out}
    following = f"python -m transreid_ssl finetune supervised{command.spelled(given)}"
    hints.say_next(following)
    return 0


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Parse, call, print."""
    actions = {
        "inspect": (Inspect, run_inspect),
        "verify": (Verify, run_verify),
        "pack": (Pack, run_pack),
        "tracks": (Tracks, lambda options: data.tracks.run_tracks(options)),
        "clip": (Clip, lambda options: data.tracks.run_clip(options)),
        "demo": (Demo, run_demo),
        "budget": (Budget, run_budget),
    }
    return command.subcommands(_COMMAND, __doc__, actions, arguments)


if __name__ == "__main__":
    command.run(main, resumes=bool({"pack", "tracks"} & set(sys.argv[1:2])))
