"""Features of boxes in frames, as trackers ask a ReID network for them: BoxMOT's and Ultralytics'.

What these programs expect (BoxMOT 25.0.0 and Ultralytics 8.4.190, in which all of this was run;
neither is imported here):

BoxMOT's trackers by appearance take an object as ``reid_model`` and call its
``get_features(boxes, frame)``, with boxes float32 (N, 4) as left, top, right, bottom in pixels, and
a frame uint8 (H, W, 3) in BGR order. They want features (N, D) that are finite and not of length 0,
row by row, and ask nothing where there are no boxes. Its encoder for batches of frames reads
``input_shape`` and ``embedding_dim`` besides::

    tracker = BotSort(reid_model=BoxEncoder("outputs/distill_repvit/backbone.safetensors"))
    tracks = tracker.update(detections, frame)

Ultralytics' BoT-SORT, Deep OC-SORT and TrackTrack have an ``encoder``, called with a frame in BGR
order and detections whose first four columns are centre x, centre y, width, height in pixels. It
gives a list of vectors, which older versions scale in place. It is given the frame only where the
tracker's setting ``model`` is not "auto", which stands for the detector's own features. ``attach``
sees to that::

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

        ``with_reid`` of the tracker's settings is turned on here, and ``model`` set: left false and
        "auto" in its YAML, no other network is loaded for it. The tracking that follows raises
        ``UserError`` where its tracker looks at no appearance, or takes the detector's features.
        """
        yolo.add_callback("on_predict_batch_start", self._take_over)

    def _take_over(self, predictor: Any) -> None:
        for tracker in predictor.trackers if predictor.args.mode == "track" else ():
            if not hasattr(tracker, "encoder"):
                raise UserError(
                    f"the tracker {type(tracker).__name__} looks at no appearance: give another, "
                    'such as tracker="botsort.yaml"'
                )
            settings = tracker.args
            reid, model = getattr(settings, "with_reid", False), getattr(settings, "model", "auto")
            if reid and model == "auto":
                raise UserError(
                    "with_reid is true in the tracker's YAML, and model auto: it takes the "
                    "detector's own features; set with_reid: False, and attach() turns it on"
                )
            # With "auto" the frame is kept from an encoder, which then is never asked.
            settings.with_reid, settings.model = True, type(self).__name__
            tracker.encoder = self

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
