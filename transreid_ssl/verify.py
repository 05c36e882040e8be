"""Whether two images show the same person: similarity, probability, and a decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transreid_ssl import command, retrieval
from transreid_ssl.errors import UserError
from transreid_ssl.features import find_run

if TYPE_CHECKING:
    from transreid_ssl.models import Calibration

_USUAL_RATE = 1e-3


@dataclass(frozen=True)
class Verify:
    """Say whether two images show the same person, and how sure that is.

    Example: ``python -m transreid_ssl.verify a.jpg b.jpg --rate 0.01``. Weights that were not
    calibrated (``python -m transreid_ssl.calibrate``) give a similarity only.

    Args:
        a: An image file.
        b: Another one.
        weights: Any weights file, folder or Hugging Face id; by default those of the newest
            finished run in outputs/, or the copy that whiten or calibrate made of them since; it is
            said.
        run: Those of this run instead: the name of its folder in outputs/, or its path.
        rate: Of false matches that the decision may make, one of those that the weights were
            calibrated for; by default 0.001, or the nearest that they know.
        device: By default a GPU where there is one.
    """

    a: str
    b: str
    weights: str | None = None
    run: str | None = None
    rate: float | None = None
    device: str | None = None


def decide(similarity: float, calibration: "Calibration", rate: float | None) -> list[str]:
    """What a calibration says of a similarity, in lines.

    Raises:
        UserError: a rate that the weights were not calibrated for.
    """
    known = calibration.thresholds
    lines = [
        f"probability of one person: {100 * float(calibration.probability(similarity)):.1f} % "
        "(where as many pairs show one person as show two)"
    ]
    if rate is not None and rate not in known:
        rates = ", ".join(f"{one:g}" for one in known) or "none"
        raise UserError(
            f"--rate {rate:g}: these weights know the thresholds at {rates} alone; give one of "
            "those, or calibrate on a set with more people"
        )
    if not known:
        return [*lines, "no decision: the weights were calibrated on too few pairs for any rate"]
    if rate is None:
        rate = min(known, key=lambda one: max(one / _USUAL_RATE, _USUAL_RATE / one))
    answer = "the same person" if similarity > known[rate] else "different people"
    return [
        *lines,
        f"decision at a rate of false matches of {rate:g}: {answer} "
        f"(one person is said of cosines above {known[rate]:.7f}, a probability of "
        f"{100 * float(calibration.probability(known[rate])):.1f} %)",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, embed, compare, and say what that means."""
    options = command.options(Verify, "python -m transreid_ssl.verify", arguments)
    for image in (options.a, options.b):
        if Path(image).is_dir():
            raise UserError(f"{image}: is a folder; give one image, or compare many by search")
    weights = find_run(options.weights, options.run)
    embedder = retrieval.Embedder(weights, options.device)
    features = embedder([options.a, options.b])
    similarity = float(features[0] @ features[1])
    print(f"similarity (cosine): {similarity:.7f}")
    if embedder.calibration is None:
        print(command.as_started(f"{weights}: not calibrated: {retrieval.embedder.CALIBRATE}"))
    else:
        print(*decide(similarity, embedder.calibration, options.rate), sep="\n")


if __name__ == "__main__":
    command.run(main)
