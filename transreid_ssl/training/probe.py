"""Direct retrieval while a network trains, beside what it has to beat."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from transreid_ssl.data import LabelledImages, ReIDProtocol, decoded, image_loader, open_reid
from transreid_ssl.data.reid import camera_rows
from transreid_ssl.models import BackboneSpec
from transreid_ssl.retrieval import chance, colour_histogram, embed, evaluate
from transreid_ssl.training.health import feature_spread
from transreid_ssl.training.settings import ProbeSettings


class RetrievalProbe:
    """Evaluates a backbone on a labelled protocol, beside chance and a plain colour baseline.

    Only the main process computes; the others wait.

    Args:
        settings: What to evaluate on.
        backbone: Gives the network to evaluate.
        spec: Its input size and statistics.
    """

    def __init__(
        self,
        settings: ProbeSettings,
        backbone: Callable[[], nn.Module],
        spec: BackboneSpec,
        accelerator: Accelerator,
        seed: int = 0,
    ) -> None:
        self.settings, self.backbone, self.spec = settings, backbone, spec
        self.accelerator = accelerator
        self.protocol = open_reid(settings.data, settings.root, settings.pattern)
        self.query = _thin(self.protocol.query, settings.max_query, seed)
        self.baselines: dict[str, float] = {}

    def __call__(self, step: int) -> dict[str, float]:
        """Values to log, in percent; an empty dict on other processes, which wait."""
        values = self._measure(step) if self.accelerator.is_main_process else {}
        self.accelerator.wait_for_everyone()
        return values

    def _measure(self, step: int) -> dict[str, float]:
        if not self.baselines:
            self.baselines = _baselines(self.protocol, self.query)
        query, gallery = self._embed(self.query), self._embed(self.protocol.gallery)
        metrics = evaluate(
            query, self.query.identities, self.query.cameras,
            gallery, self.protocol.gallery.identities, self.protocol.gallery.cameras,
            device=self.accelerator.device,
        )  # fmt: skip
        mean_ap, rank1 = 100 * metrics.mAP, 100 * metrics.rank(1)
        spread = float(feature_spread(gallery))
        self.accelerator.print(
            f"probe at step {step}: mAP {mean_ap:.1f} %, rank-1 {rank1:.1f} %  (colour histogram "
            f"{self.baselines['probe/mAP_histogram']:.1f} %, chance "
            f"{self.baselines['probe/mAP_chance']:.1f} % mAP; feature spread {spread:.3f})",
            flush=True,
        )
        values = {"probe/mAP": mean_ap, "probe/rank1": rank1, "probe/feature_spread": spread}
        return values | self.baselines

    def _embed(self, images: LabelledImages) -> Tensor:
        cameras = camera_rows(images, self.protocol, self.spec.num_cameras)
        size, batch_size = self.spec.img_size, self.settings.batch_size
        loader = image_loader(images, size, batch_size, self.settings.num_workers, cameras=cameras)
        return embed(
            self.backbone(), loader, mean=self.spec.mean, std=self.spec.std,
            device=self.accelerator.device,
        )  # fmt: skip


def _thin(images: LabelledImages, count: int | None, seed: int) -> LabelledImages:
    if count is None or count >= len(images):
        return images
    chosen = np.random.default_rng([seed, 7]).choice(len(images), count, replace=False)
    return images.subset(np.sort(chosen))


def _baselines(protocol: ReIDProtocol, query: LabelledImages) -> dict[str, float]:
    """What a random order and a plain colour histogram reach, in percent."""
    gallery = protocol.gallery
    labels = (query.identities, query.cameras, gallery.identities, gallery.cameras)
    luck = chance(*labels)
    colours = [torch.from_numpy(colour_histogram(decoded(images))) for images in (query, gallery)]
    plain = evaluate(colours[0], *labels[:2], colours[1], *labels[2:])
    return {
        "probe/mAP_histogram": 100 * plain.mAP,
        "probe/rank1_histogram": 100 * plain.rank(1),
        "probe/mAP_chance": 100 * luck.mAP,
        "probe/rank1_chance": 100 * luck.rank(1),
    }


def retrieval_probe(
    settings: ProbeSettings,
    backbone: Callable[[], nn.Module],
    accelerator: Accelerator,
    seed: int = 0,
) -> RetrievalProbe | None:
    """The probe that ``settings`` asks for, or None."""
    if settings.data is None:
        return None
    probe = RetrievalProbe(settings, backbone, backbone().spec, accelerator, seed)
    accelerator.print(f"probe on {probe.protocol.describe()}", flush=True)
    return probe
