"""A process that is killed while its loader has a worker."""

import multiprocessing
import os
import signal
from pathlib import Path

from torch.utils.data import Dataset

from transreid_ssl.data.loader import open_loader


class Asked(Dataset):
    """Leaves the number of the process that was asked for an item."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 1  # then the worker waits for more to do

    def __getitem__(self, index: int) -> int:
        (self.folder / str(os.getpid())).touch()
        return index


def die_while_loading(folder: Path) -> None:
    """Kill this process, which has a worker that left its number in ``folder``."""
    multiprocessing.set_start_method("forkserver", force=True)  # Python's choice since 3.14
    for _ in open_loader(Asked(folder), num_workers=1, batch_size=1):
        os.kill(os.getpid(), signal.SIGKILL)
