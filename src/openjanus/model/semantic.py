"""The semantic tokenizer: a VQ whose ids also mean something (Janus, appendix A).

Beside the pixel decoder, a second branch reads the quantized vectors: a **causal** ViT in raster
order, whose outputs learned to predict a frozen SigLIP's patch features. So one encoder can serve
both faces (Exp-B of Janus, Table 5), or understanding alone (Exp-C):

Understanding:  pixels -> encoder -> codebook -> semantic decoder -> aligner -> decoder
Generation:     ids              -> codebook -> semantic decoder -> aligner -> decoder

Both are the same function of the ids. Since it is causal, it can run while they are still being
drawn, one id at a time, with a cache of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import SemanticConfig
from openjanus.model.attention import KVCache, Run
from openjanus.model.siglip import SiglipAttention, SiglipMLP
from openjanus.model.vq import VQTokenizer


class CausalAttention(SiglipAttention):
    """The ViT's attention, in which each place sees itself and what is before it."""

    def __init__(self, config: SemanticConfig, layer: int) -> None:
        super().__init__(config)
        self.layer = layer

    def forward(
        self, x: Tensor, *, cache: KVCache | None = None, runs: Sequence[Run] | None = None
    ) -> Tensor:
        """(B, n, C) -> (B, n, C); ``cache`` and ``runs`` are given together."""
        q, k, v = self.split(x)
        if cache is not None:
            assert runs is not None
            attended = cache.attend(self.layer, runs, q, k, v)  # (B, H, n, K)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(attended.transpose(1, 2).flatten(2))  # (B, n, C)


class CausalBlock(nn.Module):
    """A ViT's block with causal attention."""

    def __init__(self, config: SemanticConfig, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = CausalAttention(config, layer)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SiglipMLP(config)

    def forward(
        self, x: Tensor, *, cache: KVCache | None = None, runs: Sequence[Run] | None = None
    ) -> Tensor:
        """(B, n, C) -> (B, n, C); the arguments are ``CausalAttention``'s."""
        x = x + self.attn(self.norm1(x), cache=cache, runs=runs)
        return x + self.mlp(self.norm2(x))


class SemanticDecoder(nn.Module):
    """The second branch: quantized vectors in, features out, each of what is not after it."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.codebook_dim, config.hidden_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_image_tokens, config.hidden_size))
        self.blocks = nn.ModuleList(
            CausalBlock(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.teacher_size)

    def forward(
        self, vectors: Tensor, *, cache: KVCache | None = None, runs: Sequence[Run] | None = None
    ) -> Tensor:
        """Read quantized vectors.

        Args:
            vectors: (B, n, d) unit vectors of the first n places of a picture; with a cache, of
                the next place of each row.
            cache: From ``allocate_cache``; keeps what the next places need.
            runs: Where in the cache each row stands and how many places it holds.

        Returns:
            (B, n, C) after the final norm; C is the branch's width.

        Raises:
            ValueError: More places than the picture has.
        """
        count, places = vectors.shape[1], self.config.num_image_tokens
        if count > places:
            raise ValueError(
                f"{count} ids an image, and the semantic decoder has learned {places} places: "
                "give the ids of one picture a row"
            )
        x = self.embed(vectors.to(self.embed.weight.dtype))  # (B, n, C)
        if runs is None:
            x = x + self.pos_embed[:, :count]
        else:
            x = x + self.pos_embed[0, _places(runs, len(x), count).to(x.device)]
        for block in self.blocks:
            x = block(x, cache=cache, runs=runs)
        return self.norm(x)

    def predict(self, features: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, teacher_size): what a frozen encoder would see; for training."""
        return self.head(features)

    def allocate_cache(self, num_rows: int) -> KVCache:
        """Memory for ``num_rows`` pictures in the making; only runs may read it."""
        config = self.config
        shape = (
            config.num_hidden_layers,
            num_rows,
            config.num_attention_heads,
            config.num_image_tokens,
            config.hidden_size // config.num_attention_heads,
        )
        # Runs read nothing but what was written: zeros would only touch memory.
        like = self.embed.weight
        return KVCache(like.new_empty(shape), like.new_empty(shape))


def _places(runs: Sequence[Run], batch_size: int, count: int) -> Tensor:
    """(B, count) places that the new vectors of each row take; rows in no run are idle, at 0."""
    places = torch.arange(count).repeat(batch_size, 1)
    for run in runs:
        places[run.batch] += run.length
    return places


class SemanticTokenizer(VQTokenizer):
    """A VQ and its semantic decoder: an ``ImageTokenizer``, and an ``UndEncoder`` as well."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__(config)
        self.output_size = config.output_size
        self.semantic = SemanticDecoder(config)

    def embed_ids(
        self,
        image_ids: Tensor,
        *,
        cache: KVCache | None = None,
        runs: Sequence[Run] | None = None,
    ) -> Tensor:
        """Features of ids, each a function of the ids up to its own.

        Args:
            image_ids: (B, n) in [0, C), raster order, from the first place of a picture; with a
                cache, the next of each row.
            cache: From ``allocate_cache``.
            runs: Where in the cache each row stands and how many ids it holds.

        Returns:
            (B, n, output_size).

        Raises:
            ValueError: More ids than a picture has.
        """
        return self.semantic(self.quantize.lookup(image_ids), cache=cache, runs=runs)

    def allocate_cache(self, num_rows: int) -> KVCache:
        """Memory for ``num_rows`` pictures in the making."""
        return self.semantic.allocate_cache(num_rows)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, N, output_size), in raster order."""
        return self.embed_ids(self.encode_to_ids(pixel_values))
