"""The vision transformers: rectangular inputs, convolution stems, camera embeddings."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transreid_ssl.errors import UserError
from transreid_ssl.models.architectures import ViTArchitecture
from transreid_ssl.models.blocks import (
    PackedBlock,
    best_look,
    compiled_block,
    draw_paths,
    pack,
    unpack,
)
from transreid_ssl.models.pooling import generalised_mean
from transreid_ssl.models.positions import resample_positions
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.statistics import Statistics
from transreid_ssl.models.stem import PatchEmbedding
from transreid_ssl.models.sums import keeps_order
from transreid_ssl.models.timm_config import TimmConfig
from transreid_ssl.models.token_norm import TokenNorm


class ReIDViT(TimmConfig, VisionTransformer):
    """A ViT whose feature is its class token after the last norm (TransReID-SSL, section 3).

    Called with images (B, 3, H, W) of any size from a patch up, uint8 or float if normalised
    already, and with cameras int64 (B,) where it has camera embeddings (and views int64 (B,), 0
    when None, where it tells these apart); gives (B, D). ``spec`` tells how it is built; see there
    for the options. Those that are not in the spec are of timm's ``VisionTransformer``.
    """

    spec: BackboneSpec
    cls_token: nn.Parameter
    pos_embed: nn.Parameter
    patch_embed: PatchEmbedding
    head: nn.Module
    num_features: int
    num_prefix_tokens: int
    num_registers: int
    compiles_blocks: bool

    def __init__(self, spec: BackboneSpec, **options: Any) -> None:
        sizes = spec.architecture
        assert isinstance(sizes, ViTArchitecture)
        embed_layer = partial(
            PatchEmbedding,
            stem_hidden=sizes.stem_hidden,
            stem_norm=sizes.stem_norm,
            stride=spec.stride,
        )
        super().__init__(
            img_size=spec.img_size,
            patch_size=sizes.patch_size,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            dynamic_img_size=True,
            embed_layer=embed_layer,
            block_fn=PackedBlock,
            **{"num_classes": 0, **options},
        )
        self.spec = spec
        self.compiles_blocks = False
        if self.num_classes and spec.own_dim != self.num_features:
            self.head = nn.Linear(spec.own_dim, self.num_classes)
        self.num_features = spec.own_dim
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.num_registers = spec.registers or sizes.registers
        if self.num_registers:
            self.num_prefix_tokens += self.num_registers
            self.reg_token: nn.Parameter = nn.Parameter(
                torch.empty(1, self.num_registers, sizes.width)
            )
            nn.init.trunc_normal_(self.reg_token, std=0.02)
        if spec.token_norm == "instance":
            self.token_norm: TokenNorm = TokenNorm(sizes.width)
        if spec.num_cameras:
            # A row for each view of each camera; the middle axis broadcasts over the tokens.
            rows = spec.num_cameras * spec.num_views
            self.sie_embed: nn.Parameter = nn.Parameter(torch.empty(rows, 1, sizes.width))
            nn.init.trunc_normal_(self.sie_embed, std=0.02)
        if spec.feature_norm:
            self.bottleneck: nn.BatchNorm1d = nn.BatchNorm1d(sizes.embed_dim)
            self.bottleneck.bias.requires_grad_(False)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layers; registers are as early as the class token."""
        layers = super().group_matcher(coarse)
        return layers | {"stem": layers["stem"] + r"|reg_token"}

    def forward(
        self, images: Tensor, cameras: Tensor | None = None, views: Tensor | None = None
    ) -> Tensor:
        return self._features([self._embed(images, cameras, views)])

    def forward_groups(self, groups: Sequence[Tensor]) -> Tensor:
        """Features (B, D) of images of several sizes, one group after the other.

        Each group normalises by itself, as in passes of its own; the blocks run all together.
        """
        return self._features([self._embed(images, None, None) for images in groups])

    def forward_groups_with_patches(
        self, groups: Sequence[Tensor], chosen: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The features of ``forward_groups``, and some patches after the last norm, (M, D).

        Args:
            groups: Images of several sizes; the patches are of the first group.
            chosen: Which, int64 (M,): row by row through an image, and image by image.
            hidden: What the network sees in their place, (D,); None: themselves.
        """
        first, *others = groups
        tokens = [self._embed(first, None, None, None if hidden is None else (chosen, hidden))]
        tokens += [self._embed(images, None, None) for images in others]
        tokens = [self.norm(group) for group in self._run(self.blocks, tokens)]
        features = torch.cat([self.forward_head(group) for group in tokens])
        return features, tokens[0][:, self.num_prefix_tokens :].flatten(0, 1)[chosen]

    def forward_with_map(
        self, images: Tensor, cameras: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The feature (B, D) and, of the same pass, the patch tokens as a map (B, D, h, w)."""
        feature, tokens = self._encode(self._embed(images, cameras, None))
        grid = self.patch_embed.dynamic_feat_size(images.shape[-2:])
        return feature, tokens[:, self.num_prefix_tokens :].mT.unflatten(2, grid)

    def _features(self, groups: Sequence[Tensor]) -> Tensor:
        """Features (B, D) of tokens before the first block, (B, 1 + N, D) of each group."""
        tokens = self._run(self.blocks, groups, self._looked_at(groups[0].device))
        return torch.cat([self.forward_head(self.norm(group)) for group in tokens])

    def _looked_at(self, device: torch.device) -> int | None:
        """How many tokens of an image leave the last block; None: all. What no feature is made of
        need not, which spares 7 % of what twelve blocks compute."""
        return None if self.spec.gem or keeps_order(device) else self.num_prefix_tokens

    def _encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The feature (B, D), and the tokens after the last norm (B, 1 + N, D)."""
        tokens = self.norm(self._run(self.blocks, [tokens])[0])
        return self.forward_head(tokens), tokens

    def forward_features(
        self, images: Tensor, cameras: Tensor | None = None, views: Tensor | None = None
    ) -> Tensor:
        """Tokens after the last norm, (B, 1 + N, D): the class token, then patches row by row.

        Between them stand registers, or tokens of parts, where the network has some: R more.
        """
        return self._encode(self._embed(images, cameras, views))[1]

    def _embed(
        self,
        images: Tensor,
        cameras: Tensor | None,
        views: Tensor | None,
        hidden: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Tokens (B, 1 + N, D) before the first block; ``hidden`` as ``_pos_embed`` takes it."""
        statistics = Statistics(self.spec.mean, self.spec.std)
        tokens = self._pos_embed(self.patch_embed(images, statistics), hidden)
        if self.spec.num_cameras:
            if cameras is None:
                raise UserError("this network needs the camera of each image, which is not known")
            rows = cameras * self.spec.num_views + (0 if views is None else views)
            tokens = tokens + self.spec.camera_weight * self.sie_embed[rows]
        return tokens

    def _run(
        self, modules: Iterable[nn.Module], groups: Sequence[Tensor], leading: int | None = None
    ) -> list[Tensor]:
        """Groups of tokens (B, T, D) after some of the blocks; of the last, ``leading`` or all."""
        blocks = cast("list[PackedBlock]", list(modules))  # timm built them of ``block_fn``
        sizes = tuple((group.shape[0], group.shape[1]) for group in groups)
        kept = draw_paths(blocks, sizes, groups[0].device, leading)
        tokens = pack(groups)
        look = best_look(blocks[0].attn, tokens)
        compiled = self.compiles_blocks and self.training
        program = compiled_block() if compiled else PackedBlock.forward_packed
        for i, block in enumerate(blocks):
            arguments = tokens, sizes, kept[i], leading if i == len(blocks) - 1 else None, look
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block.run, program, *arguments, use_reentrant=False)
            else:
                tokens = block.run(program, *arguments)
        if leading:
            sizes = tuple((images, leading) for images, _ in sizes)
        return unpack(tokens, sizes)

    def compile_blocks(self) -> None:
        """Let training compile the blocks, which all run one program: that takes seconds, where a
        whole network takes a minute or more. In evaluation, where sizes change from batch to batch,
        nothing is compiled."""
        self.compiles_blocks = True

    def _pos_embed(self, patches: Tensor, hidden: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, h, w, D) -> (B, 1 + R + h * w, D), with what leads and positions for this grid.

        ``hidden`` are numbers of patches, (M,), and what to put in their place, (D,), which knows
        nothing but where it is.
        """
        batch, height, width, dim = patches.shape
        if self.spec.token_norm == "instance":
            patches = self.token_norm(patches)
        if hidden is not None:
            chosen, embedding = hidden
            mask = torch.zeros(batch * height * width, 1, dtype=torch.bool, device=patches.device)
            mask.index_fill_(0, chosen, True)
            # All patches take part, so that the embedding has a gradient when none is hidden.
            seen = torch.where(mask, embedding.to(patches.dtype), patches.reshape(-1, dim))
            patches = seen.unflatten(0, (batch, height, width))
        leading = self._leading_tokens().expand(batch, -1, -1)
        tokens = torch.cat((leading, patches.flatten(1, 2)), dim=1)
        return self.pos_drop(tokens + self._positions((height, width)))

    def _leading_tokens(self) -> Tensor:
        """What comes before the patches, (1, 1 + R, D): the class token, and registers."""
        if not self.num_registers:
            return self.cls_token
        return torch.cat([self.cls_token, self.reg_token], dim=1)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings (1, 1 + R + rows * columns, D) of a patch grid; 0 of registers."""
        positions = resample_positions(
            self.pos_embed, self.patch_embed.grid_size, grid, self.spec.position_resampling
        )
        if not self.num_registers:
            return positions
        nowhere = torch.zeros_like(self.reg_token)
        return torch.cat([positions[:, :1], nowhere, positions[:, 1:]], dim=1)

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Tokens (B, 1 + N, D) to the feature (B, D)."""
        feature = self._summary(x)
        return self.bottleneck(feature) if self.spec.feature_norm else feature

    def _summary(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 1 + N, D) to one vector (B, D), before a batch norm."""
        feature = tokens[:, 0]
        patches = tokens[:, self.num_prefix_tokens :]
        return feature + generalised_mean(patches) if self.spec.gem else feature

    def set_input_size(
        self, img_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Build for another image size: the position embeddings are resampled, once and for all."""
        old_grid = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size=img_size, patch_size=patch_size)
        with torch.no_grad():
            positions = resample_positions(
                self.pos_embed, old_grid, self.patch_embed.grid_size, self.spec.position_resampling
            )
        self.pos_embed = nn.Parameter(positions.clone(), self.pos_embed.requires_grad)
        self.spec = self.spec.changed(img_size=self.patch_embed.img_size)


@torch.no_grad()
def class_attention(model: TimmConfig, images: Tensor, cameras: Tensor | None = None) -> Tensor:
    """What the class token attends to in the last block: (B, heads, rows, columns).

    Each map sums to less than 1: the rest is the class token's attention to itself (and to tokens
    of parts and registers).

    Raises:
        UserError: a network without a class token.
    """
    if not isinstance(model, ReIDViT):
        raise UserError(f"{model.spec.name}: has no class token to attend; give weights of a ViT")
    attention = cast(PackedBlock, model.blocks[-1]).attn
    seen: list[Tensor] = []
    hook = attention.qkv.register_forward_hook(lambda module, arguments, out: seen.append(out))
    try:
        model.forward_features(images, cameras)
    finally:
        hook.remove()
    queries_keys = seen[0].unflatten(0, (len(images), -1))
    queries_keys = queries_keys.unflatten(-1, (3, attention.num_heads, -1))  # (B, T, 3, H, d)
    query, keys = queries_keys[:, 0, 0], queries_keys[:, :, 1]  # (B, H, d), (B, T, H, d)
    weights = torch.einsum("bhd,bthd->bht", query * attention.scale, keys).softmax(dim=-1)
    patches = weights[..., model.num_prefix_tokens :]
    return patches.unflatten(-1, model.patch_embed.dynamic_feat_size(images.shape[-2:]))
