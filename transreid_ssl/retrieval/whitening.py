"""What all features have in common, so that it can be taken out."""

import numpy as np

from transreid_ssl.errors import UserError
from transreid_ssl.words import counted

_FEWEST = 20
"""Images: of fewer a covariance tells next to nothing."""


def learn_whitening(features: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and matrix after which features of such images vary alike in all directions.

    ``(features - mean) @ matrix`` has covariance 1, in the directions in which features vary most.
    The covariance is drawn to that of noise as far as there are too few images for it (Ledoit and
    Wolf, J. Multivar. Anal. 2004), so that a hundred images do for a thousand directions. Memory
    is that of a matrix (D, D) and of the features in float64; time grows as D^3.

    Args:
        features: (N, D), of images without labels.
        dim: K, at most D.

    Returns:
        float32 (D,) and (D, K), and how far the covariance was drawn to noise, from 0 to 1.

    Raises:
        UserError: too few images, or all alike.
    """
    from sklearn.covariance import ledoit_wolf

    if len(features) < _FEWEST:
        raise UserError(
            f"{counted(len(features), 'image')}: too few to whiten by; give {_FEWEST} or more"
        )
    covariance, shrinkage = ledoit_wolf(np.asarray(features, np.float64))
    # All of them by divide and conquer: LAPACK's search for the largest alone fails on some.
    values, vectors = (part[..., -dim:] for part in np.linalg.eigh(covariance))
    if values[-1] <= 0 or values[0] < 1e-12 * values[-1]:
        raise UserError(
            f"the features of {len(features):,} images vary in fewer than {dim} directions: "
            "give more images, or a smaller --dim"
        )
    matrix = vectors[:, ::-1] / np.sqrt(values[::-1])
    return features.mean(0).astype(np.float32), matrix.astype(np.float32), float(shrinkage)


def whiten(features: np.ndarray, dim: int = 256, sample: int = 20_000) -> np.ndarray:
    """Features (N, D), whitened by themselves: float32 (N, K), of unit length; K is at most D.

    Args:
        dim: K, at most.
        sample: images, evenly spread, that whitening is learnt from, at most.

    Raises:
        UserError: as ``learn_whitening``.
    """
    every = -(-len(features) // sample)
    mean, matrix, _ = learn_whitening(features[::every], min(dim, features.shape[1]))
    found = (features - mean) @ matrix
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
