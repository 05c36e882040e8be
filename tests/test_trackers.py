"""The appearance model of trackers, called as BoxMOT and Ultralytics call theirs."""

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


class Yolo:
    """What of Ultralytics' ``YOLO`` is called: callbacks, then trackers, then batches."""

    def __init__(self, tracker):
        self.tracker, self.callbacks = tracker, []

    def add_callback(self, event, function):
        assert event == "on_predict_batch_start"
        self.callbacks.append(function)

    def track(self, frame, dets):
        predictor = SimpleNamespace(trackers=[self.tracker])
        for function in self.callbacks:
            function(predictor)
        tracker = self.tracker
        return tracker.encoder(frame, dets) if tracker.args.with_reid else None


def test_it_takes_the_place_of_an_encoder(encoder, frame):
    tracker = SimpleNamespace(encoder=None, args=SimpleNamespace(with_reid=False))
    yolo = Yolo(tracker)
    assert yolo.track(frame, BOXES) is None
    encoder.attach(yolo)
    assert len(yolo.track(frame, BOXES)) == 3
    without = Yolo(SimpleNamespace(args=None))
    encoder.attach(without)
    with pytest.raises(UserError, match=r"SimpleNamespace looks at no appearance.*botsort\.yaml"):
        without.track(frame, BOXES)
