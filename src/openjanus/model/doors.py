"""How pictures (or anything else) get in and out: protocols, and which class a config builds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from openjanus.config import (
    DoorConfig,
    SemanticConfig,
    SharedEncoderConfig,
    SiglipConfig,
    VQConfig,
)
from openjanus.model.attention import KVCache, Run
from openjanus.model.semantic import SemanticTokenizer
from openjanus.model.siglip import SiglipEncoder
from openjanus.model.vq import VectorQuantizer, VQTokenizer


@runtime_checkable
class UndEncoder(Protocol):
    """An entrance: ``(B, 3, S, S) -> (B, N, output_size)``; other inputs have other shapes."""

    output_size: int

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Features, one an input slot."""
        ...


@runtime_checkable
class ImageTokenizer(Protocol):
    """The generation face's tokenizer."""

    quantize: VectorQuantizer

    def encode_to_ids(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, N) ids."""
        ...

    def decode_ids(self, image_ids: Tensor, *, chunk_size: int = 8) -> Tensor:
        """(B, N) ids -> (B, 3, S, S) in [-1, 1]."""
        ...


@runtime_checkable
class RowTokenizer(ImageTokenizer, Protocol):
    """A tokenizer that draws a part of a picture too, for less."""

    def decode_rows(self, image_ids: Tensor) -> Tensor:
        """(B, h, w) ids, rows of a picture -> (B, 3, h * S / g, w * S / g) in [-1, 1]."""
        ...


@runtime_checkable
class CausalTokenizer(ImageTokenizer, Protocol):
    """A tokenizer that reads ids itself: what one stands for depends on those before it."""

    output_size: int

    def embed_ids(
        self,
        image_ids: Tensor,
        *,
        cache: KVCache | None = None,
        runs: Sequence[Run] | None = None,
    ) -> Tensor:
        """(B, n) ids from a picture's first, or with a cache the next -> (B, n, output_size)."""
        ...

    def allocate_cache(self, num_rows: int) -> KVCache:
        """Memory for pictures in the making."""
        ...


class TokenizerEncoder(nn.Module):
    """Understanding through the generation tokenizer (Exp-A and B of Janus, Table 5).

    Its features are codebook vectors, or what a causal tokenizer makes of the ids. It holds no
    parameter: the tokenizer is registered once, as ``vq``.
    """

    def __init__(self, tokenizer: ImageTokenizer, codebook_dim: int) -> None:
        super().__init__()
        causal = isinstance(tokenizer, CausalTokenizer)
        self.output_size = tokenizer.output_size if causal else codebook_dim
        self._tokenizer = (tokenizer,)  # in a tuple, so that its weights are not listed twice
        self._embed_ids = tokenizer.embed_ids if causal else tokenizer.quantize.lookup

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N, output_size)."""
        ids = self._tokenizer[0].encode_to_ids(pixel_values)
        return self._embed_ids(ids).to(pixel_values.dtype)


class TokenizerEntrance(nn.Module):
    """Drawn ids come back in through a causal tokenizer, in place of an embedding of each.

    It holds no parameter: the tokenizer is registered once, as ``vq``.
    """

    def __init__(self, tokenizer: CausalTokenizer) -> None:
        super().__init__()
        self.embedding_dim = tokenizer.output_size
        self._tokenizer = (tokenizer,)

    def forward(
        self,
        image_ids: Tensor,
        *,
        cache: KVCache | None = None,
        runs: Sequence[Run] | None = None,
    ) -> Tensor:
        """(B, n) -> (B, n, embedding_dim); see ``CausalTokenizer.embed_ids``."""
        return self._tokenizer[0].embed_ids(image_ids, cache=cache, runs=runs)

    def allocate_cache(self, num_rows: int) -> KVCache:
        """Memory for pictures in the making."""
        return self._tokenizer[0].allocate_cache(num_rows)


_BUILDERS: dict[str, Callable[[Any], nn.Module]] = {
    SiglipConfig.type: SiglipEncoder,
    VQConfig.type: VQTokenizer,
    SemanticConfig.type: SemanticTokenizer,
}


def register_door(type_name: str, builder: Callable[[Any], nn.Module]) -> None:
    """Say which module a door configuration of ``type`` builds.

    Raises:
        ValueError: Another builder has the name.
    """
    known = _BUILDERS.setdefault(type_name, builder)
    if known is not builder:
        raise ValueError(f"door type {type_name!r} is taken: choose another")


def build_door(config: DoorConfig) -> nn.Module:
    """Build an encoder or tokenizer from its configuration.

    Raises:
        KeyError: No builder for the type.
    """
    if config.type not in _BUILDERS:
        raise KeyError(
            f"no module is registered for door type {config.type!r}: call register_door first"
        )
    return _BUILDERS[config.type](config)


def build_und_encoder(config: DoorConfig, tokenizer: nn.Module, codebook_dim: int) -> nn.Module:
    """Build the understanding encoder, which may be the generation tokenizer itself.

    Raises:
        KeyError: No builder for the type.
        ValueError: The generation tokenizer cannot be shared.
    """
    if isinstance(config, SharedEncoderConfig):
        if not isinstance(tokenizer, ImageTokenizer):
            raise ValueError(
                f"{type(tokenizer).__name__} cannot serve both faces: a shared tokenizer needs "
                "encode_to_ids, decode_ids and quantize.lookup"
            )
        return TokenizerEncoder(tokenizer, codebook_dim)
    return build_door(config)


def build_gen_embed(
    tokenizer: nn.Module, codebook_size: int, codebook_dim: int
) -> nn.Embedding | TokenizerEntrance:
    """Build what brings drawn ids back in: an embedding, or the tokenizer where it reads ids."""
    if isinstance(tokenizer, CausalTokenizer):
        return TokenizerEntrance(tokenizer)
    return nn.Embedding(codebook_size, codebook_dim)
