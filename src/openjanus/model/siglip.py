"""The understanding encoder: a SigLIP vision tower, all patch features, no pooling."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import SiglipConfig


class BlockSizes(Protocol):
    """What a block's modules need of a configuration; also that of the causal ViT."""

    @property
    def hidden_size(self) -> int:
        """Width C."""
        ...

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP."""
        ...

    @property
    def num_attention_heads(self) -> int:
        """Heads H."""
        ...


class SiglipAttention(nn.Module):
    """Bidirectional self-attention with one fused projection."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> queries, keys and values, each (B, H, N, K)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, H, K)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q, k, v = self.split(x)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).flatten(2))  # (B, N, C)


class SiglipMLP(nn.Module):
    """Two layers with GELU: the exact one, where stock SigLIP has the tanh approximation."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SiglipBlock(nn.Module):
    """Attention and MLP, each normalised before and added after."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = SiglipAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SiglipMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Cut the picture into patches and project each."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.hidden_size, config.patch_size, stride=config.patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N, C) in raster order."""
        # As it comes from the convolution, channels lie apart, and would do so in every block.
        return self.proj(pixel_values).flatten(2).transpose(1, 2).contiguous()


class SiglipEncoder(nn.Module):
    """Pictures to features: the ``UndEncoder`` of the released models (Janus, section 3.1)."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.config = config
        self.output_size = config.output_size
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_image_tokens, config.hidden_size))
        self.blocks = nn.ModuleList(SiglipBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            pixel_values: (B, 3, S, S), normalised by the checkpoint's mean and std.

        Returns:
            (B, N, C) features of every patch after the final norm, in raster order.

        Raises:
            ValueError: S is not the size that the positions were learned for.
        """
        x = self.embed_patches(pixel_values)
        for block in self.used_blocks():
            x = block(x)
        return self.norm(x)

    def used_blocks(self) -> nn.ModuleList:
        """The blocks up to ``select_layer``."""
        last = self.config.select_layer % self.config.num_hidden_layers
        return self.blocks[: last + 1]

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N, C): patches with their positions; raises as ``forward``."""
        size = self.config.image_size
        if pixel_values.shape[-2:] != (size, size):
            raise ValueError(
                f"pixel_values must be (B, 3, {size}, {size}), got {tuple(pixel_values.shape)}: "
                "preprocess with the processor of this model"
            )
        return self.patch_embed(pixel_values.to(self.pos_embed.dtype)) + self.pos_embed
