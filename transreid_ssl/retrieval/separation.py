"""How well similarities tell pairs of one person from pairs of two, and how sure that is."""

from dataclasses import dataclass

import numpy as np

from transreid_ssl.retrieval.sure_pairs import SurePairs

RATES = (1e-2, 1e-3)
"""Of false matches, at which true ones are counted; of fewer than 1,000 pairs of two people 0.001
allows none."""
FIGURES = {
    "ROC area": "roc_area",
    "equal error rate": "equal_error_rate",
    "d'": "d_prime",
    **{f"true matches at {rate:g} false ones": f"true_at_{rate:g}" for rate in RATES},
}
"""What is measured: its title and its name in files."""
_AT_ONCE = 32  # resamples


@dataclass(frozen=True, eq=False)
class Separation:
    """Figures of one network, float64 (F,) in the order of ``FIGURES``, and of resampled tracks.

    ``resampled`` is float64 (R, F): two that were made with the same pairs and seed are paired.
    """

    values: np.ndarray
    resampled: np.ndarray

    def interval(self, other: "Separation | None" = None) -> np.ndarray:
        """The middle 95 % of the figures, or of these minus the ``other``'s: (2, F)."""
        spread = self.resampled if other is None else self.resampled - other.resampled
        return np.nanquantile(spread, (0.025, 0.975), axis=0)


def separate(
    same: np.ndarray, different: np.ndarray, pairs: SurePairs, resamples: int = 300, seed: int = 0
) -> Separation:
    """The figures of similarities float (S,) and (D,) of ``pairs``, and of resamples of tracks.

    Tracks are drawn with replacement, and a pair counts as often as its tracks come together (the
    product; Owen, "The pigeonhole bootstrap", 2007): pairs of one track are no independent ones.
    """
    values, is_same, order, ends = _sorted(same, different)
    places = np.concatenate([pairs.same, pairs.different])[order]
    used, tracks = np.unique(pairs.tracks[places], return_inverse=True)
    first, second = tracks.reshape(-1, 2).T
    random = np.random.default_rng([seed, 43])
    found = [np.empty((0, len(FIGURES)))]
    for begin in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - begin)
        drawn = random.multinomial(len(used), np.full(len(used), 1 / len(used)), count)
        weights = drawn[:, first] * np.where(is_same, 1, drawn[:, second])
        found.append(_figures(values, is_same, ends, weights))
    whole = _figures(values, is_same, ends, np.ones((1, len(values))))
    return Separation(whole[0], np.concatenate(found))


def roc(same: np.ndarray, different: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates of false and of true matches (E + 1,), from none to all, of (S,) and (D,)."""
    _, is_same, _, ends = _sorted(same, different)
    false, true = _rates(is_same, ends, np.ones((1, len(is_same))))
    return false[0], true[0]


def _sorted(same: np.ndarray, different: np.ndarray) -> tuple[np.ndarray, ...]:
    """Falling values (P,), whether they are of one person, where they stood, and the last (E,) of
    equal ones, which a threshold accepts together."""
    values = np.concatenate([same, different])
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=-np.inf))
    return values[order], order < len(same), order, ends


def _rates(
    is_same: np.ndarray, ends: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rates of sorted pairs with weights (R, P): two of (R, E + 1)."""
    found = []
    for kind in (~is_same, is_same):
        counts = np.cumsum(weights * kind, axis=1)[:, ends]
        with np.errstate(invalid="ignore"):  # NaN where no such track was drawn
            found.append(np.pad(counts / counts[:, -1:], ((0, 0), (1, 0))))
    return found[0], found[1]


def _figures(
    values: np.ndarray, is_same: np.ndarray, ends: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """``FIGURES`` of pairs sorted by falling ``values``, with weights (R, P): (R, F)."""
    false, true = _rates(is_same, ends, weights)
    area = ((true[:, 1:] + true[:, :-1]) / 2 * np.diff(false, axis=1)).sum(1)  # by trapezoids
    at_rates = [
        np.take_along_axis(true, (false <= rate).sum(1, keepdims=True) - 1, 1)[:, 0]
        for rate in RATES
    ]
    return np.stack([area, _equal_error(false, true), _d_prime(values, is_same, weights),
                     *at_rates], axis=1)  # fmt: skip


def _equal_error(false: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Where as many false pairs are accepted as true ones are missed, between two thresholds."""
    surplus = false + true - 1  # rises from -1 to 1
    after = (surplus < 0).sum(1, keepdims=True)
    sides = [np.take_along_axis(a, after - s, 1)[:, 0] for a in (surplus, false) for s in (1, 0)]
    low, high, false_low, false_high = sides
    with np.errstate(invalid="ignore"):
        return false_low + (false_high - false_low) * -low / (high - low)


def _d_prime(values: np.ndarray, is_same: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The distance of the two means over the root of the mean variance."""
    moments, values = [], values - values.mean()
    for kind in (is_same, ~is_same):
        of_kind = weights * kind
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = of_kind @ values / of_kind.sum(1)
            square = of_kind @ values**2 / of_kind.sum(1)
        moments.append((mean, np.maximum(square - mean**2, 0)))
    (mean_same, var_same), (mean_different, var_different) = moments
    with np.errstate(invalid="ignore", divide="ignore"):
        return (mean_same - mean_different) / np.sqrt((var_same + var_different) / 2)


def effective_rank(features: np.ndarray) -> float:
    """How many directions features (M, D) fill: the exponential of their spectrum's entropy.

    Of the singular values about the mean (Roy and Vetterli, EUSIPCO 2007): 1 for a line, D where
    all directions are filled alike.
    """
    spectrum = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = spectrum[spectrum > 0] / max(spectrum.sum(), np.finfo(float).tiny)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def camera_share(features: np.ndarray, tracks: np.ndarray, cameras: np.ndarray) -> float | None:
    """The share of the variance of tracks' mean features (M, D) that their cameras explain.

    Adjusted for what so many cameras explain by chance (as an adjusted R^2); None with one camera,
    or not more tracks than cameras.
    """
    _, firsts, inverse, counts = np.unique(
        tracks, return_index=True, return_inverse=True, return_counts=True
    )
    _, camera, sizes = np.unique(cameras[firsts], return_inverse=True, return_counts=True)
    if len(sizes) < 2 or len(firsts) <= len(sizes):
        return None
    means = _grouped(features, inverse, counts)
    rest = means - _grouped(means, camera, sizes)[camera]
    total = ((means - means.mean(0)) ** 2).sum()
    if not total:
        return 0.0
    left = (rest**2).sum() / (len(firsts) - len(sizes)) / (total / (len(firsts) - 1))
    return float(max(0.0, 1 - left))


def _grouped(rows: np.ndarray, groups: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The mean (G, D) of the rows (M, D) of each group."""
    sums = np.zeros((len(sizes), rows.shape[1]))
    np.add.at(sums, groups, rows)
    return sums / sizes[:, None]
