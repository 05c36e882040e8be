"""Direct retrieval while a network trains, beside what it has to beat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from transreid_ssl.data import LabelledImages, ReIDProtocol, decoded, open_reid
from transreid_ssl.data.reid import labels
from transreid_ssl.processes import on_all, on_main
from transreid_ssl.retrieval import chance, colour_histogram, embed_protocol, evaluate
from transreid_ssl.training.clock import say
from transreid_ssl.training.health import feature_spread
from transreid_ssl.training.settings import ProbeSettings


class RetrievalProbe:
    """Evaluates a backbone on a labelled protocol, beside chance and a plain colour baseline.

    All processes embed, in float32; the main process evaluates.

    Args:
        settings: What to evaluate on.
        backbone: Gives the network to evaluate.
    """

    def __init__(
        self,
        settings: ProbeSettings,
        backbone: Callable[[], nn.Module],
        accelerator: Accelerator,
        seed: int = 0,
    ) -> None:
        self.settings, self.backbone, self.accelerator = settings, backbone, accelerator
        where = settings.data, settings.root, settings.pattern
        protocol = on_all(accelerator, lambda: open_reid(*where, purpose="test"))
        self.protocol = replace(protocol, query=_thin(protocol.query, settings.max_query, seed))
        self.baselines: dict[str, float] = {}

    @property
    def probed(self) -> str:
        """What is looked at, for people."""
        generated = self.protocol.split == "generated"
        return "generated people" if generated else self.protocol.name

    def __call__(self, step: int) -> dict[str, float]:
        """Values to log, in percent; an empty dict on other processes."""
        features = embed_protocol(
            self.backbone(), self.protocol, batch_size=self.settings.batch_size,
            num_workers=self.settings.num_workers, accelerator=self.accelerator,
        )  # fmt: skip
        values = on_main(self.accelerator, lambda: self._measure(step, *features))
        return values if self.accelerator.is_main_process else {}

    def find_baselines(self) -> None:
        """What chance and colours give, found once."""
        if not self.baselines:
            self.baselines = _baselines(self.protocol)

    def _measure(self, step: int, query: Tensor, gallery: Tensor) -> dict[str, float]:
        self.find_baselines()
        of_query, of_gallery = labels(self.protocol)
        device = self.accelerator.device
        metrics = evaluate(query, *of_query, gallery, *of_gallery, device=device)
        mean_ap, rank1 = 100 * metrics.mAP, 100 * metrics.rank(1)
        spread = float(feature_spread(gallery))
        say(
            self.accelerator,
            f"probe at step {step}: mAP {mean_ap:.1f} %, rank-1 {rank1:.1f} %  (colour histogram "
            f"{self.baselines['probe/mAP_histogram']:.1f} %, chance "
            f"{self.baselines['probe/mAP_chance']:.1f} % mAP; feature spread {spread:.3f})",
        )
        values = {"probe/mAP": mean_ap, "probe/rank1": rank1, "probe/feature_spread": spread}
        return values | self.baselines


def before_and_after(lines: Sequence[Mapping[str, Any]], probed: str) -> str:
    """A table of the first and the last probe among lines of metrics.jsonl, and their baselines."""
    first, last = lines[0], lines[-1]
    rows = [
        (f"before (step {first['step']})", first["probe/mAP"], first["probe/rank1"]),
        (f"after (step {last['step']})", last["probe/mAP"], last["probe/rank1"]),
        ("colour histogram", last["probe/mAP_histogram"], last["probe/rank1_histogram"]),
        ("chance", last["probe/mAP_chance"], last["probe/rank1_chance"]),
    ]
    heading = f"retrieval on {probed}"
    width = max(24, len(heading))
    table = [f"{name:{width}} {mean_ap:7.1f} {rank1:9.1f}" for name, mean_ap, rank1 in rows]
    return "\n".join([f"{heading:{width}} {'mAP %':>7} {'rank-1 %':>9}", *table])


def _thin(images: LabelledImages, count: int | None, seed: int) -> LabelledImages:
    if count is None or count >= len(images):
        return images
    chosen = np.random.default_rng([seed, 7]).choice(len(images), count, replace=False)
    return images.subset(np.sort(chosen))


def _baselines(protocol: ReIDProtocol) -> dict[str, float]:
    """What a random order and a plain colour histogram reach, in percent."""
    of_query, of_gallery = labels(protocol)
    luck = chance(*of_query, *of_gallery)
    parts = protocol.query, protocol.gallery
    colours = [torch.from_numpy(colour_histogram(decoded(images))) for images in parts]
    plain = evaluate(colours[0], *of_query, colours[1], *of_gallery)
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
    probe = RetrievalProbe(settings, backbone, accelerator, seed)
    accelerator.print(f"probe on {probe.protocol.describe()}", flush=True)
    return probe
