"""Crops scored by CFS, and embedded, in a second, beside the forward passes of the networks alone.

    python -m benchmarks.scoring                       # ViT-S/16+ICS at 256x128, a minute or two
    python -m benchmarks.scoring --images 20000 --num-workers 8 --precision bf16      # with a GPU

CFS asks two networks about each crop, which is read and decoded once. Generated crops are written
as JPEG files of their usual sizes first. Two sets of them are scored, one four times the other,
after one that is not timed, so that what a job takes once (weights, its table) is left out: the
rate is that of the crops between.
Networks are random: speed does not depend on weights. ``ratio`` is the rate of scoring over that
of the two forward passes, on crops in memory; "of LUPerson" is arithmetic from that rate.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.reporting import finish, heading, row
from transreid_ssl import cfs, command, data, retrieval
from transreid_ssl.data.packing import write_demo
from transreid_ssl.models import Backbone, build_backbone, save_backbone
from transreid_ssl.plan_gpu import LUPERSON

PEOPLE = data.PeopleConfig.from_spec("demo:identities=32,images=8,test=8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write crops and networks, time, and say."""
    options = parse(arguments)
    accelerator = cfs.scoring.make_accelerator(options.precision)
    networks = [build_backbone(options.model, img_size=options.size).eval() for _ in range(2)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_demo(PEOPLE, folder / "people")
        weights = [folder / "before.safetensors", folder / "after.safetensors"]
        for path, network in zip(weights, networks, strict=True):
            save_backbone(path, network)
        crops = data.open_pool(folder / "people" / "pool")
        pools = {n: Repeated(crops, n) for n in (options.images // 4, options.images)}
        batches = {"batch_size": options.batch_size, "num_workers": options.num_workers}

        def score(pool: data.Pool) -> None:
            out = folder / f"{len(pool)}.parquet"
            cfs.score(pool, *weights, out, accelerator=accelerator, overwrite=True, **batches)

        moved = networks[0].to(accelerator.device)

        def embed(pool: data.Pool) -> None:
            precision = options.precision
            for _ in retrieval.embed_batches(moved, pool, precision=precision, **batches):
                pass

        rates = {"scoring": between(score, pools), "embedding": between(embed, pools)}
    both = [network.to(accelerator.device) for network in networks]
    alone = {
        "scoring": forward_rate(both, options), "embedding": forward_rate(both[:1], options),
    }  # fmt: skip
    for line in table(rates, alone):
        print(line)
    finish(
        rates["scoring"] / alone["scoring"], model=options.model, precision=options.precision,
        embedding_ratio=round(rates["embedding"] / alone["embedding"], 3),
        crops_a_second={name: round(rate, 2) for name, rate in rates.items()},
    )  # fmt: skip


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="vit_small_patch16_ics")
    add("--size", nargs=2, type=int, default=[256, 128], metavar=("HEIGHT", "WIDTH"))
    add("--images", type=int, default=256, help="crops of the larger set")
    add("--batch-size", type=int, default=64)
    add("--num-workers", type=int, default=0, help="processes that read crops")
    add("--precision", default="no", choices=["no", "bf16", "fp16"])
    return parser.parse_args(arguments)


class Repeated(data.Pool):
    """So many images: those of a pool, again and again, each under a name of its own."""

    kind = "repeated"

    def __init__(self, pool: data.Pool, count: int) -> None:
        super().__init__(pool.source, [f"{number:08d}.jpg" for number in range(count)])
        self.pool = pool

    def read(self, index: int) -> bytes:
        return self.pool.read(index % len(self.pool))


def between(job: Callable[[data.Pool], None], pools: dict[int, data.Pool]) -> float:
    """Images a second of those that the larger pool has more; of all, with what a job takes once,
    where they are so few that the times do not tell."""
    few, many = pools
    job(pools[few])  # what the first one takes longer is of no interest
    times = {}
    for count, pool in pools.items():
        begin = time.perf_counter()
        job(pool)
        times[count] = time.perf_counter() - begin
    if times[many] <= times[few]:  # too few to be told apart from what a job takes once
        return many / times[many]
    return (many - few) / (times[many] - times[few])


@torch.inference_mode()
def forward_rate(networks: Sequence[Backbone], options: argparse.Namespace) -> float:
    """Images a second that pass all of the networks in turn, on average over as many as are
    scored: uint8 crops that are on the device."""
    device = next(networks[0].parameters()).device
    shape = (options.batch_size, 3, *options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.precision)
    batches = max(3, 3 * options.images // 4 // options.batch_size)
    with torch.autocast(device.type, half, enabled=half is not None):

        def passes(count: int) -> None:
            for _ in range(count):
                last = [network(images) for network in networks]
            last[-1].sum().item()  # the device is waited for

        passes(1)
        begin = time.perf_counter()
        passes(batches)
    return batches * len(images) / (time.perf_counter() - begin)


def table(rates: dict[str, float], alone: dict[str, float]) -> list[str]:
    """Markdown."""
    lines = heading("", "crops a second", "forward passes alone", "share", "hours of LUPerson")
    (images, *_) = LUPERSON.values()
    for name, rate in rates.items():
        share, hours = rate / alone[name], images / rate / 3600
        lines.append(
            row(name, f"{rate:,.1f}", f"{alone[name]:,.1f}", f"{share:.0%}", f"{hours:,.1f}")
        )
    return lines


if __name__ == "__main__":
    command.run(main)
