"""The appearance model of trackers, called as BoxMOT and Ultralytics call theirs.

The stand-ins here ask, and refuse, as BoxMOT 25.0.0 and Ultralytics 8.4.190 were seen to do.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from transreid_ssl import Embedder, UserError
from transreid_ssl.data import decode, open_pool
from transreid_ssl.models import build_backbone, save_backbone
from transreid_ssl.trackers import BoxEncoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_backbone(path, build_backbone("timm:test_resnet", img_size=(64, 32)))
    return BoxEncoder(path, "cpu")


@pytest.fixture(scope="module")
def people():
    """Three people, RGB uint8 (64, 32, 3)."""
    pool = open_pool("demo:identities=3,images=1,height=64,width=32")
    return [decode(pool.read(index)) for index in range(3)]


@pytest.fixture(scope="module")
def frame(people):
    """A frame in BGR order with the three side by side, from (10, 20) on."""
    frame = np.full((100, 140, 3), 90, np.uint8)
    for number, person in enumerate(people):
        frame[20:84, 10 + 40 * number : 42 + 40 * number] = person[:, :, ::-1]
    return frame


BOXES = np.array([[10, 20, 42, 84], [50, 20, 82, 84], [90, 20, 122, 84]], np.float32)


def test_boxmot_gets_the_features_of_the_crops_in_their_colours(encoder, people, frame):
    found = encoder.get_features(BOXES, frame)
    assert (found.shape, found.dtype) == ((3, 96), np.float32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    expected = Embedder(encoder.embedder.model)(people)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    swapped = Embedder(encoder.embedder.model)([person[:, :, ::-1] for person in people])
    assert np.abs(found - swapped).max() > 1e-3
    detections = np.hstack([BOXES, np.ones((3, 1)), np.zeros((3, 1))])  # score and class
    np.testing.assert_allclose(encoder.get_features(detections, frame), found, atol=1e-6)
    assert (encoder.embedding_dim, encoder.input_shape) == (96, (64, 32))
    assert encoder.device == torch.device("cpu")


@pytest.mark.parametrize("none", [np.empty((0, 4)), np.array([]), []])
def test_no_boxes_have_no_features(encoder, frame, none):
    found = encoder.get_features(none, frame)
    assert (found.shape, found.dtype) == ((0, 96), np.float32)
    assert encoder(frame, np.empty((0, 5), np.float32)) == []


def test_boxes_beyond_the_border_are_cut_and_those_outside_are_black(encoder, frame):
    inside = encoder.get_features([[0, 0, 30, 100]], frame)
    np.testing.assert_array_equal(encoder.get_features([[-50, -9, 30, 400]], frame), inside)
    black = Embedder(encoder.embedder.model)(np.zeros((64, 32, 3), np.uint8))
    nowhere = [[-50, 0, -10, 90], [200, 0, 300, 90], [9, 9, 9, 20], [30, 40, 20, 50]]
    found = encoder.get_features(np.array([*nowhere, [np.nan, 0, 9, 9]]), frame)
    np.testing.assert_allclose(found, np.repeat(black, 5, 0), atol=1e-5)


def test_what_is_no_frame_or_box_is_refused(encoder, frame):
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\), not float64"):
        encoder.get_features(BOXES, frame / 255)
    with pytest.raises(ValueError, match=r"boxes must be \(N, 4\) or wider, not \(2, 3\)"):
        encoder.get_features(np.ones((2, 3)), frame)
    with pytest.raises(ValueError, match="5 columns are a turned box"):
        encoder.get_features(np.ones((2, 5)), frame)


def test_ultralytics_gets_a_list_that_it_may_change(encoder, frame):
    middles = np.hstack([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]])
    found = encoder(frame, np.hstack([middles, [[0], [1], [2]]]))  # and their numbers
    expected = encoder.get_features(BOXES, frame)
    assert isinstance(found, list)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        one /= 2 * np.linalg.norm(one)
    np.testing.assert_allclose(found, expected / 2, atol=1e-5)


class BoxmotTracker:
    """What of a tracker of BoxMOT's touches its appearance model."""

    def __init__(self, *, reid_model):
        assert callable(reid_model.get_features)
        self.model, self.width = reid_model, None

    def update(self, detections, frame):
        """detections (N, 6), of any real dtype; the features that it would track with."""
        boxes = np.ascontiguousarray(detections[:, :4], np.float32)
        if not len(boxes):  # then nobody is asked
            return np.empty((0, self.width or 1), np.float32)
        features = np.asarray(self.model.get_features(boxes, frame), np.float32)
        assert features.ndim == 2
        assert len(features) == len(boxes)
        assert self.width in (None, features.shape[1])
        self.width = features.shape[1]
        lengths = np.linalg.norm(features.astype(np.float64), axis=1)
        assert np.isfinite(features).all()
        assert (lengths > 1e-12).all()
        return features / lengths[:, None]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_a_tracker_of_boxmot_takes_it_as_its_model(encoder, frame, dtype):
    tracker = BoxmotTracker(reid_model=encoder)
    detections = np.hstack([BOXES, [[1, 0]] * 3]).astype(dtype)
    found = tracker.update(detections, frame)
    np.testing.assert_allclose(found, encoder.get_features(BOXES, frame), atol=1e-6)
    assert tracker.update(detections[:0], frame).shape == (0, 96)
    outside = np.array([[500, 500, 520, 560, 1, 0]], np.float32)
    assert tracker.update(outside, frame).shape == (1, 96)


def test_boxmot_packs_crops_of_several_frames_into_one_image(encoder, frame):
    """Its encoder for batches: crops side by side in black, and two sizes that it reads."""
    assert {type(side) for side in (*encoder.input_shape, encoder.embedding_dim)} == {int}
    crops = [frame[20:84, 10:42], frame[30:70, 50:75], frame[20:84, 90:122]]
    packed, places = np.zeros((64, 96, 3), np.uint8), []
    for number, crop in enumerate(crops):
        high, wide = crop.shape[:2]
        packed[:high, 32 * number : 32 * number + wide] = crop
        places.append([32 * number, 0, 32 * number + wide, high])
    found = encoder.get_features(np.array(places, np.float32), packed)
    expected = encoder.get_features(np.array([BOXES[0], [50, 30, 75, 70], BOXES[2]]), frame)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_more_boxes_than_a_batch_have_the_same_features(encoder, frame):
    asked = BoxEncoder(encoder.embedder.model, "cpu", batch_size=2)
    found = asked.get_features(BOXES, frame)
    assert type(found) is np.ndarray
    np.testing.assert_allclose(found, encoder.get_features(BOXES, frame), atol=1e-6)


class YoloTracker:
    """What of Ultralytics' trackers touches their encoder."""

    def __init__(self, encoder=None, **settings):
        self.encoder, self.args = encoder, SimpleNamespace(**settings)

    def update(self, dets, scores, frame):
        """dets (N, 4): the features of those of high scores, and of the others, or None."""
        own = self.args.model == "auto"  # then the detector's features are due, never the frame
        if not self.args.with_reid or self.encoder is None or own:
            return [None, None]
        sides = [dets[scores >= 0.5], dets[scores < 0.5]]
        numbered = [np.concatenate([part, np.arange(len(part))[:, None]], 1) for part in sides]
        return [self.encoder(frame, part) if len(part) else None for part in numbered]


class Yolo:
    """What of Ultralytics' ``YOLO`` is called: callbacks, then trackers, then batches."""

    def __init__(self, tracker):
        self.tracker, self.callbacks = tracker, []

    def add_callback(self, event, function):
        assert event == "on_predict_batch_start"
        self.callbacks.append(function)

    def track(self, frame, dets, scores=(0.9, 0.9, 0.2), mode="track"):
        predictor = SimpleNamespace(trackers=[self.tracker], args=SimpleNamespace(mode=mode))
        for function in self.callbacks:
            function(predictor)
        return self.tracker.update(dets, np.array(scores), frame)


def test_it_takes_the_place_of_an_encoder(encoder, frame):
    yolo = Yolo(YoloTracker(with_reid=False, model="auto"))
    assert yolo.track(frame, BOXES) == [None, None]
    encoder.attach(yolo)
    for _ in range(2):  # the same tracker goes on with the next frames
        sure, unsure = yolo.track(frame, BOXES)
        assert (len(sure), len(unsure)) == (2, 1)
        assert (sure[0].shape, sure[0].dtype) == ((96,), np.float32)
    assert yolo.track(frame, BOXES[:0], ()) == [None, None]
    other = BoxEncoder(encoder.embedder.model, "cpu")
    other.attach(yolo)
    yolo.track(frame, BOXES)
    assert yolo.tracker.encoder is other


def test_another_network_of_the_trackers_settings_is_replaced(encoder, frame):
    yolo = Yolo(YoloTracker(encoder=object(), with_reid=True, model="other.onnx"))
    encoder.attach(yolo)
    assert len(yolo.track(frame, BOXES)[0]) == 2


def test_trackers_that_cannot_ask_it_are_refused(encoder, frame):
    without = Yolo(SimpleNamespace(args=None))
    encoder.attach(without)
    with pytest.raises(UserError, match=r"SimpleNamespace looks at no appearance.*botsort\.yaml"):
        without.track(frame, BOXES)
    detectors_own = Yolo(YoloTracker(encoder=list, with_reid=True, model="auto"))
    encoder.attach(detectors_own)
    with pytest.raises(UserError, match="set with_reid: False, and attach"):
        detectors_own.track(frame, BOXES)


def test_a_prediction_without_tracking_is_left_alone(encoder, frame):
    tracker = YoloTracker(with_reid=True, model="auto")  # of an earlier call
    yolo = Yolo(tracker)
    encoder.attach(yolo)
    assert yolo.track(frame, BOXES, mode="predict") == [None, None]
    assert tracker.encoder is None
