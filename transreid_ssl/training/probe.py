"""What a network is worth while it trains, with labels or without, beside what it has to beat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import accelerate
import numpy as np
import torch
from torch import Tensor

from transreid_ssl.data import (
    LabelledImages,
    Pool,
    ReIDProtocol,
    SubsetPool,
    decoded,
    open_reid,
    shared_images,
)
from transreid_ssl.data.doctor import examine, leave_out
from transreid_ssl.data.open import open_tracks
from transreid_ssl.data.reid import labels
from transreid_ssl.data.tracks.settings import Tracks
from transreid_ssl.logs import say
from transreid_ssl.models import Backbone
from transreid_ssl.processes import on_all, on_main
from transreid_ssl.retrieval import (
    RetrievalMetrics,
    SurePairs,
    chance,
    colour_histogram,
    embed_images,
    embed_protocol,
    evaluate,
    find_sure_pairs,
    has_sure_pairs,
    separate,
)
from transreid_ssl.retrieval.embed import require_finite
from transreid_ssl.retrieval.separation import FIGURES
from transreid_ssl.terms import IN_SAMPLE
from transreid_ssl.training.health import feature_spread
from transreid_ssl.training.settings import AUTO_PROBE, ProbeSettings


class RetrievalProbe:
    """Evaluates a backbone on a labelled protocol, beside chance and a plain colour baseline.

    All processes embed, in float32; the main process evaluates.

    Args:
        settings: What to evaluate on.
        backbone: Gives the network to evaluate.
        pool: Of a ``TrackProbe`` the pool to look at, in the place of the settings'.
    """

    figures: ClassVar[dict[str, str]] = {"mAP": "mAP", "rank1": "rank-1"}
    """What is logged and its titles; the network with most of the first is the best."""

    settings: ProbeSettings
    backbone: Callable[[], Backbone]
    accelerator: accelerate.Accelerator
    protocol: ReIDProtocol
    title: str
    described: str

    def __init__(
        self,
        settings: ProbeSettings,
        backbone: Callable[[], Backbone],
        accelerator: accelerate.Accelerator,
        seed: int = 0,
        pool: Pool | None = None,
    ) -> None:
        self.settings, self.backbone, self.accelerator = settings, backbone, accelerator
        self.own: Pool | None = pool
        self.baselines: dict[str, float] = {}
        self.features: tuple[Tensor, ...] | None = None  # of the last probe, on the main process
        self._open(seed)

    def _open(self, seed: int) -> None:
        """Set ``title`` and ``described``, which say to people what is looked at."""
        where = self.settings.data, self.settings.root, self.settings.pattern
        protocol = on_all(
            self.accelerator, lambda: open_reid(*where, purpose="test", beside=["tracks"])
        )
        query = _thin(protocol.query, self.settings.max_query, seed)
        self.protocol = replace(protocol, query=query)
        generated = protocol.split == "generated"
        # Of "folder" the name alone says nothing.
        own = f"folder {self.settings.root}" if protocol.name == "folder" else protocol.name
        self.title = f"retrieval on {'generated people' if generated else own}"
        self.described = self.protocol.describe()

    def __call__(self, step: int) -> dict[str, Any]:
        """Values to log, in percent, and on what; an empty dict on other processes."""
        features = self._embed(
            self.backbone(), batch_size=self.settings.batch_size,
            num_workers=self.settings.num_workers, accelerator=self.accelerator,
        )  # fmt: skip
        self.features = features if self.accelerator.is_main_process else None
        values = on_main(self.accelerator, lambda: self._log(step, features))
        return values if self.accelerator.is_main_process else {}

    def looks_at(self, pool: Pool) -> bool:
        """Whether it looks at images of a pool, under whatever path."""
        return any(shared_images(images, pool) for images in self._pools())

    def _pools(self) -> tuple[Pool, ...]:
        return self.protocol.query.pool, self.protocol.gallery.pool

    def find_baselines(self) -> None:
        """What chance and colours give, found once."""
        for of, values in () if self.baselines else self._baselines().items():
            self.baselines |= {f"probe/{name}_{of}": value for name, value in values.items()}

    def _log(self, step: int, features: tuple[Tensor, ...]) -> dict[str, Any]:
        self.find_baselines()
        values, spread = self._measure(*features), float(feature_spread(features[-1]))
        told = ", ".join(f"{title} {values[name]:.1f} %" for name, title in self.figures.items())
        name, title = next(iter(self.figures.items()))
        say(
            self.accelerator,
            f"probe at step {step}: {told}  (colour histogram "
            f"{self.baselines[f'probe/{name}_histogram']:.1f} %, chance "
            f"{self.baselines[f'probe/{name}_chance']:.1f} % {title}; feature spread {spread:.3f})",
        )
        values = {f"probe/{name}": value for name, value in values.items()}
        return {**values, "probe/feature_spread": spread, **self.baselines, "probe/on": self.title}

    def _embed(self, backbone: Backbone, **options: Any) -> tuple[Tensor, ...]:
        return embed_protocol(backbone, self.protocol, **options)

    def _measure(self, *features: Tensor) -> dict[str, float]:
        """``figures`` of what ``_embed`` gives, in percent."""
        (query, gallery), (of_query, of_gallery) = features, labels(self.protocol)
        device = self.accelerator.device
        return _percent(evaluate(query, *of_query, gallery, *of_gallery, device=device))

    def _baselines(self) -> dict[str, dict[str, float]]:
        parts = self.protocol.query, self.protocol.gallery
        colours = (torch.from_numpy(colour_histogram(decoded(images))) for images in parts)
        of_query, of_gallery = labels(self.protocol)
        luck = chance(*of_query, *of_gallery)
        return {"histogram": self._measure(*colours), "chance": _percent(luck)}


class TrackProbe(RetrievalProbe):
    """How well pairs are told apart that the tracks of a pool are sure of, without any label."""

    figures: ClassVar[dict[str, str]] = {
        "roc_area": "ROC area",
        "equal_error_rate": "equal error rate",
    }

    pairs: SurePairs
    images: SubsetPool
    title: str
    described: str

    def _open(self, seed: int) -> None:
        root = self.settings.root or Tracks.out
        if self.own is None:
            pool, self.title = (
                on_all(self.accelerator, lambda: open_tracks(root)),
                f"tracks of {root}",
            )
        else:
            pool, self.title = self.own, "pairs that tracks know"
        self.pairs = on_all(self.accelerator, lambda: find_sure_pairs(pool.tracks, seed=seed))
        if self.own is not None and (bad := on_main(self.accelerator, lambda: self._broken(pool))):
            pool = leave_out(pool, bad, "images that can be read")
            self.pairs = on_all(self.accelerator, lambda: find_sure_pairs(pool.tracks, seed=seed))
        self.images = SubsetPool(pool, self.pairs.images)
        self.described = f"{pool.describe()}: {self.pairs.describe()}"

    def _broken(self, pool: Pool) -> list[int]:
        """The images in a pair that cannot be read: training goes on without such images too."""
        return [*examine(pool, self.pairs.images).bad]

    def _pools(self) -> tuple[Pool, ...]:
        return (self.images,)

    def _embed(self, backbone: Backbone, **options: Any) -> tuple[Tensor, ...]:
        features, places = embed_images(backbone, self.images, **options)
        require_finite(features.numpy(), self.images.names, places)
        return (features,)

    def _measure(self, *features: Tensor) -> dict[str, float]:
        sides = self.pairs.similarities(features[0].numpy())
        found = dict(zip(FIGURES.values(), separate(*sides, self.pairs, resamples=0).values))
        return {name: 100 * float(found[name]) for name in self.figures}

    def _baselines(self) -> dict[str, dict[str, float]]:
        colours = torch.from_numpy(colour_histogram(decoded(self.images)))
        luck = dict.fromkeys(self.figures, 50.0)
        return {"histogram": self._measure(colours), "chance": luck}


def _percent(found: RetrievalMetrics) -> dict[str, float]:
    return {"mAP": 100 * found.mAP, "rank1": 100 * found.rank(1)}


def before_and_after(lines: Sequence[Mapping[str, Any]], probe: RetrievalProbe) -> str:
    """A table of the first and the last probe among lines of metrics.jsonl, and their baselines."""
    first, last = lines[0], lines[-1]
    rows = [
        (f"before (step {first['step']})", first, ""),
        (f"after (step {last['step']})", last, ""),
        ("colour histogram", last, "_histogram"),
        ("chance", last, "_chance"),
    ]
    width = max(24, len(probe.title))
    titles = [f"{title} %".rjust(9) for title in probe.figures.values()]
    table = [
        " ".join([f"{name:{width}}", *(f"{line[f'probe/{figure}{of}']:{len(title)}.1f}"
                                       for figure, title in zip(probe.figures, titles))])
        for name, line, of in rows
    ]  # fmt: skip
    return "\n".join([" ".join([f"{probe.title:{width}}", *titles]), *table])


def _thin(images: LabelledImages, count: int | None, seed: int) -> LabelledImages:
    if count is None or count >= len(images):
        return images
    chosen = np.random.default_rng([seed, 7]).choice(len(images), count, replace=False)
    return images.subset(np.sort(chosen))


def _chosen(
    settings: ProbeSettings, trained_on: Pool | None, accelerator: accelerate.Accelerator
) -> tuple[ProbeSettings, Pool | None]:
    """What is probed where nobody said: tracks of ``settings.root`` if one is given, else what the
    pool that is trained on can tell."""
    if settings.root is not None:
        return replace(settings, data="tracks"), None
    tracks = None if trained_on is None else trained_on.tracks
    if tracks is None or not on_main(accelerator, lambda: has_sure_pairs(tracks)):
        return replace(settings, data=None), None
    say(
        accelerator,
        "probe: pairs that tracks of the pool know, as they tell without labels whether it gets "
        "better; another one: --probe.data, none: --probe.data null",
    )
    return replace(settings, data="tracks"), trained_on


def retrieval_probe(
    settings: ProbeSettings,
    backbone: Callable[[], Backbone],
    accelerator: accelerate.Accelerator,
    seed: int = 0,
    trained_on: Pool | None = None,
) -> RetrievalProbe | None:
    """The probe that ``settings`` asks for, or None; it says so if it looks at ``trained_on``."""
    if settings.data == AUTO_PROBE:
        settings, pool = _chosen(settings, trained_on, accelerator)
    else:
        pool = None
    if settings.data is None:
        return None
    kind = TrackProbe if settings.data == "tracks" else RetrievalProbe
    probe = kind(settings, backbone, accelerator, seed, pool)
    if trained_on is not None and on_main(accelerator, lambda: probe.looks_at(trained_on)):
        probe.title += ", in-sample"
        probe.described += f"; the network is trained on these images: {IN_SAMPLE}"
    say(accelerator, f"probe on {probe.described}")
    return probe
