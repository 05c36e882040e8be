"""Crops that are cut from videos while they are read, or that lie in a pool already."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from transreid_ssl.data.images import CorruptImage, decode
from transreid_ssl.data.index import Names
from transreid_ssl.data.pool import Pool, SubsetPool
from transreid_ssl.data.reader_parts import compile_pattern, integers, where_it_fails
from transreid_ssl.data.track_columns import Tracks, make_table
from transreid_ssl.data.tracks.choice import (
    COUNTED,
    TOO_SOON,
    CropRules,
    Screening,
    choose_boxes,
    too_soon,
)
from transreid_ssl.data.tracks.formats import read_boxes
from transreid_ssl.data.tracks.frames import FrameFolder, VideoFile, open_frames
from transreid_ssl.data.tracks.sources import Video
from transreid_ssl.errors import UserError
from transreid_ssl.files import fingerprint
from transreid_ssl.words import counted

LAYOUTS = {
    # Zheng et al., ICCV 2015: 0002_c1s1_000451_03.jpg; distractors (0000) and junk (-1) are nobody
    "market1501": r"(?P<track>(?!0000)\d{4})_(?P<video>c(?P<camera>\d)s\d)_(?P<frame>\d+)",
    # Zheng et al., ECCV 2016: 0001C1T0001F001.jpg; frames count within a tracklet: its own video
    "mars": r"(?P<video>(?!0000)\d{4}C(?P<camera>\d)(?P<track>T\d{4}))F(?P<frame>\d{3})",
    # Fu et al., CVPR 2022: the key 00017_000003_0000125_02, or 000003_… in the folder of the video
    "luperson-nl": r"(?P<camera>[^/]+)[/_](?P<track>\d{6})_(?P<frame>\d{7})_\d{2}(\.jpg)?$",
}
"""How the names of crops in published sets say where they are from."""
_QUALITY = 95  # of JPEG
_MOST_IN_FRAME = 2_000  # boxes, of which all pairs are compared


class ScreenedCrops(Pool):
    """Crops of a pool with what is known of them; those that ``rules`` refuse are left out.

    Only ``read_in_order`` looks at them, since near-duplicates are told from what came before.
    """

    selective = True

    kind: str
    pool: Pool
    annotations: pa.Table
    rules: CropRules

    def __init__(self, pool: Pool, annotations: pa.Table, rules: CropRules) -> None:
        super().__init__(pool.source, pool.names, pool.notes)
        self.kind, self.pool, self.annotations, self.rules = pool.kind, pool, annotations, rules

    def read(self, index: int) -> bytes:
        """The crop, whatever the rules say."""
        return self.pool.read(index)

    def read_in_order(self, indices: Iterable[int]) -> Iterator[bytes | CorruptImage]:
        """The crops, or why one is left out: a broken one, or one that the rules refuse."""
        indices, screening, tracks = list(indices), Screening(self.rules), self.tracks
        assert tracks is not None
        for index, encoded in zip(indices, self.pool.read_in_order(indices)):
            if isinstance(encoded, bytes):
                name, track = self.names[index], int(tracks.tracks[index])
                reason = screening.complaint(decode(encoded, name), track)
                yield CorruptImage(name, reason) if reason else encoded
            else:
                yield encoded

    def require_same(self, index: int, encoded: bytes, where: Path) -> None:
        """As of the pool that the crops are in."""
        self.pool.require_same(index, encoded, where)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all that the crops follow from, so that work that was begun may go on."""
        content = pa.BufferOutputStream()
        with pa.ipc.new_stream(content, self.annotations.schema) as writer:
            writer.write_table(self.annotations)
        return fingerprint([self.pool.fingerprint, repr(self.rules), content.getvalue()])


class VideoCrops(Pool):
    """Boxes of videos: a crop is cut and encoded as JPEG when it is read.

    Reading in the order of videos and frames decodes each frame once.

    Args:
        source: what the user gave.
        videos: the paths of videos and folders of frames.
        places: int64 (N, 2): the video of each crop, and its frame from 0.
        annotations: a table (N) with ``track_columns.COLUMNS``.
        margin: as in ``CropRules``.
    """

    kind = "videos"

    videos: list[Path]
    places: np.ndarray
    margin: float
    boxes: np.ndarray

    def __init__(
        self,
        source: str,
        videos: list[Path],
        places: np.ndarray,
        annotations: pa.Table,
        margin: float,
    ) -> None:
        of = (annotations.column(name).to_pylist() for name in ("track", "frame"))
        super().__init__(source, Names.of(f"{track}_{frame:06d}.jpg" for track, frame in zip(*of)))
        self.videos, self.places, self.margin = videos, places, margin
        self.annotations = annotations
        self.boxes = annotations.column("box").combine_chunks().flatten().to_numpy().reshape(-1, 4)
        self._reader: tuple[int, int, VideoFile | FrameFolder] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}

    def read(self, index: int) -> bytes:
        """The crop as JPEG bytes; a video is read from its beginning, or from where it was left."""
        encoded = next(self.read_in_order([index]))
        if isinstance(encoded, CorruptImage):
            raise encoded
        return encoded

    def read_in_order(self, indices: Iterable[int]) -> Iterator[bytes | CorruptImage]:
        """The crops as JPEG bytes; an unreadable frame is said of each crop in it."""
        for index in indices:
            video, place = self.places[index].tolist()
            try:
                yield self._cut(self._frames(video), place, self.boxes[index])
            except CorruptImage as error:
                yield CorruptImage(self.names[index], error.reason)

    def _frames(self, video: int) -> VideoFile | FrameFolder:
        """The open video, opened by this process: forks that share a file share its place."""
        key = os.getpid(), video
        if self._reader is None or self._reader[:2] != key:
            self._reader = (*key, open_frames(self.videos[video]))
        return self._reader[2]

    def _cut(self, frames: VideoFile | FrameFolder, place: int, box: np.ndarray) -> bytes:
        top, left, height, width = box.tolist()
        rows, columns = self.margin * height, self.margin * width
        first = max(0, int(top - rows)), max(0, int(left - columns))
        last = math.ceil(top + height + rows), math.ceil(left + width + columns)
        image = frames.frame(place)
        if image.shape[:2] != frames.size:
            raise CorruptImage(f"frame {place}", "in a frame of another size")
        crop = image[first[0] : last[0], first[1] : last[1], ::-1]
        if not crop.size:  # of a box that ends within the first row or column beyond
            raise CorruptImage(f"frame {place}", "outside of the frame")
        return cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()

    def require_same(self, index: int, encoded: bytes, where: Path) -> None:
        """Nothing: the fingerprint tells whether the videos are those of before."""

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the names, and of the size and the time of each video."""
        stamps = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, self.videos)]
        return fingerprint([self.arrow_names().digest, *map(repr, stamps)])


def crops_of_videos(
    source: str,
    videos: list[Video],
    rules: CropRules,
    kind: str | None = None,
    persons: tuple[int, ...] = (),
    first: int | None = None,
    pattern: str | None = None,
) -> tuple[ScreenedCrops, Counter[str]]:
    """The boxes of ``videos`` that ``choose_boxes`` chooses, as crops, and why others are not.

    Args:
        source: what the user gave.
        videos: at least one.
        rules: what crops must be like.
        kind: the format of the track files; None: as each says.
        persons: the classes that are people, if not the format's.
        first: the number of the first frame, if not the format's.
        pattern: a regular expression that finds the ``camera`` in a video's name; else the name
            is the camera's.

    Raises:
        UserError: a video or a track file that cannot be read, or no box to crop in any.
    """
    expression = compile_pattern(pattern, "camera") if pattern else None
    places, tables, left_out = [np.empty((0, 2), np.int64)], [], Counter()
    for number, video in enumerate(videos):
        frames = open_frames(video.path)
        found = read_boxes(video.tracks, kind, video.stem, frames.size)
        if np.unique(found.frames, return_counts=True)[1].max(initial=0) > _MOST_IN_FRAME:
            raise UserError(f"{video.tracks}: more than {_MOST_IN_FRAME:,} boxes in one frame")
        found = found if first is None else replace(found, first=first)
        chosen, reasons = choose_boxes(found, frames.size, rules, persons)
        left_out += reasons
        place = found.frames[chosen] - found.first
        places.append(np.stack([np.full(len(chosen), number), place], 1))
        table = make_table(
            camera=[_camera(expression, video.name)] * len(chosen),
            video=[video.name] * len(chosen),
            track=[f"{video.name}/{track}" for track in found.tracks[chosen].tolist()],
            frame=found.frames[chosen],
            time=place / frames.rate,
            box=found.boxes[chosen],
            score=found.scores[chosen],
        )
        tables.append(table)
    # One chunk is one O(1) look-up, and there may be thousands of videos.
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    paths = [video.path for video in videos]
    if not len(table):
        raise UserError(f"{source}: no box to crop; left out: {describe_left_out(left_out)}")
    pool = VideoCrops(source, paths, np.concatenate(places), table, rules.margin)
    return ScreenedCrops(pool, table, rules), left_out


def _camera(expression: re.Pattern | None, name: str) -> str:
    if expression is None:
        return name
    match = expression.search(name)
    if match is None or match["camera"] is None:
        raise UserError(
            f"'{expression.pattern}': finds no camera in the name of the video {name!r}"
            f"{where_it_fails(expression, name)}; correct it"
        )
    return match["camera"]


def layout_of(pool: Pool) -> str | None:
    """The key in ``LAYOUTS`` of a pool whose first names are all of that kind, or None."""
    for layout, pattern in LAYOUTS.items():
        if all(re.search(pattern, name) for name in pool.names[:100]):
            return layout
    return None


def crops_of_pool(pool: Pool, pattern: str, rules: CropRules) -> tuple[ScreenedCrops, Counter[str]]:
    """Crops of a pool whose names tell their track and frame, in this order; why others are not.

    ``pattern`` is a regular expression with the groups ``track`` and ``frame`` (a whole number),
    and perhaps ``camera`` and ``video``. A track is one within its video, which without a group is
    its camera.

    Raises:
        UserError: no name matches, or a frame is no number.
    """
    expression = compile_pattern(pattern, "track", "frame")
    matches = [expression.search(name) for name in pool.names]
    matched = np.flatnonzero(
        [m is not None and None not in (m["track"], m["frame"]) for m in matches]
    )
    if not len(matched):
        name = pool.names[0]
        raise UserError(
            f"{pool.source}: no name, such as {name!r}, matches '{pattern}'"
            f"{where_it_fails(expression, name)}; correct it"
        )
    groups = [matches[index].groupdict() for index in matched]
    cameras = [group.get("camera") or "" for group in groups]
    videos = [group.get("video") or camera for group, camera in zip(groups, cameras)]
    table = make_table(
        camera=cameras,
        video=videos,
        track=[f"{video}/{group['track']}" for video, group in zip(videos, groups)],
        frame=integers([group["frame"] for group in groups], pool.source),
    )
    tracks = Tracks.of(table)
    order = np.lexsort((tracks.frames, tracks.tracks))
    soon = too_soon(tracks.frames[order], tracks.tracks[order], rules.every)
    left_out = Counter({"of no track, by its name": len(pool) - len(matched), TOO_SOON: soon.sum()})
    kept = order[~soon]
    crops = SubsetPool(pool, matched[kept], "crops of tracks")
    return ScreenedCrops(crops, table.take(kept), rules), left_out


def describe_left_out(reasons: Counter[str]) -> str:
    """Reasons with their counts, in words."""
    said = [
        counted(count, *COUNTED.get(reason, (reason, reason)))
        for reason, count in reasons.most_common()
        if count
    ]
    return ", ".join(said) or "none"
