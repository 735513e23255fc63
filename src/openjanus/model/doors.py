"""How pictures (or anything else) get in and out: protocols, and which class a config builds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from openjanus.config import DoorConfig, SharedEncoderConfig, SiglipConfig, VQConfig
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


class TokenizerEncoder(nn.Module):
    """Understanding through the generation tokenizer's codebook vectors (Exp-A and B).

    It holds no parameter: the tokenizer is registered once, as ``vq``.
    """

    def __init__(self, tokenizer: ImageTokenizer, codebook_dim: int) -> None:
        super().__init__()
        self.output_size = codebook_dim
        self._tokenizer = (tokenizer,)  # in a tuple, so that its weights are not listed twice

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N, codebook_dim) unit vectors."""
        tokenizer = self._tokenizer[0]
        vectors = tokenizer.quantize.lookup(tokenizer.encode_to_ids(pixel_values))
        return vectors.to(pixel_values.dtype)


_BUILDERS: dict[str, Callable[[Any], nn.Module]] = {
    SiglipConfig.type: SiglipEncoder,
    VQConfig.type: VQTokenizer,
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
