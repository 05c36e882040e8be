"""Where sums may be taken in a faster order."""

import torch


def keeps_order(device: torch.device) -> bool:
    """Whether sums stay in the order that they always had: on a CPU in float32.

    There a run gives the same bits as with earlier versions. Under autocast, and on GPUs, of which
    each kind has an order of its own, what is fastest is done.
    """
    return device.type == "cpu" and not torch.is_autocast_enabled("cpu")
