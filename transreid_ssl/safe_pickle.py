"""What a pickle may make a reader do before anything in it is looked at."""

import pickletools
import re

import numpy as np

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_TEXT_PUT = re.compile(rb"p\d{5}")


def check_memo(content: bytes) -> None:
    """Refuse a pickle that numbers its values so high that the table of them would fill the memory.

    ``pickle`` makes room for all numbers up to the highest: fifteen bytes can ask for gigabytes. No
    honest pickle has more of them than bytes.

    Raises:
        ValueError: such a number, or bytes that are no pickle.
    """
    if not _may_number_high(content):
        return
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _PUTS and int(argument) > len(content):
            raise ValueError(f"its values are numbered up to {argument}")


def _may_number_high(content: bytes) -> bool:
    """A quick look, right about every harmless answer: walking through a long pickle takes long."""
    values = np.frombuffer(content + bytes(4), np.uint8)
    found = np.flatnonzero(values[:-4] == ord("r"))  # LONG_BINPUT, before a number of four bytes
    numbers = sum(values[found + 1 + i].astype(np.int64) << (8 * i) for i in range(4))
    return bool(np.any(numbers > len(content))) or _TEXT_PUT.search(content) is not None
