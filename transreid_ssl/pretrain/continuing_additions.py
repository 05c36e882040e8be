"""What DINO's additions take from a saved state: masked patches (iBOT) and part tokens (PASS).

iBOT keeps what a masked patch is replaced by in its backbone, and has for patches a last layer and
a centre of their own. PASS has a head and a centre for each part. Runs of this package have both
under the names of their modules.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.models.training_state import ROLES, TrainingState, head_of
from transreid_ssl.pretrain.dino import DINO
from transreid_ssl.pretrain.networks import PatchNetwork
from transreid_ssl.pretrain.part_dino import PartDINO

_SIZES = "the head's sizes as it was made with"


def both_networks(dino: DINO, state: TrainingState) -> Iterator[tuple[str, str, PatchNetwork]]:
    """Student and teacher: role, the role whose weights it takes (a file may have but one of the
    two), network."""
    for role, network in zip(ROLES, (dino.student, dino.teacher), strict=True):
        yield role, role if role in state.heads else next(iter(state.heads)), network


def load_additions(dino: DINO, state: TrainingState) -> list[str]:
    """Put what ``dino`` has a place for into it; returns a line for each.

    Raises:
        UserError: it has another shape than what the settings ask for.
    """
    lines = []
    if dino.masked is not None:
        lines += _load_masked(dino, state)
    if isinstance(dino, PartDINO):
        lines += _load_parts(dino, state)
    return lines


def _load_masked(dino: DINO, state: TrainingState) -> list[str]:
    places = {
        "what a masked patch is replaced by": (
            dino.masked.embedding, ("student.backbone.masked_embed", "masked.embedding")
        ),
        "the patches' centre": (dino.masked.center, ("loss.center2", "masked.center")),
    }  # fmt: skip
    found = [what for what, place in places.items() if _load_one(*place, state)]
    if dino.student.patch_head is not None and _load_patch_heads(dino, state):
        found.append("the patches' heads")
    return [f"  masked patches: {', '.join(found) or 'nothing in the file, they begin anew'}"]


def _load_patch_heads(dino: DINO, state: TrainingState) -> bool:
    """iBOT's patches share the class token's layers but for the last one."""
    for _, source, network in both_networks(dino, state):
        head = state.peek(f"{source}.patch_head.")
        if not head:
            last = state.peek(f"{source}.head.last_layer2.")
            head = state.heads[source] | {f"last_layer.{k}": v for k, v in last.items()}
            if not last:
                return False
        differing = "the patches' head differs from the settings'"
        load_head(
            network.patch_head, head, state.path, differing,
            f"give --dino.patch_out_dim and {_SIZES}",
        )  # fmt: skip
    for source in ROLES:
        state.take(f"{source}.patch_head.")
        state.take(f"{source}.head.last_layer2.")
    return True


def _load_parts(dino: PartDINO, state: TrainingState) -> list[str]:
    lines = []
    for number in range(dino.config.part_tokens):
        name, found = f"part{number + 1}", []
        for role, source, network in both_networks(dino, state):
            head = state.peek(f"{source}.part_heads.{number}.")
            head = head or head_of(state.others, f"{source}.head.", f"_pt{number + 1}")
            if head:
                differing = f"the head of {name} differs from the settings'"
                own = network.part_heads[number]
                load_head(own, head, state.path, differing, f"give {_SIZES}")
                found.append(f"the {role}'s head")
        center = dino.part_losses[number].center
        if _load_one(
            center, (f"loss.center_pt{number + 1}", f"part_losses.{number}.center"), state
        ):
            found.append("the centre")
        lines.append(f"  {name}: {', '.join(found) or 'nothing in the file, it begins anew'}")
        for source in ROLES:
            state.take(f"{source}.part_heads.{number}.")
            for layer in ("mlp", "last_layer"):
                state.take(f"{source}.head.{layer}_pt{number + 1}.")
    return lines


def _load_one(place: Tensor, names: tuple[str, ...], state: TrainingState) -> bool:
    """Copy the first of ``names`` that the state has; axes of length 1 do not matter."""
    for name in names:
        if name in state.others:
            value = state.others.pop(name)
            if value.numel() != place.numel() or value.shape[-1] != place.shape[-1]:
                raise UserError(
                    f"{state.path}: {name} has the shape {tuple(value.shape)}, for which "
                    f"{tuple(place.shape)} is needed; give the settings that it was made with"
                )
            place.data.copy_(value.reshape(place.shape))
            return True
    return False


def load_head(
    head: nn.Module, weights: Mapping[str, Tensor], path: Path, differing: str, advice: str
) -> None:
    """Load all weights of a head; how many batches its norms have seen may be missing.

    Raises:
        UserError: names or shapes are others: what is ``differing``, where, and the ``advice``.
    """
    own = head.state_dict()
    counters = {name: v for name, v in own.items() if name.endswith("num_batches_tracked")}
    complete = {**counters, **weights}
    shapes = {name: tuple(value.shape) for name, value in complete.items()}
    others = shapes.items() ^ {name: tuple(value.shape) for name, value in own.items()}.items()
    if others:
        names = ", ".join(sorted({name for name, _ in others})[:3])
        raise UserError(f"{path}: {differing} in {names}; {advice}")
    head.load_state_dict(complete)
