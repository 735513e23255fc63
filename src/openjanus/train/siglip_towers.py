"""The two towers of the understanding encoder's training, of which a Janus needs one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import DecoderConfig
from openjanus.model.decoder import Decoder
from openjanus.model.siglip import SiglipEncoder
from openjanus.train.fast_forward import run_encoder
from openjanus.train.siglip_config import SiglipTrainConfig
from openjanus.train.siglip_regions import box_weights

START_SCALE = 10.0
START_BIAS = -10.0
"""Nearly all pairs are no: without the bias the first steps would only learn that."""

MLP_RATIO = 4

BLOCKS = ("encoder.blocks.", "text.decoder.layers.")
"""Where the matrices that Muon takes lie in the two towers."""


class TextTower(nn.Module):
    """Captions to vectors: a small causal decoder, read at the caption's last token."""

    def __init__(self, vocab_size: int, config: SiglipTrainConfig) -> None:
        super().__init__()
        width = config.embed_size
        self.decoder = Decoder(
            DecoderConfig(
                vocab_size=vocab_size,
                hidden_size=width,
                intermediate_size=MLP_RATIO * width,
                num_hidden_layers=config.text_layers,
                num_attention_heads=config.text_heads,
                num_key_value_heads=config.text_heads,
                max_position_embeddings=config.max_text_length,
            )
        )
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, T) right-padded ids and (B,) lengths -> (B, embed_size)."""
        hidden = self.decoder(self.decoder.embed_tokens(input_ids))  # (B, T, D)
        last = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]  # (B, D)
        return self.proj(last)


class TwoTowers(nn.Module):
    """The encoder, a projection of its mean feature, the text tower, and the loss's two scalars.

    The mean of all patches of a picture or region is compared, so that every patch feature learns
    to mean something: all of them go into a Janus.
    """

    def __init__(self, encoder: SiglipEncoder, vocab_size: int, config: SiglipTrainConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.image_proj = nn.Linear(encoder.output_size, config.embed_size, bias=False)
        self.text = TextTower(vocab_size, config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))
        self.bias = nn.Parameter(torch.tensor(START_BIAS))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every parameter with values that depend on the generator alone."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
                fan_in = module.weight[0].numel()
                std = 0.02 if isinstance(module, nn.Embedding) else fan_in**-0.5
                module.weight.normal_(0.0, std, generator=generator)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.zero_()
        self.encoder.pos_embed.normal_(0.0, 0.02, generator=generator)

    def embed_regions(self, pixel_values: Tensor, owners: Tensor, boxes: Tensor) -> Tensor:
        """(B, 3, S, S), (R,), (R, 4) -> (R, embed_size) unit vectors."""
        return self.pool(run_encoder(self.encoder, pixel_values), owners, boxes)

    def pool(self, features: Tensor, owners: Tensor, boxes: Tensor) -> Tensor:
        """(B, N, C), (R,), (R, 4) -> (R, embed_size) unit vectors."""
        features = features[owners]  # (R, N, C)
        weights = box_weights(boxes, math.isqrt(features.shape[1])).to(features.dtype)
        pooled = torch.einsum("rn,rnc->rc", weights, features)
        return F.normalize(self.image_proj(pooled).float(), dim=-1)

    def embed_texts(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), (B,) -> (B, embed_size) unit vectors."""
        return F.normalize(self.text(input_ids, lengths).float(), dim=-1)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """(R, E), (U, E) unit vectors -> (R, U): how likely each pair belongs together."""
        return self.log_scale.exp() * images @ texts.T + self.bias
