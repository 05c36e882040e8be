"""What the processes of a test of the cluster memory run: importable by name, as new ones need."""

import torch

from transreid_ssl.finetune import ClusterMemory


def batch(seed, size=23, clusters=6, dim=5):
    """Random features and labels."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, dim, generator=generator)
    return features, torch.randint(clusters, (size,), generator=generator)


def shared_update(rank, path):
    """One of two processes that update the same memory, each with its share of the images."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2
    )
    features, labels = batch(7, size=24)
    memory = ClusterMemory(torch.ones(6, 5).cumsum(0).cumsum(1).sin(), momentum=0.5)
    for x, y in zip(features.chunk(2), labels.chunk(2)):  # micro-batches of both processes
        memory(x.chunk(2)[rank], y.chunk(2)[rank])
    memory.update()
    torch.save(memory.features, f"{path}/{rank}.pt")
    torch.distributed.destroy_process_group()
