"""What a backbone tells of people when its features are stripes that were whitened."""

import json
from pathlib import Path

from transreid_ssl import data, retrieval, whiten
from transreid_ssl.data import Pool, ReIDProtocol
from transreid_ssl.features import EmbeddingSettings
from transreid_ssl.files import write_json
from transreid_ssl.models import load_backbone

_AS_BY_DEFAULT = whiten.Whiten()


def measure_whitened(weights: Path, pool: Pool, protocol: ReIDProtocol) -> dict[str, float]:
    """ "whitened_mAP" and "whitened_rank1" in percent, of ``transreid_ssl.whiten`` on this pool.

    Written beside the weights, and read there when asked for again.
    """
    kept = weights.with_name("whitened.json")
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    model = load_backbone(weights)
    parts, dim = whiten.stripes_of(model.spec), _AS_BY_DEFAULT.dim
    found = whiten.learn(model, pool, parts, dim, EmbeddingSettings(num_workers=0))
    query, gallery = retrieval.embed_protocol(found, protocol)
    figures = _percent(query, gallery, protocol)
    write_json(kept, figures)
    return figures


def whitened_histogram(pool: Pool, protocol: ReIDProtocol) -> dict[str, float]:
    """The same of the colour histogram: what it has to be compared with."""
    learnt, query, gallery = (
        retrieval.colour_histogram(data.decoded(images))
        for images in (pool, protocol.query, protocol.gallery)
    )
    mean, matrix, _ = retrieval.learn_whitening(learnt, learnt.shape[1])
    return _percent((query - mean) @ matrix, (gallery - mean) @ matrix, protocol)


def _percent(query, gallery, protocol: ReIDProtocol) -> dict[str, float]:
    sides = data.reid.labels(protocol)
    found = retrieval.evaluate(query, *sides[0], gallery, *sides[1])
    return {"whitened_mAP": 100 * found.mAP, "whitened_rank1": 100 * float(found.cmc[0])}
