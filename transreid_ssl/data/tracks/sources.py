"""Finding videos and what a tracker wrote of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transreid_ssl.data.folder import walk
from transreid_ssl.data.pool import EXTENSIONS
from transreid_ssl.data.tracks.formats import label_files
from transreid_ssl.data.tracks.frames import VIDEOS
from transreid_ssl.errors import UserError

_SEQUENCE = "img1"  # where a sequence of MOTChallenge's has its frames
_WANTED = (
    "its name with .txt or .csv, gt/gt.txt beside img1, or labels/<name>_<frame>.txt; or say where "
    "they are with --tracks"
)


@dataclass(frozen=True)
class Video:
    """A video file or a folder of frames, and the file or folder of its tracks.

    ``name`` is unique among the videos of a pool: the path below what the user gave, without its
    extension.
    """

    name: str
    path: Path
    tracks: Path

    @property
    def stem(self) -> str:
        """What track files are called by."""
        return self.name.rpartition("/")[2]


def find_videos(sources: Sequence[Path], tracks: Path | None) -> tuple[list[Video], list[str]]:
    """The videos at ``sources`` that have tracks, by their names, and notes for people.

    A source is a video, a folder of frames, a sequence of MOTChallenge's or a folder of any of
    these; there is no video in a folder of crops. ``tracks`` is a file, or a folder of files called
    as the videos are; None: beside the videos.

    Raises:
        UserError: videos but none has tracks, two have one name, or there is no such file.
    """
    for path in (*sources, *([] if tracks is None else [tracks])):
        if not path.exists() and (path is tracks or path.suffix.lower() in VIDEOS):
            raise UserError(f"{path}: no such file or folder")
    found = sorted(one for source in sources for one in _list_videos(source, tracks is not None))
    if tracks is not None and tracks.is_file() and len(found) > 1:
        raise UserError(f"{tracks}: one file for {len(found)} videos; give a folder of files")
    repeated = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: two videos of this name; give a folder that holds both")
    places = [_find_tracks(name.rpartition("/")[2], path, tracks) for name, path in found]
    videos = [Video(*one, place) for one, place in zip(found, places) if place is not None]
    lacking = [str(path) for (_, path), place in zip(found, places) if place is None]
    if lacking and not videos:
        raise UserError(f"{lacking[0]}: no tracks of this video; looked for {_WANTED}")
    notes = [f"left out for want of tracks: {', '.join(lacking)}"] if lacking else []
    return videos, notes


def _list_videos(source: Path, framed: bool) -> list[tuple[str, Path]]:
    """Names and places. ``framed``: a folder of nothing but images is a video, too."""
    if not source.is_dir():
        return [(source.stem, source)] if source.suffix.lower() in VIDEOS else []
    images, found = False, []
    for folder, _, files, _ in walk(str(source)):
        path = source / folder
        if path.name == _SEQUENCE and any(file.lower().endswith(EXTENSIONS) for file in files):
            sequence = str(Path(folder).parent)
            found.append((path.resolve().parent.name if sequence == "." else sequence, path))
            continue
        images |= not folder and any(file.lower().endswith(EXTENSIONS) for file in files)
        found += [
            (str((Path(folder) / file).with_suffix("")), path / file)
            for file in files
            if Path(file).suffix.lower() in VIDEOS
        ]
    if not found and images and framed:
        return [(source.resolve().name, source)]
    return found


def _find_tracks(stem: str, path: Path, given: Path | None) -> Path | None:
    """The track file of a video, or the folder of its label files; None if there is none."""
    if given is not None and given.is_file():
        return given
    folder = given or path.parent
    candidates = [folder / f"{stem}.txt", folder / f"{stem}.csv"]
    if given is None and path.name == _SEQUENCE:
        candidates = [folder / "gt/gt.txt", *candidates]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for labels in (folder, folder / "labels"):
        if next(label_files(labels, stem), None):
            return labels
    return None
