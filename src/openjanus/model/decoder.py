"""The language model in the middle: a Llama-style decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import DecoderConfig
from openjanus.model.attention import Attention, KVCache, Mask, Run, StepCache, rotary_table
from openjanus.model.dropout import DropoutKey, drop, require_key


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain, computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) in the dtype of ``x``."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class SwiGLU(nn.Module):
    """The gated feed-forward network."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.gate_up_proj: nn.Module | None = None  # of ``packed``, in the place of two

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self.gate_up_proj is not None:
            gate, up = self.gate_up_proj(x)
            return self.down_proj(F.silu(gate) * up)
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each added to what it was made of.

    The norm of each stands before it (Llama), or after it: h = x + norm(attention(x)), then
    h + norm(mlp(h)) (Chameleon 34B). Dropout acts last, on what is added.
    """

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.dropout = config.dropout
        self.norms_input = config.norm_order == "pre"
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        *,
        mask: Mask,
        cache: StepCache | None,
        positions: Tensor,
        runs: Sequence[Run] | None,
        dropout: DropoutKey | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); the arguments are ``Decoder``'s."""

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, rotary, mask=mask, cache=cache, positions=positions, runs=runs)

        return self.join(hidden_states, attend, self.mlp, dropout)

    def join(
        self,
        hidden_states: Tensor,
        attend: Callable[[Tensor], Tensor],
        mlp: Callable[[Tensor], Tensor],
        dropout: DropoutKey | None,
        cast: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """Where norms, dropout and sums stand, for any way to compute the two branches.

        Args:
            hidden_states: (B, T, D).
            attend: (B, T, D) -> (B, T, D).
            mlp: (B, T, D) -> (B, T, D).
            dropout: Key of what is dropped; None drops nothing.
            cast: Applied to what goes into a branch.
        """
        x, rate = hidden_states, self.dropout
        if self.norms_input:
            added = attend(cast(self.input_layernorm(x)))
            x = x + drop(added, rate, dropout, self.layer, "attention")
            added = mlp(cast(self.post_attention_layernorm(x)))
            return x + drop(added, rate, dropout, self.layer, "mlp")
        added = self.input_layernorm(attend(cast(x)))
        x = x + drop(added, rate, dropout, self.layer, "attention")
        added = self.post_attention_layernorm(mlp(cast(x)))
        return x + drop(added, rate, dropout, self.layer, "mlp")


class Decoder(nn.Module):
    """The stack: embeddings in, normalised hidden states out. It has no head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        inputs_embeds: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Mask = None,
        cache: StepCache | None = None,
        runs: Sequence[Run] | None = None,
        dropout: DropoutKey | None = None,
        observe: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Run the stack.

        Args:
            inputs_embeds: (B, T, D).
            positions: (B, T) rotary positions, and cache positions where there is a cache; None
                counts from 0.
            mask: Who sees whom. None is causal, or with a cache everything up to each token's own
                position.
            cache: Where keys and values are kept.
            runs: Where in the cache each row stands and how many tokens it holds, by whoever knows
                it: then nothing else of the cache is read, and there is no mask.
            dropout: Names what is dropped, in training mode, where ``config.dropout`` is not 0.
            observe: Called with the last layer's output (B, T, D), before the final norm.

        Returns:
            (B, T, D) after the final norm.

        Raises:
            ValueError: A decoder with dropout in training mode without a key, or a key in
                evaluation mode.
        """
        require_key(self.config.dropout, dropout, training=self.training)
        if positions is None:
            length = inputs_embeds.shape[1]
            positions = torch.arange(length, device=inputs_embeds.device)
            positions = positions.expand(inputs_embeds.shape[0], length)
        if isinstance(cache, KVCache) and mask is None and runs is None:
            mask = cache.mask(positions)
        cos, sin = rotary_table(positions, self.config.head_size, self.config.rope_theta)
        rotary = (cos.to(inputs_embeds.dtype), sin.to(inputs_embeds.dtype))  # once, not a layer
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                rotary,
                mask=mask,
                cache=cache,
                positions=positions,
                runs=runs,
                dropout=dropout,
            )
        if observe is not None:
            observe(hidden_states)
        return self.norm(hidden_states)


class LanguageModel(nn.Module):
    """The decoder and its head for words, under the released checkpoint's names."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
