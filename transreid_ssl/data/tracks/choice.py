"""Which boxes of a tracker are worth a crop, and why the others are not."""

from collections import Counter

import cv2
import numpy as np

from transreid_ssl.data.images import sharpness
from transreid_ssl.data.tracks.formats import Boxes
from transreid_ssl.data.tracks.settings import CropRules

TOO_SOON = "soon after the one before"
_NO_BOX = "no box (NaN, too large, or of no size)"
_NO_PERSON, _SECOND = "not a person", "a track's second box in a frame"
_REPEATED = "a near-duplicate"
COUNTED = {
    _NO_BOX: (_NO_BOX, _NO_BOX.replace("box", "boxes", 1)),
    _NO_PERSON: (_NO_PERSON, "not persons"),
    _SECOND: ("second box of a track in a frame", "second boxes of a track in a frame"),
    _REPEATED: ("near-duplicate", "near-duplicates"),
}
"""What a reason is called behind a count, of one and of several; others are called as they are."""
_LARGEST = 10**6  # pixels
_THUMBNAIL = (16, 32)  # width and height of the grey images that are compared


def choose_boxes(
    boxes: Boxes, size: tuple[int, int], rules: CropRules, persons: tuple[int, ...] = ()
) -> tuple[np.ndarray, Counter[str]]:
    """Indices int64 (M,) of the boxes to crop, by frame and track, and why others are not, counted.

    A box is counted for the first reason that applies. Whether it is overlapped is asked of all
    boxes of its frame, of whatever class or track.

    Args:
        boxes: those of a video.
        size: (height, width) of its frames.
        rules: what is wanted.
        persons: the classes that are people, if not the format's.
    """
    top, left, height, width = boxes.boxes.T
    kept, reasons = np.ones(len(boxes), bool), Counter()

    def leave_out(which: np.ndarray, reason: str) -> None:
        reasons[reason] += int(kept[which].sum())
        kept[which] = False

    real = (np.abs(boxes.boxes) < _LARGEST).all(1) & (height > 0) & (width > 0)  # not if NaN
    leave_out(~real, _NO_BOX)
    leave_out(boxes.ignored, "marked as not to be looked at")
    leave_out(~np.isin(boxes.classes, (-1, *(persons or boxes.persons))), _NO_PERSON)
    leave_out(boxes.tracks < 0, "of no track")
    leave_out(boxes.frames < boxes.first, "before the first frame")
    leave_out(boxes.scores < rules.min_score, "of a low score")
    with np.errstate(invalid="ignore"):
        bottom, right = top + height, left + width
        inside = (top < size[0]) & (left < size[1]) & (bottom > 0) & (right > 0)
        within = (top > 0) & (left > 0) & (bottom < size[0]) & (right < size[1])
    leave_out(~inside, "outside of the frame")
    leave_out(height < rules.min_height, "too low")
    if not rules.keep_truncated:
        leave_out(~within, "cut by the border of the frame")
    order = np.lexsort((np.arange(len(boxes)), boxes.tracks, boxes.frames))
    leave_out(_repeated(boxes, order, kept), _SECOND)
    leave_out(_covered(boxes, np.flatnonzero(real)) > rules.max_overlap, "overlapped by another")
    order = order[kept[order]]
    soon = too_soon(boxes.frames[order], boxes.tracks[order], rules.every)
    leave_out(order[soon], TOO_SOON)
    return order[kept[order]], reasons


def _repeated(boxes: Boxes, order: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Whether a box (N,), of those ``kept``, is not the first of its track in its frame."""
    order = order[kept[order]]
    pairs = np.stack([boxes.frames[order], boxes.tracks[order]])
    repeated = np.zeros(len(boxes), bool)
    repeated[order[1:]] = (pairs[:, 1:] == pairs[:, :-1]).all(0)
    return repeated


def _covered(boxes: Boxes, real: np.ndarray) -> np.ndarray:
    """The largest share (N,) of each ``real`` box that one other box of its frame covers."""
    covered = np.zeros(len(boxes))
    real = real[np.argsort(boxes.frames[real], kind="stable")]
    starts = np.flatnonzero(np.diff(boxes.frames[real])) + 1
    for group in np.split(real, starts):
        start, length = boxes.boxes[group, :2], boxes.boxes[group, 2:]
        end = start + length
        common = np.minimum(end[:, None], end) - np.maximum(start[:, None], start)
        shares = common.clip(0).prod(2) / length.prod(1)[:, None]
        np.fill_diagonal(shares, 0)
        covered[group] = shares.max(1, initial=0)
    return covered


def too_soon(frames: np.ndarray, tracks: np.ndarray, every: int) -> np.ndarray:
    """Whether a crop (N,) follows the one kept before it of its track in fewer frames.

    Crops are in the order of their frames, int64 (N,); ``tracks`` are int64 (N,).
    """
    soon = np.zeros(len(frames), bool)
    last: dict[int, int] = {}
    for index, (frame, track) in enumerate(zip(frames.tolist(), tracks.tolist())):
        if frame - last.get(track, frame - every) < every:
            soon[index] = True
        else:
            last[track] = frame
    return soon


class Screening:
    """Looks at the crops of a run of frames, in their order: ``complaint`` says what is wrong."""

    def __init__(self, rules: CropRules) -> None:
        self.rules = rules
        self._last: dict[int, np.ndarray] = {}

    def complaint(self, image: np.ndarray, track: int) -> str | None:
        """Why not to keep a crop uint8 (H, W, 3) RGB of a track, or None if it is kept."""
        if image.shape[0] < self.rules.min_height:
            return "too low"
        if sharpness(image) < self.rules.min_sharpness:
            return "blurred"
        grey = cv2.resize(
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), _THUMBNAIL, interpolation=cv2.INTER_AREA
        ).astype(np.float32)
        before = self._last.get(track)
        if before is not None and np.abs(grey - before).mean() < self.rules.min_change:
            return _REPEATED
        self._last[track] = grey
        return None
