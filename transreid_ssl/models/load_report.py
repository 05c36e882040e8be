"""What is said of a weights file after it has been loaded."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LoadReport:
    """What became of every weight of a file, and of the network.

    Attributes:
        format: what kind of file it was.
        matched: names that were loaded, the resized among them.
        missing: names of the network that the file lacks; they keep their values.
        unexpected: names of the file that mean nothing here.
        resized: one line for each weight that was adapted, with its old and its new size.
        dropped: names of the file that were left aside on purpose: heads, optimizers…
        notes: sentences on how the file was read, where that could be a surprise.
    """

    path: str
    format: str
    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing)
        lines = [f"{self.path}: {self.format}, {len(self.matched)} of {total} weights loaded"]
        lines += [f"  resized {line}" for line in self.resized]
        for title in ("missing", "unexpected", "dropped"):
            names = getattr(self, title)
            if names:
                lines.append(f"  {title} {len(names)}: {grouped(names)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def surprises(self) -> list[str]:
        """What must be said even to somebody who does not read the whole report."""
        strange = [f"weights that mean nothing here were left aside: {grouped(self.unexpected)}"]
        return [*self.notes, *(strange if self.unexpected else [])]


def grouped(names: Iterable[str]) -> str:
    """``head.* (8), optimizer``: names by their first parts, so that a report stays readable."""
    prefixes = re.compile(r"^(module\.)?(backbone\.|base\.)?")
    counts = Counter(prefixes.sub("", name).split(".")[0] for name in names)
    return ", ".join(f"{part}.* ({n})" if n > 1 else part for part, n in counts.items())
