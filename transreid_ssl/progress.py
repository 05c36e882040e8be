"""Progress of long work: a bar on a terminal, elsewhere a line of the log now and then."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from transreid_ssl.logs import RUN

_EVERY = 30.0  # seconds between two lines
_SHORT = 1.0  # seconds of work that has no bar


@contextlib.contextmanager
def progress(total: int | None, title: str, shown: bool = True) -> Iterator[Callable[..., object]]:
    """Yield a function to be called with how many more of ``total`` are done, by default one.

    Args:
        total: None where nobody knows it before.
        title: what is counted.
        shown: whether to show anything, such as on the main process alone.
    """
    if not shown:
        yield lambda count=1: None
    elif sys.stderr.isatty():
        from tqdm import tqdm  # here, as start-up is to be fast

        look = {"unit": "", "leave": False, "dynamic_ncols": True, "delay": _SHORT}
        with tqdm(total=total, desc=title, **look) as bar:
            yield bar.update
    else:
        yield _Lines(total, title)


def is_first() -> bool:
    """Whether this is the first process of a launch; its launcher's variables tell, unasked."""
    return os.environ.get("RANK", "0") == "0"


class _Lines:
    """Says twice a minute how far the work is; nothing of work that takes less."""

    def __init__(self, total: int | None, title: str) -> None:
        self._total, self._title, self._done = total, title, 0
        self._begin = self._said = time.monotonic()

    def __call__(self, count: int = 1) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said < _EVERY:
            return
        self._said, of = now, ""
        if self._total:
            left = (now - self._begin) / max(1, self._done) * (self._total - self._done)
            of = f" of {self._total:,}, about {timedelta(seconds=round(left))} left"
        RUN.info(f"{self._title}: {self._done:,}{of}")
