"""Features of boxes in frames, as trackers ask a ReID network for them: BoxMOT's and Ultralytics'.

What these programs expect (as their sources stood when this was written; neither is imported here):

BoxMOT calls ``get_features(boxes, frame)`` of its appearance model, with boxes (N, 4) as left, top,
right, bottom in pixels, and a frame uint8 (H, W, 3) in BGR order, and takes features (N, D), of
length 1, row by row. Its newer encoder also looks for ``input_shape`` and ``embedding_dim``, and
refuses features of length 0. Every tracker of BoxMOT takes such features as the third argument of
``update`` as well, which works in each of its versions::

    encoder = BoxEncoder("outputs/distill_repvit/backbone.safetensors")
    tracks = tracker.update(detections, frame, encoder.get_features(detections[:, :4], frame))

Ultralytics' BoT-SORT, and others of its trackers, have an ``encoder``, called with a frame in BGR
order and detections whose first four columns are centre x, centre y, width, height in pixels. It
gives a list of vectors, which the tracker scales in place. ``attach`` puts this one there::

    yolo = YOLO("yolo11n.pt")
    encoder.attach(yolo)
    yolo.track("street.mp4", tracker="botsort.yaml")
"""

import os
from typing import Any

import numpy as np

from transreid_ssl.errors import UserError
from transreid_ssl.retrieval import Embedder


class BoxEncoder:
    """The appearance model of a tracker: boxes in a frame to unit features.

    A box is cut at the frame's border; one without a pixel in it gets the feature of a black image,
    as trackers want a feature of length 1 for every box. Crops are resized and normalised as the
    weights say, like all images here.

    Args:
        weights: a weights file, folder or Hugging Face id.
        device: such as "cuda:0"; by default a GPU where there is one.
        options: of ``Embedder``: ``batch_size``, ``flip``, ``precision``.

    Raises:
        UserError: weights that cannot be read, or a device that cannot be used.
    """

    embedder: Embedder

    def __init__(
        self, weights: str | os.PathLike[str], device: str | None = None, **options: Any
    ) -> None:
        self.embedder = Embedder(weights, device, **options)

    @property
    def embedding_dim(self) -> int:
        """D, values of a feature."""
        return self.embedder.model.spec.embed_dim

    @property
    def input_shape(self) -> tuple[int, int]:
        """(height, width) that crops are resized to."""
        return self.embedder.model.spec.img_size

    @property
    def device(self) -> Any:
        """The network's."""
        return next(self.embedder.model.parameters()).device

    def get_features(self, xyxys: np.ndarray, img: np.ndarray) -> np.ndarray:
        """BoxMOT's call: unit features float32 (N, D); (0, D) of no boxes.

        Args:
            xyxys: (N, 4) or more columns, the first four left, top, right, bottom in pixels.
            img: the frame, uint8 (H, W, 3), BGR.

        Raises:
            ValueError: other shapes, or boxes that are turned (BoxMOT's of 5, 7 or 9 columns).
        """
        boxes = _as_boxes(xyxys)
        if len(boxes) and boxes.shape[1] in (5, 7, 9):
            raise ValueError(f"{boxes.shape[1]} columns are a turned box; give upright ones")
        return self._features(boxes[:, :4], img)

    def __call__(self, img: np.ndarray, dets: np.ndarray) -> list[np.ndarray]:
        """Ultralytics' call: a list of N unit features, float32 (D,), which may be changed.

        Args:
            img: the frame, uint8 (H, W, 3), BGR.
            dets: (N, 4) or more columns, the first four centre x, centre y, width, height.

        Raises:
            ValueError: other shapes.
        """
        middle, size = np.split(_as_boxes(dets)[:, :4], 2, axis=1)
        return list(self._features(np.hstack([middle - size / 2, middle + size / 2]), img))

    def attach(self, yolo: Any) -> None:
        """Let the trackers that a ``YOLO`` object makes from now on ask this network.

        ``with_reid`` of the tracker's settings is turned on here: left false in its YAML, no other
        network is loaded for it.
        """
        yolo.add_callback("on_predict_batch_start", self._take_over)

    def _take_over(self, predictor: Any) -> None:
        for tracker in getattr(predictor, "trackers", ()):
            if not hasattr(tracker, "encoder"):
                raise UserError(
                    f"the tracker {type(tracker).__name__} looks at no appearance: give another, "
                    'such as tracker="botsort.yaml"'
                )
            if tracker.encoder is not self:
                tracker.encoder, tracker.args.with_reid = self, True

    def _features(self, boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame must be uint8 (H, W, 3), not {frame.dtype} {frame.shape}")
        return self.embedder([_crop(frame, box) for box in boxes])


def _as_boxes(values: Any) -> np.ndarray:
    """float64 (N, C) with C at least 4, also of one box or of none."""
    boxes = np.asarray(values, dtype=np.float64)
    if not boxes.size:
        return np.empty((0, 4))
    boxes = np.atleast_2d(boxes)
    if boxes.ndim != 2 or boxes.shape[1] < 4:
        raise ValueError(f"boxes must be (N, 4) or wider, not {boxes.shape}")
    return boxes


def _crop(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What lies of a box (left, top, right, bottom) in a BGR frame, as RGB; black if nothing."""
    height, width = frame.shape[:2]
    limits = np.nan_to_num(box).clip(0, [width, height, width, height])
    left, top, right, bottom = limits.round().astype(int)
    if right <= left or bottom <= top or not np.isfinite(box).all():
        return np.zeros((1, 1, 3), np.uint8)
    return np.ascontiguousarray(frame[top:bottom, left:right, ::-1])
