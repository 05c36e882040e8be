"""What training with labels asks of a set: people, and no query that has a match."""

import cv2
import numpy as np
from accelerate import Accelerator

from transreid_ssl.finetune.settings import LabelledSettings
from transreid_ssl.finetune.stages import ends
from transreid_ssl.finetune.trainings import SupervisedTraining
from transreid_ssl.training import RunFolder


def test_a_set_of_one_camera_is_trained_on_without_a_probe(tmp_path, capsys, console):
    encoded = cv2.imencode(".jpg", np.zeros((8, 4, 3), np.uint8))[1].tobytes()
    for camera in (1, 2):
        root = tmp_path / str(camera)
        for part in ("bounding_box_train", "query", "bounding_box_test"):
            (root / part).mkdir(parents=True)
            seen_by = camera if part == "bounding_box_test" else 1
            (root / part / f"0001_c{seen_by}_{part[0]}.jpg").write_bytes(encoded)
        data = LabelledSettings(name="market1501", root=str(root))
        found = ends(SupervisedTraining(data=data), Accelerator(cpu=True), RunFolder(tmp_path))
        assert found["probe"].data == (None if camera == 1 else "market1501")
        command = f"cluster {root} --weights" if camera == 1 else "evaluate --weights"
        weights = "outputs/supervised_finetune/model.safetensors"
        assert found["following"] == f"python -m transreid_ssl.{command} {weights}"
        assert ("no probe on market1501: no query has a match" in capsys.readouterr().err) == (
            camera == 1
        )
