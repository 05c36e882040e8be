"""InfoNCE of one query in plain numbers: what the losses are tested against."""

import math


def slow_info_nce(query, own, others, temperature):
    """Cross-entropy of finding ``own`` among it and ``others``; all are vectors."""
    similarities = [float(query @ key) / temperature for key in [own, *others]]
    return math.log(sum(math.exp(s) for s in similarities)) - similarities[0]
