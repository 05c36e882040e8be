"""How many threads a process takes on a CPU."""

import torch

from transreid_ssl.machine import own_cores


def share_cores(num_workers: int, num_threads: int | None = None) -> None:
    """Give torch this process's share of the cores, less those of its workers; at least one.

    Launchers set one thread, which leaves many cores idle; without one torch takes all, and threads
    that share cores with workers wait for one another in a busy loop: many times slower.

    Args:
        num_workers: Processes that prepare images for this one.
        num_threads: Takes so many instead.
    """
    torch.set_num_threads(num_threads or max(1, own_cores() - num_workers))
